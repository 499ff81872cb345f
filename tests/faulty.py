"""A disk that fails, or a process that is killed, at the k-th call that changes a file: k in, faults out."""

import builtins
import contextlib
import errno
import io
import os
import signal
from collections.abc import Callable, Generator
from typing import Any

CALLS = ("open", "mkdir", "rename", "replace", "unlink", "rmdir", "fsync", "write")
WRITING = os.O_WRONLY | os.O_RDWR


class Faults:
    """Counts the calls of a process that change files below a folder, and lets some of them fail."""

    def __init__(self, below: str, *, at: int = 0, error: int = 0, lasting: bool = False) -> None:
        self.below, self.at, self.error, self.lasting = os.path.realpath(below), at, error, lasting
        self.calls: list[str] = []
        """What was called, in order, with the name of the file."""
        self.hit = ""
        """The call that failed first."""
        self._places: dict[int, str] = {}

    def meets(self, call: str, path: Any) -> bool:
        """Counts a call; whether it is to fail. With no error number the process ends here instead."""
        if isinstance(path, int):
            path = self._places.get(path) or os.readlink(f"/proc/self/fd/{path}")
        path = os.path.abspath(os.fspath(path))
        if not path.startswith(self.below + os.sep):
            return False
        self.calls.append(f"{call} {os.path.relpath(path, self.below)}")
        number = len(self.calls)
        # A disk that is full still deletes and renames.
        fails = number == self.at or (
            self.lasting and number > self.at > 0 and call in ("open", "mkdir", "write")
        )
        if fails and not self.hit:
            self.hit = self.calls[-1]
        return fails

    def fail(self, path: Any = None) -> None:
        """The end of the process, or the error that the call was asked to raise."""
        if not self.error:
            os.kill(os.getpid(), signal.SIGKILL)
        # As the system does: a call that was given a name names it, a write or a sync does not.
        raise OSError(
            self.error, os.strerror(self.error), *([path] if isinstance(path, str | os.PathLike) else [])
        )


class _File(io.FileIO):
    """A file whose writes are counted; one that fails has written half of it."""

    faults: Faults

    def write(self, data: Any, /) -> int:
        if self.faults.meets("write", self.name if isinstance(self.name, str) else self.fileno()):
            super().write(memoryview(data).cast("B")[: len(data) // 2])
            self.faults.fail()
        return super().write(data)


@contextlib.contextmanager
def faulty(faults: Faults) -> Generator[None]:
    """Inside, all that this process writes by Python goes past `faults`."""
    real_open, real = builtins.open, {name: getattr(os, name) for name in CALLS if name != "write"}

    def opened(
        file: Any, mode: str = "r", buffering: int = -1, encoding=None, errors=None, newline=None, **more
    ):
        if not set(mode) & set("wax+") or (isinstance(file, int) and "w" not in mode):
            return real_open(file, mode, buffering, encoding, errors, newline, **more)
        if not isinstance(file, int) and faults.meets("open", file):
            faults.fail(file)
        raw = _File(file, mode.replace("b", "").replace("t", ""), **more)
        raw.faults = faults
        binary = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return binary if "b" in mode else io.TextIOWrapper(binary, encoding or "utf-8", errors, newline)

    def counted(name: str) -> Callable:
        def call(path: Any, *arguments: Any, **named: Any) -> Any:
            reads = name == "open" and not (arguments and arguments[0] & WRITING)
            folder = named.get("dir_fd")
            place = path if folder is None else os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
            if not reads and faults.meets(name, place):
                faults.fail(None if name == "fsync" else path)
            return real[name](path, *arguments, **named)

        return call

    try:
        builtins.open = io.open = opened
        for name in real:
            setattr(os, name, counted(name))
        yield
    finally:
        builtins.open = io.open = real_open
        for name, call in real.items():
            setattr(os, name, call)


ENOSPC, EIO = errno.ENOSPC, errno.EIO
