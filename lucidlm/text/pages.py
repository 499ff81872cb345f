"""A web page, an EPUB or a PDF comes in, what a reader sees of it goes out as text."""

import io
import logging
import posixpath
import re
import urllib.parse
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from lucidlm.errors import DataError
from lucidlm.text.account import Account
from lucidlm.text.decoding import File, cannot_read, decode_page, read_blocks

if TYPE_CHECKING:
    from pypdf import PdfReader
    from selectolax.lexbor import LexborNode

_WHOLE = 256 << 20
"""The most that a file may unpack to: none of these formats can be read in pieces."""
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
    text, used = decode_page(_whole(file), file.name, encoding, account)
    if used != "utf-8":
        account.decoded[used] += file.path.stat().st_size
    yield _visible_text(text)


def _whole(file: File) -> bytes:
    data = bytearray()
    for block in read_blocks(file):
        data += block
        if len(data) > _WHOLE:
            raise _too_large(file.name, file.kind)
    return bytes(data)


def _too_large(name: str, kind: str) -> DataError:
    return DataError(
        f"{name}: more than {_WHOLE >> 20} MiB, which is too much for one {kind} file; "
        "turn it into .txt or split it"
    )


def _visible_text(page: str) -> str:
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


_CONTAINER = "{urn:oasis:names:tc:opendocument:xmlns:container}"
_PACKAGE = "{http://www.idpf.org/2007/opf}"
_CIPHER = "{http://www.w3.org/2001/04/xmlenc#}CipherReference"


def read_epub(file: File, encoding: str, account: Account) -> Iterator[str]:
    """The pages of an EPUB in the order of its spine."""
    faults = (zipfile.BadZipFile, zlib.error, ElementTree.ParseError, RuntimeError, EOFError, ValueError)
    with _sound_file(file.name, "EPUB", *faults):
        place = io.BytesIO(_whole(file)) if file.gzipped else file.path
        with zipfile.ZipFile(place) as archive:
            for page in _pages_of_epub(archive, file.name):
                data = _member(archive, page, file.name)
                text, _ = decode_page(data, f"{file.name} ({page})", encoding, account)
                if visible := _visible_text(text):
                    yield visible + "\n"


def _pages_of_epub(archive: zipfile.ZipFile, name: str) -> list[str]:
    """Names of the pages in the archive: none of them encrypted, not too much together."""
    root = _xml(archive, "META-INF/container.xml", name).find(f".//{_CONTAINER}rootfile")
    if root is None:
        raise DataError(f"{name}: a damaged EPUB (it names no package); get another copy")
    package_name = root.get("full-path", "")
    package = _xml(archive, package_name, name)
    items = {item.get("id"): item for item in package.iter(f"{_PACKAGE}item")}
    spine = [items.get(reference.get("idref")) for reference in package.iter(f"{_PACKAGE}itemref")]
    pages = [
        _name_in_archive(archive, package_name, item.get("href", ""), name)
        for item in spine
        if item is not None and item.get("media-type") in ("application/xhtml+xml", "text/html")
    ]
    _refuse_encrypted(archive, pages, name)
    if sum(archive.getinfo(page).file_size for page in pages) > _WHOLE:
        raise _too_large(name, "epub")
    return pages


def _name_in_archive(archive: zipfile.ZipFile, package: str, href: str, name: str) -> str:
    href = href.partition("#")[0]
    for spelling in (href, urllib.parse.unquote(href)):
        path = posixpath.normpath(posixpath.join(posixpath.dirname(package), spelling))
        if path.startswith(("../", "/")):
            raise DataError(f"{name}: the page {href!r} points outside of the EPUB; get another copy")
        if path in archive.NameToInfo:
            return path
    raise DataError(f"{name}: a damaged EPUB (the page {href!r} is missing); get another copy")


def _refuse_encrypted(archive: zipfile.ZipFile, pages: list[str], name: str) -> None:
    """Copy protection is an error; fonts alone may be scrambled."""
    locked = {page for page in pages if archive.getinfo(page).flag_bits & 1}
    if "META-INF/encryption.xml" in archive.NameToInfo:
        encryption = _xml(archive, "META-INF/encryption.xml", name)
        scrambled = {urllib.parse.unquote(place.get("URI", "")) for place in encryption.iter(_CIPHER)}
        locked |= scrambled.intersection(pages)
    if locked:
        raise DataError(
            f"{name}: copy-protected (DRM: {len(locked)} of {len(pages)} pages are encrypted); "
            "give a copy without protection"
        )


def _xml(archive: zipfile.ZipFile, member: str, name: str) -> ElementTree.Element:
    data = _member(archive, member, name)
    if b"<!ENTITY" in data:  # a few lines of them can unpack to gigabytes
        raise DataError(f"{name}: {member} defines entities, which an EPUB has no need of; get another copy")
    return ElementTree.fromstring(data)


def _member(archive: zipfile.ZipFile, member: str, name: str) -> bytes:
    info = archive.NameToInfo.get(member)
    if info is None:
        raise DataError(f"{name}: not an EPUB, or a damaged one ({member!r} is missing); get another copy")
    if info.file_size > _WHOLE:
        raise _too_large(name, "epub")
    return archive.read(info)  # never more than file_size, whatever is packed


@contextmanager
def _sound_file(name: str, kind: str, *faults: type[Exception]) -> Generator[None, None, None]:
    """Turns what a parser says of a damaged file into a line for the user."""
    try:
        yield
    except DataError:
        raise
    except OSError as problem:
        raise cannot_read(name, problem) from problem
    except faults as problem:
        reason = " ".join(str(problem).split()) or type(problem).__name__
        raise DataError(
            f"{name}: not a sound {kind} file ({reason}); convert it to .txt or get another copy"
        ) from problem


def read_pdf(file: File) -> Iterator[str]:
    """The text of a PDF page by page, in the order in which the file draws it."""
    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns of every small fault that it has mended
    with _sound_file(file.name, "PDF", Exception):  # many kinds come out of a damaged file
        reader = PdfReader(io.BytesIO(_whole(file)))
        if reader.is_encrypted and not _opens_without_password(reader):
            raise DataError(f"{file.name}: encrypted; save a copy without a password, or convert it to .txt")
        empty = True
        for page in reader.pages:
            if text := page.extract_text().strip("\n"):
                empty = empty and text.isspace()
                yield text + "\n"
        if empty:
            raise DataError(
                f"{file.name}: no text in its {len(reader.pages):,} pages, which may be scanned images; "
                "run character recognition (OCR) first, for example ocrmypdf"
            )


def _opens_without_password(reader: "PdfReader") -> bool:
    from pypdf.errors import DependencyError

    try:
        return bool(reader.decrypt(""))
    except DependencyError:  # AES needs a library that is not among ours
        return False
