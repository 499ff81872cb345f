"""A Parquet file comes in, the text of each row goes out: of one column, some rows at a time."""

from collections.abc import Iterator
from typing import Any

from lucidlm.errors import ConfigError, DataError
from lucidlm.text import reasons
from lucidlm.text.account import utf8_bytes
from lucidlm.text.formats.decoding import File
from lucidlm.text.formats.records import Record
from lucidlm.text.formats.whole_files import faults_of

_ROWS = 256
"""Rows that are decoded at once."""
_BUFFER = 1 << 20
"""Bytes of a column that are read at once: a row group may hold a gigabyte."""


def read_parquet(file: File, field: str) -> Iterator[Record]:
    """The records of a file: the string of each row in the column `field`."""
    if file.packings:
        raise DataError(f"{file.name}: Parquet is read in place; decompress it first", reason=reasons.UNFIT)
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as problem:
        raise ConfigError(
            f"{file.name}: Parquet needs a package ({problem}); pip install 'lucidlm[parquet]'"
        ) from problem
    number = 0
    faults = (pyarrow.ArrowException, ValueError, UnicodeDecodeError)
    with (
        faults_of(file.name, "Parquet", *faults),
        pyarrow.parquet.ParquetFile(file.path, buffer_size=_BUFFER, pre_buffer=False) as opened,
    ):
        _check_column(opened.schema_arrow, file.name, field)
        for batch in opened.iter_batches(_ROWS, columns=[field], use_threads=False):
            for value in batch.column(0):
                number += 1
                text = value.as_py() or ""  # None: a null
                yield Record(f"{file.name}:{number}", text, utf8_bytes(text))


def _check_column(schema: Any, name: str, field: str) -> None:
    """DataError unless the file has one column of this name, of strings."""
    import pyarrow

    def is_text(kind: Any) -> bool:
        plain = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
        return any(
            check(plain)
            for check in (
                pyarrow.types.is_string,
                pyarrow.types.is_large_string,
                pyarrow.types.is_string_view,
            )
        )

    there = ", ".join(f"{each.name[:40]!r}" for each in schema if is_text(each.type)) or "none"
    found = [each for each in schema if each.name == field]
    if not found:
        raise DataError(
            f"{name}: no column {field!r}; choose one with --field: {there}", reason=reasons.NO_FIELD
        )
    if len(found) > 1:
        raise DataError(
            f"{name}: {len(found)} columns are named {field!r}; rename one", reason=reasons.NO_FIELD
        )
    if not is_text(found[0].type):
        raise DataError(
            f"{name}: the column {field!r} holds {found[0].type}, not strings; choose another with --field: "
            f"{there}",
            reason=reasons.NO_FIELD,
        )
