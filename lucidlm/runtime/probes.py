"""Short measurements of this machine: a device and a dtype in; seconds, FLOP/s and rounding errors out.

Each takes its clock, or the probe it compares with, as a parameter.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from lucidlm.runtime.device import dtype_name, synchronise
from lucidlm.runtime.process import float32_precision

Clock = Callable[[], float]
"""Returns seconds."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Speed and error of one matmul of two square matrices."""

    name: str
    flops_per_s: float
    error: float
    """Largest absolute difference from the float64 result."""


def time_of(
    work: Callable[[], object],
    *,
    device: torch.device,
    seconds: float,
    least: int = 3,
    clock: Clock = time.perf_counter,
) -> float:
    """Seconds that `work` takes: the median of at least `least` runs in about `seconds`, after a warm-up."""
    work()
    synchronise(device)
    times: list[float] = []
    begin = clock()
    while len(times) < least or clock() - begin < seconds:
        start = clock()
        work()
        synchronise(device)
        times.append(clock() - start)
    return sorted(times)[len(times) // 2]


def core_share(
    *, seconds: float = 0.2, clock: Clock = time.perf_counter, used: Clock = time.thread_time
) -> float:
    """The part of a core, up to 1, that this thread gets now: other programs may use the rest."""
    began, used_before = clock(), used()
    while (wall := clock() - began) < seconds:
        pass
    return min(1.0, (used() - used_before) / wall)


def probe_matmul(
    device: torch.device, dtype: torch.dtype, *, size: int = 1024, seconds: float = 0.15
) -> Probe:
    """Speed and error of a size x size matmul in `dtype`: the peak in the formula of MFU."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator) for _ in range(2))
    here, there = left.to(device, dtype), right.to(device, dtype)
    # The fastest of three medians: the peak is what the machine can do when nothing else runs.
    seconds_each = min(time_of(lambda: here @ there, device=device, seconds=seconds / 3) for _ in range(3))
    exact = left[:16].double() @ right.double()
    error = ((here[:16] @ there).cpu().double() - exact).abs().max().item()
    return Probe(dtype_name(dtype), 2 * size**3 / seconds_each, error)


def fastest_exact_float32(
    device: torch.device, *, probe: Callable[[torch.device, torch.dtype], Probe] = probe_matmul
) -> tuple[Literal["stock", "onednn"], str]:
    """The kernels for float32 matmuls, and a line with the reason: oneDNN's where they are exact and faster.

    The setting that selects oneDNN is called bf16, and on CPUs with matrix tiles it does round to bfloat16.
    On other CPUs it only replaces MKL by oneDNN, whose kernels use all of AVX-512 on CPUs of any vendor.
    """
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return "stock", "float32: PyTorch's default kernels"
    stock = probe(device, torch.float32)
    with float32_precision("bf16"):
        routed = probe(device, torch.float32)
    # bfloat16 has 2^16 times the rounding error of float32; 4 leaves room for another order of the sum.
    exact = routed.error < 4 * stock.error
    # 10 %: less is within the noise of a probe.
    faster = routed.flops_per_s > 1.1 * stock.flops_per_s
    speeds = f"{routed.flops_per_s / 1e9:.0f} against {stock.flops_per_s / 1e9:.0f} GFLOP/s"
    if exact and faster:
        return "onednn", f"float32: oneDNN's kernels, as exact as the default and faster ({speeds})"
    if exact:
        return "stock", f"float32: PyTorch's default kernels, oneDNN's are not faster ({speeds})"
    return "stock", (
        f"float32: PyTorch's default kernels, oneDNN's round more "
        f"(error {routed.error:.1e} against {stock.error:.1e})"
    )
