"""Files, folders, patterns and addresses come in, documents go out: clean text, and what was left out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path

from lucidlm.errors import DataError
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.runtime.wording import plural
from lucidlm.text import reasons
from lucidlm.text.account import Account, utf8_bytes
from lucidlm.text.formats.archives import ARCHIVES, files_in_archive
from lucidlm.text.formats.bin_files import token_documents, token_text
from lucidlm.text.formats.decoding import (
    File,
    cannot_read,
    counted,
    known_encoding,
    read_text,
    with_lf,
    without_mark,
    without_surrogates,
)
from lucidlm.text.formats.ds_files import open_ds
from lucidlm.text.formats.epub import read_epub
from lucidlm.text.formats.kinds import by_content
from lucidlm.text.formats.markup import read_html
from lucidlm.text.formats.office import read_office
from lucidlm.text.formats.parquet import read_parquet
from lucidlm.text.formats.pdf import read_pdf
from lucidlm.text.formats.records import RECORDS, read_records
from lucidlm.text.formats.subtitles import read_subtitles
from lucidlm.text.gutenberg import names_gutenberg, without_frame
from lucidlm.text.reading import READING, Reading
from lucidlm.text.sources import find_files

ENCODED = ("pdf", "docx", "odt", "tokens", "ds", "parquet")
"""Kinds whose format fixes the encoding."""
KEPT_CHARACTERS = 1 << 24
"""Characters of a file that are kept from the reading that checks it; a larger file is read twice."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text: a file, or one record of a file."""

    source: str
    """A path, a URL, "stdin", or "file.jsonl:12" (line 12)."""
    pieces: Callable[[], Iterator[str]]
    """Reads the text at each call, in pieces of at most about a million characters."""
    account: Account = field(default_factory=Account)
    """What was left out or changed; complete after `pieces()` was read to its end."""
    path: Path | None = None
    """Its file; None for a text that was given as a string."""
    around: Account = field(default_factory=Account)
    """The bytes of its file around the texts, divided among the documents of the file."""

    def text(self) -> str:
        """The whole text."""
        return "".join(self.pieces())

    def add_to(self, account: Account, name: str | None = None) -> None:
        """Add the counts of this document, which must have been read, to an account of all."""
        account.add(self.account, name or self.source)
        account.add(self.around)


def read_texts(
    sources: Sequence[str | Path],
    account: Account,
    *,
    reading: Reading = READING,
    progress: Progress = SILENT,
) -> Iterator[tuple[str, str]]:
    """Source and text of each document; `account` is complete after the last one."""
    for document in read_documents(sources, account, reading=reading, progress=progress):
        text = document.text()
        document.add_to(account)
        yield document.source, text


def given_text(
    text: str, account: Account, name: str = "the text given", *, reading: Reading = READING
) -> str:
    """A text that was given as a string, cleaned like a file with it, so that both have the same loss."""
    if not text:
        return ""  # the caller decides whether that is an error
    document = _new_document(None, lambda own: [without_mark(text, own)], reading.raw, source=name)
    cleaned = document.text()
    document.add_to(account)
    return cleaned


def read_documents(
    sources: Sequence[str | Path],
    account: Account | None = None,
    *,
    reading: Reading = READING,
    progress: Progress = SILENT,
) -> Iterator[Document]:
    """The documents of files, folders, patterns, addresses and "-" (stdin), always in the same order.

    All files are found before the first one is read; what is skipped is counted in `account`. Line ends
    become LF. Project Gutenberg's header and footer are removed, unless `reading.raw`. Nothing else changes.
    The text of a record is held in memory.
    """
    account = Account() if account is None else account
    sources = [sources] if isinstance(sources, str | Path) else sources
    if not sources:
        raise DataError('no text to read: give a file, a folder, an address or "-" for stdin')
    files = find_files(sources, account, progress=progress)
    yield from read_files(files, account, reading=reading)


def read_files(files: Iterable[File], account: Account, *, reading: Reading = READING) -> Iterator[Document]:
    """The documents of these files. Unusable files of a folder are counted in `account` instead.

    DataError if a file that the user named, or all files of a folder, cannot be used.
    """
    reading = replace(reading, encoding=known_encoding(reading.encoding))
    for source, group in groupby(files, key=lambda file: file.source):
        used = Used()
        for file in group:
            if not source:
                yield from documents_of(file, reading)
                continue
            try:
                documents = _checked(file, reading)
            except DataError as problem:
                account.pass_over(problem.reason, file.name)
                used.refuse(problem)
                continue
            used.taken += 1
            yield from documents
        used.check(source)


@dataclass(slots=True)
class Used:
    """How many files of a folder or a pattern could be used."""

    taken: int = 0
    refused: int = 0
    first: str = ""
    """Why the first one could not."""

    def refuse(self, problem: DataError) -> None:
        """Count a file that cannot be used."""
        self.refused += 1
        self.first = self.first or str(problem)

    def add(self, other: "Used") -> None:
        """Add the files that come after these."""
        self.taken += other.taken
        self.refused += other.refused
        self.first = self.first or other.first

    def check(self, source: str) -> None:
        """DataError if there were files, and none could be used."""
        if self.taken or not self.refused:
            return
        if self.refused == 1:
            raise DataError(f"{source}: its only file cannot be used as text: {self.first}")
        raise DataError(
            f"{source}: none of its {self.refused:,} files can be used as text; the first: {self.first}"
        )


def _checked(file: File, reading: Reading) -> Iterable[Document]:
    """The documents of a file after reading all of it once; DataError if any part cannot be used."""
    kept, size = list[Document](), 0
    for document in documents_of(file, reading):
        pieces = list[str]()
        for piece in document.pieces():
            size += len(piece)
            if size <= KEPT_CHARACTERS:
                pieces.append(piece)
        if size <= KEPT_CHARACTERS:
            kept.append(replace(document, pieces=partial(iter, pieces)))
        else:
            kept.clear()
    return kept if size <= KEPT_CHARACTERS else documents_of(file, reading)


def documents_of(file: File, reading: Reading) -> Iterator[Document]:
    """The documents of one file; its content decides on the format."""
    noted = Account()
    if file.span is None:
        file = by_content(file, noted)
    around = _account_of(file)
    around.add(noted)
    if reading.field != READING.field and file.kind not in (*RECORDS, *ARCHIVES):
        around.saw(reasons.FIELD_UNUSED)
    if reading.encoding != READING.encoding and file.kind in ENCODED:
        around.saw(reasons.ENCODING_UNUSED)
    match file.kind:
        case kind if kind in RECORDS:
            yield from _documents_in_records(file, reading, around)
        case "tokens" | "ds":
            yield from _documents_in_tokens(file, reading.raw, around)
        case kind if kind in ARCHIVES:
            yield from _documents_in_archive(file, reading, around)
        case _:
            strings = partial(_strings, file, reading.encoding)
            yield _new_document(file, strings, reading.raw, around=around)


def _account_of(file: File) -> Account:
    """An account with the file's size, before it is read."""
    try:
        stored = file.path.stat().st_size if file.span is None else file.span[1] - file.span[0]
    except OSError as problem:
        raise cannot_read(file.name, problem) from problem
    first = file.span is None or file.span[0] == 0
    packed = stored if file.packings or file.kind in ARCHIVES else 0
    account = Account(files=int(first), stored=stored, packed=packed)
    if file.kind == "parquet" or file.kind not in ("text", *RECORDS, *ARCHIVES):
        account.extracted[file.kind] += stored
    return account


def _new_document(
    file: File | None,
    strings: Callable[[Account], Iterable[str]],
    raw: bool,
    *,
    source: str | None = None,
    around: Account | None = None,
) -> Document:
    account, source = Account(), source or (file.name if file else "")

    def pieces() -> Iterator[str]:
        account.clear()
        text = with_lf(counted(strings(account), account), account)
        empty = blank = True
        for piece in text if raw else without_frame(text, account):
            if piece:
                empty, blank = False, blank and piece.isspace()
                yield piece
        account.saw(reasons.BLANK, blank and not empty)
        if empty:
            why = f" after: {'; '.join(account.lines())}" if account.lines() else ""
            raise DataError(
                f"{source}: the text is empty (0 characters){why}; give a file with text",
                reason=reasons.NO_TEXT,
            )

    return Document(source, pieces, account, file.path if file else None, around or Account())


def _strings(file: File, encoding: str, account: Account) -> Iterator[str]:
    """The text of a file, by its format, in strings of any length."""
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
    """A document for each record of a file; records without text are counted."""
    frames = reasons.TABLE if file.kind in ("csv", "tsv") else reasons.JSON
    whole = Account()
    waiting: Document | None = None  # until the next one is found: bytes between them count with it
    parquet = file.kind == "parquet"
    records = read_parquet(file, reading.field) if parquet else read_records(file, reading, whole)
    for record in records:
        around.saw(reasons.EMPTY_LINES, record.text == "")
        frame = record.bytes - utf8_bytes(without_surrogates(record.text or "", Account()))
        around.read += frame
        around.leave_out(frames, frame)
        if record.text:
            strings = partial(_the_string, record.text)
            document = _new_document(file, strings, reading.raw, source=record.source, around=around)
            may_be_frame = not reading.raw and names_gutenberg(record.text)
            if may_be_frame and _is_only_a_frame(document, around):
                continue
            if waiting is not None:
                yield waiting
            waiting, around = document, Account()
    if waiting is None:
        empty = around.seen[reasons.EMPTY_LINES]
        there = f"{plural(empty, 'record')} with an empty {reading.field!r}" if empty else "no record in it"
        raise DataError(
            f"{file.name}: no text in this file ({there}); give another",
            reason=reasons.NO_TEXT,
        )
    whole.read += whole.left_out[reasons.CARRIAGE_RETURNS]
    waiting.around.add(around)
    waiting.around.add(whole)
    yield waiting


def _is_only_a_frame(document: Document, around: Account) -> bool:
    """Whether a record is only Project Gutenberg's header and footer; if so, it is counted."""
    try:
        next(document.pieces())
    except DataError:
        around.read += document.account.read
        around.left_out.update(document.account.left_out)
        around.seen.update(document.account.seen)
        around.saw(reasons.EMPTY_LINES)
        return True
    return False


def _documents_in_archive(file: File, reading: Reading, around: Account) -> Iterator[Document]:
    """The documents of the files in an archive; unusable files are counted."""
    waiting: Document | None = None  # files that are skipped after it count with it
    for member in files_in_archive(file, around):
        try:
            documents = _checked(member, reading)
        except DataError as problem:
            around.pass_over(problem.reason, member.name)
            continue
        for document in documents:
            document.around.files = document.around.stored = document.around.packed = 0  # the archive's count
            if waiting is not None:
                yield waiting
            document.around.add(around)
            waiting, around = replace(document, path=file.path), Account()
    if waiting is None:
        raise DataError(
            f"{file.name}: no usable text in this archive ({'; '.join(around.lines())})",
            reason=reasons.NO_TEXT,
        )
    waiting.around.add(around)
    yield waiting


def _documents_in_tokens(file: File, raw: bool, around: Account) -> Iterator[Document]:
    """A document for each stretch between two end-of-text tokens of a token file."""
    if file.packings:
        raise DataError(
            f"{file.name}: a token file is read in place; decompress it first (gunzip)",
            reason=reasons.NO_TOKENS,
        )
    ds = open_ds(file.path, file.name) if file.kind == "ds" else None
    bounds = ds.documents() if ds else token_documents(file.path, file.name)
    for number, (start, end) in enumerate(bounds, 1):

        def strings(account: Account, start: int = start, end: int = end) -> Iterator[str]:
            if ds:
                return ds.text(start, end, account)
            return token_text(file.path, file.name, start, end, account)

        yield _new_document(file, strings, raw, source=f"{file.name}:{number}", around=around)
        around = Account()


def _the_string(text: str, account: Account) -> Iterator[str]:
    yield text
