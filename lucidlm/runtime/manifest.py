"""A folder in, its manifest out: JSON with the size and SHA-256 of each file, to check the folder by."""

import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lucidlm.errors import DataError
from lucidlm.runtime.files import write_atomically
from lucidlm.runtime.small_files import read_small_json
from lucidlm.runtime.wording import plural

MANIFEST = "manifest.json"
SETTLED_NS = 2_000_000_000
"""A hash is remembered only of files unchanged for this long: some disks have clocks that tick every 2 s."""

_HASHES: dict[tuple[int, ...], str] = {}
"""Hashes by identity, size and times of a file: a command asks for the hash of one file several times."""


def sha256_of(path: str | os.PathLike) -> str:
    """SHA-256 of a file in hexadecimal. Within a process it is computed once while the file is unchanged.

    No hash is kept beyond the process: a bit that flips on the disk changes no time.
    """
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if (known := _HASHES.get(key)) is not None:
            return known
        settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > SETTLED_NS
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if settled:
        _HASHES[key] = found
    return found


def write_manifest(folder: str | os.PathLike, extra: dict, *, names: Iterable[str] | None = None) -> None:
    """Writes manifest.json: `extra`, and under "files" the size and SHA-256 of each file below the folder.

    With `names`, of these files only. The manifest lists itself too, with the hash of its other content.
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
    """Listed like a file: if a bit of its name flips, a file of the wrong name is missing."""
    content = json.dumps(manifest, sort_keys=True).encode("ascii")
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def read_manifest(folder: str | os.PathLike, *, way_out: str = "") -> dict:
    """The manifest of a folder, without its own entry; DataError if it is damaged or not there.

    `way_out` is the advice at the end of the error.
    """
    path = Path(folder) / MANIFEST
    way_out = way_out or f"write {path.parent} again"
    try:
        manifest = read_small_json(path, DataError)
    except FileNotFoundError:
        raise DataError(
            f"{path}: not there; {path.parent} is not a complete folder of lucidlm, {way_out}"
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
    own = files.pop(MANIFEST, None)  # missing in folders of earlier versions
    if own is not None and own != _own_entry(manifest):
        raise DataError(f"{path}: its content has changed; {way_out}")
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
    """The manifest of a folder whose listed files are unchanged, else DataError. `names` must be listed.

    `contents=False` compares sizes only, for files too large to read once more.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, way_out=way_out)
    for name in (*names, *manifest["files"]):
        if fault := fault_of(folder, name, manifest, contents=contents):
            raise DataError(f"{fault}; {way_out or f'write {folder} again'}")
    return manifest


def fault_of(folder: Path, name: str, manifest: dict, *, contents: bool = True) -> str:
    """The difference between a file and its entry in the manifest; "" if there is none."""
    file, expected = folder / name, manifest["files"].get(name)
    if expected is None:
        return f"{folder / MANIFEST}: {name} is not listed in it"
    if not file.is_file():
        return f"{file}: listed in {MANIFEST} but missing"
    if (size := file.stat().st_size) != expected["size"]:
        return f"{file}: {plural(size, 'byte')}, {MANIFEST} has {expected['size']:,}"
    if contents and sha256_of(file) != expected["sha256"]:
        return f"{file}: its content has changed, by the SHA-256 in {MANIFEST}"
    return ""
