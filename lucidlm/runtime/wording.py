"""How a count or a text from outside is written for a reader: "2,000 steps", and no control characters."""

import re
from numbers import Integral

_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and newline, DEL, C1: a terminal obeys them
    "\u2028\u2029"  # line breaks to some readers of lines
    "\u202a-\u202e\u2066-\u2069"  # bidirectional overrides and isolates: they reorder what stands around them
    "\ud800-\udfff]"  # half a character: bytes of a file name that are no UTF-8; no stream encodes it
)

LEGIBLE = 1e9
"""From here on nobody counts the digits: exp of a loss that diverged has hundreds."""


def plural(count: float, noun: str) -> str:
    """The count and its noun, with an s unless the count is 1: 2 heads, 1 head, 2 pieces of it."""
    head, of, tail = noun.partition(" of ")
    number = f"{count:,}" if isinstance(count, Integral) else f"{count:g}"
    return f"{number} {head}{'' if count == 1 else 's'}{of}{tail}"


def whole_words(text: str, limit: int) -> str:
    """The beginning of a text, of at most `limit` characters, cut between two words where it has any."""
    if len(text) <= limit:
        return text
    end = max((found.start() for found in re.finditer(r"\s", text[: limit + 1])), default=0)
    return text[: end or limit]


def duration(seconds: float) -> str:
    """Seconds under a minute, minutes with one decimal from there on."""
    if seconds < 1:
        return "under 1 second"
    return plural(round(seconds), "second") if round(seconds) < 60 else f"{seconds / 60:.1f} minutes"


def fixed(value: float, digits: int) -> str:
    """A number with so many decimals; one with too many digits to be read as a power of ten: 3.2e+41."""
    return f"{value:,.{digits}f}" if abs(value) < LEGIBLE else f"{value:.2e}"


def printable(text: str) -> str:
    """The text with visible escapes (\\x1b, \\u202e) for what a terminal obeys; newlines and tabs stay."""
    return _UNPRINTABLE.sub(_escaped, text)


def one_line(text: str) -> str:
    """`printable`, and newlines and tabs are escaped too: for a name or a message inside one line."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode("ascii")
