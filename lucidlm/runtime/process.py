"""Settings of this process in, PyTorch set to them: threads, allocator, vector math, float32 kernels."""

import contextlib
import ctypes
import functools
import os
import platform
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch

from lucidlm.errors import ConfigError
from lucidlm.runtime.wording import plural


def set_threads(threads: int, *, recorded: bool = False) -> int:
    """The number of threads that PyTorch now uses: `threads`, or for 0 one for each core it may use.

    `recorded` means that the number comes from a file, perhaps of a machine with more cores.
    """
    if threads < 0:
        raise ConfigError(f"--threads {threads}: it must be 0 (all cores) or more")
    if threads > (limit := thread_limit(recorded=recorded)):
        # PyTorch would start a hundred thousand, which takes all process ids of the machine.
        here = plural(os.cpu_count() or 1, "core")
        raise ConfigError(
            f"--threads {threads}: the limit is {limit} on {here}; use 0 for one thread per core"
            if not recorded
            else f"a file asks for {threads:,} threads, the limit is {limit} on {here}; "
            "the file is damaged, or it comes from a much larger machine"
        )
    torch.set_num_threads(threads or available_processors())
    return torch.get_num_threads()


def thread_limit(*, recorded: bool = False) -> int:
    """The largest number of threads that a flag, or a file (a higher limit), may ask for."""
    few_times = 8 * (os.cpu_count() or 1)
    return max(few_times, 512) if recorded else few_times


def available_processors() -> int:
    """The number of cores that this process may use: its affinity and OMP_NUM_THREADS may lower it."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(count, int(wanted)) if wanted.isdecimal() and int(wanted) else count


@functools.cache
def settle_vector_math() -> None:
    """Calls MKL's vector functions once on one thread, so that it chooses its kernels without a race.

    Where the first call runs on several threads, one of them may use a kernel with four correct digits, for
    this one result, with no warning (pytorch/pytorch#188792).
    """
    for dtype in (torch.float32, torch.float64):
        one = torch.ones(64, dtype=dtype, device="cpu")  # too small to be split over threads
        for function in ("exp", "log", "log1p", "expm1", "sqrt", "rsqrt", "sin", "cos", "tanh", "erf"):
            getattr(torch, function)(one)


def keep_freed_memory() -> str:
    """Makes glibc keep large freed blocks for the next step; returns a line with the result.

    By default glibc maps and unmaps every tensor over 32 MB, and the system clears its pages each time: a
    sixth of a training step on two cores.
    """
    if (mallopt := _mallopt()) is None:
        return "allocator: the system's default (only glibc on Linux can keep freed memory)"
    done = mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    return f"allocator: freed memory is {'kept for the next step' if done else 'not kept (mallopt failed)'}"


def return_freed_memory() -> None:
    """Makes glibc return each freed block of 1 MB or more to the system: for commands that only move weights.

    By default glibc keeps freed blocks of up to 32 MB. Where a model's weights are read one by one, this
    leaves holes between them: 0.2 GB for 1.5 billion weights.
    """
    if (mallopt := _mallopt()) is not None:
        mallopt(_MMAP_THRESHOLD, 1 << 20)


_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # malloc.h


def _mallopt() -> Callable[[int, int], int] | None:
    """glibc's mallopt; None with another allocator."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None).mallopt


@contextlib.contextmanager
def float32_precision(name: str) -> Generator[None]:
    """A context in which oneDNN's setting for float32 matmuls is `name` ("ieee" or "bf16")."""
    matmul = _onednn_matmul()
    before = matmul.fp32_precision
    matmul.fp32_precision = name
    try:
        yield
    finally:
        matmul.fp32_precision = before


def set_float32(kernels: str) -> None:
    """Selects the kernels of float32 matmuls: PyTorch's default ("stock") or oneDNN's ("onednn")."""
    _onednn_matmul().fp32_precision = "bf16" if kernels == "onednn" else "none"


def _onednn_matmul() -> Any:
    """oneDNN's settings for matmuls."""
    # PyTorch replaces this module by an object with the attribute, which a type checker cannot see.
    return torch.backends.mkldnn.matmul  # ty: ignore[missing-attribute]


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Everything that decides how sums are rounded: if it differs, the last digits of logits may differ."""

    threads: int
    device: str
    """cpu, cuda or mps."""
    kernels: str
    """Kernels of float32 matmuls: stock, onednn, or PyTorch's name of a precision (ieee, tf32)."""
    capability: str
    """Instruction set of the CPU (AVX512) or generation of the GPU (sm_90)."""
    torch_version: str

    @classmethod
    def here(cls, device: torch.device) -> "Arithmetic":
        """The arithmetic of a model on this device now."""
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
        """One line: 1 thread, cpu AVX512, float32 kernels stock, PyTorch 2.9.1."""
        count = plural(self.threads, "thread")
        on = f"{self.device} {self.capability}" if self.capability != self.device else self.device
        return f"{count}, {on}, float32 kernels {self.kernels}, PyTorch {self.torch_version}"

    @contextlib.contextmanager
    def used(self, threads: int | None = None) -> Generator[None]:
        """A context with these kernels and threads (or `threads`), as far as this device has them."""
        before = torch.get_num_threads()
        set_threads(threads or self.threads, recorded=threads is None)
        settings = {"stock": "none", "onednn": "bf16"}
        try:
            with float32_precision(settings.get(self.kernels, _onednn_matmul().fp32_precision)):
                yield
        finally:
            torch.set_num_threads(before)
