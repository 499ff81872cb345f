"""A web page comes in, what a browser shows of it goes out as text.

The rendering section of the HTML standard, MathML Core and SVG decide: by elements, the hidden attribute, and
display and visibility in style attributes; style sheets are not read. Beyond them, what waits for a click in
<details> is text, and so are the brackets of <rp>, which are made for readers without ruby.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lucidlm.errors import DataError
from lucidlm.text.account import CONTROLS, HIDDEN_TEXT, SOFT_HYPHENS, Account
from lucidlm.text.formats.decoding import File, decode_page
from lucidlm.text.formats.page_source import LINES, PARAGRAPHS, names, readable_source
from lucidlm.text.formats.whole_files import LARGEST_PAGE, whole

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

_TAGS = 2_000_000
"""The most of one page: each takes up to 500 bytes of memory."""
_NO_TEXT = frozenset(("head", "script", "style", "template", "title"))
"""Programs, styles and what stands in a window's title: never shown, and not counted as text."""
_UNRENDERED = names(
    "annotation annotation-xml audio canvas clippath datalist defs iframe marker mask meter noembed noframes "
    "noscript pattern progress symbol video"
)
"""Not shown where scripts and frames work; other spellings of a formula; what a drawing only refers to."""
_LOOKS = _UNRENDERED | {"dialog", "foreignobject", "mphantom", "svg", "text"}
"""Elements that change what is seen without an attribute."""
_ENDS = dict.fromkeys(LINES, 1) | dict.fromkeys(PARAGRAPHS, 2)
"""Line ends around an element."""
_NO_VALUES = frozenset(("checkbox", "color", "file", "hidden", "image", "password", "radio", "range"))
"""Types of <input> whose value is not shown as text."""
_PREFORMATTED = frozenset(("listing", "plaintext", "pre", "xmp"))
_TAG = re.compile("<[^<>]*>")
"""What stands in <noscript> as text."""
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
    """The visible text of a page: paragraphs apart, every block on lines of its own."""
    text, used = decode_page(whole(file, account, LARGEST_PAGE), file.name, encoding, account)
    if used != "utf-8":
        account.decoded[used] += file.path.stat().st_size
    yield visible_text(text, account, file.name, xhtml=".xhtml" in file.name.lower())


def visible_text(page: str, account: Account, name: str, *, xhtml: bool = False) -> str:
    """What a browser shows of a page, in lines; characters that show nothing are dropped and counted."""
    from selectolax.lexbor import LexborHTMLParser

    if page.count("<") > _TAGS:
        raise DataError(f"{name}: more than {_TAGS:,} tags, which is too much for one page; split it")
    account.saw(CONTROLS, page.count("\0"))
    body = LexborHTMLParser(readable_source(page.replace("\0", ""), account, xhtml=xhtml)).body
    if body is None:
        return ""
    text = _shown_text(body, account)
    text, controls = _CONTROLS.subn("", text)
    account.saw(CONTROLS, controls)
    account.saw(SOFT_HYPHENS, text.count(_SOFT_HYPHEN))
    return text.replace(_SOFT_HYPHEN, "")


def elements_of(page: str) -> list[tuple[str, dict[str, str]]]:
    """The elements of an XML file in their order, local names and attributes in lower case.

    Read by HTML's rules, which have a meaning for every file: none is refused for an entity or a missing tag.
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
    """What the elements around a place of a page make of text there."""

    rendered: bool = True
    visible: bool = True
    """CSS's visibility, which an element may give back to its text."""
    drawing: bool = False
    """In a drawing, outside of its texts."""

    @property
    def shown(self) -> bool:
        return self.rendered and self.visible and not self.drawing


def _shown_text(body: "LexborNode", account: Account) -> str:
    layout, hidden = _Layout(), 0
    not_chosen: set[int] = set()
    # A list instead of recursion; None where an element ends.
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
    account.saw(HIDDEN_TEXT, hidden)
    return "".join(layout.lines)


def _children(node: "LexborNode", tag: str, look: _Look) -> list[tuple["LexborNode", _Look]]:
    """The nodes in an element; of a formula's spellings and of an action's states the first is shown."""
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
    """The declarations that decide what is seen: the last of each counts, or the last important one."""
    found = {"display": "", "visibility": "", "content-visibility": ""}
    important: set[str] = set()
    for match in _DECLARATION.finditer(_COMMENT.sub("", style)) if ":" in style else ():
        name = (match[1] or match[3] or match[5]).lower()
        if match[7] or name not in important:
            found[name] = (match[2] or match[4] or match[6]).lower()
        important |= {name} if match[7] else set()
    return found


def _options_not_shown(select: "LexborNode") -> set[int]:
    """A drop-down shows one option: the last that is selected, or else the first; a list shows all."""
    size = select.attributes.get("size") or ""
    if "multiple" in select.attributes or (size.isdecimal() and int(size[:9]) > 1):
        return set()
    options = [node for node in select.traverse() if node.tag == "option"]
    usable = [option for option in options if "disabled" not in option.attributes]
    selected = [option for option in options if "selected" in option.attributes]
    chosen = selected[-1:] or usable[:1] or options[:1]
    return {option.mem_id for option in options} - {option.mem_id for option in chosen}


def _value(node: "LexborNode") -> str:
    """What a form's field shows before somebody types."""
    kind = (node.attributes.get("type") or "text").lower()
    return "" if kind in _NO_VALUES else node.attributes.get("value") or ""


class _Layout:
    """Lines of text from the tags and text nodes of a page in their order."""

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
        """Ends the line, if there is one, and asks for so many line ends before the next, 2 at most."""
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
