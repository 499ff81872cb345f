"""Results and notes in, lines on standard output and standard error out, whatever their state and encoding.

A result that cannot be written is an OutputError. A note that cannot be written is dropped: the work goes on.
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
    """A context in which sys.stdout and sys.stderr take any text: what they cannot encode is escaped."""
    _fill_closed_descriptors()
    before = sys.stdout, sys.stderr
    # File names that are not UTF-8 arrive as lone surrogates, which no encoding has.
    for stream in before:
        if isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
            stream.reconfigure(errors="backslashreplace")
    if logging.lastResort is not None:  # libraries log the names of files
        logging.lastResort.setFormatter(_OneLine())
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        out, err = before
        sys.stdout, sys.stderr = _Results(out or nowhere), _Notes(err or nowhere)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


@contextlib.contextmanager
def silenced() -> Generator[None]:
    """A context in which nothing is printed: another process of torchrun says the same."""
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def show(text: object) -> None:
    """Prints a result, with control characters escaped."""
    print(printable(str(text)))


def show_generated(text: str) -> None:
    """Prints text that a model generated: unchanged to a file or a pipe, escaped on a terminal."""
    print(printable(text) if sys.stdout.isatty() else text)


def show_json(value: Any) -> None:
    """Prints a result as JSON, with null for infinity and NaN, which JSON does not have."""
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    # Each row of numbers on one line. Strings are safe: in them a line end is written as an escape.
    show_json_text(re.sub(r"\[\n([-+.\deE,\s]+)\n\s*\]", lambda row: f"[{' '.join(row[1].split())}]", text))


def show_json_text(text: str) -> None:
    """Prints JSON, or a part of it; in ASCII if the stream is not UTF-8, so that it stays valid."""
    print(_json_escaped(text, ascii_only=not speaks_utf8(sys.stdout)))


def say(line: object) -> None:
    """Prints a note on standard error, in one line."""
    if sys.stderr is not None:  # None in a process without a console
        print(one_line(str(line)), file=sys.stderr)


def speaks_utf8(stream: TextIO) -> bool:
    """Whether the stream takes any text unchanged."""
    return (stream.encoding or "").lower().replace("-", "").replace("_", "").startswith("utf")


def _finite(value: Any) -> Any:
    """The value with None for infinity and NaN."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json_escaped(text: str, *, ascii_only: bool) -> str:
    """The same JSON with escapes: the characters that need one occur only inside strings."""
    return (_NO_ASCII if ascii_only else _OBEYED).sub(lambda found: json.dumps(found[0])[1:-1], text)


_NO_ASCII = re.compile("[^\\x00-\\x7e]")
_OBEYED = re.compile("[\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")
"""Characters that `printable` escapes and json.dumps does not."""


class _OneLine(logging.Formatter):
    """A library's message as one line without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record))


class _Stream(ABC):
    """A text stream in front of another one: it handles errors of writing and passes on the rest."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes; a failure is handled."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as problem:  # ValueError: the file is closed
            self._failed(problem)
            return len(text)

    def flush(self) -> None:
        """Flushes; a failure is handled."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as problem:
            self._failed(problem)

    @abstractmethod
    def _failed(self, problem: Exception) -> None:
        """Handles a stream that cannot be written."""


class _Results(_Stream):
    """Standard output: a failure is an OutputError, because the result is lost."""

    def _failed(self, problem: Exception) -> None:
        _leave(self._stream)
        if isinstance(problem, BrokenPipeError):
            raise problem
        raise OutputError(
            f"standard output cannot be written ({getattr(problem, 'strerror', None) or problem}); "
            "free some space or write to another place"
        ) from problem


class _Notes(_Stream):
    """Standard error: a failure is ignored, because nobody reads the notes."""

    def _failed(self, problem: Exception) -> None:
        _leave(self._stream)


def _leave(stream: TextIO) -> None:
    """Sends the rest of the stream's buffer nowhere: else it would fail again when the process ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _fill_closed_descriptors() -> None:
    """Opens descriptors 0 to 2 if they are closed, or the next opened file would be standard output."""
    streams = (sys.__stdin__, sys.__stdout__, sys.__stderr__)
    for descriptor, stream in enumerate(streams):
        if stream is not None:
            continue
        try:
            os.fstat(descriptor)
        except OSError:
            # The system takes the lowest free number, which is this one: those below are open.
            os.open(os.devnull, os.O_RDONLY if descriptor == 0 else os.O_WRONLY)
