"""A file's name and first bytes come in, how to read it goes out: its kind and its compression."""

import csv
import io
import re
import zipfile
from dataclasses import replace
from pathlib import PurePath

from lucidlm.errors import DataError
from lucidlm.text import reasons
from lucidlm.text.account import Account
from lucidlm.text.formats.decoding import File, cannot_read, is_utf8, read_blocks
from lucidlm.text.formats.packed import PACKINGS
from lucidlm.text.formats.signatures import HEAD, Signature, format_in_zip, not_text, packing_of, readable_as
from lucidlm.text.formats.whole_files import ZIP_FAULTS, is_of_system, whole

SUFFIXES = {
    ".txt": "text",
    ".md": "text",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".epub": "epub",
    ".pdf": "pdf",
    ".docx": "docx",
    ".odt": "odt",
    ".srt": "srt",
    ".vtt": "vtt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".bin": "tokens",
    ".ds": "ds",
}
"""The suffixes that a folder is searched for, and the kind of each."""
_NAMED_ALONE: dict[str, tuple[str, tuple[str, ...]]] = {
    ".json": ("json", ()),
    ".csv": ("csv", ()),
    ".tsv": ("tsv", ()),
    ".zip": ("zip", ()),
    ".tar": ("tar", ()),
    ".tgz": ("tar", ("gz",)),
    ".tbz": ("tar", ("bz2",)),
    ".tbz2": ("tar", ("bz2",)),
    ".txz": ("tar", ("xz",)),
    ".tzst": ("tar", ("zst",)),
}
"""In a folder of texts these are often settings, lists or copies of the texts: read only if named."""
CONTENT_TYPES = {
    "text/html": "html",
    "application/xhtml+xml": "html",
    "application/epub+zip": "epub",
    "application/pdf": "pdf",
    "application/jsonl": "jsonl",
    "application/x-ndjson": "jsonl",
    "application/json": "json",
    "application/vnd.apache.parquet": "parquet",
    "text/csv": "csv",
    "text/tab-separated-values": "tsv",
    "text/vtt": "vtt",
    "application/x-subrip": "srt",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.oasis.opendocument.text": "odt",
}
_ZIPS = ("epub", "docx", "odt")
_SUFFIXES_OF_MARKUP = {
    "latex": ".tex .ltx",
    "notebook": ".ipynb",
    "rst": ".rst",
    "asciidoc": ".adoc",
    "org": ".org",
    "wikitext": ".wiki",
    "yaml": ".yaml .yml",
    "toml": ".toml",
    "ini": ".ini",
    "sgml": ".sgml .sgm",
    "xml": ".svg .fb2 .xml",
    "mail": ".eml .mbox .mht .mhtml",
    "rtf": ".rtf",
    "postscript": ".ps",
    "subtitles": ".ass .ssa .sub .sbv .lrc .smi .sami .ttml .dfxp",
    "log": ".log",
}
_MARKED_BY_NAME = {suffix: what for what, all_of in _SUFFIXES_OF_MARKUP.items() for suffix in all_of.split()}
_MARKED_BY_CONTENT = (
    (re.compile(rb"\{\\rtf\d"), "rtf"),
    (re.compile(rb"%!PS"), "postscript"),
    (re.compile(rb"\[Script Info\]"), "subtitles"),
    (
        re.compile(rb"(?:From .*\r?\n)?(?:[A-Za-z][A-Za-z-]*: .*\r?\n)(?:.*\r?\n)*?MIME-Version: 1", re.I),
        "mail",
    ),
    (re.compile(rb"WEBVTT(?:[ \t\r\n]|$)|1\r?\n\d\d:\d\d:\d\d,\d\d\d --> "), "subtitles"),
    (
        re.compile(rb"(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*(?:<!doctype\s+html\b|<html[\s>])", re.I | re.S),
        "html",
    ),
    (re.compile(rb"<\?xml\s"), "xml"),
    (re.compile(rb"\\documentclass\b"), "latex"),
    (re.compile(rb'(?:\[\s*)?\{\s*"(?:[^"\\]|\\.)*"\s*:'), "json"),
)
_COLUMN = re.compile(r"[A-Za-z_]\w{0,30}(?:[ .-]\w{1,30})?")
_FEW_ROWS = 3
"""Rows of a table, at least: two lines with the same number of commas may be prose."""


def kind_of(name: str, unknown: str = "text", *, in_folder: bool = False) -> tuple[str, tuple[str, ...]]:
    """The kind and the compressions that a name's suffixes show; the kind `unknown` without such a suffix.

    A folder is searched for fewer kinds than a user can name.
    """
    path = PurePath(name.lower())
    packings: tuple[str, ...] = ()
    if path.suffix[1:] in PACKINGS:
        packings, path = (path.suffix[1:],), path.with_suffix("")
    if not in_folder and path.suffix in _NAMED_ALONE:
        kind, inner = _NAMED_ALONE[path.suffix]
        return kind, packings + inner
    return SUFFIXES.get(path.suffix, unknown), packings


def by_content(file: File, account: Account) -> File:
    """The file with the kind and compressions that its first bytes show, if they leave no doubt.

    A PDF, a gzip file or a Word document is read as such under any name; a name that differs is counted, and
    so is markup that is read as plain text. Token files are not checked: ids may begin with any bytes.
    """
    if file.kind in ("tokens", "ds"):
        return file
    read, head = _as_packed(file, account)
    if (what := readable_as(head)) is not None:
        what = _opened_zip(read) if what.kind == "zip" else what
        if not what.kind:
            raise DataError(f"{file.name}: this is {what.name}; {what.advice}", reason=reasons.BINARY)
        if what.kind != read.kind and not (what.kind == "zip" and read.kind in _ZIPS):
            account.saw(reasons.BY_CONTENT)
            return replace(read, kind=what.kind)
    elif read.kind == "jsonl" and head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        account.saw(reasons.BY_CONTENT)
        return replace(read, kind="json")
    elif read.kind == "text":
        return _as_marked(read, head, account)
    elif read.kind in (*_ZIPS, "pdf", "zip", "tar", "parquet") and not read.packings:
        _refuse_misnamed(read, head)
    return read


def _refuse_misnamed(file: File, head: bytes) -> None:
    """DataError that says what a file is, if it does not have the format that its name shows."""
    if what := not_text(head):
        raise DataError(f"{file.name}: this is {what.name}; {what.advice}", reason=reasons.BINARY)
    # A PDF or a zip may begin with something else, such as a self-extracting program.
    if (
        not is_utf8(head[:HEAD].rpartition(b"\n")[0] or head)
        or b"%PDF-" in head
        or zipfile.is_zipfile(file.path)
    ):
        return
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    marked = next((what for pattern, what in _MARKED_BY_CONTENT if pattern.match(start)), None)
    is_what, suffix = {"html": ("a web page", ".html"), "rtf": ("RTF", ".rtf")}.get(
        marked or "", ("text", ".txt")
    )
    raise DataError(
        f"{file.name}: this is {is_what}, not {file.kind}; name it {suffix} to read it, or get another copy",
        reason=reasons.DAMAGED,
    )


def _as_packed(file: File, account: Account) -> tuple[File, bytes]:
    """The file with its real compressions, whatever its name shows, and its first decompressed bytes."""
    read = replace(file, packings=())
    head = _head(read)
    while (packing := packing_of(head)) and len(read.packings) < 3:
        read = replace(read, packings=(*read.packings, packing.kind))
        try:
            head = _head(read)
        except DataError:  # reading the file gives the same error
            head = b""
    if read.packings != file.packings:
        account.saw(reasons.NOT_PACKED if len(read.packings) < len(file.packings) else reasons.BY_CONTENT)
    return read, head


def _head(file: File) -> bytes:
    head = b""
    for block in read_blocks(file, Account()):
        head += block
        if len(head) >= HEAD:
            break
    return head[:HEAD]


def _opened_zip(file: File) -> Signature:
    try:
        with zipfile.ZipFile(io.BytesIO(whole(file, Account())) if file.packings else file.path) as archive:
            return format_in_zip(archive)
    except (OSError, *ZIP_FAULTS) as problem:
        if is_of_system(problem):
            raise cannot_read(file.name, problem) from problem
        return Signature("a zip archive", kind=file.kind if file.kind in _ZIPS else "zip")


def _is_table(start: bytes) -> bool:
    """Whether a text's first lines are a header with column names and rows of a table."""
    text = start[:HEAD].decode("utf-8", "ignore").replace("\r", "\n")
    lines = text.split("\n")[:-1]
    for delimiter in ",;\t|":
        rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
        names = rows[0] if rows else []  # a list in prose has spaces after its commas
        named = len(set(names)) == len(names) and all(map(_COLUMN.fullmatch, names))
        if len(rows) >= _FEW_ROWS and len(names) > 1 and named and {len(row) for row in rows} == {len(names)}:
            return True
    return False


def _as_marked(file: File, head: bytes, account: Account) -> File:
    """The file as plain text, counting markup in it; an .xml file that is a web page becomes html."""
    suffix = PurePath(file.name.lower()).suffix
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    marked = next((what for pattern, what in _MARKED_BY_CONTENT if pattern.match(start)), None)
    if suffix == ".xml" and marked == "html":
        return replace(file, kind="html")
    if suffix in ("", ".txt") and not marked and _is_table(start):
        marked = "table"
    if marked := _MARKED_BY_NAME.get(suffix) or marked:
        account.saw(reasons.MARKUP + marked)
    return file
