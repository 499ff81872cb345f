"""A file that cannot be read in pieces comes in, all its bytes go out; faults become a DataError."""

from collections.abc import Generator
from contextlib import contextmanager

from lucidlm.errors import DataError
from lucidlm.text import reasons
from lucidlm.text.account import Account
from lucidlm.text.formats.decoding import File, cannot_read, read_blocks

LARGEST_FILE = 256 << 20
"""Bytes that a file may decompress to: these formats cannot be read in pieces."""
LARGEST_PAGE = 64 << 20
"""The same for markup: its parser takes up to thirty bytes of memory per byte."""


def whole(file: File, account: Account, largest: int | None = None) -> bytes:
    """All bytes of a file, decompressed; DataError if it is too large."""
    largest = largest or LARGEST_FILE
    data = bytearray()
    for block in read_blocks(file, account):
        data += block
        if len(data) > largest:
            raise too_large(file.name, file.kind, largest)
    return bytes(data)


def too_large(name: str, kind: str, largest: int | None = None) -> DataError:
    """The error for a file that is too large."""
    return DataError(
        f"{name}: larger than {(largest or LARGEST_FILE) >> 20} MiB, the limit for one {kind} file; "
        "convert it to .txt or split it"
    )


@contextmanager
def faults_of(name: str, kind: str, *faults: type[Exception]) -> Generator[None, None, None]:
    """Turns the errors of a parser on a damaged file into a DataError."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except OSError as problem:
        raise cannot_read(name, problem) from problem
    except faults as problem:
        reason = " ".join(str(problem).split()) or type(problem).__name__
        raise DataError(
            f"{name}: damaged {kind} file ({reason}); convert it to .txt or get another copy",
            reason=reasons.DAMAGED,
        ) from problem
