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
"""Standard input as a shell calls it, and as run.toml of version 1.0 does."""


def readable(name: str | os.PathLike) -> Path:
    """The file to read for a name: of standard input and of a pipe, one that has what came through it."""
    if name in (DASH, STDIN):
        return spooled_stdin()
    return spooled_pipe(Path(name)) if Path(name).is_fifo() else Path(name)


def refuse_stdin_twice(sources: Iterable[str | os.PathLike]) -> None:
    """Standard input can be one source: as two it would be the same text twice."""
    if sum(source in (DASH, STDIN) for source in sources) > 1:
        raise DataError("- is given more than once, and there is one standard input; save it in a file")


@functools.cache
def spooled_stdin() -> Path:
    """A file with all of standard input, read once a process."""
    if sys.stdin is None or sys.stdin.closed:
        raise DataError("-: standard input is closed; give a file, or text through a pipe")
    return _spooled(sys.stdin.buffer, "stdin")


@functools.cache
def spooled_pipe(path: Path) -> Path:
    """A file with all that came through a named pipe, read once a process."""
    with path.open("rb") as pipe:
        return _spooled(pipe, str(path))


def _spooled(stream: BinaryIO, name: str) -> Path:
    """A temporary file with all that a stream holds, because a text is read more than once; gone at exit."""
    try:
        with tempfile.NamedTemporaryFile(prefix="lucidlm-", delete=False) as file:
            path = Path(file.name)
            atexit.register(path.unlink, missing_ok=True)
            _copy(stream, file, name)
    except OSError as problem:
        raise DataError(
            f"{name}: cannot be kept in {_temporary_folder()} ({problem.strerror or problem}); "
            "free some space or set TMPDIR to a folder that can be written"
        ) from problem
    return path


def _copy(stream: BinaryIO, file: IO[bytes], name: str) -> None:
    """All of the stream; that it cannot be read is no fault of the folder where it is kept."""
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
    except OSError:  # none of the usual folders can be written
        return "a temporary folder"
