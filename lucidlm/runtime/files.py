"""Files and folders that are whole or not there: bytes go in, and the final name holds all of them."""

import contextlib
import errno
import io
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from lucidlm.errors import RunError
from lucidlm.runtime.leavings import sweep_beside
from lucidlm.runtime.places import path_text, plain_target

READER_S = 10.0
"""Seconds to wait until a program reads a pipe."""


def write_atomically(path: str | os.PathLike, data: bytes | str, *, reader_s: float = READER_S) -> None:
    """Gives `path` this content: a reader never sees a part of it. A device or a pipe is written to directly.

    A new file has mode 0666 less the umask, an existing file keeps its mode. Text becomes UTF-8, and the lone
    surrogates of names that are not UTF-8 become escapes. An OSError names `path`, not the temporary file.
    """
    data = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
    with naming(path):
        if (target := plain_target(path)) is None:
            _write_through(path, io.BytesIO(data), reader_s)
            return
        with _replacing(target) as temporary, open(temporary, "wb") as file:
            file.write(data)


@contextlib.contextmanager
def replacing_file(path: str | os.PathLike) -> Generator[Path]:
    """A temporary path for writers that need a name; it takes the place of `path` if the block ends well.

    For a device or a pipe the file is copied at the end, because some writers seek.
    """
    with naming(path):
        target = plain_target(path)
    if target is not None:
        with naming(path), _replacing(target) as temporary:
            yield temporary
        return
    with tempfile.TemporaryDirectory(prefix="lucidlm-") as folder:
        yield (gathered := Path(folder) / "gathered")
        with naming(path), open(gathered, "rb") as file:
            _write_through(path, file, READER_S)


@contextlib.contextmanager
def _replacing(target: Path) -> Generator[Path]:
    """A temporary file beside a plain file, with its mode and owner, that takes its place at the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(target)
    sweep_beside(target)
    former = target.stat() if target.exists() else None
    try:
        # Created with its mode, so that the kernel applies the umask and a private file is never readable.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
        mode = stat.S_IMODE(former.st_mode) | stat.S_IWUSR if former else 0o666
        os.close(os.open(temporary, flags, mode))
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        if former and os.name == "posix":
            _take_owner_and_mode(temporary, former)
        _take_place(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _take_owner_and_mode(temporary: Path, former: os.stat_result) -> None:
    if (former.st_uid, former.st_gid) != (os.geteuid(), os.getegid()):
        with contextlib.suppress(OSError):  # only root may always do this
            os.chown(temporary, former.st_uid, former.st_gid)
    os.chmod(temporary, stat.S_IMODE(former.st_mode))


def _take_place(temporary: Path, target: Path) -> None:
    try:
        os.replace(temporary, target)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        # A file mounted by itself, as in containers: no other file can take its place.
        shutil.copyfile(temporary, target)
        temporary.unlink()


def append_whole(path: Path, data: bytes) -> None:
    """Appends in one write, all or nothing: a crash can tear only the last record."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with open(path, "ab") as file:
            file.write(data)
    except OSError:
        # A full disk may have taken half of it, which would make the next record unreadable.
        if path.exists():
            os.truncate(path, size)
        raise


def temporary_beside(path: Path) -> Path:
    """The path of a file while it is written."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Generator[None]:
    """An OSError from this block names `path` if it names no file, as after a write, or a temporary file."""
    try:
        yield
    except OSError as error:
        temporary = temporary_beside(Path(os.path.realpath(path)))
        if error.errno is not None and error.filename in (None, str(temporary), temporary):
            error.filename = os.fspath(path)
            if error.filename2 is not None:
                del error.filename2  # set to None, it would be printed
        raise


def _write_through(path: str | os.PathLike, source: BinaryIO, reader_s: float) -> None:
    """Writes to a device or a pipe. Opening a pipe would hang until a program reads it: there is a limit."""
    end = time.monotonic() + reader_s
    while True:
        try:
            descriptor = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
            break
        except OSError as error:
            if error.errno != errno.ENXIO or not stat.S_ISFIFO(os.stat(path).st_mode):
                raise
            if time.monotonic() > end:
                raise RunError(
                    f"{path_text(path)}: no program has opened this pipe for reading within {reader_s:g} s; "
                    "start the reader first"
                ) from None
        time.sleep(0.05)
    os.set_blocking(descriptor, True)
    try:
        with open(descriptor, "wb", closefd=True) as file:
            shutil.copyfileobj(source, file)
    except BrokenPipeError:
        raise RunError(
            f"{path_text(path)}: its reader stopped before the end; run the command again"
        ) from None


@contextlib.contextmanager
def replacing_folder(path: str | os.PathLike) -> Generator[Path]:
    """A temporary folder beside `path` that takes its place if the block ends well, and else is deleted.

    Its files are on the disk before the rename: after a power cut too, `path` is the old folder or the whole
    new one. The next call deletes what a killed process left, so hold `lock` where two processes may meet.
    """
    # realpath follows links, gives "." a name, and holds if the process changes its folder meanwhile.
    path = Path(os.path.realpath(path))
    temporary, previous = (path.with_name(f".{path.name}.{kind}") for kind in ("tmp", "old"))
    path.parent.mkdir(parents=True, exist_ok=True)
    if previous.exists() and not path.exists():  # killed between the two renames below
        os.replace(previous, path)
    for leftover in (temporary, previous):
        _delete(leftover)
    temporary.mkdir()
    try:
        yield temporary
        _sync_tree(temporary)
        if path.exists():
            os.replace(path, previous)
        try:
            os.replace(temporary, path)
        except BaseException:
            if previous.exists():
                os.replace(previous, path)
            raise
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)  # the first error is the one to report
        if isinstance(error, OSError):
            _name_the_place(error, temporary, path)
        raise
    _sync_folder(path.parent)
    shutil.rmtree(previous, ignore_errors=True)  # the new folder is there; the next call sweeps the rest


def _name_the_place(error: OSError, temporary: Path, path: Path) -> None:
    """Makes errors about the temporary folder name the final one."""
    name = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
    if name is not None and name.is_relative_to(temporary):
        error.filename = str(path / name.relative_to(temporary))
        if error.filename2 is not None:
            del error.filename2  # set to None, it would be printed


def free_bytes(path: str | os.PathLike) -> int:
    """Free bytes on the disk of `path`, which need not exist yet."""
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def largest_file_bytes() -> int | None:
    """The limit on the size of a file for this process (ulimit -f); None without a limit."""
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return None
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _delete(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _sync_tree(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_dir():
            _sync_folder(file)
        elif file.is_file():
            with naming(file), open(file, "rb+") as opened:
                os.fsync(opened.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with naming(folder):
            os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks cannot sync folders
            raise
    finally:
        os.close(descriptor)
