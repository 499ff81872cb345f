"""Names from the command line in, the device and the dtype of a computation out; autocast and seeds."""

import contextlib
import hashlib

import torch
from torch import Tensor

from lucidlm.errors import ConfigError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def choose_device(name: str = "auto") -> torch.device:
    """The device of this name; auto means CUDA where it is available, else the CPU.

    auto never chooses MPS: its results have differed from the CPU's. `lucidlm doctor` compares them.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = name.split(":")[0]
    if kind not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"--device {name}: unknown; choose auto, cpu, cuda, cuda:N or mps")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"--device {name}: PyTorch {torch.__version__} sees no CUDA device; use --device cpu"
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"--device {name}: PyTorch {torch.__version__} sees no Apple GPU; use --device cpu")
    return torch.device(name)


def dtype_of(name: str) -> torch.dtype:
    """The dtype of this name; ConfigError for a dtype that no model here computes in."""
    if name not in DTYPES:
        raise ConfigError(f"--dtype {name}: unknown; choose auto, {' or '.join(DTYPES)}")
    return DTYPES[name]


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype: float32 for torch.float32."""
    return str(dtype).removeprefix("torch.")


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[None]:
    """A context in which matmuls run in `dtype` while the weights stay float32; no change for float32.

    Autocast's cache of copies is off: a pass reads each weight once, and the cache would hold those of all
    blocks to its end, also where blocks are computed again.
    """
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype, cache_enabled=False)


def seed_from(*parts: int | str) -> int:
    """A seed of 63 bits from numbers and words, the same on every machine.

    >>> seed_from(123, "dropout", 7)
    7917646057453426456
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def synchronise(device: torch.device) -> None:
    """Waits until the device has finished its work. Call it before a clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def to_device(array, device: torch.device) -> Tensor:
    """A NumPy array as a tensor on the device."""
    return torch.from_numpy(array).to(device, non_blocking=True)
