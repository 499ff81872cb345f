"""A web page comes in, the text that a browser shows goes out.

The rules are those of the HTML standard (rendering), MathML Core and SVG: elements, the hidden attribute, and
display and visibility in style attributes. Style sheets are not read. In addition the content of a closed
<details> is text, and so are the brackets in <rp>.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lucidlm.errors import DataError
from lucidlm.text import reasons
from lucidlm.text.account import Account
from lucidlm.text.formats.decoding import File, decode_page
from lucidlm.text.formats.page_source import LINES, PARAGRAPHS, names, readable_source
from lucidlm.text.formats.whole_files import LARGEST_PAGE, whole

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

_TAGS = 2_000_000
"""Tags of one page: each takes up to 500 bytes of memory."""
_NO_TEXT = frozenset(("head", "script", "style", "template", "title"))
"""Programs, styles and the title: never shown in the page, and not counted as hidden text."""
_UNRENDERED = names(
    "annotation annotation-xml audio canvas clippath datalist defs iframe marker mask meter noembed noframes "
    "noscript pattern progress symbol video"
)
"""Not shown if scripts and frames work; alternative forms of a formula; definitions of a drawing."""
_LOOKS = _UNRENDERED | {"dialog", "foreignobject", "mphantom", "svg", "text"}
"""Elements that change what is visible without an attribute."""
_ENDS = dict.fromkeys(LINES, 1) | dict.fromkeys(PARAGRAPHS, 2)
"""Line ends around an element."""
_NO_VALUES = frozenset(("checkbox", "color", "file", "hidden", "image", "password", "radio", "range"))
"""Types of <input> whose value is not shown as text."""
_PREFORMATTED = frozenset(("listing", "plaintext", "pre", "xmp"))
_TAG = re.compile("<[^<>]*>")
"""Tags inside <noscript>, which the parser gives as text."""
_SPACES = re.compile(r"[ \t\n\f\r]+")
_CONTROLS = re.compile("[\0-\x08\x0b\x0e-\x1f\x7f-\x9f]")
_SOFT_HYPHEN = "\xad"
_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)", re.DOTALL)
_DECLARATION = re.compile(
    r"(?:^|;)\s*(?:(display)\s*:\s*(none|block|flex|flow|grid|inline|list-item|table|contents|ruby|initial|unset"
    r"|inherit|revert)[\w-]*|(visibility)\s*:\s*(hidden|collapse|visible)|(content-visibility)\s*:\s*(\w+))"
    r"\s*(!\s*important)?\s*(?=;|\Z)",
    re.IGNORECASE,
)


def read_html(file: File, encoding: str, account: Account) -> Iterator[str]:
    """The visible text of a page: an empty line between paragraphs, each block on its own lines."""
    text, used = decode_page(whole(file, account, LARGEST_PAGE), file.name, encoding, account)
    if used != "utf-8":
        account.decoded[used] += file.path.stat().st_size
    yield visible_text(text, account, file.name, xhtml=".xhtml" in file.name.lower())


def visible_text(page: str, account: Account, name: str, *, xhtml: bool = False) -> str:
    """The text that a browser shows of a page, in lines; invisible characters are dropped and counted."""
    from selectolax.lexbor import LexborHTMLParser

    if page.count("<") > _TAGS:
        raise DataError(f"{name}: more than {_TAGS:,} tags, the limit for one page; split it")
    account.saw(reasons.CONTROLS, page.count("\0"))
    body = LexborHTMLParser(readable_source(page.replace("\0", ""), account, xhtml=xhtml)).body
    if body is None:
        return ""
    text = _shown_text(body, account)
    text, controls = _CONTROLS.subn("", text)
    account.saw(reasons.CONTROLS, controls)
    account.saw(reasons.SOFT_HYPHENS, text.count(_SOFT_HYPHEN))
    return text.replace(_SOFT_HYPHEN, "")


def elements_of(page: str) -> list[tuple[str, dict[str, str]]]:
    """The elements of an XML file in order, with local names and attributes in lower case.

    It is parsed by HTML's rules, which accept every file: unknown entities or missing tags are no errors.
    """
    from selectolax.lexbor import LexborHTMLParser

    root = LexborHTMLParser(readable_source(page, Account(), xhtml=True)).root
    elements = root.traverse() if root else ()
    return [
        ((node.tag or "").rpartition(":")[2], {key: value or "" for key, value in node.attributes.items()})
        for node in elements
    ]


@dataclass(frozen=True, slots=True)
class _Look:
    """Whether text at a place of a page is visible, by the elements around it."""

    rendered: bool = True
    visible: bool = True
    """CSS visibility, which an inner element may set again."""
    drawing: bool = False
    """In a drawing, outside its texts."""

    @property
    def shown(self) -> bool:
        return self.rendered and self.visible and not self.drawing


def _shown_text(body: "LexborNode", account: Account) -> str:
    layout, hidden = _Layout(), 0
    not_chosen: set[int] = set()
    # A list instead of recursion; None marks the end of an element.
    waiting: list[tuple[LexborNode, _Look | None]] = [(body, _Look())]
    while waiting:
        node, look = waiting.pop()
        tag = (node.tag or "").lower()
        if look is None:
            layout.leave(tag)
        elif tag == "-text":
            text = node.text_content or ""
            if look.shown:
                layout.parts.append(text)
            else:
                hidden += len("".join(_TAG.sub(" ", text).split()))
        elif tag not in _NO_TEXT and not tag.startswith("-"):
            look = _look_of(node.attributes, tag, look)
            if tag == "select":
                not_chosen.update(_options_not_shown(node))
            elif node.mem_id in not_chosen:
                look = replace(look, rendered=False)
            if look.rendered:
                layout.enter(tag)
                if tag == "input" and look.shown:
                    layout.parts.append(_value(node))
                waiting.append((node, None))
            waiting.extend(reversed(_children(node, tag, look)))
    layout.end_line(1)
    account.saw(reasons.HIDDEN_TEXT, hidden)
    return "".join(layout.lines)


def _children(node: "LexborNode", tag: str, look: _Look) -> list[tuple["LexborNode", _Look]]:
    """The nodes in an element. Of a formula's forms and of an action's states only the first is shown."""
    children = [(child, look) for child in node.iter(include_text=True)]
    if tag in ("semantics", "maction"):
        first = next((n for n, (child, _) in enumerate(children, 1) if (child.tag or "-")[0] != "-"), 0)
        unseen = replace(look, rendered=False)
        children[first:] = [(child, unseen) for child, _ in children[first:]]
    return children


def _look_of(attributes: dict[str, str | None], tag: str, look: _Look) -> _Look:
    if not attributes and tag not in _LOOKS:
        return look
    style = _style(attributes.get("style") or "")
    rendered = look.rendered and tag not in _UNRENDERED and style["content-visibility"] != "hidden"
    if style["display"]:
        rendered = rendered and style["display"] != "none"
    else:
        closed = (tag == "dialog" or "popover" in attributes) and "open" not in attributes
        rendered = rendered and not closed and "hidden" not in attributes
    if tag == "object" and "data" in attributes:
        rendered = False  # the file is shown instead
    visible = look.visible and tag != "mphantom"
    if style["visibility"]:
        visible = style["visibility"] == "visible"
    drawing = tag == "svg" or (look.drawing and tag not in ("text", "foreignobject"))
    return _Look(rendered, visible, drawing)


def _style(style: str) -> dict[str, str]:
    """The declarations that decide on visibility: the last of each counts, or the last important one."""
    found = {"display": "", "visibility": "", "content-visibility": ""}
    important: set[str] = set()
    for match in _DECLARATION.finditer(_COMMENT.sub("", style)) if ":" in style else ():
        name = (match[1] or match[3] or match[5]).lower()
        if match[7] or name not in important:
            found[name] = (match[2] or match[4] or match[6]).lower()
        important |= {name} if match[7] else set()
    return found


def _options_not_shown(select: "LexborNode") -> set[int]:
    """The options that are not visible: a drop-down shows one (the last selected, or else the first)."""
    size = select.attributes.get("size") or ""
    if "multiple" in select.attributes or (size.isdecimal() and int(size[:9]) > 1):
        return set()
    options = [node for node in select.traverse() if node.tag == "option"]
    usable = [option for option in options if "disabled" not in option.attributes]
    selected = [option for option in options if "selected" in option.attributes]
    chosen = selected[-1:] or usable[:1] or options[:1]
    return {option.mem_id for option in options} - {option.mem_id for option in chosen}


def _value(node: "LexborNode") -> str:
    """The text in a form's field before the user types."""
    kind = (node.attributes.get("type") or "text").lower()
    return "" if kind in _NO_VALUES else node.attributes.get("value") or ""


class _Layout:
    """Builds lines of text from the tags and text nodes of a page, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.cells: list[str] = []
        self.parts: list[str] = []
        self.ends = 0
        self.preformatted = 0

    def enter(self, tag: str) -> None:
        """An element begins."""
        if tag == "br" and self.preformatted:
            self.parts.append("\n")
        elif tag == "br":
            self.end_line(1 if self._has_text() else self.ends + 1)
        elif ends := _ENDS.get(tag):
            self.end_line(ends)
        self.preformatted += tag in _PREFORMATTED
        if tag == "option":
            self.parts.append(" ")

    def leave(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.cells.append(self._cell())
        elif ends := _ENDS.get(tag):
            self.end_line(ends)
        self.preformatted -= tag in _PREFORMATTED

    def end_line(self, ends: int) -> None:
        """End the current line; `ends` line ends, at most 2, come before the next one."""
        line = "\t".join([*self.cells, self._cell()]).rstrip("\t")
        self.cells.clear()
        if line:
            if self.lines and self.ends == 2:
                self.lines.append("\n")
            self.lines.append(line + "\n")
            self.ends = 0
        self.ends = min(max(self.ends, ends), 2)

    def _has_text(self) -> bool:
        return bool(self.cells) or any(not part.isspace() for part in self.parts)

    def _cell(self) -> str:
        text = "".join(self.parts)
        self.parts.clear()
        return text.strip("\n") if self.preformatted else _SPACES.sub(" ", text).strip(" ")
