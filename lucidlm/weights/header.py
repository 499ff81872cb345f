"""The header of a safetensors file: which run and step its weights are from, and a hash of the whole file.

A file is eight bytes of length, a JSON header and the tensors' bytes (the format's README). Our entries are
in the header's __metadata__, which other programs ignore. No torch here.
"""

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lucidlm.errors import WeightsError
from lucidlm.runtime.manifest import SETTLED_NS
from lucidlm.runtime.small_files import AGAIN

WEIGHTS = "model.safetensors"
LARGEST_HEADER = 100_000_000
"""The library's own limit."""
_OURS = "lucidlm."
_RUN, _STEP, _VALIDATION, _CHECK = (f"{_OURS}{name}" for name in ("run", "step", "validation", "check"))
SEAL = f"{_OURS}sha256"
UNSEALED = "0" * 64
"""Replaces the seal while the file is hashed."""
_SEALED: set[tuple[int, ...]] = set()
"""Files whose seal was right, by inode, size and times: they are not hashed again."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Which run and step the weights of a file are from, as its header says."""

    run: str
    """The run's id; "" for weights of no run."""
    step: int
    validation: dict[str, Any] | None = None
    """The losses after that step, if it was validated."""

    def to_metadata(self) -> dict[str, str]:
        """As strings: the format allows nothing else."""
        found = {_RUN: self.run, _STEP: str(self.step)}
        if self.validation is not None:
            found[_VALIDATION] = json.dumps(self.validation)
        return found | {_CHECK: _check_of(found)}


def _check_of(words: dict[str, str]) -> str:
    """A hash of the origin only: listing a hundred runs must not read all their weights."""
    text = json.dumps([words.get(name) for name in (_RUN, _STEP, _VALIDATION)])
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def origin_of(path: Path) -> Origin | None:
    """The origin of a file's weights; None if the header has none; WeightsError if it is damaged."""
    metadata = _metadata_of(_start_of(path), path)
    if not {_RUN, _STEP, _VALIDATION, _CHECK} & metadata.keys():
        return None
    try:
        if metadata.get(_CHECK) != _check_of(metadata):
            raise ValueError
        record = metadata.get(_VALIDATION)
        return Origin(metadata[_RUN], int(metadata[_STEP]), None if record is None else json.loads(record))
    except (KeyError, ValueError, RecursionError):
        raise WeightsError(f"{path}: its header is damaged", AGAIN) from None


def check_seal(path: Path) -> bool:
    """Whether a file has a seal, the SHA-256 of the rest of the file; WeightsError if it is wrong."""
    start = _start_of(path)
    metadata = _metadata_of(start, path)
    seal = metadata.get(SEAL)
    if seal is None:
        if odd := [name for name in metadata if name.startswith(_OURS)]:
            raise WeightsError(f"{path}: its header has {odd[0][:80]!r} and no seal: it was damaged", AGAIN)
        return False
    if len(seal) != len(UNSEALED) or start.count(seal.encode("utf-8")) != 1:
        raise WeightsError(f"{path}: the seal in its header is damaged", AGAIN)
    status = path.stat()
    stood = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if stood in _SEALED:
        return True
    if _unsealed_sha256(path, start, seal) != seal:
        raise WeightsError(f"{path}: damaged: its SHA-256 is not the one in its header", AGAIN)
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > SETTLED_NS:
        _SEALED.add(stood)
    return True


def _unsealed_sha256(path: Path, start: bytes, seal: str) -> str:
    digest = hashlib.sha256(start.replace(seal.encode("utf-8"), UNSEALED.encode("ascii")))
    with open(path, "rb") as file:
        file.seek(len(start))
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _start_of(path: Path) -> bytes:
    """The bytes before the tensors, length and header; fewer if the file is cut off."""
    if path.exists() and not path.is_file():
        raise WeightsError(f"{path}: not a plain file", AGAIN)
    try:
        with open(path, "rb") as file:
            length = file.read(8)
            return length + file.read(min(int.from_bytes(length, "little"), LARGEST_HEADER))
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror or error}", "give a file that can be read") from None


def _metadata_of(start: bytes, path: Path) -> dict[str, str]:
    """The header's __metadata__, empty if it has none; WeightsError if this is no header."""
    try:
        metadata = json.loads(start[8:].decode("utf-8")).get("__metadata__") or {}
        if all(isinstance(value, str) for value in metadata.values()):
            return metadata
    except (ValueError, AttributeError, RecursionError):
        pass
    raise WeightsError(f"{path}: not a whole safetensors file: its header is damaged or cut off", AGAIN)
