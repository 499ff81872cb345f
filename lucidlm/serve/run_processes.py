"""A training that a client asks for comes in, a process of its own goes out; its end comes back as a line."""

import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lucidlm.errors import ServerError
from lucidlm.runtime.interpreter import own_flags
from lucidlm.runtime.memory import PROC
from lucidlm.runtime.signals import name_of
from lucidlm.runtime.wording import printable

END_S = 10.0
"""At the end of the server, a training gets so long to save; one that needs longer ends by itself."""
LOOK_S = 0.05
TAIL_BYTES = 4096
"""Of a log: its last line is a few hundred."""
MESSAGE_CHARACTERS = 500
OURS = "lucidlm: "
"""What the line of an error begins with."""


@dataclass(slots=True)
class Training:
    """A process of `lucidlm train` that this server started."""

    folder: Path
    process: subprocess.Popen[bytes]
    command: tuple[str, ...]
    """What a person types for the same."""
    names: dict[str, str] = field(default_factory=dict)
    """Paths on this machine, and what is shown in their place."""
    stopping: bool = False
    _asking: threading.Lock = field(default_factory=threading.Lock)

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """None while it lives; below 0 for a signal that ended it at once."""
        return self.process.poll()

    @property
    def memory_bytes(self) -> int | None:
        """Main memory that it uses now; None where the system does not say, and after its end."""
        try:
            pages = (PROC / str(self.process.pid) / "statm").read_text(encoding="ascii").split()[1]
        except (OSError, IndexError):
            return None
        return int(pages) * os.sysconf("SC_PAGE_SIZE") if self.alive else None

    @property
    def message(self) -> str:
        """The last line that it wrote; "" for none."""
        line = self.shown(_last_line(log_of(self.folder)).removeprefix(OURS))
        code = self.exit_code
        return line or (f"ended by {name_of(-code)}" if code is not None and code < 0 else "")

    def shown(self, line: str) -> str:
        """The line without paths of the server."""
        for path, name in self.names.items():
            line = line.replace(path, name)
        return line if len(line) <= MESSAGE_CHARACTERS else f"{line[:MESSAGE_CHARACTERS]}..."

    def stop(self) -> None:
        """Asks it to save and end, once: a second signal would end it without a checkpoint."""
        with self._asking:  # two pages may ask at once
            if self.alive and not self.stopping:
                self.stopping = True
                self.process.terminate()

    def to_dict(self) -> dict[str, Any]:
        """What a run has beside its row where this server started it."""
        return {
            "own": True,
            "message": self.message,
            "exit_code": self.exit_code,
            "memory_bytes": self.memory_bytes,
            "command": shlex.join(self.command),
        }


NOT_OURS: dict[str, Any] = {
    "own": False, "message": "", "exit_code": None, "memory_bytes": None, "command": None
}  # fmt: skip
"""The same for a run that this server did not start."""


def log_of(folder: Path) -> Path:
    """The file beside a run's folder that has what its process wrote."""
    return folder.with_name(f".{folder.name}.log")


def _last_line(log: Path) -> str:
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((printable(line).strip() for line in reversed(lines) if line.strip()), "")


class Trainings:
    """The trainings that this server started: at most one at a time."""

    def __init__(self) -> None:
        self._of: dict[Path, Training] = {}
        self._lock = threading.Lock()
        self._closed_at: float | None = None

    def of(self, folder: Path) -> Training | None:
        """The last training in this folder that this server started."""
        return self._of.get(folder)

    @property
    def folders(self) -> list[Path]:
        """The folders of all of them, the latest first; one that failed has no folder."""
        return list(self._of)[::-1]

    @property
    def current(self) -> Training | None:
        """The one that lives."""
        return next((each for each in self._of.values() if each.alive), None)

    def check_free(self) -> None:
        """ServerError while one runs, or at the end."""
        with self._lock:
            self._check_free()

    def _check_free(self) -> None:
        if self._closed_at is not None:
            raise ServerError("the server is stopping", "start it again", status=503)
        if (running := self.current) is not None:
            raise ServerError(
                f"{running.folder.name} is training, and one training runs at a time",
                "stop it, or wait for its end",
                status=409,
            )

    def start(self, folder: Path, arguments: Sequence[str], names: dict[str, str] | None = None) -> Training:
        """A process of `lucidlm train` with these arguments, never by a shell; ServerError while one runs."""
        names = names or {}
        with self._lock:
            self._check_free()
            folder.parent.mkdir(parents=True, exist_ok=True)
            with open(log_of(folder), "wb") as log:
                process = subprocess.Popen(
                    [sys.executable, *own_flags(), "-m", "lucidlm", "train", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            shown = tuple(names.get(each, each) for each in ("lucidlm", "train", *arguments))
            self._of.pop(folder, None)
            self._of[folder] = training = Training(folder, process, shown, names)
            return training

    def begin_to_close(self) -> None:
        """Asks the one that lives to save and end; none starts any more."""
        with self._lock:
            self._closed_at = self._closed_at or time.monotonic()
        if (running := self.current) is not None:
            running.stop()

    def close(self) -> None:
        """Returns when the one that lives has ended, or END_S after it was asked to."""
        self.begin_to_close()
        running = self.current
        if running is None or self._closed_at is None:
            return
        until = self._closed_at + END_S
        while running.alive and time.monotonic() < until:
            time.sleep(LOOK_S)
