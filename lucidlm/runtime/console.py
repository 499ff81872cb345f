"""The process's own streams: results and notes come in, and go out on streams of any state and encoding.

Results go to standard output; where it cannot be written, that is an OutputError. Notes go to standard
error, and a note that nobody can read stops no work.
"""

import contextlib
import io
import json
import logging
import math
import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import Any, TextIO

from lucidlm.errors import OutputError
from lucidlm.runtime.wording import one_line, printable


@contextlib.contextmanager
def sound_streams() -> Generator[None]:
    """Inside, sys.stdout and sys.stderr take any text: what their encoding cannot say becomes an escape."""
    _fill_closed_descriptors()
    before = sys.stdout, sys.stderr
    # Names that are no UTF-8 come as lone surrogates, which no stream takes, UTF-8 or not.
    for stream in before:
        if isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
            stream.reconfigure(errors="backslashreplace")
    if logging.lastResort is not None:  # what libraries log, about files that are not ours
        logging.lastResort.setFormatter(_OneLine())
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        out, err = before
        sys.stdout, sys.stderr = _Results(out or nowhere), _Notes(err or nowhere)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


def show(text: object) -> None:
    """A result on standard output, without what a terminal would obey."""
    print(printable(str(text)))


def show_generated(text: str) -> None:
    """A model's own text on standard output: as it is into a file or a pipe, harmless on a terminal."""
    print(printable(text) if sys.stdout.isatty() else text)


def show_json(value: Any) -> None:
    """A result as JSON on standard output, with null for infinity and NaN, for which JSON has no word."""
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    # Rows of numbers on one line each. In a string no line ends: there it is written as an escape.
    show_json_text(re.sub(r"\[\n([-+.\deE,\s]+)\n\s*\]", lambda row: f"[{' '.join(row[1].split())}]", text))


def show_json_text(text: str) -> None:
    """Text that is JSON, or a part of it; in ASCII where the stream is not UTF-8, so that it stays JSON."""
    print(_json_escaped(text, ascii_only=not speaks_utf8(sys.stdout)))


def say(line: object) -> None:
    """A note on standard error, in one line."""
    if sys.stderr is not None:  # as in a process without a console, which calls the library
        print(one_line(str(line)), file=sys.stderr)


def speaks_utf8(stream: TextIO) -> bool:
    """Whether any text can be written to the stream as it is."""
    return (stream.encoding or "").lower().replace("-", "").replace("_", "").startswith("utf")


def _finite(value: Any) -> Any:
    """Infinity and NaN as None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json_escaped(text: str, *, ascii_only: bool) -> str:
    """The same JSON: letters are replaced by their escapes, and such letters stand in its strings only."""
    return (_NO_ASCII if ascii_only else _OBEYED).sub(lambda found: json.dumps(found[0])[1:-1], text)


_NO_ASCII = re.compile("[^\\x00-\\x7e]")
_OBEYED = re.compile("[\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")
"""What json.dumps leaves raw of the letters that `printable` escapes."""


class _OneLine(logging.Formatter):
    """A library's message as one line without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record))


class _Stream(ABC):
    """A text stream in front of another one, of which all but writing is its own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes, or does what this stream does about a failure."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as problem:  # ValueError: of a closed file
            self._failed(problem)
            return len(text)

    def flush(self) -> None:
        """Flushes, or does what this stream does about a failure."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as problem:
            self._failed(problem)

    @abstractmethod
    def _failed(self, problem: Exception) -> None:
        """What becomes of the work when the stream cannot be written."""


class _Results(_Stream):
    """Standard output: what cannot be written there is lost work, and said."""

    def _failed(self, problem: Exception) -> None:
        _leave(self._stream)
        if isinstance(problem, BrokenPipeError):
            raise problem
        raise OutputError(
            f"standard output cannot be written ({getattr(problem, 'strerror', None) or problem}); "
            "write to another place or free some space there"
        ) from problem


class _Notes(_Stream):
    """Standard error: what cannot be written there nobody reads, and the work goes on."""

    def _failed(self, problem: Exception) -> None:
        _leave(self._stream)


def _leave(stream: TextIO) -> None:
    """Lets what is still in the stream's buffer go nowhere: else it fails once more when the process ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _fill_closed_descriptors() -> None:
    """Opens 0 to 2 where they are closed, or the next file that is opened would be standard output."""
    streams = (sys.__stdin__, sys.__stdout__, sys.__stderr__)
    for descriptor, stream in enumerate(streams):
        if stream is not None:
            continue
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest that is free is taken, and those below are open by now: it is this one.
            os.open(os.devnull, os.O_RDONLY if descriptor == 0 else os.O_WRONLY)
