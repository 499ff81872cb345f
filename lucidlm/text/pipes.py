"""Standard input and pipes come in, files that can be read more than once go out."""

import atexit
import functools
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, BinaryIO

from lucidlm.errors import DataError

DASH, STDIN = "-", "<stdin>"
"""Standard input as shells name it, and as run.toml of version 1.0 does."""


def readable(name: str | os.PathLike) -> Path:
    """The file to read for a name; for standard input and pipes a temporary file with their content."""
    if name in (DASH, STDIN):
        return spooled_stdin()
    return spooled_pipe(Path(name)) if Path(name).is_fifo() else Path(name)


def refuse_stdin_twice(sources: Iterable[str | os.PathLike]) -> None:
    """DataError if standard input is given twice: it can be read once."""
    if sum(source in (DASH, STDIN) for source in sources) > 1:
        raise DataError("- (standard input) is given more than once; save it in a file")


@functools.cache
def spooled_stdin() -> Path:
    """A file with all of standard input, which is read once per process."""
    if sys.stdin is None or sys.stdin.closed:
        raise DataError("-: standard input is closed; give a file, or text through a pipe")
    return _spooled(sys.stdin.buffer, "stdin")


@functools.cache
def spooled_pipe(path: Path) -> Path:
    """A file with all content of a named pipe, which is read once per process."""
    with path.open("rb") as pipe:
        return _spooled(pipe, str(path))


def _spooled(stream: BinaryIO, name: str) -> Path:
    """A temporary file with all content of a stream, as a text is read more than once. Deleted at exit."""
    try:
        with tempfile.NamedTemporaryFile(prefix="lucidlm-", delete=False) as file:
            path = Path(file.name)
            atexit.register(path.unlink, missing_ok=True)
            _copy(stream, file, name)
    except OSError as problem:
        raise DataError(
            f"{name}: cannot be stored in {_temporary_folder()} ({problem.strerror or problem}); "
            "free some space or set TMPDIR to a writable folder"
        ) from problem
    return path


def _copy(stream: BinaryIO, file: IO[bytes], name: str) -> None:
    """Copy a stream to a file. Its read errors are told apart from write errors of the file."""
    while True:
        try:
            block = stream.read(1 << 20)
        except OSError as problem:
            raise DataError(
                f"{name}: cannot be read ({problem.strerror or problem}); give a file, or text through a pipe"
            ) from problem
        if not block:
            return
        file.write(block)


def _temporary_folder() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:  # no usual folder is writable
        return "a temporary folder"
