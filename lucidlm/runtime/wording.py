"""Numbers and texts from outside in, text for a person out: "2,000 steps", and no control characters."""

import re
from numbers import Integral

_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and newline, DEL, C1: a terminal obeys them
    "\u2028\u2029"  # line breaks to some readers of lines
    "\u202a-\u202e\u2066-\u2069"  # bidirectional overrides and isolates: they reorder the text around them
    "\ud800-\udfff]"  # lone surrogates, from file names that are not UTF-8: no stream encodes them
)

LEGIBLE = 1e9
"""Larger numbers are shown as powers of ten: the perplexity after divergence has hundreds of digits."""


def plural(count: float, noun: str) -> str:
    """The count and its noun, with an s unless the count is 1.

    >>> plural(1, "head"), plural(2000, "piece of it")
    ('1 head', '2,000 pieces of it')
    """
    head, of, tail = noun.partition(" of ")
    number = f"{count:,}" if isinstance(count, Integral) else f"{count:g}"
    return f"{number} {head}{'' if count == 1 else 's'}{of}{tail}"


def whole_words(text: str, limit: int) -> str:
    """The beginning of a text, at most `limit` characters, cut between two words if possible.

    >>> whole_words("one two three", 9)
    'one two'
    """
    if len(text) <= limit:
        return text
    end = max((found.start() for found in re.finditer(r"\s", text[: limit + 1])), default=0)
    return text[: end or limit]


def duration(seconds: float) -> str:
    """A time for a person: seconds up to a minute, then minutes with one decimal.

    >>> duration(42), duration(90)
    ('42 seconds', '1.5 minutes')
    """
    if seconds < 1:
        return "under 1 second"
    return plural(round(seconds), "second") if round(seconds) < 60 else f"{seconds / 60:.1f} minutes"


def fixed(value: float, digits: int) -> str:
    """A number with `digits` decimals; a very large one as a power of ten: 3.21e+41."""
    return f"{value:,.{digits}f}" if abs(value) < LEGIBLE else f"{value:.2e}"


def printable(text: str) -> str:
    """The text with visible escapes (\\x1b, \\u202e) for control characters; newlines and tabs stay."""
    return _UNPRINTABLE.sub(_escaped, text)


def one_line(text: str) -> str:
    """`printable` with newlines and tabs escaped too, for a name or a message inside a line."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode("ascii")
