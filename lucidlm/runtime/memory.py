"""Memory: bytes that this process uses and may still use, and the line for a need beyond them."""

import contextlib
import errno
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lucidlm.errors import ConfigError

if TYPE_CHECKING:
    import torch

CGROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")

_MESSAGES = re.compile(
    r"can't allocate memory|cannot allocate memory|not enough memory|out of memory|bad_alloc"
    r"|unable to allocate|failed to map segment|can't start new thread|os error 12\b",
    re.IGNORECASE,
)
"""Messages of PyTorch (CPU, CUDA, MPS), Rust libraries and the loader of shared libraries.

The classes of their errors mean other things too.
"""


@dataclass(frozen=True, slots=True)
class Free:
    """The free memory under one limit."""

    bytes: int
    limit: str
    """The name of the limit, for a person."""


def free_memory() -> Free | None:
    """The least that the machine and the limits of this process leave; None if the system does not say."""
    return min(_all_free(), key=lambda each: each.bytes, default=None)


def free_on(device: "torch.device | str") -> Free | None:
    """The free memory for a model on this device: its own memory, or that of this process."""
    import torch

    device = torch.device(device)
    if device.type != "cuda":
        return free_memory()
    free, _ = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return Free(free + kept, "this GPU")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or its cause, means that memory could not be allocated."""
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return True
        if isinstance(error, RuntimeError | ImportError | OSError) and _MESSAGES.search(str(error)):
            return True
        if type(error).__name__ == "SafetensorError" and _MESSAGES.search(str(error)):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def memory_left() -> str:
    """The free memory in brackets, after a space; "" if the system does not say."""
    free = free_memory()
    return f" ({size(free.bytes)} left of {free.limit})" if free else ""


def out_of_memory_line() -> str:
    """The line for an allocation that failed."""
    return (
        f"out of memory{memory_left()}: use a smaller model or batch (--batch-tokens, --micro-batch, "
        "--batch-size, --num, --context-length, if the command has them), or free some memory"
    )


def check_weights(what: str, n_parameters: int, dtype: "torch.dtype", device: "torch.device | str") -> None:
    """ConfigError for weights that do not fit into the free memory, before the first one is read or drawn."""
    import torch

    if torch.device(device).type == "meta":
        return
    free, need = free_on(device), n_parameters * dtype.itemsize
    if free is not None and need > free.bytes:
        raise ConfigError(
            f"{what}: {n_parameters:,} weights in {str(dtype).removeprefix('torch.')} need {size(need)} of "
            f"memory, {size(free.bytes)} are free ({free.limit}); use a smaller model, or free some memory"
        )


def size(count: int) -> str:
    """Bytes for a person: 15.5 GB, 0.4 GB; below 0.1 GB in MB.

    >>> size(15_500_000_000), size(4_200_000)
    ('15.5 GB', '4 MB')
    """
    return f"{max(0, count) / 1e9:,.1f} GB" if count >= 1e8 else f"{max(0, count) / 1e6:,.0f} MB"


def _all_free() -> Iterator[Free]:
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, ValueError, KeyError):
        machine = _table(PROC / "meminfo")
        yield Free(machine["MemAvailable"] + machine.get("SwapFree", 0), "this machine")
    with contextlib.suppress(OSError, ValueError, KeyError):
        yield from _under_limits()
    with contextlib.suppress(OSError, ValueError):
        yield from _under_cgroups((PROC / "self" / "cgroup").read_text("ascii", "replace"))


def _under_limits() -> Iterator[Free]:
    """What ulimit or prlimit leave: address space, and its private and writable part."""
    import resource

    process = _table(PROC / "self" / "status")
    for number, held, name in (
        (resource.RLIMIT_AS, "VmSize", "the limit on address space, ulimit -v"),
        (resource.RLIMIT_DATA, "VmData", "the limit on data, ulimit -d"),
    ):
        limit, _ = resource.getrlimit(number)
        if limit != resource.RLIM_INFINITY:
            yield Free(max(0, limit - process[held]), name)


def _under_cgroups(own: str) -> Iterator[Free]:
    """What cgroups (version 1 and 2) of containers and services leave: this process's group and all above."""
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root, names = (
                CGROUPS / "memory",
                ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
            )
        else:
            continue
        # In a container the path may be the host's, of which only the root is visible.
        group = root / path.lstrip("/")
        for folder in [each for each in (group, *group.parents) if each.is_relative_to(root)]:
            with contextlib.suppress(OSError, ValueError, KeyError):
                yield from _left_in(folder, *names)


def _left_in(folder: Path, limit: str, held: str, cache: str) -> Iterator[Free]:
    most = (folder / limit).read_text().strip()
    if most == "max" or int(most) >= 1 << 60:  # version 1 has a number near 2^63 for "no limit"
        return
    statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    # The kernel frees cached pages of files that were not used lately.
    used = int((folder / held).read_text()) - int(statistics.get(cache, 0))
    yield Free(max(0, int(most) - used) + _swap(folder), "the limit of this container")


def _swap(folder: Path) -> int:
    """Swap that a version 2 group may still use."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        free = _table(PROC / "meminfo")["SwapFree"]
        most = (folder / "memory.swap.max").read_text().strip()
        if most == "max":
            return free
        return max(0, min(free, int(most) - int((folder / "memory.swap.current").read_text())))
    return 0


def _table(path: Path) -> dict[str, int]:
    """Bytes by name, from the lines with kB."""
    lines = (line.split() for line in path.read_text("ascii", "replace").splitlines())
    return {line[0].rstrip(":"): int(line[1]) * 1024 for line in lines if len(line) == 3 and line[2] == "kB"}


def peak_memory_bytes(device: "torch.device") -> int:
    """The most memory that this process has used so far: on a CUDA device, or of main memory."""
    import torch

    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _peak_resident_bytes()


def resident_bytes() -> int:
    """The main memory that this process uses now; its peak where the system does not say."""
    try:
        pages = (PROC / "self" / "statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return _peak_resident_bytes()
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _peak_resident_bytes() -> int:
    try:
        import resource
    except ImportError:  # Windows has no such counter in the standard library
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
