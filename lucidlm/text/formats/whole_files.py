"""A file of a format that cannot be read in pieces comes in, all its bytes go out, or one line on a fault."""

from collections.abc import Generator
from contextlib import contextmanager

from lucidlm.errors import DataError
from lucidlm.text.account import DAMAGED, Account
from lucidlm.text.formats.decoding import File, cannot_read, read_blocks

LARGEST = 256 << 20
"""The most that a file may unpack to: none of these formats can be read in pieces."""
LARGEST_PAGE = 64 << 20
"""The most for markup: its parser takes up to thirty bytes of memory for each of its bytes."""


def whole(file: File, account: Account, largest: int | None = None) -> bytes:
    """All bytes of a file, unpacked, where they are not too many."""
    largest = largest or LARGEST
    data = bytearray()
    for block in read_blocks(file, account):
        data += block
        if len(data) > largest:
            raise too_large(file.name, file.kind, largest)
    return bytes(data)


def too_large(name: str, kind: str, largest: int | None = None) -> DataError:
    """The error for a file that holds too much."""
    return DataError(
        f"{name}: more than {(largest or LARGEST) >> 20} MiB, which is too much for one {kind} file; "
        "turn it into .txt or split it"
    )


@contextmanager
def sound_file(name: str, kind: str, *faults: type[Exception]) -> Generator[None, None, None]:
    """Turns what a parser says of a damaged file into a line for the user."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except OSError as problem:
        raise cannot_read(name, problem) from problem
    except faults as problem:
        reason = " ".join(str(problem).split()) or type(problem).__name__
        raise DataError(
            f"{name}: not a sound {kind} file ({reason}); convert it to .txt or get another copy",
            reason=DAMAGED,
        ) from problem
