"""Where a model computes: device, number type, threads, allocator, seeds, each chosen by a probe and said."""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lucidlm.errors import ConfigError
from lucidlm.runtime.wording import plural

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Probe:
    """What one product of two square matrices showed."""

    name: str
    flops_per_s: float
    error: float
    """Largest difference from float64 on products of the size of 1, relative to float32's rounding there."""


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; auto takes CUDA, else the CPU.

    MPS is never taken unasked: its results have differed from the CPU's. `lucidlm doctor` compares them.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = name.split(":")[0]
    if kind not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"--device {name}: not known; there are auto, cpu, cuda, cuda:N and mps")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"--device {name}: PyTorch {torch.__version__} sees no CUDA device; use --device cpu"
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"--device {name}: PyTorch {torch.__version__} sees no Apple GPU; use --device cpu")
    return torch.device(name)


def dtype_of(name: str) -> torch.dtype:
    """The number type of that name; ConfigError if it is none of ours."""
    if name not in DTYPES:
        raise ConfigError(f"--dtype {name}: not known; there are auto, {' and '.join(DTYPES)}")
    return DTYPES[name]


def dtype_name(dtype: torch.dtype) -> str:
    """float32 for torch.float32."""
    return str(dtype).removeprefix("torch.")


def set_threads(threads: int, *, recorded: bool = False) -> int:
    """How many threads PyTorch now computes on: as many as asked for; 0: one a processor that it may use.

    `recorded` says that a file asks for them, which another machine with more processors may have written.
    """
    if threads < 0:
        raise ConfigError(f"--threads {threads}: it must be 0 (all) or more")
    if threads > (limit := thread_limit(recorded=recorded)):
        # A hundred thousand are started, and take every process id of the machine, before the first fails.
        here = plural(os.cpu_count() or 1, "processor")
        raise ConfigError(
            f"--threads {threads}: at most {limit} are started on {here}; 0 takes as many as are good"
            if not recorded
            else f"{threads:,} threads are asked for by a file, and at most {limit} are started on {here}; "
            "the file is damaged, or from a machine that is too large for this one"
        )
    torch.set_num_threads(threads or available_processors())
    return torch.get_num_threads()


def thread_limit(*, recorded: bool = False) -> int:
    """The most threads that a flag or, more generously, a file may ask for."""
    few_times = 8 * (os.cpu_count() or 1)
    return max(few_times, 512) if recorded else few_times


STALLED_TIMES = 3.0
"""Several threads that take so many times as long as one wait for a core that another program has."""


def available_processors() -> int:
    """Processors for this process: fewer than there are in a container, or where OMP_NUM_THREADS says so."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(count, int(wanted)) if wanted.isdecimal() and int(wanted) else count


@functools.cache
def settle_vector_math() -> None:
    """Lets MKL choose its kernels while one thread calls it: a first call of several may take wrong ones.

    Then one thread's part of that one result, of the process's first exp, say, is right to four digits only,
    and nothing says so (pytorch/pytorch#188792).
    """
    for dtype in (torch.float32, torch.float64):
        one = torch.ones(64, dtype=dtype, device="cpu")  # too few for a second thread
        for function in ("exp", "log", "log1p", "expm1", "sqrt", "rsqrt", "sin", "cos", "tanh", "erf"):
            getattr(torch, function)(one)


def keep_freed_memory() -> str:
    """Tells glibc to keep large freed blocks for the next step, and says whether it did.

    By default every tensor over 32 MB is mapped and unmapped again, and its pages are cleared and faulted in
    each time: a sixth of a training step on two cores.
    """
    if (mallopt := _mallopt()) is None:
        return "allocator: the system's own (glibc's setting is for Linux)"
    done = mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    return f"allocator: freed memory is {'kept' if done else 'not kept: mallopt refused'}"


def return_freed_memory() -> None:
    """Tells glibc to give each freed block of a megabyte back: for moving weights, where nothing comes again.

    By default it keeps such up to 32 MB once one of them was freed, and between the weights of a model that
    came one by one there is room for nobody: 0.2 GB with 1.5 billion of them.
    """
    if (mallopt := _mallopt()) is not None:
        mallopt(_MMAP_THRESHOLD, 1 << 20)


_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # malloc.h


def _mallopt() -> Callable[[int, int], int] | None:
    """glibc's; None where there is another allocator."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None).mallopt


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[None]:
    """A context where products run in dtype while the weights stay float32; for float32 it does nothing."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def seed_from(*parts: int | str) -> int:
    """A seed of 63 bits from numbers and words, equal on every machine: seed_from(123, "dropout", step)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def synchronise(device: torch.device) -> None:
    """Waits until the device has done what it was given: before a clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def time_of(work: Callable[[], object], *, device: torch.device, seconds: float, least: int = 3) -> float:
    """Seconds that `work` takes: the median of what fits in about `seconds`, after one run not counted."""
    work()
    synchronise(device)
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < least or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        work()
        synchronise(device)
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def core_share(*, seconds: float = 0.2) -> float:
    """How much of a core this thread gets now, up to 1: other programs leave it less."""
    began, used = time.perf_counter(), time.thread_time()
    while (wall := time.perf_counter() - began) < seconds:
        pass
    return min(1.0, (time.thread_time() - used) / wall)


def threads_stall(threads: int, *, size: int = 256, times: int = 20) -> bool:
    """Whether small matmuls are much slower on so many threads than on one: other programs hold cores."""
    left = torch.randn(size, size, generator=torch.Generator().manual_seed(0))

    def seconds_on(count: int) -> float:
        torch.set_num_threads(count)
        left @ left
        began = time.perf_counter()
        for _ in range(times):
            left @ left
        return time.perf_counter() - began

    before = torch.get_num_threads()
    try:
        # The better of two: one moment in which another program ran is no stall.
        alone, together = (min(seconds_on(count) for _ in range(2)) for count in (1, threads))
        return together > STALLED_TIMES * alone
    finally:
        torch.set_num_threads(before)


def probe_matmul(
    device: torch.device, dtype: torch.dtype, *, size: int = 1024, seconds: float = 0.15
) -> Probe:
    """Speed and error of a size x size product in dtype: the peak that MFU is measured against."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator) for _ in range(2))
    here, there = left.to(device, dtype), right.to(device, dtype)
    # The fastest of three medians: a peak is what the machine can do, not what others left of it.
    seconds_each = min(time_of(lambda: here @ there, device=device, seconds=seconds / 3) for _ in range(3))
    exact = left[:16].double() @ right.double()
    error = ((here[:16] @ there).cpu().double() - exact).abs().max().item()
    return Probe(dtype_name(dtype), 2 * size**3 / seconds_each, error)


@contextlib.contextmanager
def float32_precision(name: str) -> Generator[None]:
    """Float32 products by that setting of oneDNN ("ieee" or "bf16") inside the context."""
    matmul = _onednn_matmul()
    before = matmul.fp32_precision
    matmul.fp32_precision = name
    try:
        yield
    finally:
        matmul.fp32_precision = before


def set_float32(kernels: str) -> None:
    """Float32 products by PyTorch's own choice ("stock") or by oneDNN's kernels ("onednn")."""
    _onednn_matmul().fp32_precision = "bf16" if kernels == "onednn" else "none"


def _onednn_matmul() -> Any:
    """oneDNN's settings of products."""
    # PyTorch puts an object with this attribute in the module's place, which a type checker cannot see.
    return torch.backends.mkldnn.matmul  # ty: ignore[missing-attribute]


def fastest_exact_float32(device: torch.device) -> tuple[Literal["stock", "onednn"], str]:
    """oneDNN's kernels where a probe shows their float32 products still float32 and faster; and a line why.

    The setting is called bf16, and on processors with matrix tiles it does round to bfloat16. On others it
    only leaves MKL's path for oneDNN's, whose kernels use all of AVX-512 on any maker's processor.
    """
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return "stock", "float32: as PyTorch has it"
    stock = probe_matmul(device, torch.float32)
    with float32_precision("bf16"):
        routed = probe_matmul(device, torch.float32)
    exact = routed.error < 4 * stock.error
    faster = routed.flops_per_s > 1.1 * stock.flops_per_s
    figures = f"{routed.flops_per_s / 1e9:.0f} against {stock.flops_per_s / 1e9:.0f} GFLOP/s"
    if exact and faster:
        return "onednn", f"float32: through oneDNN, exact here and faster ({figures})"
    reason = (
        "not faster" if exact else f"it rounds here (error {routed.error:.1e}, float32 has {stock.error:.1e})"
    )
    return "stock", f"float32: as PyTorch has it; through oneDNN {reason} ({figures})"


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What decides how sums are rounded: where it differs, the same weights may give other last digits."""

    threads: int
    device: str
    """cpu, cuda or mps."""
    kernels: str
    """Of float32 matmuls: stock, onednn, or PyTorch's name of the precision (ieee, tf32)."""
    capability: str
    """Instructions of the CPU (AVX512), or the GPU's generation (sm_90)."""
    torch_version: str

    @classmethod
    def here(cls, device: torch.device) -> "Arithmetic":
        """What a model on this device computes with now."""
        setting, capability = "none", device.type
        if device.type == "cpu":
            setting = _onednn_matmul().fp32_precision
            capability = torch.backends.cpu.get_cpu_capability()
        elif device.type == "cuda":
            setting = torch.backends.cuda.matmul.fp32_precision
            capability = "sm_{}{}".format(*torch.cuda.get_device_capability(device))
        kernels = {"none": "stock", "bf16": "onednn"}.get(setting, setting)
        return cls(torch.get_num_threads(), device.type, kernels, capability, torch.__version__)

    def __str__(self) -> str:
        """1 thread, cpu AVX512, float32 kernels stock, PyTorch 2.9.1."""
        count = plural(self.threads, "thread")
        on = f"{self.device} {self.capability}" if self.capability != self.device else self.device
        return f"{count}, {on}, float32 kernels {self.kernels}, PyTorch {self.torch_version}"

    @contextlib.contextmanager
    def used(self, threads: int | None = None) -> Generator[None]:
        """These threads (or so many) and kernels inside the context, as far as this device has them."""
        before = torch.get_num_threads()
        set_threads(threads or self.threads, recorded=threads is None)
        settings = {"stock": "none", "onednn": "bf16"}
        try:
            with float32_precision(settings.get(self.kernels, _onednn_matmul().fp32_precision)):
                yield
        finally:
            torch.set_num_threads(before)


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory this process has held so far: on the device, or in all on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows has no such counter in the standard library
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_bytes() -> int:
    """The memory that this process holds now; where the system does not say it, the most it has held."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return peak_memory_bytes(torch.device("cpu"))
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def to_device(array, device: torch.device) -> Tensor:
    """A NumPy array as a tensor on the device."""
    return torch.from_numpy(array).to(device, non_blocking=True)
