"""A path in, held for this process alone until a block ends: by a lock file beside it."""

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

from lucidlm.errors import InUseError
from lucidlm.runtime.leavings import process_lives
from lucidlm.runtime.places import path_text


@contextlib.contextmanager
def lock(path: str | os.PathLike) -> Generator[None]:
    """Holds `path` for this process until the block ends; InUseError at once if another process holds it.

    The lock is a file beside `path` (.NAME.lock). It ends with the process, even if that is killed. All links
    to one place share one lock.
    """
    import filelock

    file = _lock_file(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    held = filelock.FileLock(file, timeout=0, thread_local=False)
    try:
        held.acquire()
    except filelock.Timeout:
        raise InUseError(
            f"{path_text(path)} is in use by another lucidlm process{_owner(file)}; "
            "wait for it or choose another --out"
        ) from None
    try:
        with contextlib.suppress(OSError):  # Windows refuses a second handle on a locked file
            file.write_text(str(os.getpid()))
        yield
    finally:
        # Deleted while still held: filelock notices a lock file without a name and tries again.
        with contextlib.suppress(OSError):
            file.unlink()
        held.release()


def is_locked(path: str | os.PathLike) -> bool:
    """Whether a process holds `path` now; the lock file of a killed process does not count."""
    import filelock

    file = _lock_file(path)
    if not file.exists():
        return False
    held = filelock.FileLock(file, timeout=0, thread_local=False)
    try:
        held.acquire()
    except filelock.Timeout:
        return True
    except OSError:  # the lock of another user, or a read-only disk: does the owner's process live?
        return _lives(file)
    held.release()
    return False


def _lock_file(path: str | os.PathLike) -> Path:
    real = Path(os.path.realpath(path))  # "." has no name, and two links may lead to one place
    return real.with_name(f".{real.name}.lock")


def _lives(file: Path) -> bool:
    """Whether the process that wrote the lock still runs."""
    try:
        return process_lives(int(file.read_text()))
    except (OSError, ValueError):
        return os.name == "nt"  # there, a lock that is held cannot be opened


def _owner(file: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return f" (pid {int(file.read_text())})"
    return ""
