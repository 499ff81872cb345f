"""A .jsonl, .json, .csv or .tsv file comes in, the text of each record goes out."""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from lucidlm.errors import DataError
from lucidlm.runtime.wording import plural
from lucidlm.text import reasons
from lucidlm.text.account import Account, utf8_bytes
from lucidlm.text.formats.decoding import File, read_text, with_lf
from lucidlm.text.formats.whole_files import LARGEST_FILE
from lucidlm.text.reading import READING, Reading

RECORDS = ("jsonl", "json", "csv", "tsv", "parquet")
"""The kinds whose files hold records."""
_DELIMITERS = {"csv": ",;\t|", "tsv": "\t"}
_SNIFFED = 1 << 16
"""Characters of a table from which its delimiter and quoting are found."""
_SEPARATOR = re.compile(r'"?sep=([,;\t| ])"?\n?', re.IGNORECASE)
"""A first line by which spreadsheets name the delimiter."""


@dataclass(frozen=True, slots=True)
class Record:
    """One line, object or row."""

    source: str
    text: str | None
    """None for a blank line or a header, which have no text."""
    bytes: int
    """Bytes of UTF-8 that were read for it, text included."""


def read_records(file: File, reading: Reading, account: Account) -> Iterator[Record]:
    """The records of a file, in order. Their bytes add up to what `account` did not leave out."""
    strings = with_lf(read_text(file, reading.encoding, account), account)
    match file.kind:
        case "jsonl":
            return _in_lines(strings, file.name, reading.field, account)
        case "json":
            return _in_json(strings, file, reading, account)
        case _:
            return _in_rows(strings, file, reading.field)


def split_lines(strings: Iterable[str]) -> Iterator[str]:
    """The lines of a text without their LF. Only LF ends a line, unlike in str.splitlines()."""
    parts: list[str] = []
    for string in strings:
        first, *rest = string.split("\n")
        parts.append(first)
        for line in rest:
            yield "".join(parts)
            parts = [line]
    yield "".join(parts)


def _in_lines(strings: Iterable[str], name: str, field: str, account: Account) -> Iterator[Record]:
    for number, line in enumerate(split_lines(strings), 1):
        source = f"{name}:{number}"
        text, record = None, line.removeprefix("\ufeff")  # files that were joined have such marks inside
        if record.strip():
            advice = "fix or delete this line"
            if number == 1:  # the file may be JSON of several lines
                advice += "; each line must be a complete object (jq -c . FILE > NEW writes it so)"
            text = _text_of_item(_parsed(record, source, advice), source, field)
            account.saw(reasons.REPEATED_FIELDS, _repeats(record, field))
        yield Record(source, text, utf8_bytes(line) + (number > 1))  # the LF before it


def text_in(record: Mapping[str, object], source: str, field: str) -> str:
    """The string in this field of a record; "" for null."""
    if field in record and record[field] is None:
        return ""
    if field in record and isinstance(text := record[field], str):
        return text
    usable = [name for name, value in record.items() if isinstance(value, str)]
    there = ", ".join(f"{name[:40]!r}" for name in usable[:20])
    if field in record:
        fault = f"the field {field!r} is {_json_type(record[field])}, not a string; fix this record" + (
            f" or choose another field with --field: {there}" if there else ""
        )
    elif there:
        fault = f"no field {field!r}; choose one with --field: {there}"
    elif record:
        others = ", ".join(f"{name[:40]!r}: {_json_type(record[name])}" for name in islice(record, 5))
        fault = (
            f"no field {field!r}, and no field is a string ({others}); write the texts as .jsonl, "
            "one object per line"
        )
    else:
        fault = "the object is empty; fix or delete it"
    raise DataError(f"{source}: {fault}", reason=reasons.NO_FIELD)


def _repeats(text: str, field: str) -> int:
    """How many values of this field are dropped because an object has the field more than once."""
    if text.count(json.dumps(field)) < 2 and text.count(json.dumps(field, ensure_ascii=False)) < 2:
        return 0
    dropped = 0

    def count(pairs: list[tuple[str, object]]) -> dict[str, object]:
        nonlocal dropped
        dropped += max(0, sum(name == field for name, _ in pairs) - 1)
        return dict(pairs)

    json.loads(text, object_pairs_hook=count, parse_int=len)
    return dropped


def _parsed(text: str, source: str, advice: str) -> Any:
    try:
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            raise
        except ValueError:  # a number with thousands of digits: its value does not matter
            return json.loads(text, parse_int=len)
    except json.JSONDecodeError as problem:
        raise DataError(
            f"{source}: not JSON ({problem.msg} at character {problem.pos + 1}); {advice}",
            reason=reasons.DAMAGED,
        ) from problem
    except (ValueError, RecursionError) as problem:
        raise DataError(
            f"{source}: not readable JSON ({problem}); {advice}", reason=reasons.DAMAGED
        ) from problem


def _json_type(value: object) -> str:
    """The name of a value's JSON type, with its article."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _in_json(strings: Iterable[str], file: File, reading: Reading, account: Account) -> Iterator[Record]:
    """The records of one array of objects or strings, or of one object; also of JSON lines."""
    name, field = file.name, reading.field
    parts, size = [], 0
    for string in strings:
        parts.append(string)
        size += utf8_bytes(string)
        if size > LARGEST_FILE:
            raise DataError(
                f"{name}: larger than {LARGEST_FILE >> 20} MiB, the limit for one .json file; "
                "write it as .jsonl, one text per line"
            )
    whole = "".join(parts)
    if _is_json_lines(whole):
        account.saw(reasons.BY_CONTENT)
        yield from _in_lines([whole], name, field, account)
        return
    found = _parsed(whole, name, "fix it, or name it .txt to read it as plain text")
    account.saw(reasons.REPEATED_FIELDS, _repeats(whole, field))
    if isinstance(found, dict):
        texts = [(name, text_in(found, name, field))]
    elif isinstance(found, list) and found:
        texts = [
            (f"{name}:{number}", _text_of_item(item, f"{name}:{number}", field))
            for number, item in enumerate(found, 1)
        ]
    else:
        what = "an empty list" if found == [] else _json_type(found)
        raise DataError(
            f"{name}: {what}; give an array of objects or strings, or one object", reason=reasons.NO_FIELD
        )
    for number, (source, text) in enumerate(texts):
        # The bytes around all texts count with the first text.
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
            f"{source}: this is {_json_type(item)}, not a JSON object or string; fix it",
            reason=reasons.NO_FIELD,
        )
    if field != READING.field:
        raise DataError(
            f"{source}: a string, which has no field {field!r}; omit --field", reason=reasons.NO_FIELD
        )
    return item


def _in_rows(strings: Iterable[str], file: File, field: str) -> Iterator[Record]:
    """The records of a table: the cell of each row in the column `field`, a name or a number.

    With a number (from 1) the first row is a record too, as in a table without a header.
    """
    csv.field_size_limit(LARGEST_FILE)
    lines = _with_ends(split_lines(strings))
    sample, size, told = list[str](), 0, None
    for line in lines:
        sample.append(line)
        size += len(line)
        if size > _SNIFFED:
            break
    delimiters = _DELIMITERS[file.kind]
    if sample and (told := _SEPARATOR.fullmatch(sample[0])):
        yield Record(f"{file.name}:1", None, utf8_bytes(sample.pop(0)))
        delimiters = told[1]
    counter = _Counter(chain(sample, lines), first_line=2 if told else 1)
    delimiter, quoted = _dialect(sample, delimiters, field)
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
                f"{source}: {plural(len(row), 'cell')} instead of {len(columns):,} as in the first row; "
                f"quote cells that contain a {_said(delimiter)}, or fix this row",
                reason=reasons.DAMAGED,
            )
        else:
            yield Record(source, row[column], counter.taken())


def _with_ends(lines: Iterator[str]) -> Iterator[str]:
    """Lines with their LF; the last one may have none."""
    before = next(lines)
    for line in lines:
        yield before + "\n"
        before = line
    if before:
        yield before


class _Counter:
    """Lines for csv's reader; counts the bytes of each row and remembers its first line."""

    def __init__(self, lines: Iterable[str], first_line: int = 1) -> None:
        self.lines = iter(lines)
        self.number, self.first, self.bytes = first_line - 1, 0, 0

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
            f"{name}:{line}: damaged row ({problem}); fix its quotes", reason=reasons.DAMAGED
        ) from problem


def _column_of(row: list[str], field: str, name: str) -> int:
    if row.count(field) > 1:
        raise DataError(
            f"{name}: {row.count(field)} columns are named {field!r}; rename one", reason=reasons.NO_FIELD
        )
    if field in row:
        return row.index(field)
    if field.isdecimal() and 1 <= int(field) <= len(row):
        return int(field) - 1
    there = ", ".join(f"{cell[:40]!r}" for cell in row[:20])
    raise DataError(
        f"{name}: no column {field!r}; the first row has {there}: choose one with --field NAME, or "
        f"with --field NUMBER (1 to {len(row)}) if the first row is not a header",
        reason=reasons.NO_FIELD,
    )


def _said(delimiter: str) -> str:
    return {",": "comma", ";": "semicolon", "\t": "tab"}.get(delimiter, repr(delimiter))


def _dialect(sample: list[str], delimiters: str, field: str) -> tuple[str, bool]:
    """The delimiter that makes the field a column, or else most cells; and whether cells are quoted."""
    best = (False, 0, delimiters[0])
    for delimiter in delimiters:
        reader = csv.reader(sample, delimiter=delimiter)
        rows = [row for row in islice(reader, 100) if row]
        if not rows:
            continue
        cells = len(rows[0])
        alike = sum(len(row) == cells for row in rows[:-1]) == len(rows) - 1  # the last one may be incomplete
        best = max(best, (field in rows[0], cells * alike, delimiter), key=lambda found: found[:2])
    delimiter = best[2]
    # A .tsv without quoting may contain a quote that is never closed.
    plain = delimiter == "\t" and _rows_alike(sample, quoted=False) and not _rows_alike(sample, quoted=True)
    return delimiter, not plain


def _rows_alike(sample: list[str], *, quoted: bool) -> bool:
    """Whether all rows of a table with tabs have the same number of cells, read with or without quoting."""
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    try:
        return (
            len({len(row) for row in csv.reader(sample, "excel-tab", quoting=quoting, strict=True) if row})
            == 1
        )
    except csv.Error:
        return False
