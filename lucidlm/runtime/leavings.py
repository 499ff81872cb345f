"""What killed processes leave: a file or a folder in, and the temporary files of the dead are deleted."""

import contextlib
import os
import re
from pathlib import Path

_TEMPORARY = re.compile(r"\.(.+)\.(\d+)\.tmp", re.DOTALL)
"""Name of a file that is being written: its own, and its process."""


def name_of_temporary(name: str) -> str | None:
    """The name of the file that a temporary one of this name was to become; None for other names."""
    found = _TEMPORARY.fullmatch(name)
    return found[1] if found else None


def sweep_beside(path: Path) -> None:
    """Deletes what killed processes left of writing this file; a process that lives may still be writing."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(path.parent):
            found = _TEMPORARY.fullmatch(entry.name)
            if found and found[1] == path.name and not process_lives(int(found[2])):
                _delete(entry)


def sweep_folder(folder: Path) -> None:
    """Deletes all that killed processes left of writing files in it: for a folder that this process holds.

    No process is asked whether it lives: in a container the next one often has the same number.
    """
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if _TEMPORARY.fullmatch(entry.name):
                _delete(entry)


def process_lives(number: int) -> bool:
    """Whether there is a process of this number."""
    if os.name == "nt":  # where signal 0 is Ctrl-C
        return True
    try:
        os.kill(number, 0)
    except PermissionError:  # somebody else's process
        return True
    except (OSError, OverflowError):
        return False
    return True


def _delete(entry: os.DirEntry) -> None:
    """A file, or a folder with nothing in it."""
    with contextlib.suppress(OSError):
        os.rmdir(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
