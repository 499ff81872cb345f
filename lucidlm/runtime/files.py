"""Files that are whole or not there: bytes go in, and what stands under the final name is complete."""

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from lucidlm.errors import DataError, InUseError, RunError
from lucidlm.runtime.leavings import process_lives, sweep_beside
from lucidlm.runtime.places import path_text, plain_target
from lucidlm.runtime.small_files import read_small_json
from lucidlm.runtime.wording import plural

MANIFEST = "manifest.json"
READER_S = 10.0
"""Seconds to wait for the reader of a pipe."""
SETTLED_NS = 2_000_000_000
"""A file so long untouched has its hash remembered: the clock of some disks hides a quick second write."""

_HASHES: dict[tuple[int, ...], str] = {}
"""Hashes of files as they stood: a verb asks for that of one file several times."""


def write_atomically(path: str | os.PathLike, data: bytes | str) -> None:
    """Give `path` this content: a reader never sees a part. A device or a pipe gets it as it is.

    A new file has mode 0666 less the umask, one that is there keeps its mode. Text is UTF-8; half characters,
    as names that are no UTF-8 have, become escapes. OSError names `path`, never the temporary file.
    """
    data = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
    with naming(path):
        if (target := plain_target(path)) is None:
            _write_through(path, io.BytesIO(data))
            return
        with _replacing(target) as temporary, open(temporary, "wb") as file:
            file.write(data)


@contextlib.contextmanager
def replacing_file(path: str | os.PathLike) -> Generator[Path]:
    """A temporary path beside `path`, for writers that want a name: it takes its place if all goes well.

    What is written for a device or a pipe is gathered in a temporary file first, as some writers go back.
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
            _write_through(path, file)


@contextlib.contextmanager
def _replacing(target: Path) -> Generator[Path]:
    """A temporary file beside a plain one, with the mode and owner of that; it takes its place at the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(target)
    sweep_beside(target)
    former = target.stat() if target.exists() else None
    try:
        # Made here: the kernel applies the umask, and what was nobody else's to read is not for a moment.
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
        with contextlib.suppress(OSError):  # which only root may always
            os.chown(temporary, former.st_uid, former.st_gid)
    os.chmod(temporary, stat.S_IMODE(former.st_mode))


def _take_place(temporary: Path, target: Path) -> None:
    try:
        os.replace(temporary, target)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        # A file that is mounted by itself, as containers have them: no other file can take its place.
        shutil.copyfile(temporary, target)
        temporary.unlink()


def append_whole(path: Path, data: bytes) -> None:
    """Adds to the end of a file in one write, so that a crash tears the last record alone; all or nothing."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with open(path, "ab") as file:
            file.write(data)
    except OSError:
        # A full disk may have taken half of it: without that the next one can still be read.
        if path.exists():
            os.truncate(path, size)
        raise


def temporary_beside(path: Path) -> Path:
    """The name under which a file is written before it takes its place."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Generator[None]:
    """An OSError out of this block names `path` where it names nothing, as a write's, or a temporary file."""
    try:
        yield
    except OSError as error:
        temporary = temporary_beside(Path(os.path.realpath(path)))
        if error.errno is not None and error.filename in (None, str(temporary), temporary):
            error.filename = os.fspath(path)
            if error.filename2 is not None:
                del error.filename2  # set to None, it would be printed
        raise


def _write_through(path: str | os.PathLike, source: BinaryIO) -> None:
    """Write into a device or a pipe. A pipe that no program reads is waited for a while: opening it hangs."""
    end = time.monotonic() + READER_S
    while True:
        try:
            descriptor = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
            break
        except OSError as error:
            if error.errno != errno.ENXIO or not stat.S_ISFIFO(os.stat(path).st_mode):
                raise
            if time.monotonic() > end:
                raise RunError(
                    f"{path_text(path)}: no program has opened this pipe to read it within {READER_S:.0f} s; "
                    "start the reader first"
                ) from None
        time.sleep(0.05)
    os.set_blocking(descriptor, True)
    try:
        with open(descriptor, "wb", closefd=True) as file:
            shutil.copyfileobj(source, file)
    except BrokenPipeError:
        raise RunError(f"{path_text(path)}: its reader stopped before the end; run again") from None


@contextlib.contextmanager
def replacing_folder(path: str | os.PathLike) -> Generator[Path]:
    """A temporary folder beside `path` that takes its place if the block ends well, else vanishes.

    Its files reach the disk before the rename, so after a power cut too `path` is the old folder or the whole
    new one. What a killed process left is deleted at the next start: call it under `lock` where two may meet.
    """
    # Links are followed, "." gets a name, and the process may change its folder meanwhile.
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
        shutil.rmtree(temporary, ignore_errors=True)  # the first error is the one to tell
        if isinstance(error, OSError):
            _name_the_place(error, temporary, path)
        raise
    _sync_folder(path.parent)
    shutil.rmtree(
        previous, ignore_errors=True
    )  # the new folder stands: what is left of the old is swept later


def _name_the_place(error: OSError, temporary: Path, path: Path) -> None:
    """Errors about the temporary folder speak of the one that it was to become."""
    name = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
    if name is not None and name.is_relative_to(temporary):
        error.filename = str(path / name.relative_to(temporary))
        if error.filename2 is not None:
            del error.filename2  # set to None, it would be printed


def sha256_of(path: str | os.PathLike) -> str:
    """SHA-256 of a file in hexadecimal, read a block at a time; once a process while the file stays as it is.

    Nothing is remembered beyond the process: a bit that turns on the disk changes no time.
    """
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        stood = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if (known := _HASHES.get(stood)) is not None:
            return known
        settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > SETTLED_NS
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if settled:
        _HASHES[stood] = found
    return found


def write_manifest(folder: str | os.PathLike, extra: dict, *, names: Iterable[str] | None = None) -> None:
    """Write manifest.json: `extra`, and under "files" size and SHA-256 of each file below the folder.

    With `names`, of these files only. The manifest's own entry is of its other content.
    """
    folder = Path(folder)
    found = sorted(folder.rglob("*")) if names is None else [folder / name for name in names]
    files = {
        file.relative_to(folder).as_posix(): {"size": file.stat().st_size, "sha256": sha256_of(file)}
        for file in found
        if file.is_file() and file != folder / MANIFEST
    }
    manifest = {**extra, "files": files}
    listed = {**files, MANIFEST: _own_entry(manifest)}
    text = json.dumps({**manifest, "files": listed}, indent=1, ensure_ascii=False)
    write_atomically(folder / MANIFEST, text + "\n")


def _own_entry(manifest: dict) -> dict[str, Any]:
    """Among the files, where a bit that turns in its name makes a file of that name missing."""
    content = json.dumps(manifest, sort_keys=True).encode("ascii")
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def read_manifest(folder: str | os.PathLike, *, way_out: str = "") -> dict:
    """The manifest of a folder as it was written, else DataError; its own entry is checked and left out.

    `way_out` is what the error advises.
    """
    path = Path(folder) / MANIFEST
    way_out = way_out or f"write {path.parent} again"
    try:
        manifest = read_small_json(path, DataError)
    except FileNotFoundError:
        raise DataError(
            f"{path}: not there; {path.parent} is no finished folder of lucidlm, {way_out}"
        ) from None
    except ValueError:
        raise DataError(f"{path}: not valid JSON; {way_out}") from None
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict):
        raise DataError(f'{path}: no list "files"; {way_out}')
    for name, expected in files.items():
        inside = not Path(name).is_absolute() and ".." not in Path(name).parts and "\0" not in name
        if not inside or not _is_entry(expected):
            raise DataError(f"{path}: the entry {name!r:.80} is damaged; {way_out}")
    own = files.pop(MANIFEST, None)  # none in folders of former versions
    if own is not None and own != _own_entry(manifest):
        raise DataError(f"{path}: its content is not what was written; {way_out}")
    return manifest


def _is_entry(expected: object) -> bool:
    return (
        isinstance(expected, dict)
        and type(expected.get("size")) is int
        and isinstance(expected.get("sha256"), str)
    )


def check_manifest(
    folder: str | os.PathLike, *, contents: bool = True, way_out: str = "", names: Iterable[str] = ()
) -> dict:
    """The manifest of a folder whose listed files, these `names` among them, are unchanged, else DataError.

    `contents=False` compares sizes only, for files too large to read once more.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, way_out=way_out)
    for name in (*names, *manifest["files"]):
        if fault := fault_of(folder, name, manifest, contents=contents):
            raise DataError(f"{fault}; {way_out or f'write {folder} again'}")
    return manifest


def fault_of(folder: Path, name: str, manifest: dict, *, contents: bool = True) -> str:
    """What is wrong with a file by the manifest of its folder; "" where it is there and unchanged."""
    file, expected = folder / name, manifest["files"].get(name)
    if expected is None:
        return f"{folder / MANIFEST}: {name} is not listed in it"
    if not file.is_file():
        return f"{file}: listed in {MANIFEST} but missing"
    if (size := file.stat().st_size) != expected["size"]:
        return f"{file}: {plural(size, 'byte')}, {MANIFEST} says {expected['size']:,}"
    if contents and sha256_of(file) != expected["sha256"]:
        return f"{file}: content changed, its SHA-256 is not that of {MANIFEST}"
    return ""


def free_bytes(path: str | os.PathLike) -> int:
    """Free space in bytes on the disk that holds `path`, which need not exist yet."""
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def largest_file_bytes() -> int | None:
    """The size that a file of this process may have (ulimit -f); None where there is no limit."""
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return None
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


@contextlib.contextmanager
def lock(path: str | os.PathLike) -> Generator[None]:
    """Hold `path` for this process until the block ends; InUseError at once if another holds it.

    The lock is a file beside `path` (.NAME.lock) and ends with the process, however that ends. It is the same
    for all the names that lead to one place.
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
        with contextlib.suppress(
            OSError
        ):  # Windows keeps a locked file from being written by a second handle
            file.write_text(str(os.getpid()))
        yield
    finally:
        # Deleted while still held: filelock notices a lock file without a name and tries again.
        with contextlib.suppress(OSError):
            file.unlink()
        held.release()


def is_locked(path: str | os.PathLike) -> bool:
    """Whether a process holds `path` now; what a killed one has left of its lock does not count."""
    import filelock

    file = _lock_file(path)
    if not file.exists():
        return False
    held = filelock.FileLock(file, timeout=0, thread_local=False)
    try:
        held.acquire()
    except filelock.Timeout:
        return True
    except OSError:  # another user's lock, or a read-only disk: whether its process lives must do
        return _lives(file)
    held.release()
    return False


def _lock_file(path: str | os.PathLike) -> Path:
    real = Path(os.path.realpath(path))  # "." has no name, and two links are one place
    return real.with_name(f".{real.name}.lock")


def _lives(file: Path) -> bool:
    """Whether the process that wrote the lock is there."""
    try:
        return process_lives(int(file.read_text()))
    except (OSError, ValueError):
        return os.name == "nt"  # where a file that cannot be opened is held


def _owner(file: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return f" (pid {int(file.read_text())})"
    return ""


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
