"""A .jsonl, .json, .csv or .tsv file comes in, the text of each of its records goes out."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from lucidlm.errors import DataError
from lucidlm.runtime.wording import plural
from lucidlm.text.account import BY_CONTENT, DAMAGED, NO_FIELD, Account, utf8_bytes
from lucidlm.text.decoding import File, read_text, with_lf
from lucidlm.text.reading import READING, Reading
from lucidlm.text.whole_files import LARGEST

RECORDS = ("jsonl", "json", "csv", "tsv")
"""The kinds whose files hold records."""
_DELIMITERS = {"csv": ",;\t|", "tsv": "\t"}
_SNIFFED = 1 << 16
"""Characters in which a table's delimiter and quoting are looked for."""


@dataclass(frozen=True, slots=True)
class Record:
    """One line, object or row, and what it cost."""

    source: str
    text: str | None
    """None where no text is meant to be: a blank line, a header."""
    bytes: int
    """Of UTF-8, of all that was read for it."""


def read_records(file: File, reading: Reading, account: Account) -> Iterator[Record]:
    """The records of a file in their order; their bytes are all that `account` has not left out."""
    strings = with_lf(read_text(file, reading.encoding, account), account)
    match file.kind:
        case "jsonl":
            return _in_lines(strings, file.name, reading.field)
        case "json":
            return _in_json(strings, file, reading, account)
        case _:
            return _in_rows(strings, file, reading.field)


def split_lines(strings: Iterable[str]) -> Iterator[str]:
    """The lines of a text without their LF; what Python's splitlines() also takes for line ends is text."""
    parts: list[str] = []
    for string in strings:
        first, *rest = string.split("\n")
        parts.append(first)
        for line in rest:
            yield "".join(parts)
            parts = [line]
    yield "".join(parts)


def _in_lines(strings: Iterable[str], name: str, field: str) -> Iterator[Record]:
    for number, line in enumerate(split_lines(strings), 1):
        source = f"{name}:{number}"
        text = text_of_record(line, source, field) if line.strip() else None
        yield Record(source, text, utf8_bytes(line) + (number > 1))  # the LF before it


def text_of_record(line: str, source: str, field: str) -> str:
    """The string in this field of a JSON object."""
    record = _parsed(line, source, "mend or delete this line")
    if not isinstance(record, dict):
        raise DataError(
            f"{source}: a JSON object is needed, this is a {_json_type(record)}; mend this line",
            reason=NO_FIELD,
        )
    return text_in(record, source, field)


def text_in(record: Mapping[str, object], source: str, field: str) -> str:
    """The string in this field of a record, whatever format it came in."""
    if field not in record:
        there = ", ".join(f"{name[:40]!r}" for name in islice(record, 20)) or "none"
        raise DataError(
            f"{source}: no field {field!r}; there are {there}: choose one by --field", reason=NO_FIELD
        )
    if not isinstance(text := record[field], str):
        raise DataError(
            f"{source}: the field {field!r} is a {_json_type(text)}, not a string; "
            "choose another by --field or mend this record",
            reason=NO_FIELD,
        )
    return text


def _parsed(text: str, source: str, advice: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as problem:
        raise DataError(
            f"{source}: not JSON ({problem.msg} at character {problem.pos + 1}); {advice}", reason=DAMAGED
        ) from problem
    except (ValueError, RecursionError) as problem:
        raise DataError(
            f"{source}: not JSON that can be read ({problem}); {advice}", reason=DAMAGED
        ) from problem


def _json_type(value: object) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _in_json(strings: Iterable[str], file: File, reading: Reading, account: Account) -> Iterator[Record]:
    """Of one array of objects or strings, or of one object; JSON lines are read as that, which is counted."""
    name, field = file.name, reading.field
    parts, size = [], 0
    for string in strings:
        parts.append(string)
        size += utf8_bytes(string)
        if size > LARGEST:
            raise DataError(
                f"{name}: more than {LARGEST >> 20} MiB, which is too much for one .json file; "
                "write it as .jsonl, a line for each text"
            )
    whole = "".join(parts)
    if _is_json_lines(whole):
        account.saw(BY_CONTENT)
        yield from _in_lines([whole], name, field)
        return
    found = _parsed(whole, name, "mend it, or name it .txt to read it as plain text")
    if isinstance(found, dict):
        texts = [(name, text_in(found, name, field))]
    elif isinstance(found, list) and found:
        texts = [
            (f"{name}:{number}", _text_of_item(item, f"{name}:{number}", field))
            for number, item in enumerate(found, 1)
        ]
    else:
        what = "an empty list" if found == [] else f"a {_json_type(found)}"
        raise DataError(
            f"{name}: {what}; an array of objects or strings is needed, or one object", reason=NO_FIELD
        )
    for number, (source, text) in enumerate(texts):
        # All that stands around the texts is counted with the first of them.
        around = size - sum(utf8_bytes(text) for _, text in texts) if number == 0 else 0
        yield Record(source, text, utf8_bytes(text) + around)


def _is_json_lines(whole: str) -> bool:
    first, _, rest = whole.lstrip().partition("\n")
    if not first.startswith("{") or not rest.strip():
        return False
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _text_of_item(item: object, source: str, field: str) -> str:
    if isinstance(item, dict):
        return text_in(item, source, field)
    if not isinstance(item, str):
        raise DataError(
            f"{source}: a JSON object or string is needed, this is a {_json_type(item)}; mend it",
            reason=NO_FIELD,
        )
    if field != READING.field:
        raise DataError(
            f"{source}: a string, which has no field {field!r}; leave --field out", reason=NO_FIELD
        )
    return item


def _in_rows(strings: Iterable[str], file: File, field: str) -> Iterator[Record]:
    """Of each row of a table, the cell of the column `field`: its name in the first row, or its number.

    By its number (from 1) a column is read from the first row on, as of a table without names.
    """
    csv.field_size_limit(LARGEST)
    lines = _with_ends(split_lines(strings))
    sample, size = [], 0
    for line in lines:
        sample.append(line)
        size += len(line)
        if size > _SNIFFED:
            break
    counter = _Counter(chain(sample, lines))
    delimiter, quoted = _dialect(sample, _DELIMITERS[file.kind], field)
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    rows = csv.reader(counter, delimiter=delimiter, quoting=quoting, strict=quoted)
    columns: list[str] | None = None
    column = 0
    while (row := _next_row(rows, file.name)) is not None:
        source = f"{file.name}:{counter.first}"
        if not row:
            yield Record(source, None, counter.taken())
        elif columns is None:
            columns, column = row, _column_of(row, field, file.name)
            named = field in row
            yield Record(source, None if named else row[column], counter.taken())
        elif len(row) != len(columns):
            raise DataError(
                f"{source}: {plural(len(row), 'cell')}, {len(columns):,} in the first row; put quotes around "
                f"cells that hold a {_said(delimiter)}, or mend this row",
                reason=DAMAGED,
            )
        else:
            yield Record(source, row[column], counter.taken())


def _with_ends(lines: Iterator[str]) -> Iterator[str]:
    """Lines with their LF, and what stands behind the last LF."""
    before = next(lines)
    for line in lines:
        yield before + "\n"
        before = line
    if before:
        yield before


class _Counter:
    """Lines on their way into csv's reader: how many bytes a row took, and where it began."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = iter(lines)
        self.number = self.first = self.bytes = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self.lines)
        self.number += 1
        self.first = self.first or self.number
        self.bytes += utf8_bytes(line)
        return line

    def taken(self) -> int:
        """Bytes since the last call."""
        taken, self.bytes, self.first = self.bytes, 0, 0
        return taken


def _next_row(rows: Iterator[list[str]], name: str) -> list[str] | None:
    try:
        return next(rows, None)
    except csv.Error as problem:
        line = getattr(rows, "line_num", 0)
        raise DataError(
            f"{name}:{line}: not a sound row ({problem}); mend its quotes", reason=DAMAGED
        ) from problem


def _column_of(row: list[str], field: str, name: str) -> int:
    if row.count(field) > 1:
        raise DataError(
            f"{name}: {row.count(field)} columns are named {field!r}; rename one", reason=NO_FIELD
        )
    if field in row:
        return row.index(field)
    if field.isdecimal() and 1 <= int(field) <= len(row):
        return int(field) - 1
    there = ", ".join(f"{cell[:40]!r}" for cell in row[:20])
    raise DataError(
        f"{name}: no column {field!r}; the first row has {there}: choose one by --field NAME, "
        f"or by --field NUMBER (1 to {len(row)}) where that row is no header",
        reason=NO_FIELD,
    )


def _said(delimiter: str) -> str:
    return {",": "comma", ";": "semicolon", "\t": "tab"}.get(delimiter, repr(delimiter))


def _dialect(sample: list[str], delimiters: str, field: str) -> tuple[str, bool]:
    """The delimiter under which the field is a column, or rows have most cells; whether cells are quoted."""
    best = (False, 0, delimiters[0])
    for delimiter in delimiters:
        reader = csv.reader(sample, delimiter=delimiter)
        rows = [row for row in islice(reader, 100) if row]
        if not rows:
            continue
        cells = len(rows[0])
        alike = sum(len(row) == cells for row in rows[:-1]) == len(rows) - 1  # the last may be cut off
        best = max(best, (field in rows[0], cells * alike, delimiter), key=lambda found: found[:2])
    delimiter = best[2]
    # A .tsv that knows no quotes may hold one that is never closed.
    plain = delimiter == "\t" and _rows_alike(sample, quoted=False) and not _rows_alike(sample, quoted=True)
    return delimiter, not plain


def _rows_alike(sample: list[str], *, quoted: bool) -> bool:
    """Whether a table with tabs has as many cells in each row, read with quotes or without."""
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    try:
        return (
            len({len(row) for row in csv.reader(sample, "excel-tab", quoting=quoting, strict=True) if row})
            == 1
        )
    except csv.Error:
        return False
