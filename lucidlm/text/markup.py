"""A web page comes in, what a reader sees of it goes out as text."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lucidlm.text.account import Account
from lucidlm.text.decoding import File, decode_page
from lucidlm.text.whole_files import whole

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

_UNSEEN = re.compile(
    "head|script|style|template|noscript|iframe|object|svg|canvas|audio|video|select|-(?!text$).*", re.DOTALL
)
_PARAGRAPH = re.compile("p|h[1-6]|blockquote|pre|[uod]l|table|hr|figure")
_LINE = re.compile(
    "address|article|aside|body|caption|center|d[dt]|details|dialog|div|fieldset|figcaption|footer|form|header"
    "|hgroup|html|legend|li|main|menu|nav|section|summary|tbody|tfoot|thead|tr"
)
_SPACES = re.compile(r"[ \t\n\f\r]+")
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_CLOSED_AT_ONCE = re.compile(
    r"<(title|script|style|textarea|iframe|noscript|template|object|canvas|audio|video|select|pre)\b"
    r"((?:[^<>\"']|\"[^\"<]*\"|'[^'<]*')*)/>",
    re.IGNORECASE,
)


def read_html(file: File, encoding: str, account: Account) -> Iterator[str]:
    """The visible text of a page: paragraphs apart, every block on lines of its own."""
    text, used = decode_page(whole(file, account), file.name, encoding, account)
    if used != "utf-8":
        account.decoded[used] += file.path.stat().st_size
    yield visible_text(text)


def visible_text(page: str) -> str:
    """What a browser shows of a page, in lines."""
    from selectolax.lexbor import LexborHTMLParser

    if "http://www.w3.org/1999/xhtml" in page[:4096]:
        # XHTML may write <title/>, behind which HTML's rules would take the whole page for a title.
        page = _CLOSED_AT_ONCE.sub(r"<\1\2></\1>", page)
    body = LexborHTMLParser(page).body
    if body is None:
        return ""
    layout = _Layout()
    # A list instead of recursion: pages may nest deeper than Python's stack.
    waiting: list[tuple[LexborNode, bool]] = [(body, False)]
    while waiting:
        node, leaving = waiting.pop()
        tag = node.tag or ""
        if leaving:
            layout.leave(tag)
        elif tag == "-text":
            layout.parts.append(node.text_content or "")
        elif not _UNSEEN.fullmatch(tag) and not _is_hidden(node):
            layout.enter(tag)
            waiting.append((node, True))
            waiting.extend((child, False) for child in reversed(list(node.iter(include_text=True))))
    layout.end_line(1)
    return "".join(layout.lines)


class _Layout:
    """Lines of text from the tags and text nodes of a page in their order."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.cells: list[str] = []
        self.parts: list[str] = []
        self.ends = 0
        self.preformatted = 0

    def enter(self, tag: str) -> None:
        if tag == "br" and self.preformatted:
            self.parts.append("\n")
        elif tag == "br":
            self.end_line(1 if self._has_text() else self.ends + 1)
        elif ends := _line_ends(tag):
            self.end_line(ends)
        self.preformatted += tag == "pre"

    def leave(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.cells.append(self._cell())
        elif ends := _line_ends(tag):
            self.end_line(ends)
        self.preformatted -= tag == "pre"

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


def _line_ends(tag: str) -> int:
    return 2 if _PARAGRAPH.fullmatch(tag) else int(_LINE.fullmatch(tag) is not None)


def _is_hidden(node: "LexborNode") -> bool:
    attributes = node.attributes
    return bool(attributes) and (
        "hidden" in attributes or bool(_HIDDEN.search(attributes.get("style") or ""))
    )
