"""Temporary files of killed processes: a file or a folder in, they are deleted."""

import contextlib
import os
import re
from pathlib import Path

_TEMPORARY = re.compile(r"\.(.+)\.(\d+)\.tmp", re.DOTALL)
"""Name of a file that is being written: final name, process id."""


def name_of_temporary(name: str) -> str | None:
    """The final name of a temporary file; None for other names."""
    found = _TEMPORARY.fullmatch(name)
    return found[1] if found else None


def sweep_beside(path: Path) -> None:
    """Deletes temporary files of killed processes for this file, not those of running processes."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(path.parent):
            found = _TEMPORARY.fullmatch(entry.name)
            if found and found[1] == path.name and not process_lives(int(found[2])):
                _delete(entry)


def sweep_folder(folder: Path) -> None:
    """Deletes all temporary files in a folder that this process holds.

    It does not look for their processes: in a container the next process often has the same number.
    """
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if _TEMPORARY.fullmatch(entry.name):
                _delete(entry)


def process_lives(number: int) -> bool:
    """Whether a process with this number runs."""
    if os.name == "nt":  # there, signal 0 is Ctrl-C
        return True
    try:
        os.kill(number, 0)
    except PermissionError:  # somebody else's process
        return True
    except (OSError, OverflowError):
        return False
    return True


def _delete(entry: os.DirEntry) -> None:
    """Deletes a file, or an empty folder."""
    with contextlib.suppress(OSError):
        os.rmdir(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
