"""Safetensors files: tensors written one after another, and found by name in one file or in several.

A file is eight bytes of length, a JSON header and the tensors' bytes (the format's README). The library reads
them; its writer wants all tensors at once, twice the memory of a model that is stored transposed.
"""

import contextlib
import json
import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lucidlm.errors import WeightsError
from lucidlm.runtime.progress import Progress, counted

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
LARGEST_INDEX = 1 << 24
"""Bytes: more than 100,000 tensors need."""

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# Beside the index, under a plain name: no path leads elsewhere. (The hub's cache has links under such names.)
_SHARD = re.compile(r"[A-Za-z0-9_][\w.-]*\.safetensors", re.ASCII)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of a file, not read yet."""

    name: str
    path: Path
    shape: tuple[int, ...]
    dtype: torch.dtype

    def read(self) -> Tensor:
        """The tensor, mapped: a copy of it is the caller's, and soon, as the file may change."""
        # Opened for each anew: what was read of a mapping counts as memory while the mapping is there.
        with _opened(self.path) as file:
            return file.get_tensor(self.name)


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], progress: Progress | None = None) -> None:
    """Writes one safetensors file, a tensor in memory at a time, whatever their layout and device."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        shape = list(tensor.shape)
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode("ascii")
    text += b" " * (-len(text) % 8)  # readers that map the file want numbers at multiples of their size
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in counted(tensors.values(), progress):
            file.write(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)


def find_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a folder by name: of model.safetensors, or of the files that the index beside it names.

    WeightsError where there is neither, where a file is not whole, or index and files contradict each other.
    """
    single = folder / WEIGHTS
    if single.exists():
        return _tensors_of(single)
    if not (folder / INDEX).exists():
        raise WeightsError(f"{single}: not there; {_what_else(folder)}")
    places = read_json(folder / INDEX, LARGEST_INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise WeightsError(f"{folder / INDEX}: it has no weight_map of names; copy or download it again")
    found: dict[str, StoredTensor] = {}
    for shard in sorted(set(places.values())):
        if not _SHARD.fullmatch(shard):
            raise WeightsError(
                f"{folder / INDEX}: {shard[:60]!r} is no safetensors file beside it; nothing is read"
            )
        if not (folder / shard).is_file():
            raise WeightsError(
                f"{folder / shard}: not there, but {INDEX} names it; copy or download it again"
            )
        held = _tensors_of(folder / shard)
        named = {name for name, where in places.items() if where == shard}
        if odd := sorted(held.keys() ^ named):
            contradiction = "lacks" if odd[0] in named else "holds"
            raise WeightsError(
                f"{folder / shard}: it {contradiction} {odd[0][:80]!r}, {INDEX} says otherwise; "
                "copy or download both again"
            )
        found |= held
    return found


def read_json(path: Path, largest: int) -> dict[str, Any]:
    """A JSON object; WeightsError for a file that is none, or that has more bytes than `largest`."""
    try:
        if (size := path.stat().st_size) > largest:
            raise WeightsError(
                f"{path}: {size:,} bytes, a model's has at most {largest:,}; it is another file"
            )
        values = json.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{path}: not there; {path.parent} is no model folder") from None
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror or error}; give a file that can be read") from None
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: not valid JSON ({error}); copy or download it again") from None
    if not isinstance(values, dict):
        raise WeightsError(f"{path}: not a JSON object; copy or download it again")
    return values


def _tensors_of(path: Path) -> dict[str, StoredTensor]:
    found = {}
    with _opened(path) as file:
        for name in file.keys():  # noqa: SIM118 (a file is no dictionary)
            about = file.get_slice(name)
            if (dtype := about.get_dtype()) not in DTYPES:
                raise WeightsError(
                    f"{path}: {name[:80]!r} is stored as {dtype}; weights are read as {', '.join(DTYPES)}: "
                    "take a checkpoint that is not quantised"
                )
            found[name] = StoredTensor(name, path, tuple(about.get_shape()), DTYPES[dtype])
    return found


@contextlib.contextmanager
def _opened(path: Path) -> Generator[Any]:
    """A safetensors file, mapped; WeightsError for what is none, or not whole."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{path}: not a whole safetensors file ({reason}); copy or download it again"
        ) from None


def _what_else(folder: Path) -> str:
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        return "there are pickled weights, which are never read: convert them to safetensors"
    return "copy or download the folder again"
