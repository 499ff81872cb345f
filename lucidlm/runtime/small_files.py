"""Small files from others: a path and a limit in, all bytes out; only plain files are read.

A config or a vocabulary may be a link to /dev/zero, which never ends, or a FIFO, which never begins.
"""

import itertools
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from lucidlm.errors import LucidError
from lucidlm.runtime.run_out import way_out_of
from lucidlm.runtime.wording import one_line, plural

AGAIN = "copy or download it again"
LARGEST_RECORD = 1 << 26
"""Maximum bytes of a manifest or of a line of JSON: more than any run writes."""
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def read_small_file(path: Path, largest: int, error: type[LucidError]) -> bytes:
    """The bytes of a plain file with at most `largest` bytes, behind links too; `error` for another file.

    FileNotFoundError passes through: the caller knows what a missing file means.
    """
    with _opened(path, error) as file:
        try:
            data = file.read(largest + 1)  # not by its size: a file in /proc has none, another may grow
        except OSError as problem:
            raise error(f"{path}: {problem.strerror or problem}", AGAIN) from None
        if len(data) > largest:
            size = max(os.fstat(file.fileno()).st_size, len(data))
            raise error(f"{path}: {plural(size, 'byte')}, the limit is {largest:,}", "this is the wrong file")
    return data


def _opened(path: Path, error: type[LucidError]) -> BinaryIO:
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for a program that writes to it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as problem:  # ValueError: a NUL in the name
        if way_out := way_out_of(problem):
            raise error(f"{path}: {getattr(problem, 'strerror', problem)}", way_out) from None
        reason = getattr(problem, "strerror", None) or problem
        raise error(f"{path}: {reason}", "give a readable file") from None
    mode = os.fstat(descriptor).st_mode
    if kind := next((name for is_kind, name in _KINDS if is_kind(mode)), None):
        os.close(descriptor)
        raise error(f"{path}: {kind}, not a plain file", "put a copy of the file there")
    return os.fdopen(descriptor, "rb")


def read_small_json(path: Path, error: type[LucidError], largest: int = LARGEST_RECORD) -> Any:
    """The value in a JSON file with at most `largest` bytes; ValueError if it is not JSON."""
    try:
        return json.loads(read_small_file(path, largest, error))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_small_object(
    path: Path, error: type[LucidError], largest: int = LARGEST_RECORD, *, missing: str
) -> dict[str, Any]:
    """The JSON object in a file; `error` for another file. `missing` is the advice if there is no file."""
    try:
        values = read_small_json(path, error, largest)
    except FileNotFoundError:
        raise error(f"{path}: not there", missing) from None
    except ValueError as problem:
        raise error(f"{path}: not valid JSON ({one_line(str(problem))})", AGAIN) from None
    if not isinstance(values, dict):
        raise error(f"{path}: not a JSON object", AGAIN)
    return values


def lines_of(path: Path, error: type[LucidError], longest: int = LARGEST_RECORD) -> Iterator[bytes]:
    """The lines of a plain file, which may grow; `error` for another kind of file or a longer line."""
    with _opened(path, error) as file:
        for number in itertools.count(1):
            line = file.readline(longest + 1)
            if len(line) > longest:
                raise error(
                    f"{path}:{number:,}: a line over {plural(longest, 'byte')}; this is the wrong file"
                )
            if not line:
                return
            yield line
