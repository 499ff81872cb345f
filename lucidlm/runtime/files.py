"""Files that are whole or not there: bytes go in, and what stands under the final name is complete."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Generator
from pathlib import Path

from lucidlm.errors import DataError, RunError

MANIFEST = "manifest.json"


def write_atomically(path: str | os.PathLike, data: bytes | str) -> None:
    """Give `path` this content, mode 0644 less the umask: a reader never sees a part."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # os.open lets the kernel apply the umask; tempfile's files would stay at 0600.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(temporary, flags, 0o644), "wb") as file:
            file.write(data.encode("utf-8") if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def replacing_file(path: str | os.PathLike) -> Generator[Path]:
    """A temporary path beside `path`, for writers that want a name: it takes its place if all goes well."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def replacing_folder(path: str | os.PathLike) -> Generator[Path]:
    """A temporary folder beside `path` that takes its place if the block ends well, else vanishes.

    Its files reach the disk before the rename, so after a power cut too `path` is the old folder or the whole
    new one. What a killed process left is deleted at the next start: call it under `lock` where two may meet.
    """
    path = Path(path)
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
    except BaseException:
        _delete(temporary)
        raise
    _sync_folder(path.parent)
    _delete(previous)


def sha256_of(path: str | os.PathLike) -> str:
    """SHA-256 of a file in hexadecimal, read a block at a time."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: str | os.PathLike, extra: dict) -> None:
    """Write manifest.json: `extra`, and under "files" the size and SHA-256 of each file below the folder."""
    folder = Path(folder)
    files = {
        file.relative_to(folder).as_posix(): {"size": file.stat().st_size, "sha256": sha256_of(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file != folder / MANIFEST
    }
    text = json.dumps({**extra, "files": files}, indent=1, ensure_ascii=False)
    write_atomically(folder / MANIFEST, text + "\n")


def check_manifest(folder: str | os.PathLike, *, contents: bool = True) -> dict:
    """The manifest of a folder whose listed files are all there and unchanged, else DataError.

    `contents=False` compares sizes only, for files too large to read once more.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder / MANIFEST)
    for name, expected in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise DataError(f"{file}: listed in {MANIFEST} but missing; write {folder} anew")
        if (size := file.stat().st_size) != expected["size"]:
            raise DataError(
                f"{file}: {size:,} bytes, {MANIFEST} says {expected['size']:,}; write {folder} anew"
            )
        if contents and sha256_of(file) != expected["sha256"]:
            raise DataError(
                f"{file}: content changed, its SHA-256 is not that of {MANIFEST}; write {folder} anew"
            )
    return manifest


def free_bytes(path: str | os.PathLike) -> int:
    """Free space in bytes on the disk that holds `path`, which need not exist yet."""
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


@contextlib.contextmanager
def lock(path: str | os.PathLike) -> Generator[None]:
    """Hold `path` for this process until the block ends; RunError at once if another holds it.

    The lock is a file beside `path` (.NAME.lock) and ends with the process, however that ends.
    """
    import filelock

    path = Path(path)
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(f".{path.name}.lock")
    held = filelock.FileLock(file, timeout=0, thread_local=False)
    try:
        held.acquire()
    except filelock.Timeout:
        raise RunError(
            f"{path} is in use by another lucidlm process{_owner(file)}; wait for it or choose another --out"
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

    path = Path(path)
    file = path.with_name(f".{path.name}.lock")
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


def _lives(file: Path) -> bool:
    """Whether the process that wrote the lock is there."""
    if os.name == "nt":  # where signal 0 is Ctrl-C, and a file that cannot be opened is held
        return True
    try:
        os.kill(int(file.read_text()), 0)
    except PermissionError:  # somebody else's process
        return True
    except (OSError, ValueError):
        return False
    return True


def _owner(file: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return f" (pid {int(file.read_text())})"
    return ""


def _read_manifest(path: Path) -> dict:
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(
            f"{path}: not there; {path.parent} is no finished folder of lucidlm, write it anew"
        ) from None
    except (ValueError, RecursionError):
        raise DataError(f"{path}: not valid JSON; write {path.parent} anew") from None
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict):
        raise DataError(f'{path}: no list "files"; write {path.parent} anew')
    for name, expected in files.items():
        inside = not Path(name).is_absolute() and ".." not in Path(name).parts
        if not inside or not isinstance(expected, dict) or not {"size", "sha256"} <= expected.keys():
            raise DataError(f"{path}: the entry {name!r} is damaged; write {path.parent} anew")
    return manifest


def _delete(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _sync_tree(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_dir():
            _sync_folder(file)
        elif file.is_file():
            with open(file, "rb+") as opened:
                os.fsync(opened.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks cannot sync folders
            raise
    finally:
        os.close(descriptor)
