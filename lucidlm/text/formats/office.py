"""A Word document (.docx) or an OpenDocument text (.odt) comes in, its text goes out, one line per paragraph.

Deleted text of tracked changes, comments, page headers and hidden text are left out and counted. Footnotes
and endnotes follow the text.
"""

import io
import re
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from lucidlm.errors import DataError
from lucidlm.text import reasons
from lucidlm.text.account import Account
from lucidlm.text.formats.decoding import File
from lucidlm.text.formats.whole_files import ZIP_FAULTS, faults_of, whole

_LARGEST = 128 << 20
"""Bytes that one part may unpack to: a document of a thousand pages has a tenth of that."""
_MOST_ELEMENTS = 2_000_000
"""Elements in one part: each takes 100 to 500 bytes of memory, although a few in the file."""
_WORD_SIGNS = {"tab": "\t", "ptab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "\u2011"}
_WORD_NOTES = {"footnoteReference": "footnote", "endnoteReference": "endnote"}
_WORD_PASSED = frozenset(
    [
        "pPr",
        "rPr",
        "tblPr",
        "trPr",
        "tcPr",
        "sectPr",
        "instrText",
        "delInstrText",
        "delText",
        "rt",
        "Fallback",
    ]
)
"""Elements that are not text. Fallback repeats the Choice beside it for older programs."""
_ODT_SIGNS = {"tab": "\t", "line-break": "\n"}
_ODT_PASSED = frozenset(["sequence-decls", "variable-decls", "user-field-decls", "ruby-text", "forms"])
_TEXT = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}"
_BODY = "{urn:oasis:names:tc:opendocument:xmlns:office:1.0}text"
_DRAWN = re.compile(r"word/(?:diagrams/data|charts/chart)\d*\.xml")
"""Parts with words inside a picture."""
_SPACES = re.compile(r"[ \t\r\n]+")
_FAULTS = (*ZIP_FAULTS, ElementTree.ParseError, LookupError)
"""LookupError is ElementTree's for XML that declares an unknown encoding."""


def read_office(file: File, account: Account) -> Iterator[str]:
    """The text of a document: paragraphs, rows of tables (cells separated by tabs), notes."""
    with faults_of(file.name, file.kind, *_FAULTS):
        place = io.BytesIO(whole(file, account)) if file.packings else file.path
        with zipfile.ZipFile(place) as archive:
            parts = (
                _Word(archive, file.name, account)
                if file.kind == "docx"
                else _OpenText(archive, file.name, account)
            )
            yield from parts.lines()


class _Parts(ABC):
    """What both formats share: paragraphs are collected in order, tables row by row."""

    def __init__(self, archive: zipfile.ZipFile, name: str, account: Account) -> None:
        self.archive, self.name, self.account = archive, name, account
        self.notes: list[Element] = []
        self.out: list[str] = []
        self.inline: list[str] = []

    def part(self, member: str) -> Element | None:
        """The tree of one part; None if the document has no such part."""
        info = self.archive.NameToInfo.get(member)
        if info is None:
            return None
        if info.flag_bits & 1:
            raise DataError(
                f"{self.name}: encrypted; save a copy without a password", reason=reasons.ENCRYPTED
            )
        if info.file_size > _LARGEST:
            raise DataError(
                f"{self.name}: {member} unpacks to more than {_LARGEST >> 20} MiB; save it as .txt",
                reason=reasons.DAMAGED,
            )
        data = self.archive.read(info)  # never more than file_size, which was checked
        if data.count(b"<") > 2 * _MOST_ELEMENTS:
            raise DataError(
                f"{self.name}: {member} has more than {_MOST_ELEMENTS:,} elements; save it as .txt",
                reason=reasons.DAMAGED,
            )
        if b"<!ENTITY" in data or b"<\0!\0E\0N\0T\0" in data:  # nested entities can expand to gigabytes
            raise DataError(
                f"{self.name}: {member} defines entities; get another copy", reason=reasons.DAMAGED
            )
        return ElementTree.fromstring(data)

    def end_paragraph(self) -> None:
        """Add what was collected as a line."""
        line = "".join(self.inline)
        self.account.saw(reasons.SOFT_HYPHENS, line.count("\xad"))
        self.out.append(line.replace("\xad", "") + "\n")
        self.inline.clear()

    @abstractmethod
    def walk(self, element: Element) -> None:
        """Add the text inside an element."""

    def apart(self, element: Element) -> str:
        """The text inside an element as one line: a cell of a table, a box."""
        kept, self.out = self.out, []
        outside, self.inline = self.inline, []
        self.walk(element)
        line = " ".join("".join([*self.out, *self.inline]).split("\n")).strip()
        self.out, self.inline = kept, outside
        return line

    def row(self, cells: list[str]) -> None:
        """Add a row of a table as a line."""
        self.out.append("\t".join(cells).rstrip("\t") + "\n")


def _local(element: Element) -> str:
    """The element's name without the namespace: Word has two (strict and transitional)."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _attribute(element: Element, name: str) -> str | None:
    return next((value for key, value in element.attrib.items() if key.rpartition("}")[2] == name), None)


class _Word(_Parts):
    """A .docx."""

    def lines(self) -> Iterator[str]:
        """The body, then the notes in the order of the references."""
        root = self.part(self._main())
        body = next((child for child in root if _local(child) == "body"), None) if root is not None else None
        if body is None:
            raise DataError(
                f"{self.name}: a damaged docx (it has no text part); get another copy", reason=reasons.DAMAGED
            )
        self.notes_by_id = {
            (kind, _attribute(note, "id")): note
            for kind in ("footnote", "endnote")
            if (tree := self.part(f"word/{kind}s.xml")) is not None
            for note in tree
        }
        self.walk(body)
        for note in self.notes:
            self.walk(note)
        names = self.archive.NameToInfo
        self.account.saw(
            reasons.FRAMES, sum(bool(re.fullmatch(r"word/(?:header|footer)\d*\.xml", name)) for name in names)
        )
        comments = self.part("word/comments.xml")
        self.account.saw(reasons.COMMENTS, len(comments) if comments is not None else 0)
        drawn = sum(bool(_DRAWN.fullmatch(name)) for name in names)
        self.account.saw(reasons.EMBEDDED, drawn)
        yield from self.out

    def _main(self) -> str:
        """The name of the text part: the package says it."""
        relations = self.part("_rels/.rels")
        for relation in relations if relations is not None else ():
            if (relation.get("Type") or "").endswith("/officeDocument"):
                return (relation.get("Target") or "").lstrip("/")
        return "word/document.xml"

    def walk(self, element: Element) -> None:
        """Add the text inside an element."""
        for child in element:
            name = _local(child)
            if name in _WORD_PASSED:
                continue
            if name in ("del", "moveFrom"):
                self.account.saw(reasons.DELETED)
            elif name == "r" and self._is_hidden(child):
                self.account.saw(reasons.HIDDEN)
            elif name == "t":
                self.inline.append(child.text or "")
            elif name == "sym":
                self.inline.append(self._sign(child))
            elif name == "softHyphen":
                self.account.saw(reasons.SOFT_HYPHENS)
            elif name == "altChunk":
                self.account.saw(reasons.EMBEDDED)
            elif name in _WORD_SIGNS:
                self.inline.append(_WORD_SIGNS[name])
            elif name in _WORD_NOTES:
                note = self.notes_by_id.get((_WORD_NOTES[name], _attribute(child, "id")))
                if note is not None:
                    self.notes.append(note)
            elif name == "txbxContent":  # a text box gets a line before the paragraph that holds it
                if text := self.apart(child):
                    self.out.append(text + "\n")
            elif name == "tr":
                self.row([self.apart(cell) for cell in _cells(child, "tc")])
            else:
                self.walk(child)
                if name == "p":
                    self.end_paragraph()

    def _sign(self, sym: Element) -> str:
        """A character given by its place in a font; U+FFFD if the font defines its own characters."""
        code = _attribute(sym, "char") or ""
        number = int(code, 16) if re.fullmatch("[0-9A-Fa-f]{1,6}", code) else 0
        known = 0x20 < number < 0xD800
        self.account.saw(reasons.UNKNOWN_GLYPHS, not known)
        return chr(number) if known else "\ufffd"

    def _is_hidden(self, run: Element) -> bool:
        properties = next((child for child in run if _local(child) == "rPr"), None)
        vanish = (
            next((p for p in properties if _local(p) == "vanish"), None) if properties is not None else None
        )
        return vanish is not None and _attribute(vanish, "val") not in ("0", "false", "off")


def _cells(row: Element, *names: str) -> list[Element]:
    """The cells of a row, also those inside a wrapper, but not those of inner tables."""
    found: list[Element] = []
    for child in row:
        if _local(child) in names:
            found.append(child)
        elif _local(child) in ("sdt", "sdtContent", "customXml", "ins"):
            found += _cells(child, *names)
    return found


class _OpenText(_Parts):
    """An .odt."""

    within = 0
    """Depth of paragraphs: a text box in a paragraph may hold paragraphs."""

    def lines(self) -> Iterator[str]:
        """The body, then the notes."""
        manifest = self.part("META-INF/manifest.xml")
        locked = manifest is not None and any(
            _local(element) == "encryption-data" for element in manifest.iter()
        )
        if locked:
            raise DataError(
                f"{self.name}: encrypted; save a copy without a password", reason=reasons.ENCRYPTED
            )
        root = self.part("content.xml")
        text = next(root.iter(_BODY), None) if root is not None else None
        if text is None:
            raise DataError(
                f"{self.name}: a damaged odt (it has no text part); get another copy", reason=reasons.DAMAGED
            )
        self.walk(text)
        for note in self.notes:  # grows where a note has notes
            self.walk(note)
        styles = self.part("styles.xml")
        if styles is not None:
            frames = [element for element in styles.iter() if _local(element) in ("header", "footer")]
            self.account.saw(reasons.FRAMES, len(frames))
        yield from self.out

    def walk(self, element: Element) -> None:
        """Add the text inside an element; characters outside paragraphs are not text."""
        inline = self.within and element.tag.startswith(_TEXT)
        if inline:
            self.text(element.text)
        for child in element:
            self.child(child, _local(child))
            if inline:
                self.text(child.tail)

    def child(self, child: Element, name: str) -> None:
        """Add the text of one element."""
        if name in _ODT_PASSED:
            return
        if name == "tracked-changes":
            self.account.saw(reasons.DELETED, sum(_local(change) == "deletion" for change in child.iter()))
        elif name == "annotation":
            self.account.saw(reasons.COMMENTS)
        elif name == "s":
            count = _attribute(child, "c") or "1"
            self.inline.append(" " * min(int(count), 1000) if count.isdecimal() else " ")
        elif name in _ODT_SIGNS:
            self.inline.append(_ODT_SIGNS[name])
        elif name == "note":
            self.notes += [part for part in child if _local(part) == "note-body"]
        elif name == "text-box":
            if text := self.apart(child):
                self.out.append(text + "\n")
        elif name == "table-row":
            self.row([self.apart(cell) for cell in _cells(child, "table-cell", "covered-table-cell")])
        elif name in ("p", "h"):
            self.within += 1
            self.walk(child)
            self.within -= 1
            self.end_paragraph()
        else:
            self.walk(child)

    def text(self, text: str | None) -> None:
        """Add text: a run of white space becomes one space, none at the start of a paragraph."""
        if text:
            words = _SPACES.sub(" ", text)
            at_start = not self.inline or self.inline[-1].endswith((" ", "\n"))
            self.inline.append(words.lstrip(" ") if at_start else words)
