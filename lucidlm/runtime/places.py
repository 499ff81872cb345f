"""Places to write to: a path and its flag in, a line out that says why nothing can be written there.

One rule for all verbs. A plain file is replaced as a whole, also behind a link; a device or a pipe is written
to directly; missing folders are made. Anything else is refused before the work begins.
"""

import contextlib
import errno
import os
import re
import shutil
import stat
import sys
from collections.abc import Generator, Iterable
from pathlib import Path

from lucidlm.errors import PlaceError
from lucidlm.runtime.leavings import sweep_beside

PROBE = "lucidlm"
"""Name of the temporary file that tests whether a folder can be written."""
SPARE_NAME, SPARE_PATH = 24, 128
"""Bytes reserved for temporary names beside a file, and for names inside a run's folder."""

_ESCAPED = re.compile(r"\\u(005c|dc[89a-f][0-9a-f])")
_UNDECODED = re.compile("[\udc80-\udcff]")


def path_text(path: str | os.PathLike) -> str:
    r"""A path as text for UTF-8 files and streams; `path_from_text` is the inverse.

    A name in UTF-8 is unchanged. In other names each byte that is not UTF-8 becomes \udcNN, as in JSON and on
    a terminal, and each backslash \u005c; the latter also in names that look like an escaped one.

    >>> path_text(os.fsdecode(b"caf\xe9.txt"))
    'caf\\udce9.txt'
    """
    text = os.fspath(path)
    if not _UNDECODED.search(text) and not _ESCAPED.search(text):
        return text
    return _UNDECODED.sub(lambda byte: f"\\u{ord(byte[0]):x}", text.replace("\\", "\\u005c"))


def path_from_text(text: str) -> str:
    """The path for which `path_text` returns this text."""
    return _ESCAPED.sub(lambda escape: chr(int(escape[1], 16)), text)


def check_file_place(
    path: str | os.PathLike, flag: str, *, inputs: Iterable[str | os.PathLike] = (), need_bytes: int = 0
) -> None:
    """PlaceError unless a file can be written there. It changes nothing.

    `inputs` are files and folders that the same command reads: their files must not be replaced.
    `need_bytes` is the size of the file, if it is known.
    """
    shown = _check_name(path, flag)
    if os.path.basename(os.fspath(path)) in ("", ".", ".."):
        raise PlaceError(f"{flag} {shown}: this is a folder; give the name of a file in it")
    with _naming(flag, shown):
        status = _status(path)
        if status is not None and stat.S_ISREG(status.st_mode):
            _check_inputs(path, status, inputs, flag, shown)
        if status is None or stat.S_ISREG(status.st_mode):
            _check_stream(status, flag, shown)
            _check_plain(Path(os.path.realpath(path)), status, flag, shown)
            _check_space(path, need_bytes, flag, shown)
        else:
            _check_special(path, status, flag, shown)


def check_folder_place(
    path: str | os.PathLike, flag: str, *, inputs: Iterable[str | os.PathLike] = (), need_bytes: int = 0
) -> None:
    """PlaceError unless a folder can be made there, or can replace the folder that is there.

    The writer decides whether the folder that is there may be replaced. `inputs` are files and folders that
    the same command reads: the folder must not contain one, because it would be deleted.
    """
    shown = _check_name(path, flag, spare=SPARE_PATH)
    with _naming(flag, shown):
        status, real = _status(path), Path(os.path.realpath(path))
        if status is not None and not stat.S_ISDIR(status.st_mode):
            raise PlaceError(f"{flag} {shown}: {_kind(status)} has this name; give the name of a new folder")
        if os.path.islink(path):
            raise PlaceError(f"{flag} {shown}: links to folders are not followed; give the folder itself")
        if real in (here := Path(os.path.realpath(os.curdir)), *here.parents):
            raise PlaceError(
                f"{flag} {shown}: this is the current folder or one above it; give the name of a new folder"
            )
        for each in inputs:
            if "\0" in os.fspath(each):  # not a path: whoever reads it says so
                continue
            if real in (source := Path(os.path.realpath(each)), *source.parents) and source.exists():
                raise PlaceError(
                    f"{flag} {shown}: it contains {path_text(each)}, which is read; give another folder"
                )
        _check_folder(real.parent, flag, shown)
        _check_space(path, need_bytes, flag, shown)


def plain_target(path: str | os.PathLike) -> Path | None:
    """The plain file that writing to `path` replaces, behind links too; None for a device or a pipe.

    OSError if nothing can be written there.
    """
    status = _status(path)
    real = Path(os.path.realpath(path))
    if status is None:
        return real
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        return None
    # /dev/fd/N of a deleted file: its link has the name of nothing, or of another file.
    there = _status(real)
    return real if there is not None and os.path.samestat(status, there) else None


def _check_name(path: str | os.PathLike, flag: str, *, spare: int = SPARE_NAME) -> str:
    """The path for messages; PlaceError for a path that no system takes."""
    text = os.fspath(path)
    shown = path_text(text) if text.isprintable() and text else repr(path_text(text))
    if not text:
        raise PlaceError(f"{flag} '': the name is empty; give a name")
    if "\0" in text:
        raise PlaceError(f"{flag} {shown}: the name contains NUL; give another name")
    try:
        parts = [len(part) for part in os.fsencode(text).split(b"/")]
        whole = len(os.fsencode(os.path.abspath(text)))
    except UnicodeEncodeError:
        raise PlaceError(f"{flag} {shown}: files cannot have this name here; give another name") from None
    if (longest := max(parts)) > 255 - SPARE_NAME:
        raise PlaceError(
            f"{flag} {shown[:60]}...: a name of {longest} bytes, the limit is {255 - SPARE_NAME}; shorten it"
        )
    if whole > 4095 - spare:
        raise PlaceError(
            f"{flag} {shown[:60]}...: a path of {whole:,} bytes, the limit is {4095 - spare:,}; shorten it"
        )
    return shown


@contextlib.contextmanager
def _naming(flag: str, shown: str) -> Generator[None]:
    """A context that turns the system's errors into a PlaceError with the flag."""
    try:
        yield
    except OSError as error:
        raise PlaceError(
            f"{flag} {shown}: nothing can be written there ({error.strerror or error}); give another place"
        ) from None


def _status(path: str | os.PathLike) -> os.stat_result | None:
    """The status of what is there, behind links; None for nothing, OSError if that cannot be found out."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):
            raise OSError(
                errno.ENOENT, f"a link to {path_text(os.readlink(path))}, which is not there"
            ) from None
        return None


def _check_plain(real: Path, status: os.stat_result | None, flag: str, shown: str) -> None:
    """PlaceError unless a new file can be made in the folder of `real` and replace a file that is there."""
    folder = _check_folder(real.parent, flag, shown)
    if status is None:
        return
    about = os.stat(folder)
    kept = about.st_mode & stat.S_ISVTX and os.name == "posix"
    others = kept and os.geteuid() not in (0, status.st_uid, about.st_uid)  # only its owner may replace it
    if others or not os.access(real, os.W_OK):
        raise PlaceError(f"{flag} {shown}: the file exists and is write-protected; give another name")


def _check_folder(folder: Path, flag: str, shown: str) -> Path:
    """The folder, or the nearest existing one above it; PlaceError if nothing can be made in it."""
    missing = folder
    while _status(folder) is None and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise PlaceError(f"{flag} {shown}: {path_text(folder)} is not a folder; give another place")
    # Only a trial covers permissions, read-only disks, quotas and /proc.
    sweep_beside(folder / PROBE)
    probe = folder / f".{PROBE}.{os.getpid()}.tmp"
    try:
        if missing == folder:
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            os.unlink(probe)
        else:
            os.mkdir(probe)
            os.rmdir(probe)
    except FileExistsError:  # left by a killed process, so it could be made
        pass
    except OSError as error:
        raise PlaceError(
            f"{flag} {shown}: nothing can be written in {path_text(folder)} ({error.strerror}); "
            "give another place"
        ) from None
    return folder


def _check_space(path: str | os.PathLike, need_bytes: int, flag: str, shown: str) -> None:
    folder = Path(os.path.realpath(path))
    while not folder.exists():
        folder = folder.parent
    if need_bytes and (free := shutil.disk_usage(folder).free) < need_bytes:
        raise PlaceError(
            f"{flag} {shown}: {need_bytes / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free; "
            "free some space or give another place"
        )


def _check_special(path: str | os.PathLike, status: os.stat_result, flag: str, shown: str) -> None:
    """PlaceError unless it is a device or a pipe that can and should be written to."""
    mode = status.st_mode
    if not (stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)):
        raise PlaceError(f"{flag} {shown}: {_kind(status)} has this name; give the name of a file")
    if stat.S_ISFIFO(mode):
        _check_stream(status, flag, shown)
    elif _is_terminal(path):
        raise PlaceError(f"{flag} {shown}: this is a terminal; give the name of a file")
    if not os.access(path, os.W_OK):
        raise PlaceError(f"{flag} {shown}: {_kind(status)} that is write-protected; give the name of a file")


def _check_stream(status: os.stat_result | None, flag: str, shown: str) -> None:
    """PlaceError for the command's own streams: its result and notes would mix with the file."""
    for stream, name in ((sys.__stdout__, "standard output"), (sys.__stderr__, "standard error")):
        with contextlib.suppress(OSError, ValueError):  # closed
            if status and stream and os.path.samestat(status, os.fstat(stream.fileno())):
                raise PlaceError(
                    f"{flag} {shown}: this is the command's own {name}; give the name of another file"
                )


def _check_inputs(
    path: str | os.PathLike,
    status: os.stat_result,
    inputs: Iterable[str | os.PathLike],
    flag: str,
    shown: str,
) -> None:
    """PlaceError for a file that the command reads, or one in a folder that it reads."""
    real = Path(os.path.realpath(path))
    for each in inputs:
        with contextlib.suppress(OSError, ValueError):
            if os.path.samestat(status, os.stat(each)):
                raise PlaceError(f"{flag} {shown}: the command reads this file; give another name")
            if Path(os.path.realpath(each)) in real.parents:
                raise PlaceError(
                    f"{flag} {shown}: a file in {path_text(each)}, which the command reads; give another name"
                )


def _is_terminal(path: str | os.PathLike) -> bool:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_WRONLY | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_NONBLOCK", 0))
        try:
            return os.isatty(descriptor)
        finally:
            os.close(descriptor)
    return False


def _kind(status: os.stat_result) -> str:
    kinds = {
        stat.S_IFREG: "a file",
        stat.S_IFDIR: "a folder",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a disk",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(status.st_mode), "something else")
