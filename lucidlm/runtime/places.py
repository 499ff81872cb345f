"""Places to write to: a path and the flag that gave it in, a line that says why nothing can be written out.

One rule for all verbs. A plain file is replaced as a whole, through links too; a device or a pipe is written
to as it is; folders on the way are made. Anything else is refused before the work begins.
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
"""What a folder is tried with: a temporary file of this name, which a killed process may leave."""
SPARE_NAME, SPARE_PATH = 24, 128
"""Bytes that the temporary names beside a file need, and the names inside of a run's folder."""

_ESCAPED = re.compile(r"\\u(005c|dc[89a-f][0-9a-f])")
_UNDECODED = re.compile("[\udc80-\udcff]")


def path_text(path: str | os.PathLike) -> str:
    r"""A path as text that every UTF-8 file and stream holds; `path_from_text` brings the path back.

    A name that is UTF-8 is itself. Of others each byte that is none becomes \udcNN, as in JSON and on a
    terminal, and each backslash \u005c, as it does in a name that would be taken for an escaped one.
    """
    text = os.fspath(path)
    if not _UNDECODED.search(text) and not _ESCAPED.search(text):
        return text
    return _UNDECODED.sub(lambda byte: f"\\u{ord(byte[0]):x}", text.replace("\\", "\\u005c"))


def path_from_text(text: str) -> str:
    """The path that `path_text` made this of."""
    return _ESCAPED.sub(lambda escape: chr(int(escape[1], 16)), text)


def check_file_place(
    path: str | os.PathLike, flag: str, *, inputs: Iterable[str | os.PathLike] = (), need_bytes: int = 0
) -> None:
    """PlaceError unless a file can be written there; nothing is changed.

    `inputs` are the files and folders that the same command reads: none of their files is replaced.
    `need_bytes` is the size, where it is known.
    """
    shown = _check_name(path, flag)
    if os.path.basename(os.fspath(path)) in ("", ".", ".."):
        raise PlaceError(f"{flag} {shown}: that is a folder; give the name of a file in it")
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
    """PlaceError unless a folder can be made there, or be put in the place of one that is there.

    Whether the folder that stands there may be replaced is its writer's to say. `inputs` are files and
    folders that the same command reads: the folder must not hold one, as it would be deleted.
    """
    shown = _check_name(path, flag, spare=SPARE_PATH)
    with _naming(flag, shown):
        status, real = _status(path), Path(os.path.realpath(path))
        if status is not None and not stat.S_ISDIR(status.st_mode):
            raise PlaceError(
                f"{flag} {shown}: {_kind(status)} is there; give the name of a folder that is not there yet"
            )
        if os.path.islink(path):
            raise PlaceError(f"{flag} {shown}: that is a link; it is not followed: give the place itself")
        if real in (here := Path(os.path.realpath(os.curdir)), *here.parents):
            raise PlaceError(
                f"{flag} {shown}: that is the current folder or one above it; give the name of a new folder"
            )
        for each in inputs:
            if "\0" in os.fspath(each):  # not a path: whoever reads it says so
                continue
            if real in (source := Path(os.path.realpath(each)), *source.parents) and source.exists():
                raise PlaceError(
                    f"{flag} {shown}: it holds {path_text(each)}, which is read; give a folder elsewhere"
                )
        _check_folder(real.parent, flag, shown)
        _check_space(path, need_bytes, flag, shown)


def plain_target(path: str | os.PathLike) -> Path | None:
    """The plain file that writing to `path` replaces, links followed; None for a device or a pipe.

    OSError for what nothing can be written to.
    """
    status = _status(path)
    real = Path(os.path.realpath(path))
    if status is None:
        return real
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        return None
    # A descriptor's file that was deleted: what its link says is the name of nothing, or of another file.
    there = _status(real)
    return real if there is not None and os.path.samestat(status, there) else None


def _check_name(path: str | os.PathLike, flag: str, *, spare: int = SPARE_NAME) -> str:
    """The path as it is shown, if a system takes such a path at all."""
    text = os.fspath(path)
    shown = path_text(text) if text.isprintable() and text else repr(path_text(text))
    if not text:
        raise PlaceError(f"{flag} '': no name is given; give one")
    if "\0" in text:
        raise PlaceError(f"{flag} {shown}: a NUL is in the name; give one without")
    try:
        parts = [len(part) for part in os.fsencode(text).split(b"/")]
        whole = len(os.fsencode(os.path.abspath(text)))
    except UnicodeEncodeError:
        raise PlaceError(f"{flag} {shown}: no file can have this name here; give another") from None
    if (longest := max(parts)) > 255 - SPARE_NAME:
        raise PlaceError(
            f"{flag} {shown[:60]}...: a name of {longest} bytes, at most {255 - SPARE_NAME} are possible; "
            "give a shorter one"
        )
    if whole > 4095 - spare:
        raise PlaceError(
            f"{flag} {shown[:60]}...: a path of {whole:,} bytes, at most {4095 - spare:,} are possible; "
            "give a shorter one"
        )
    return shown


@contextlib.contextmanager
def _naming(flag: str, shown: str) -> Generator[None]:
    """What the system says of a place, in one line with the flag."""
    try:
        yield
    except OSError as error:
        raise PlaceError(
            f"{flag} {shown}: nothing can be written there ({error.strerror or error}); give another place"
        ) from None


def _status(path: str | os.PathLike) -> os.stat_result | None:
    """What stands there, links followed; None for nothing, OSError where that cannot be said."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):
            raise OSError(
                errno.ENOENT, f"a link to {path_text(os.readlink(path))}, which is not there"
            ) from None
        return None


def _check_plain(real: Path, status: os.stat_result | None, flag: str, shown: str) -> None:
    """A new file in the folder of `real`, and the right to put it in the place of the one that is there."""
    folder = _check_folder(real.parent, flag, shown)
    if status is None:
        return
    about = os.stat(folder)
    kept = about.st_mode & stat.S_ISVTX and os.name == "posix"
    others = kept and os.geteuid() not in (0, status.st_uid, about.st_uid)  # only its owner may replace it
    if others or not os.access(real, os.W_OK):
        raise PlaceError(f"{flag} {shown}: the file is there and write-protected; give another name")


def _check_folder(folder: Path, flag: str, shown: str) -> Path:
    """The folder, or the nearest above it that is there, if something can be made in it."""
    missing = folder
    while _status(folder) is None and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise PlaceError(f"{flag} {shown}: {path_text(folder)} is no folder; give a place in a folder")
    # Made and deleted again: permissions, read-only disks, quotas and /proc have no other common answer.
    sweep_beside(folder / PROBE)
    probe = folder / f".{PROBE}.{os.getpid()}.tmp"
    try:
        if missing == folder:
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            os.unlink(probe)
        else:
            os.mkdir(probe)
            os.rmdir(probe)
    except FileExistsError:  # left by a killed process: it could be made
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
            f"{flag} {shown}: {free / 1e9:.1f} GB are free there, {need_bytes / 1e9:.1f} GB are needed; "
            "make room or give another place"
        )


def _check_special(path: str | os.PathLike, status: os.stat_result, flag: str, shown: str) -> None:
    """Devices and pipes are written to as they are; what cannot be, or should not, is refused."""
    mode = status.st_mode
    if not (stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)):
        raise PlaceError(f"{flag} {shown}: {_kind(status)} is there; give the name of a file")
    if stat.S_ISFIFO(mode):
        _check_stream(status, flag, shown)
    elif _is_terminal(path):
        raise PlaceError(f"{flag} {shown}: that is a terminal; give the name of a file")
    if not os.access(path, os.W_OK):
        raise PlaceError(f"{flag} {shown}: {_kind(status)} that is write-protected; give the name of a file")


def _check_stream(status: os.stat_result | None, flag: str, shown: str) -> None:
    """The command's own streams have its answer and its notes: a file between them would be none."""
    for stream, name in ((sys.__stdout__, "standard output"), (sys.__stderr__, "standard error")):
        with contextlib.suppress(OSError, ValueError):  # closed
            if status and stream and os.path.samestat(status, os.fstat(stream.fileno())):
                raise PlaceError(
                    f"{flag} {shown}: that is this command's {name}, where its own lines go; "
                    "give the name of another file"
                )


def _check_inputs(
    path: str | os.PathLike,
    status: os.stat_result,
    inputs: Iterable[str | os.PathLike],
    flag: str,
    shown: str,
) -> None:
    """What is read must outlive the command: the file, and all files of a model's or a text's folder."""
    real = Path(os.path.realpath(path))
    for each in inputs:
        with contextlib.suppress(OSError, ValueError):
            if os.path.samestat(status, os.stat(each)):
                raise PlaceError(f"{flag} {shown}: that is the file that is read; give another name")
            if Path(os.path.realpath(each)) in real.parents:
                raise PlaceError(
                    f"{flag} {shown}: a file of {path_text(each)}, which is read; give another name"
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
