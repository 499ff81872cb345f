"""What stands before the tensors of a safetensors file: whose weights they are, and a hash of all of it.

A file is eight bytes of length, a JSON header and the tensors' bytes (the format's README). Free words of
ours are in the header's __metadata__, which other programs leave alone. No torch here.
"""

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lucidlm.errors import WeightsError
from lucidlm.runtime.manifest import SETTLED_NS

WEIGHTS = "model.safetensors"
LARGEST_HEADER = 100_000_000
"""The library's own limit."""
_OURS = "lucidlm."
_RUN, _STEP, _VALIDATION, _CHECK = (f"{_OURS}{name}" for name in ("run", "step", "validation", "check"))
SEAL = f"{_OURS}sha256"
UNSEALED = "0" * 64
"""In the place of the seal while the file is hashed."""
_SEALED: set[tuple[int, ...]] = set()
"""Files as they stood when their seal was right."""
AGAIN = "copy or download it again"


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose weights a file holds, as its header says."""

    run: str
    """What names the run; "" of weights that belong to none."""
    step: int
    validation: dict[str, Any] | None = None
    """The losses after that step, where it was validated."""

    def to_metadata(self) -> dict[str, str]:
        """Strings, as the format wants them."""
        found = {_RUN: self.run, _STEP: str(self.step)}
        if self.validation is not None:
            found[_VALIDATION] = json.dumps(self.validation)
        return found | {_CHECK: _check_of(found)}


def _check_of(words: dict[str, str]) -> str:
    """A hash of the origin alone: to list a hundred runs not every byte of their weights is read."""
    told = json.dumps([words.get(name) for name in (_RUN, _STEP, _VALIDATION)])
    return hashlib.sha256(told.encode("ascii")).hexdigest()[:16]


def origin_of(path: Path) -> Origin | None:
    """Whose weights a file holds; None where its header does not say, WeightsError for a damaged one."""
    metadata = _metadata_of(_start_of(path), path)
    if not {_RUN, _STEP, _VALIDATION, _CHECK} & metadata.keys():
        return None
    try:
        if metadata.get(_CHECK) != _check_of(metadata):
            raise ValueError
        record = metadata.get(_VALIDATION)
        return Origin(metadata[_RUN], int(metadata[_STEP]), None if record is None else json.loads(record))
    except (KeyError, ValueError, RecursionError):
        raise WeightsError(f"{path}: its header is damaged; {AGAIN}") from None


def check_seal(path: Path) -> bool:
    """Whether a file has a seal, the SHA-256 of all else in it; WeightsError where that is another."""
    start = _start_of(path)
    metadata = _metadata_of(start, path)
    seal = metadata.get(SEAL)
    if seal is None:
        if odd := [name for name in metadata if name.startswith(_OURS)]:
            raise WeightsError(f"{path}: its header has {odd[0][:80]!r} and no seal: it was damaged; {AGAIN}")
        return False
    if len(seal) != len(UNSEALED) or start.count(seal.encode("utf-8")) != 1:
        raise WeightsError(f"{path}: the seal in its header is damaged; {AGAIN}")
    status = path.stat()
    stood = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if stood in _SEALED:
        return True
    if _unsealed_sha256(path, start, seal) != seal:
        raise WeightsError(f"{path}: damaged: its SHA-256 is not the one in its header; {AGAIN}")
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
    """The bytes before the tensors: length and header, as much as is there of a file that is cut off."""
    if path.exists() and not path.is_file():
        raise WeightsError(f"{path}: not a plain file; {AGAIN}")
    try:
        with open(path, "rb") as file:
            length = file.read(8)
            return length + file.read(min(int.from_bytes(length, "little"), LARGEST_HEADER))
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror or error}; give a file that can be read") from None


def _metadata_of(start: bytes, path: Path) -> dict[str, str]:
    """The header's own words; WeightsError where it is no header, none where it has no words."""
    try:
        metadata = json.loads(start[8:].decode("utf-8")).get("__metadata__") or {}
        if all(isinstance(value, str) for value in metadata.values()):
            return metadata
    except (ValueError, AttributeError, RecursionError):
        pass
    raise WeightsError(f"{path}: not a whole safetensors file: its header is damaged or cut off; {AGAIN}")
