"""A file that cannot be read in pieces comes in, all its bytes go out; faults become a DataError."""

import errno
import lzma
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import TypeGuard

from lucidlm.errors import DataError
from lucidlm.text import reasons
from lucidlm.text.account import Account
from lucidlm.text.formats.decoding import File, cannot_read, read_blocks

LARGEST_FILE = 256 << 20
"""Bytes that a file may decompress to: these formats cannot be read in pieces."""
LARGEST_PAGE = 64 << 20
"""The same for markup: its parser takes up to thirty bytes of memory per byte."""
ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError)
"""What zipfile raises for damaged archives, found by changing their bytes at random.

ValueError is for a name that is not UTF-8 and for a place before the start; RuntimeError is for a password
and, as NotImplementedError, for an unknown method or version. For OSError see `is_of_system`.
"""


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


def is_of_system(problem: Exception) -> TypeGuard[OSError]:
    """Whether the system refused to read, and the data may be sound.

    False for the two kinds of OSError that damaged data raises: bz2's, without an errno, and EINVAL for a
    place before the start of the file.
    """
    return isinstance(problem, OSError) and problem.errno not in (None, errno.EINVAL)


@contextmanager
def faults_of(name: str, kind: str, *faults: type[Exception]) -> Generator[None, None, None]:
    """Turns the errors of a parser on a damaged file into a DataError."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except (OSError, *faults) as problem:
        if is_of_system(problem):
            raise cannot_read(name, problem) from problem
        reason = " ".join(str(problem).split()) or type(problem).__name__
        raise DataError(
            f"{name}: damaged {kind} file ({reason}); convert it to .txt or get another copy",
            reason=reasons.DAMAGED,
        ) from problem
