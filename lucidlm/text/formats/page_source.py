"""The source of a page comes in; source that an HTML parser reads correctly, and in linear time, goes out.

For each tag HTML's rules check all open elements, so a page costs tags times depth. Browsers stop at 512
levels, and so does this module. XHTML has other rules: empty elements (<a/>), CDATA, prefixes.
"""

import re
from collections import Counter
from collections.abc import Iterator

from lucidlm.text import reasons
from lucidlm.text.account import Account

DEPTH = 512
"""Depth of nested elements: the limit of Chrome and Safari (kMaximumHTMLParserDOMTreeDepth)."""
_ATTRIBUTES = 256
"""Attributes that a tag keeps: the parser compares each with all before it."""
_OPTIONS = 4096
"""Options of one list that are kept apart: for each the parser checks all others."""
_FORMATS = 16
"""Open elements such as <b> that are kept: the parser opens all of them again in each block."""

_BLANK = r"[ \t\n\f\r]"
# Possessive, so that no tag is scanned twice. A quote opens a value only after "=".
_VALUE = r"""(?:"[^"]*+"|'[^']*+'|[^ \t\n\f\r>"'][^ \t\n\f\r>]*+)"""
_ATTRIBUTE = rf"(?>=?[^ \t\n\f\r/>=]++(?:{_BLANK}*+=(?:{_BLANK}*+{_VALUE})?)?+|=)"
_TAG = re.compile(rf"<(/?)([a-zA-Z][^ \t\n\f\r/>]*+)((?:[ \t\n\f\r/]++|{_ATTRIBUTE})*+)>")
_ONE_ATTRIBUTE = re.compile(rf"[ \t\n\f\r/]*+{_ATTRIBUTE}")
_PREFIX = re.compile(r"""\sxmlns:([\w.-]+)\s*=\s*["']http://www\.w3\.org/1999/xhtml["']""")
_SUBSET = re.compile(r"(<!DOCTYPE[^\[>]*+)\[[^\]]*+\][ \t\n\f\r]*+>", re.IGNORECASE)
_UNFINISHED = re.compile(r"[<&][!/#\w]*\Z")
_CDATA = re.compile(r"<!\[CDATA\[(.*?)(?:\]\]>|\Z)", re.DOTALL)


def names(words: str) -> frozenset[str]:
    """The set of names in a string."""
    return frozenset(words.split())


PARAGRAPHS = names("blockquote dir dl figure h1 h2 h3 h4 h5 h6 hr listing ol p plaintext pre table ul xmp")
"""Elements with an empty line around them."""
LINES = names(
    "address article aside body caption center dd details dialog div dt fieldset figcaption footer form "
    "header hgroup html legend li main menu nav search section summary tbody text tfoot thead tr"
)
"""Elements that begin a line; <text> is SVG's."""

_HIDES = re.compile("hidden|style|popover", re.IGNORECASE)
"""Attributes that can hide an element."""
_XHTML = re.compile(r"\s*<\?xml\b")
_NAMESPACE = "http://www.w3.org/1999/xhtml"
_COMMENT_END = re.compile("--!?>")

_HEAD = 1 << 14
"""Characters of a page that are searched for its declarations."""
_VOID = names(
    "area base basefont bgsound br col embed frame hr img input keygen link meta param source track wbr"
)
_RAW = names("iframe noembed noframes noscript plaintext script style textarea title xmp")
_HTML_AGAIN = {"svg": names("foreignobject desc title"), "math": names("annotation-xml mi mo mn ms mtext")}
"""Elements of SVG and MathML that hold HTML."""
_BREAKOUT = names(
    "b big blockquote body br center code dd div dl dt em embed h1 h2 h3 h4 h5 h6 head hr i img li listing "
    "menu meta nobr ol p pre ruby s small span strong strike sub sup table tt u ul var"
)
"""Elements of HTML that end a drawing or formula around them; <font color=red> does too."""
_FONT = re.compile(r"\b(color|face|size)\b", re.IGNORECASE)
_FORMATTING = names("a b big code em font i nobr s small strike strong tt u")
_SCOPES = names("applet caption html marquee math object svg table td template th")
_SPECIAL = _SCOPES | names(
    "address article aside blockquote body button center dd details dialog dir div dl dt fieldset figcaption "
    "figure footer form frameset h1 h2 h3 h4 h5 h6 head header hgroup li listing main menu nav ol p pre "
    "search section select summary tbody tfoot thead tr ul"
)
"""An end tag of another element closes nothing outside of these."""
_TABLE = names("caption colgroup table tbody td tfoot th thead tr")
_TABLES = frozenset(("table", "template"))
_ALONE = frozenset(("option", "rp", "rt"))
"""A start tag of these closes one of them if nothing else is open inside it."""
_CLOSES = {
    "p": {"p"},
    "li": {"li"},
    "dd": {"dd", "dt"},
    "dt": {"dd", "dt"},
    "td": {"td", "th"},
    "th": {"td", "th"},
    "tr": {"tr"},
    "tbody": {"caption", "tbody", "tfoot", "thead"},
    "tfoot": {"caption", "tbody", "tfoot", "thead"},
    "thead": {"caption", "tbody", "tfoot", "thead"},
}
"""What a start tag closes if no end tag did: the nearest of these, with everything inside it."""


def readable_source(page: str, account: Account, *, xhtml: bool = False) -> str:
    """The page without tags nested too deep; for XHTML also with changes that HTML's rules need."""
    xhtml = xhtml or _XHTML.match(page) is not None or _NAMESPACE in page[:4096]
    if xhtml:
        page = _SUBSET.sub(r"\1>", page[:_HEAD], count=1) + page[_HEAD:]
        if prefixes := _PREFIX.findall(page[:_HEAD]):
            page = re.sub(rf"(</?)(?:{'|'.join(map(re.escape, prefixes))}):", r"\1", page)
    nesting = _Nesting(xhtml)
    source = "".join(nesting.rewritten(page))
    account.saw(reasons.DEEP_TAGS, nesting.ignored_tags)
    return source


class _Nesting:
    """The open elements of a page, close enough to HTML's rules to limit their number."""

    def __init__(self, xhtml: bool) -> None:
        self.xhtml = xhtml
        self.open: list[str] = []
        self.formats: dict[str, list[bool]] = {name: [] for name in _FORMATTING}
        """For each open one, whether its tags are kept."""
        self.formats_kept = 0
        self.foreign_seen = False
        self.options = 0
        self.ignored: Counter[str] = Counter()
        self.ignored_tags = 0

    def rewritten(self, page: str) -> Iterator[str]:
        """The page in parts: some tags are changed or dropped, all else stays."""
        place = copied = 0
        while (place := page.find("<", place)) >= 0:
            if tag := _TAG.match(page, place):
                name, source = tag[2].lower(), tag[0]
                new = self._end(source, name) if tag[1] else self._start(tag, name)
                place = tag.end()
                if new != source:
                    yield page[copied : tag.start()]
                    # Text on both sides of a dropped tag, such as "<" and "b", must not become a tag.
                    yield new or "<!---->" * bool(_UNFINISHED.search(page, tag.start() - 40, tag.start()))
                    copied = place
                if not tag[1] and self._is_raw(name) and not new.endswith("></" + name + ">"):
                    place = _end_of_raw(page, place, name)
            elif (cdata := _CDATA.match(page, place)) and (self.xhtml or self._in_foreign()):
                if self.xhtml:
                    yield page[copied:place]
                    yield cdata[1].replace("&", "&amp;").replace("<", "&lt;")
                    copied = cdata.end()
                place = cdata.end()
            else:
                place = _end_of_other(page, place)
            if place < 0:
                break
        yield page[copied:]

    def _start(self, tag: re.Match[str], name: str) -> str:
        source = _with_few_attributes(tag) if len(tag[3]) > 2 * _ATTRIBUTES else tag[0]
        html_only = name in _BREAKOUT or (name == "font" and _FONT.search(tag[3]) is not None)
        breaks_out = html_only and self._leave_foreign()
        if name in _VOID:
            return source
        if source.endswith("/>") and self.xhtml:
            # HTML ignores the slash: after <title/> the rest of the page would be its title.
            return f"{source[:-2]}></{name}>"
        if name == "noscript" and self._is_raw(name):
            # With scripts <noscript> has no elements, but the parser assumes that there are no scripts.
            return f"<noframes{tag[3]}>"
        if self._is_raw(name) or (source.endswith("/>") and self._in_foreign()):
            return source  # holds no elements
        if closed := _CLOSES.get(name):
            self._close(closed, _scopes_of_start(name))
        elif self.open and name in _ALONE and self.open[-1] in _ALONE:
            self.open.pop()
        if name in ("option", "optgroup", "select"):
            self.options = self.options + 1 if name != "select" else 0
            if self.options > _OPTIONS:
                return " "
        if name in _FORMATTING and not self._keeps_format(tag[3], name, breaks_out):
            return ""
        if len(self.open) >= DEPTH:
            self.ignored[name] += 1
            return self._ignored(name)
        self.open.append(name)
        self.foreign_seen = self.foreign_seen or name in _HTML_AGAIN
        return source

    def _end(self, source: str, name: str) -> str:
        if name == "noscript" and not self._in_foreign():
            return "</noframes>"
        if name in ("p", "br"):
            self._leave_foreign()
        if name in _VOID:
            return "" if self.xhtml else source  # </br> is one more <br>
        if self.ignored[name]:
            self.ignored[name] -= 1
            return self._ignored(name)
        if name in _FORMATTING:
            if not self.formats[name]:
                return ""
            if not self.formats[name].pop():
                root = next((root for root in reversed(self.open) if root in _HTML_AGAIN), "")
                return (
                    f"</{root}>" if self._leave_foreign() else ""
                )  # it began before the drawing, so it ends the drawing
            self.formats_kept -= 1
            if name in self.open:  # only itself: elements inside it stay open
                del self.open[len(self.open) - 1 - self.open[::-1].index(name)]
        else:
            self._close({name}, _TABLES if name in _TABLE else _SCOPES if name in _SPECIAL else _SPECIAL)
        return source

    def _keeps_format(self, attributes: str, name: str, breaks_out: bool) -> bool:
        """Whether the tag of a <b> or similar may matter: usually it only changes how text looks."""
        matters = breaks_out or bool(_HIDES.search(attributes)) or self._in_foreign()
        keeps = matters and self.formats_kept < _FORMATS
        self.formats[name].append(keeps)
        self.formats_kept += keeps
        self.ignored_tags += matters and not keeps
        return keeps

    def _close(self, names: set[str], scopes: frozenset[str]) -> None:
        """Close the innermost of these elements and all inside it, unless one of `scopes` is between."""
        if not any(name in self.open for name in names):
            return
        for place in range(len(self.open) - 1, -1, -1):
            if self.open[place] in names:
                del self.open[place:]
                return
            if self.open[place] in scopes:
                return

    def _ignored(self, name: str) -> str:
        self.ignored_tags += 1
        return "<br>" if name in PARAGRAPHS or name in LINES else ""

    def _is_raw(self, name: str) -> bool:
        return name in _RAW and not self._in_foreign()

    def _leave_foreign(self) -> bool:
        before = len(self.open)
        while self._in_foreign():
            self.open.pop()
        return len(self.open) < before

    def _in_foreign(self) -> bool:
        """Whether the rules of SVG or MathML apply here."""
        if not self.foreign_seen:
            return False
        within: set[str] = set()
        for name in reversed(self.open):
            if name in _HTML_AGAIN:
                return within.isdisjoint(_HTML_AGAIN[name])
            within.add(name)
        return False


def _scopes_of_start(name: str) -> frozenset[str]:
    if name in _TABLE:
        return _TABLES
    return _SPECIAL - {"address", "div", "p"} if name in ("li", "dd", "dt") else _SCOPES


def _end_of_raw(page: str, place: int, name: str) -> int:
    if name == "plaintext":
        return -1
    end = re.compile(rf"</{name}(?=[ \t\n\f\r/>])", re.IGNORECASE).search(page, place)
    return end.start() if end else -1


def _with_few_attributes(tag: re.Match[str]) -> str:
    attributes, end = _ONE_ATTRIBUTE.finditer(tag[3]), 0
    for _, attribute in zip(range(_ATTRIBUTES), attributes, strict=False):
        end = attribute.end()
    slash = "/" if tag[3].endswith("/") else ""
    return f"<{tag[2]}{tag[3][:end]} {slash}>"


def _end_of_other(page: str, place: int) -> int:
    """Where the text goes on after a "<" that does not begin a complete tag; -1 for nowhere."""
    if page.startswith("<!--", place):
        comment = _COMMENT_END.search(page, place + 2)  # <!--> is one too
        return comment.end() if comment else -1
    sign, first = page[place + 1 : place + 2], page[place + 2 : place + 3]
    if sign in ("!", "?") or (sign == "/" and not _is_letter(first)):
        end = page.find(">", place)
        return end + 1 if end >= 0 else -1
    # An incomplete tag is cut off by the end of the page; any other "<" is text.
    return -1 if sign == "/" or _is_letter(sign) else place + 1


def _is_letter(character: str) -> bool:
    return character.isascii() and character.isalpha()
