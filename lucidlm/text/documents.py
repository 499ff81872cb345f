"""Files, folders, globs, addresses and stdin come in, documents go out: clean text, and what was left out."""

import difflib
import glob
import os
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from lucidlm.errors import DataError
from lucidlm.runtime.download import cache_folder, download, origin_of
from lucidlm.text.account import CARRIAGE_RETURNS, EMPTY_LINES, JSON, TABLE, Account, utf8_bytes
from lucidlm.text.archives import ARCHIVES, files_in_archive
from lucidlm.text.decoding import (
    File,
    cannot_read,
    counted,
    known_encoding,
    read_text,
    with_lf,
    without_mark,
    without_surrogates,
)
from lucidlm.text.epub import read_epub
from lucidlm.text.gutenberg import without_frame
from lucidlm.text.kinds import CONTENT_TYPES, SUFFIXES, by_content, kind_of
from lucidlm.text.markup import read_html
from lucidlm.text.office import read_office
from lucidlm.text.pdf import read_pdf
from lucidlm.text.pipes import DASH, STDIN, refuse_stdin_twice, spooled_pipe, spooled_stdin
from lucidlm.text.reading import READING, Reading
from lucidlm.text.records import read_records
from lucidlm.text.subtitles import read_subtitles
from lucidlm.text.token_files import documents_of, text_of


@dataclass(frozen=True, slots=True)
class Document:
    """One text: a file, or a line of a jsonl file."""

    source: str
    """A path, a URL, "stdin", or "file.jsonl:12" (the line, from 1)."""
    pieces: Callable[[], Iterator[str]]
    """Reads the text anew at each call, in pieces of about a million characters at most."""
    account: Account = field(default_factory=Account)
    """What was left out or changed; complete once `pieces()` has been read to its end."""
    around: Account = field(default_factory=Account)
    """What stands in its file beside the documents' texts: each file's is spread over its documents."""

    @property
    def notes(self) -> list[str]:
        """What was left out or changed, as lines."""
        account = Account()
        self.add_to(account)
        return account.lines()

    def text(self) -> str:
        """The whole text."""
        return "".join(self.pieces())

    def add_to(self, account: Account, name: str | None = None) -> None:
        """Count this document, which has been read, in the account of all."""
        account.add(self.account, name or self.source)
        account.add(self.around)


def read_texts(
    sources: Sequence[str | Path],
    account: Account,
    *,
    reading: Reading = READING,
    progress: Callable[[str], None] | None = None,
) -> Iterator[tuple[str, str]]:
    """Source and text of each document; `account` is complete when all are read."""
    for document in read_documents(sources, reading=reading, progress=progress):
        text = document.text()
        document.add_to(account)
        yield document.source, text


def given_text(
    text: str, account: Account, name: str = "the text given", *, reading: Reading = READING
) -> str:
    """A text that was given as a string, cleaned as a file of it would be, so that both have one number."""
    if not text:
        return ""  # what to do about that, the caller knows
    document = _document(name, lambda own: [without_mark(text, own)], reading.raw)
    cleaned = document.text()
    document.add_to(account)
    return cleaned


def read_documents(
    sources: Sequence[str | Path],
    *,
    reading: Reading = READING,
    progress: Callable[[str], None] | None = None,
) -> Iterator[Document]:
    """The documents of files, folders, globs, addresses and "-" (stdin), always in the same order.

    All sources are found before the first is read. Line ends become LF and Project Gutenberg's frame is
    taken off, unless `reading.raw`; nothing else is touched. A document of a jsonl file holds its text in
    memory.
    """
    tell = progress or (lambda line: None)
    reading = replace(reading, encoding=known_encoding(reading.encoding))
    sources = [sources] if isinstance(sources, str | Path) else sources
    if not sources:
        raise DataError('no text to read: give a file, a folder, an address or "-" for stdin')
    refuse_stdin_twice(sources)
    files = [file for source in sources for file in _files_of(source, tell)]
    for file in files:
        yield from _documents_of(file, reading)


def _documents_of(file: File, reading: Reading) -> Iterator[Document]:
    """The documents of one file, which is what its content says that it is."""
    noted = Account()
    file = by_content(file, noted)
    around = _account_of(file)
    around.add(noted)
    match file.kind:
        case "jsonl" | "json" | "csv" | "tsv":
            yield from _documents_in_records(file, reading, around)
        case "tokens":
            yield from _documents_in_tokens(file, reading.raw, around)
        case kind if kind in ARCHIVES:
            yield from _documents_in_archive(file, reading, around)
        case _:
            yield _document(file.name, partial(_strings, file, reading.encoding), reading.raw, around)


def _account_of(file: File) -> Account:
    """A file's own bytes, before any is read."""
    try:
        stored = file.path.stat().st_size
    except OSError as problem:
        raise cannot_read(file.name, problem) from problem
    account = Account(files=1, stored=stored, packed=stored if file.packings or file.kind in ARCHIVES else 0)
    if file.kind not in ("text", "jsonl", "json", "csv", "tsv", *ARCHIVES):
        account.extracted[file.kind] += stored
    return account


def _document(
    source: str,
    strings: Callable[[Account], Iterable[str]],
    raw: bool,
    around: Account | None = None,
) -> Document:
    account = Account()

    def pieces() -> Iterator[str]:
        account.clear()
        text = with_lf(counted(strings(account), account), account)
        empty = True
        for piece in text if raw else without_frame(text, account):
            if piece:
                empty = False
                yield piece
        if empty:
            why = f" after: {'; '.join(account.lines())}" if account.lines() else ""
            raise DataError(f"{source}: the text is empty (0 characters){why}; give a file with text in it")

    return Document(source, pieces, account, around or Account())


def _strings(file: File, encoding: str, account: Account) -> Iterator[str]:
    """The text of a file as its format has it, in strings of any length."""
    match file.kind:
        case "html":
            return read_html(file, encoding, account)
        case "epub":
            return read_epub(file, encoding, account)
        case "pdf":
            return read_pdf(file, account)
        case "docx" | "odt":
            return read_office(file, account)
        case "srt" | "vtt":
            return read_subtitles(file, encoding, account)
    return read_text(file, encoding, account)


def _documents_in_records(file: File, reading: Reading, around: Account) -> Iterator[Document]:
    """A document for each record of a file; what holds no text is passed over, and counted."""
    frames = TABLE if file.kind in ("csv", "tsv") else JSON
    whole = Account()
    waiting: Document | None = None  # until the next is found: what lies between counts as the last one's
    for record in read_records(file, reading, whole):
        around.saw(EMPTY_LINES, record.text == "")
        frame = record.bytes - utf8_bytes(without_surrogates(record.text or "", Account()))
        around.read += frame
        around.leave_out(frames, frame)
        if record.text:
            if waiting is not None:
                yield waiting
            waiting = _document(record.source, partial(_the_string, record.text), reading.raw, around)
            around = Account()
    if waiting is None:
        raise DataError(
            f"{file.name}: no text in this file ({around.seen[EMPTY_LINES]:,} records with an empty "
            f"{reading.field!r}); give another"
        )
    whole.read += whole.left_out[CARRIAGE_RETURNS]
    waiting.around.add(around)
    waiting.around.add(whole)
    yield waiting


def _documents_in_archive(file: File, reading: Reading, around: Account) -> Iterator[Document]:
    """The documents of the files in an archive; a file that does not fit is passed over, and counted."""
    waiting: Document | None = None  # what is passed over behind it is counted with it
    for member in files_in_archive(file, around):
        try:
            for document in _documents_of(member, reading):
                for _ in document.pieces():
                    pass
        except DataError as problem:
            around.pass_over(problem.reason, member.name)
            continue
        for document in _documents_of(member, reading):
            document.around.files = document.around.stored = document.around.packed = 0  # the archive's count
            if waiting is not None:
                yield waiting
            document.around.add(around)
            waiting, around = document, Account()
    if waiting is None:
        raise DataError(
            f"{file.name}: no text in this archive that can be used ({'; '.join(around.lines())})"
        )
    waiting.around.add(around)
    yield waiting


def _documents_in_tokens(file: File, raw: bool, around: Account) -> Iterator[Document]:
    """A document for each stretch between two ends of text in a token file."""
    if file.packings:
        raise DataError(f"{file.name}: a token file is read in place; unpack it first (gunzip)")
    for number, (start, end) in enumerate(documents_of(file.path, file.name), 1):

        def strings(account: Account, start: int = start, end: int = end) -> Iterator[str]:
            return text_of(file.path, file.name, start, end)

        yield _document(f"{file.name}:{number}", strings, raw, around)
        around = Account()


def _the_string(text: str, account: Account) -> Iterator[str]:
    yield text


def _files_of(source: str | Path, tell: Callable[[str], None]) -> list[File]:
    name = str(source)
    if not name:
        raise DataError('a path is empty (""): give a file, a folder, an address or "-" for stdin')
    if name in (DASH, STDIN):
        return [File(spooled_stdin(), "stdin", "text")]
    if name.lower().startswith(("http://", "https://")):
        return [_file_at_address(name, tell)]
    try:
        return _files_at_path(Path(name), tell)
    except OSError as problem:
        raise cannot_read(name, problem) from problem
    except ValueError as problem:
        raise DataError(f"{name!r}: not a path ({problem}); check how it is written") from problem


def _files_at_path(path: Path, tell: Callable[[str], None]) -> list[File]:
    name = str(path)
    if path.is_dir():
        return _files_in_folder(path, tell)
    if path.is_fifo():
        return [File(spooled_pipe(path), name, *kind_of(name))]
    if path.is_file():
        return [File(path, name, *kind_of(name))]
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


def _files_in_folder(folder: Path, tell: Callable[[str], None]) -> list[File]:
    """Files of known kinds, by path. A link to a folder is not followed, because it may lead back."""
    taken, other, empty = [], 0, 0
    for place, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(place, name) for name in names if not name.startswith(".")):
            kind, packings = kind_of(path.name, unknown="")
            if not kind or not path.is_file():
                other += 1
            elif path.stat().st_size == 0:
                empty += 1
            else:
                taken.append(File(path, str(path), kind, packings))
    skipped = [f"{other:,} of other kinds"] * bool(other) + [f"{empty:,} empty"] * bool(empty)
    if not taken:
        there = f" ({' and '.join(skipped)})" if skipped else ""
        raise DataError(
            f"{folder}: no text in this folder{there}; known are {' '.join(SUFFIXES)}, also as .gz .bz2 .xz"
        )
    if skipped:
        tell(f"{folder}: {len(taken):,} files taken, {' and '.join(skipped)} skipped")
    return sorted(taken, key=lambda file: file.path.parts)


def _raise(problem: OSError) -> None:
    raise problem


def _file_at_address(url: str, tell: Callable[[str], None]) -> File:
    path = download(url, cache_folder(), progress=tell)
    origin = origin_of(path)
    told = (origin.content_type or "").partition(";")[0].strip().lower() if origin else ""
    kind, packings = kind_of(urllib.parse.urlsplit(url).path, unknown="")
    if not kind:
        kind = CONTENT_TYPES.get(told, "text")
    elif told == "text/html" and kind != "html":
        path.unlink()
        raise DataError(f"{url}: the server sent a web page instead; give the address of the file itself")
    packed = origin is not None and (origin.content_encoding or "").lower() in ("gzip", "x-gzip")
    return File(path, url, kind, packings or ("gz",) * packed)
