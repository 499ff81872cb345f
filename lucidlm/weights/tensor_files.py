"""Safetensors files: tensors written one after another, and found by name in one file or in several.

The library reads them. Its writer needs all tensors at once: twice the memory for a model that is stored
transposed, so the writer is our own.
"""

import contextlib
import hashlib
import json
import re
import shlex
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lucidlm.errors import WeightsError
from lucidlm.runtime.files import naming
from lucidlm.runtime.memory import is_out_of_memory
from lucidlm.runtime.places import path_text
from lucidlm.runtime.progress import SILENT, Progress, counted
from lucidlm.runtime.small_files import AGAIN, read_small_object
from lucidlm.weights.header import SEAL, UNSEALED, WEIGHTS, Origin, check_seal

INDEX = "model.safetensors.index.json"
LARGEST_INDEX = 1 << 24
"""Bytes: enough for 100,000 tensors."""

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# A plain name beside the index, so that no path leads elsewhere. (In the hub's cache such names are links.)
_SHARD = re.compile(r"[A-Za-z0-9_][\w.-]*\.safetensors", re.ASCII)

# A command for the user to run: torch's reader of plain tensors (weights_only), and a copy of each tensor,
# because safetensors' writer refuses two names of one matrix.
_CONVERSION = (
    "import glob, torch, safetensors.torch as s; s.save_file({k: v.clone().contiguous() "
    'for f in glob.glob("pytorch_model*.bin") '
    'for k, v in torch.load(f, map_location="cpu", weights_only=True).items()}, '
    f'"{WEIGHTS}", metadata={{"format": "pt"}})'
)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of a file, not read yet."""

    name: str
    path: Path
    shape: tuple[int, ...]
    stored_as: str
    """safetensors' name of its dtype; it may be one that weights cannot have."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype; WeightsError if weights cannot have it."""
        self.check_dtype()
        return DTYPES[self.stored_as]

    def check_dtype(self) -> None:
        """WeightsError for a dtype that weights cannot have. Buffers may have any."""
        if self.stored_as not in DTYPES:
            raise WeightsError(
                f"{self.path}: {self.name[:80]!r} is stored as {self.stored_as}; weights are read as "
                f"{', '.join(DTYPES)}: take a checkpoint that is not quantised"
            )

    def read(self) -> Tensor:
        """The tensor, memory-mapped: the caller copies it soon, because the file may change."""
        # Opened for each tensor: pages that were read count as memory as long as the mapping exists.
        with _opened(self.path) as file:
            return file.get_tensor(self.name)


def write_tensors(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    progress: Progress = SILENT,
    *,
    origin: Origin | None = None,
) -> None:
    """Writes one safetensors file, one tensor in memory at a time, from any layout and device.

    Its header has the weights' origin and a seal, the SHA-256 of the whole file: one rename puts weights and
    hash in place together.
    """
    about = {} if origin is None else origin.to_metadata()
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **about, SEAL: UNSEALED}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        shape = list(tensor.shape)
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode("ascii")
    text += b" " * (-len(text) % 8)  # readers that map the file need numbers at multiples of their size
    start = len(text).to_bytes(8, "little") + text
    seal = hashlib.sha256(start)
    with naming(path), open(path, "wb") as file:
        file.write(start)
        for tensor in counted(tensors.values(), progress, "writing tensors"):
            # Flat, because a tensor without dimensions cannot be viewed as bytes.
            data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
            file.write(data)
            seal.update(data)
        file.seek(start.index(UNSEALED.encode("ascii")))
        file.write(seal.hexdigest().encode("ascii"))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of one file by name; WeightsError if it is not a complete safetensors file."""
    with _opened(path) as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118


def find_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a folder by name: of model.safetensors, or of the files that its index names.

    WeightsError if there is neither, if a file is not complete, or if index and files contradict each other.
    """
    single = folder / WEIGHTS
    if single.exists():
        return _tensors_of(single)
    if not (folder / INDEX).exists():
        raise WeightsError(f"{single}: not there", what_else(folder))
    places = read_json(folder / INDEX, LARGEST_INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise WeightsError(f"{folder / INDEX}: it has no weight_map of names", AGAIN)
    found: dict[str, StoredTensor] = {}
    for shard in sorted(set(places.values())):
        if not _SHARD.fullmatch(shard):
            raise WeightsError(
                f"{folder / INDEX}: {shard[:60]!r} is no safetensors file beside it", "nothing is read"
            )
        if not (folder / shard).is_file():
            raise WeightsError(f"{folder / shard}: not there, but {INDEX} names it", AGAIN)
        held = _tensors_of(folder / shard)
        named = {name for name, where in places.items() if where == shard}
        if odd := sorted(held.keys() ^ named):
            contradiction = "lacks" if odd[0] in named else "holds"
            raise WeightsError(
                f"{folder / shard}: it {contradiction} {odd[0][:80]!r}, {INDEX} says otherwise",
                "copy or download both again",
            )
        found |= held
    return found


def read_json(path: Path, largest: int) -> dict[str, Any]:
    """A JSON object of a model folder; WeightsError if the file has none or is too large."""
    return read_small_object(path, WeightsError, largest, missing=f"{path.parent} is no model folder")


def _tensors_of(path: Path) -> dict[str, StoredTensor]:
    check_seal(path)
    found = {}
    with _opened(path) as file:
        for name in file.keys():  # noqa: SIM118 (a file is no dictionary)
            about = file.get_slice(name)
            found[name] = StoredTensor(name, path, tuple(about.get_shape()), about.get_dtype())
    return found


@contextlib.contextmanager
def _opened(path: Path) -> Generator[Any]:
    """A safetensors file, memory-mapped; WeightsError if it is not a complete one."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():  # opening a FIFO would wait for somebody who writes to it
        raise WeightsError(f"{path}: not a plain file", AGAIN)
    try:
        with _utf8_name(path) as name, safe_open(name, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        if is_out_of_memory(error):
            raise  # nothing is wrong with the file
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{path}: not a whole safetensors file ({reason})", AGAIN) from None


@contextlib.contextmanager
def _utf8_name(path: Path) -> Generator[str | Path]:
    """A name for the library, which takes only UTF-8: for other names, that of an open file descriptor."""
    if path_text(path) == str(path) or not Path("/dev/fd").exists():
        yield path
        return
    with open(path, "rb") as file:
        yield f"/dev/fd/{file.fileno()}"


def what_else(folder: Path) -> str:
    """What to do about a folder without safetensors: how to convert its pickled weights, if it has any."""
    if pickled := sorted(folder.glob("pytorch_model*.bin")):
        return (
            f"pickled weights ({pickled[0].name}) are never read; if you trust their source, convert them in "
            f"that folder: python -c {shlex.quote(_CONVERSION)}"
        )
    if pickled := sorted(
        path for end in ("*.bin", "*.pt*", "*.ckpt", "*.msgpack") for path in folder.glob(end)
    ):
        return (
            f"{pickled[0].name} is never read, as pickled weights run code; store its tensors as {WEIGHTS}, "
            "under transformers' names, by safetensors.torch.save_file"
        )
    return "copy or download the folder again"
