"""From books, pages, corpora and addresses to documents: cleaned text in pieces, with notes of changes."""

import atexit
import codecs
import difflib
import functools
import glob
import gzip
import io
import json
import logging
import os
import posixpath
import re
import shutil
import sys
import tempfile
import urllib.parse
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from xml.etree import ElementTree

from lucidlm.errors import ConfigError, DataError
from lucidlm.runtime.download import cache_folder, download, origin_of

if TYPE_CHECKING:
    from pypdf import PdfReader
    from selectolax.lexbor import LexborNode

_BLOCK = 1 << 20
_FIRST_BLOCK = 1 << 16
"""How much of a file is looked at for bytes that no text has."""
_WHOLE = 256 << 20
"""The most that a format may unpack to which cannot be read in pieces: html, epub, pdf."""
_SUFFIXES = {
    ".txt": "text",
    ".md": "text",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".epub": "epub",
    ".pdf": "pdf",
    ".jsonl": "jsonl",
}
_CONTENT_TYPES = {
    "text/html": "html",
    "application/xhtml+xml": "html",
    "application/epub+zip": "epub",
    "application/pdf": "pdf",
    "application/jsonl": "jsonl",
    "application/x-ndjson": "jsonl",
}


@dataclass(frozen=True, slots=True)
class Document:
    """One text: a file, or a line of a jsonl file."""

    source: str
    """A path, a URL, "stdin", or "file.jsonl:12" (the line, from 1)."""
    pieces: Callable[[], Iterator[str]]
    """Reads the text anew at each call, in pieces of about a million characters at most."""
    notes: list[str]
    """What was removed or changed; complete once `pieces()` has been read to its end."""

    def text(self) -> str:
        """The whole text."""
        return "".join(self.pieces())


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    name: str
    kind: str
    gzipped: bool


def read_documents(
    sources: Sequence[str | Path],
    *,
    encoding: str = "utf-8",
    field: str = "text",
    raw: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Iterator[Document]:
    """The documents of files, folders, globs, addresses and "-" (stdin), always in the same order.

    All sources are found before the first is read. Line ends become LF and Project Gutenberg's frame is
    taken off, unless `raw`; nothing else is touched. A document of a jsonl file holds its text in memory.
    """
    tell = progress or (lambda line: None)
    encoding = _known_encoding(encoding)
    sources = [sources] if isinstance(sources, str | Path) else sources
    if not sources:
        raise DataError('no text to read: give a file, a folder, an address or "-" for stdin')
    files = [file for source in sources for file in _files_of(source, tell)]
    for file in files:
        if file.kind == "jsonl":
            yield from _documents_in_lines(file, encoding, field, raw, tell)
        else:
            yield _document(file.name, partial(_strings, file, encoding), raw)


def _document(source: str, strings: Callable[[list[str]], Iterable[str]], raw: bool) -> Document:
    notes: list[str] = []

    def pieces() -> Iterator[str]:
        notes.clear()
        text = _with_lf(_small(strings(notes)), notes)
        empty = True
        for piece in text if raw else _without_frame(text, notes):
            if piece:
                empty = False
                yield piece
        if empty:
            why = f" after: {'; '.join(notes)}" if notes else ""
            raise DataError(f"{source}: the text is empty (0 characters){why}; give a file with text in it")

    return Document(source, pieces, notes)


def _small(strings: Iterable[str]) -> Iterator[str]:
    for string in strings:
        for start in range(0, len(string), _BLOCK):
            yield string[start : start + _BLOCK]


def _strings(file: _File, encoding: str, notes: list[str]) -> Iterator[str]:
    """The text of a file as its format has it, in strings of any length."""
    if file.kind == "html":
        page = _decoded_page(_whole(file), file.name, encoding, notes)
        return iter([_visible_text(page)])
    if file.kind == "epub":
        return _epub_strings(file)
    if file.kind == "pdf":
        return _pdf_strings(file, notes)
    return _decoded(_blocks(file), file.name, encoding, notes, unpacked=file.gzipped)


def _files_of(source: str | Path, tell: Callable[[str], None]) -> list[_File]:
    name = str(source)
    if not name:
        raise DataError('a path is empty (""): give a file, a folder, an address or "-" for stdin')
    if name == "-":
        return [_File(_spooled_stdin(), "stdin", "text", gzipped=False)]
    if name.lower().startswith(("http://", "https://")):
        return [_file_at_address(name, tell)]
    try:
        return _files_at_path(Path(name), tell)
    except OSError as problem:
        raise DataError(_cannot_read(name, problem)) from problem
    except ValueError as problem:
        raise DataError(f"{name!r}: not a path ({problem}); check how it is written") from problem


def _files_at_path(path: Path, tell: Callable[[str], None]) -> list[_File]:
    name = str(path)
    if path.is_dir():
        return _files_in_folder(path, tell)
    if path.is_fifo():
        return [_File(_spooled_pipe(path), name, *_kind_of(name))]
    if path.is_file():
        return [_File(path, name, *_kind_of(name))]
    if path.exists():
        raise DataError(f"{path}: neither a file nor a folder; give a file with text in it")
    if glob.has_magic(name):
        found = sorted(glob.glob(name, recursive=True))
        if not found:
            raise DataError(f"{path}: no file matches; check the pattern, or give the folder itself")
        return [file for match in found for file in _files_at_path(Path(match), tell)]
    raise DataError(_not_there(path))


def _not_there(path: Path) -> str:
    if not path.parent.is_dir():
        return f"{path}: no such file, and no folder {path.parent} either; check the path"
    near = difflib.get_close_matches(path.name, os.listdir(path.parent), n=1)
    return f"{path}: no such file; " + (
        f"did you mean {path.parent / near[0]}?" if near else "check the path"
    )


def _files_in_folder(folder: Path, tell: Callable[[str], None]) -> list[_File]:
    """Files of known kinds, by path. A link to a folder is not followed, because it may lead back."""
    taken, other, empty = [], 0, 0
    for place, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(place, name) for name in names if not name.startswith(".")):
            kind, gzipped = _kind_of(path.name, unknown="")
            if not kind or not path.is_file():
                other += 1
            elif path.stat().st_size == 0:
                empty += 1
            else:
                taken.append(_File(path, str(path), kind, gzipped))
    skipped = [f"{other:,} of other kinds"] * bool(other) + [f"{empty:,} empty"] * bool(empty)
    if not taken:
        there = f" ({' and '.join(skipped)})" if skipped else ""
        raise DataError(
            f"{folder}: no text in this folder{there}; known are {' '.join(_SUFFIXES)}, and .gz of them"
        )
    if skipped:
        tell(f"{folder}: {len(taken):,} files taken, {' and '.join(skipped)} skipped")
    return sorted(taken, key=lambda file: file.path.parts)


def _raise(problem: OSError) -> None:
    raise problem


def _kind_of(name: str, unknown: str = "text") -> tuple[str, bool]:
    """The kind that a name's suffix tells, and whether it is gzipped. Without such a suffix it is text."""
    path = Path(name.lower())
    gzipped = path.suffix == ".gz"
    return _SUFFIXES.get(Path(path.stem).suffix if gzipped else path.suffix, unknown), gzipped


def _file_at_address(url: str, tell: Callable[[str], None]) -> _File:
    path = download(url, cache_folder(), progress=tell)
    origin = origin_of(path)
    told = (origin.content_type or "").partition(";")[0].strip().lower() if origin else ""
    kind, gzipped = _kind_of(urllib.parse.urlsplit(url).path, unknown="")
    if not kind:
        kind = _CONTENT_TYPES.get(told, "text")
    elif told == "text/html" and kind != "html":
        path.unlink()
        raise DataError(f"{url}: the server sent a web page instead; give the address of the file itself")
    packed = origin is not None and (origin.content_encoding or "").lower() in ("gzip", "x-gzip")
    return _File(path, url, kind, gzipped or packed)


@functools.cache
def _spooled_stdin() -> Path:
    if sys.stdin is None:
        raise DataError("-: there is no stdin to read; give a file")
    return _spooled(sys.stdin.buffer, "stdin")


@functools.cache
def _spooled_pipe(path: Path) -> Path:
    with path.open("rb") as pipe:
        return _spooled(pipe, str(path))


def _spooled(stream: BinaryIO, name: str) -> Path:
    """A temporary file with all that a stream holds, because a text is read more than once; gone at exit."""
    try:
        with tempfile.NamedTemporaryFile(prefix="lucidlm-", delete=False) as file:
            path = Path(file.name)
            atexit.register(path.unlink, missing_ok=True)
            shutil.copyfileobj(stream, file, _BLOCK)
    except OSError as problem:
        raise DataError(
            f"{name}: cannot be kept in {tempfile.gettempdir()} ({problem.strerror}); "
            "free some space or set TMPDIR"
        ) from problem
    return path


def _blocks(file: _File) -> Iterator[bytes]:
    """A file's bytes, unpacked."""
    count = 0
    try:
        with gzip.open(file.path, "rb") if file.gzipped else file.path.open("rb") as opened:
            while block := opened.read(_BLOCK):
                count += len(block)
                yield block
    except EOFError as problem:
        raise DataError(
            f"{file.name}: the .gz file is cut off after {count:,} unpacked bytes; copy or download it again"
        ) from problem
    except (gzip.BadGzipFile, zlib.error) as problem:
        raise DataError(
            f"{file.name}: not a sound .gz file ({problem}, after {count:,} unpacked bytes); "
            "copy it again, or take .gz off its name if it is not one"
        ) from problem
    except OSError as problem:
        raise DataError(_cannot_read(file.name, problem)) from problem


def _cannot_read(name: str, problem: OSError) -> str:
    advice = "allow reading it" if isinstance(problem, PermissionError) else "check the path and the disk"
    return f"{name}: cannot be read ({problem.strerror or problem}); {advice}, or give another file"


def _whole(file: _File) -> bytes:
    taken, size = [], 0
    for block in _blocks(file):
        taken.append(block)
        size += len(block)
        if size > _WHOLE:
            raise DataError(f"{file.name}: {_too_large(file.kind)}")
    return b"".join(taken)


def _too_large(kind: str) -> str:
    return (
        f"more than {_WHOLE >> 20} MiB, which is too much for one {kind} file; turn it into .txt or split it"
    )


def _known_encoding(encoding: str) -> str:
    try:
        codec = codecs.lookup(encoding)
        codecs.getincrementaldecoder(encoding)
        "".encode(encoding)  # refuses codecs such as base64, which do not make text
    except (LookupError, ValueError) as problem:
        raise ConfigError(
            f"--encoding {encoding}: not a known encoding of text; try utf-8, latin-1, cp1252 or utf-16"
        ) from problem
    return codec.name


def _decoded(
    blocks: Iterable[bytes], name: str, encoding: str, notes: list[str], *, unpacked: bool = False
) -> Iterator[str]:
    """Bytes as text, a character that two blocks share included; a byte order mark is dropped."""
    decoder = codecs.getincrementaldecoder(encoding)()
    count, start = 0, True
    for block in _and_then(blocks, b""):
        if count == 0:
            _refuse_binary(block[:_FIRST_BLOCK], name, encoding)
        count += len(block)
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as problem:
            # A decoder keeps the bytes of an unfinished character, so the place is known from the end alone.
            place = count - len(problem.object) + problem.start
            raise DataError(_bad_byte(name, encoding, place, problem, unpacked)) from problem
        except UnicodeError as problem:
            raise DataError(f"{name}: not {encoding} ({problem}); give another --encoding") from problem
        if start and text:
            start = False
            if text[0] == "\ufeff":
                notes.append("byte order mark dropped")
                text = text[1:]
        yield text


def _and_then(items: Iterable[bytes], last: bytes) -> Iterator[bytes]:
    yield from items
    yield last


def _refuse_binary(block: bytes, name: str, encoding: str) -> None:
    if encoding == "utf-8" and block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        wide = "utf-32" if block.startswith(codecs.BOM_UTF32_LE) else "utf-16"  # FF FE begins both
        raise DataError(
            f"{name}: the byte order mark of {wide.upper()} stands at its start; add --encoding {wide}"
        )
    if b"\0" in block and "\0" in block.decode(encoding, errors="ignore"):
        raise DataError(
            f"{name}: looks like a binary file (byte {block.index(0)} is 0x00); give text, "
            "or --encoding utf-16-le if it is that"
        )


def _bad_byte(name: str, encoding: str, place: int, problem: UnicodeDecodeError, unpacked: bool) -> str:
    byte = problem.object[problem.start]
    where = f"byte {place}" + (" of the unpacked file" if unpacked else "")
    # 0x80 to 0x9f are curly quotes and dashes in Windows' table, and nothing that a text has in ISO's.
    likely = "cp1252" if 0x80 <= byte <= 0x9F else "latin-1"
    way_out = f"for example --encoding {likely}" if encoding == "utf-8" else "for example --encoding utf-8"
    return f"{name}: {where} is 0x{byte:02x}, not {encoding} ({problem.reason}); say what it is, {way_out}"


def _with_lf(strings: Iterable[str], notes: list[str]) -> Iterator[str]:
    """The same text with every line end as LF: a CR at the end of one string waits for the next."""
    decoder = io.IncrementalNewlineDecoder(None, translate=True)
    for string in strings:
        yield decoder.decode(string)
    yield decoder.decode("", final=True)
    seen = decoder.newlines or ()
    if "\r\n" in seen:
        notes.append("CRLF line ends read as LF")
    if "\r" in (seen if isinstance(seen, tuple) else (seen,)):
        notes.append("CR line ends read as LF")


def _without_surrogates(text: str, notes: list[str]) -> str:
    """Half a UTF-16 pair, which JSON and PDF can hold, is no character: it becomes U+FFFD, as in browsers."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text, count = re.subn("[\ud800-\udfff]", "\ufffd", text)
        notes.append(f"{count:,} lone surrogates replaced by U+FFFD")
    return text


_FRAME = 1 << 16
"""The longest header or footer in characters: what claims to be longer is text."""
_MARK = 1 << 10
"""The longest line that marks an end of the frame, with a title that runs over several lines."""
_HEADER_MARK = re.compile(
    r"^[ \t]*(?:(?P<start>\*{1,4}[ \t]*START OF (?:THE |THIS )?PROJECT GUTENBERG"
    r"(?:[^\n]*?(?:\n(?![ \t]*\n)[^\n]+?){0,4}?\*{3}[ \t]*$)?)"  # a long title runs over several lines
    r"|(?P<small>\*+[ \t]*END[ \t]*\*?[ \t]*THE SMALL PRINT)"
    r"|(?P<end>\*{1,4}[ \t]*END OF (?:THE |THIS )?PROJECT GUTENBERG))[^\n]*\n?",
    re.IGNORECASE | re.MULTILINE,
)
_FOOTER_MARK = re.compile(
    r"^[ \t]*(?:\*{1,4}[ \t]*END OF (?:THE |THIS )?PROJECT GUTENBERG"
    r"|END OF (?:THE |THIS )?PROJECT GUTENBERG(?:['’]S|[ \t]+E-?(?:BOOK|TEXT)))[^\n]*",
    re.IGNORECASE | re.MULTILINE,
)


def _names_gutenberg(text: str) -> bool:
    """Whether the patterns are worth trying: a plain search is a hundred times faster."""
    return "PROJECT GUTENBERG" in text or "Project Gutenberg" in text


class _Frame:
    """Project Gutenberg's headers and footers in a stream of text: several, if books were joined in one file.

    A header or a footer is short. So a mark is not believed that would take more than 64 Ki characters with
    it: a book in the middle of a corpus must not take the rest of the corpus.
    """

    def __init__(self) -> None:
        self.buffer = ""
        self.inside = "header"
        self.within_line = False
        self.headers = self.footers = self.removed = 0

    def feed(self, piece: str, *, last: bool = False) -> str:
        """What is surely text; the rest waits for the next piece."""
        self.buffer += piece
        kept: list[str] = []
        while self.buffer:
            if self.inside == "text":
                if not self._keep_text(kept, last):
                    break
            elif len(self.buffer) < _FRAME + _MARK and not last:
                break
            elif self.inside == "header":
                self._drop_header()
            else:
                self._drop_footer(kept, last)
        return "".join(kept)

    def _keep_text(self, kept: list[str], last: bool) -> bool:
        """Moves text from the buffer to `kept`; whether it has stopped at a footer."""
        # The start of the buffer may lie in the middle of a long line, where no mark can stand.
        start = self.buffer.find("\n") + 1 if self.within_line else 0
        if (start or not self.within_line) and _names_gutenberg(self.buffer):
            mark = _FOOTER_MARK.search(self.buffer, start)
            if mark and (last or mark.end() < len(self.buffer)):
                self._take(mark.start(), kept)
                self.inside = "footer"
                return True
        cut = len(self.buffer)
        line = self.buffer.rfind("\n") + 1
        unfinished = len(self.buffer) - line
        if not last and unfinished < _MARK and (line or not self.within_line):
            cut = line
        self._take(cut, kept)
        return False

    def _drop_header(self) -> None:
        end = _end_of_header(self.buffer[: _FRAME + _MARK])
        self.headers += end > 0
        self.removed += end
        self.buffer = self.buffer[end:]
        self.inside = "text"

    def _drop_footer(self, kept: list[str], last: bool) -> None:
        following = _end_of_header(self.buffer[: _FRAME + _MARK], after_footer=True)
        if following or (last and len(self.buffer) <= _FRAME):
            end = following or len(self.buffer)
            self.footers += 1
            self.headers += following > 0
            self.removed += end
            self.buffer = self.buffer[end:]
        else:
            self._take(self.buffer.find("\n") + 1 or len(self.buffer), kept)
        self.inside = "text"

    def _take(self, end: int, kept: list[str]) -> None:
        if end:
            self.within_line = self.buffer[end - 1] != "\n"
        kept.append(self.buffer[:end])
        self.buffer = self.buffer[end:]

    @property
    def note(self) -> str | None:
        """What was removed, for the reader."""
        removed = f"removed ({self.removed:,} characters)"
        match self.headers, self.footers:
            case 0, 0:
                return None
            case 1, 1:
                return f"Project Gutenberg header and footer {removed}"
            case 1, 0:
                return f"Project Gutenberg header {removed}; no footer was found"
            case 0, 1:
                return f"Project Gutenberg footer {removed}; no header was found"
        return f"{self.headers} Project Gutenberg headers and {self.footers} footers {removed}"


def _end_of_header(text: str, *, after_footer: bool = False) -> int:
    """Where the text starts behind a header, 0 without one.

    Its last line is START OF, or END THE SMALL PRINT, or whichever of the two comes later.
    """
    if not any(words in text for words in ("START OF", "Start of", "SMALL PRINT")):
        return 0
    end, seen = 0, set()
    for mark in _HEADER_MARK.finditer(text):
        if mark.start() > _FRAME or mark.lastgroup in seen:
            break
        if after_footer and not text[mark.end() :].strip():  # around 2002 the small print stood at the end
            break
        if mark.lastgroup == "end":
            if after_footer and not seen:
                continue
            break
        seen.add(mark.lastgroup)
        end = mark.end()
    return end


def _without_frame(strings: Iterable[str], notes: list[str]) -> Iterator[str]:
    frame = _Frame()
    for string in strings:
        yield frame.feed(string)
    yield frame.feed("", last=True)
    if frame.note:
        notes.append(frame.note)


def _documents_in_lines(
    file: _File, encoding: str, field: str, raw: bool, tell: Callable[[str], None]
) -> Iterator[Document]:
    """A document for each line of a jsonl file; blank lines and empty texts are passed over."""
    strings = _with_lf(_decoded(_blocks(file), file.name, encoding, [], unpacked=file.gzipped), [])
    taken = empty = 0
    for number, line in enumerate(_lines(strings), 1):
        if not line.strip():
            continue
        source = f"{file.name}:{number}"
        text = _text_of_line(line, source, field)
        if not text:
            empty += 1
            continue
        taken += 1
        yield _document(source, partial(_sound, text), raw)
    if not taken:
        raise DataError(
            f"{file.name}: no text in this file ({empty:,} lines with an empty {field!r}); give another"
        )
    if empty:
        tell(f"{file.name}: {empty:,} lines with an empty {field!r} skipped")


def _sound(text: str, notes: list[str]) -> Iterator[str]:
    yield _without_surrogates(text, notes)


def _lines(strings: Iterable[str]) -> Iterator[str]:
    parts: list[str] = []
    for string in strings:
        first, *rest = string.split("\n")
        parts.append(first)
        for line in rest:
            yield "".join(parts)
            parts = [line]
    yield "".join(parts)


def _text_of_line(line: str, source: str, field: str) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as problem:
        raise DataError(
            f"{source}: not JSON ({problem.msg} at character {problem.pos + 1}); mend or delete this line"
        ) from problem
    except (ValueError, RecursionError) as problem:
        raise DataError(
            f"{source}: not JSON that can be read ({problem}); mend or delete this line"
        ) from problem
    if not isinstance(record, dict):
        raise DataError(f"{source}: a JSON object is needed, this is a {_json_type(record)}; mend this line")
    if field not in record:
        there = ", ".join(map(repr, list(record)[:20])) or "none"
        raise DataError(f"{source}: no field {field!r}; there are {there}: choose one by --field")
    if not isinstance(record[field], str):
        raise DataError(
            f"{source}: the field {field!r} is a {_json_type(record[field])}, not a string; "
            "choose another by --field or mend this line"
        )
    return record[field]


def _json_type(value: object) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


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
_CHARSET = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_CLOSED_AT_ONCE = re.compile(
    r"<(title|script|style|textarea|iframe|noscript|template|object|canvas|audio|video|select|pre)\b"
    r"((?:[^<>\"']|\"[^\"<]*\"|'[^'<]*')*)/>",
    re.IGNORECASE,
)


def _decoded_page(data: bytes, name: str, encoding: str, notes: list[str]) -> str:
    """A page as text: in UTF-8 if it is that, else as it says itself."""
    try:
        return "".join(_decoded([data] if data else [], name, encoding, notes))
    except DataError:
        said = _declared_encoding(data) if encoding == "utf-8" else None
        if said is None:
            raise
        text = "".join(_decoded([data], name, said, notes))
        notes.append(f"read as {said}, as the page says")
        return text


def _declared_encoding(page: bytes) -> str | None:
    """What a page says of its own encoding, where that is another than UTF-8 and of single bytes."""
    declared = _CHARSET.search(page[:4096])
    try:
        said = codecs.lookup(declared[1].decode("ascii")).name if declared else "utf-8"
    except (LookupError, UnicodeDecodeError):
        return None
    # Browsers read Latin-1 as Windows-1252, and pages are written for them.
    said = "cp1252" if said in ("iso8859-1", "ascii") else said
    return None if said.startswith("utf") else said


def _visible_text(page: str) -> str:
    """What a reader sees of a page: text alone, paragraphs apart, every block on lines of its own."""
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


def _epub_strings(file: _File) -> Iterator[str]:
    """The pages of an EPUB in the order of its spine."""
    faults = (zipfile.BadZipFile, zlib.error, ElementTree.ParseError, RuntimeError, EOFError, ValueError)
    with _sound_file(file.name, "EPUB", *faults):
        place = io.BytesIO(_whole(file)) if file.gzipped else file.path
        with zipfile.ZipFile(place) as archive:
            for page in _pages_of_epub(archive, file.name):
                data = _member(archive, page, file.name)
                wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
                text = _decoded_page(data, f"{file.name} ({page})", "utf-16" if wide else "utf-8", [])
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
        raise DataError(f"{name}: {_too_large('epub')}")
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
        raise DataError(f"{name}: {_too_large('epub')}")
    return archive.read(info)  # never more than file_size, whatever is packed


@contextmanager
def _sound_file(name: str, kind: str, *faults: type[Exception]) -> Generator[None, None, None]:
    """Turns what a parser says of a damaged file into a line for the user."""
    try:
        yield
    except DataError:
        raise
    except OSError as problem:
        raise DataError(_cannot_read(name, problem)) from problem
    except faults as problem:
        reason = " ".join(str(problem).split()) or type(problem).__name__
        raise DataError(
            f"{name}: not a sound {kind} file ({reason}); convert it to .txt or get another copy"
        ) from problem


def _pdf_strings(file: _File, notes: list[str]) -> Iterator[str]:
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
                yield _without_surrogates(text, notes) + "\n"
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
