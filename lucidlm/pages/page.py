"""Pages that stand alone: results in, HTML out that holds its style, data and script, and fetches nothing.

The templates are in templates/. Long texts go through in pieces: a book's page is never held as one string.
"""

import html
import json
import math
import os
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

from lucidlm.runtime.files import replacing_file
from lucidlm.runtime.wording import fixed

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

LEVELS = 8
"""Strengths of a token's colour."""
SHOWN_STEPS = 12
"""Tokens whose way to the loss is written out."""

SMALLEST_WRITTEN_OUT = 1e-6
"""A smaller probability is written with a power of ten."""
RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def write_page(path: str | os.PathLike, template: str, **values: Any) -> None:
    """A whole page at `path`, or nothing: written aside, piece by piece, and renamed."""
    # Names that are no UTF-8 are escaped as elsewhere.
    with replacing_file(path) as temporary, open(temporary, "w", -1, "utf-8", "backslashreplace") as file:
        file.writelines(_environment().get_template(template).generate(**_common(values)))


def render(template: str, **values: Any) -> str:
    """A page or a part of one, as text."""
    return _environment().get_template(template).render(**_common(values))


def notebook(template: str, **values: Any) -> str:
    """A part with its style, for the output of a notebook's cell."""
    style = _environment().get_template("look.css").render()
    return f'<div class="lucid"><style>{style}</style>{render(template, **values)}</div>'


def share(p: float, digits: int = 5) -> str:
    """A probability with so many digits, as templates/tokens.js writes it: never 1.1e-04 beside 12 %.

    >>> share(0.00011487), share(0.5), share(1.0), share(1.1487e-9), share(0.0)
    ('0.00011487', '0.50000', '1.0000', '1.1487 × 10⁻⁹', '0.0000')
    """
    number, power = f"{p:.{digits - 1}e}".split("e")
    if p == 0 or p >= SMALLEST_WRITTEN_OUT:
        return format(Decimal(f"{number}e{power}"), "f")
    return f"{number} × 10⁻{str(-int(power)).translate(RAISED)}"


def in_script(value: Any) -> "Markup":
    """A value as JSON that may stand in a script element: no text in it can end the element."""
    from markupsafe import Markup

    return Markup(json.dumps(value, ensure_ascii=False).replace("<", "\\u003c"))


def colour_level(nats: float, most_nats: float) -> int:
    """0 for what was expected, LEVELS - 1 for what was as unlikely as a token drawn at random, or more."""
    return min(LEVELS - 1, int(LEVELS * math.log1p(max(0.0, nats)) / math.log1p(max(most_nats, 1e-9))))


def token_span(text: str, level: int, *, kind: str = "", hint: str = "") -> "Markup":
    """A coloured token; white space that would not be seen is drawn."""
    from markupsafe import Markup

    shown = html.escape(
        "".join(each if each.isprintable() or each in "\n\t" else repr(each)[1:-1] for each in text)
    )
    shown = shown.replace("\n", '<span class="w">↵</span>\n').replace("\t", '<span class="w">→</span>\t')
    title = f' title="{html.escape(hint)}"' if hint else ""
    return Markup(f'<i class="k{level}{kind}"{title}>{shown}</i>')


def _common(values: dict[str, Any]) -> dict[str, Any]:
    from lucidlm import __version__

    return {"version": __version__} | values


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("lucidlm.pages", "templates"),
        autoescape=lambda name: name is None or name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["fixed"] = fixed
    environment.filters["share"] = share
    return environment
