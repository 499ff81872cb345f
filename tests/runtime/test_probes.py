"""What a probe concludes from given times, speeds and errors; the clock and the probe are parameters."""

import itertools

import pytest
import torch

from lucidlm.runtime.probes import (
    Probe,
    core_share,
    fastest_exact_float32,
    probe_matmul,
    time_of,
)

CPU = torch.device("cpu")


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
@pytest.mark.parametrize(
    ("speed", "error", "kernels"),
    [
        (2.0, 1.0, "onednn"),
        (2.0, 3.9, "onednn"),  # another order of the sum
        (1.05, 1.0, "stock"),  # within the noise
        (2.0, 1000.0, "stock"),  # it rounds to bfloat16
    ],
)
def test_onednn_is_taken_where_it_is_exact_and_faster(speed, error, kernels):
    def probe(device: torch.device, dtype: torch.dtype) -> Probe:
        routed = torch.backends.mkldnn.matmul.fp32_precision == "bf16"
        return Probe("float32", 1e9 * (speed if routed else 1), 1e-5 * (error if routed else 1))

    before = torch.backends.mkldnn.matmul.fp32_precision
    assert fastest_exact_float32(CPU, probe=probe)[0] == kernels
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_no_probe_is_made_where_there_is_no_choice():
    assert fastest_exact_float32(torch.device("meta"), probe=lambda *_: 1 / 0)[0] == "stock"


def test_a_matmul_in_float32_is_more_exact_than_in_bfloat16():
    exact, rounded = (
        probe_matmul(CPU, dtype, size=64, seconds=0.003) for dtype in (torch.float32, torch.bfloat16)
    )
    assert exact.error < 1e-3 < rounded.error
    assert exact.flops_per_s > 0
    assert (exact.name, rounded.name) == ("float32", "bfloat16")


def test_a_time_is_the_median_after_a_run_that_does_not_count():
    now, done = [0.0], []
    lengths = iter([100.0, 1.0, 9.0, 2.0])

    def work() -> None:
        done.append(1)
        now[0] += next(lengths)

    assert time_of(work, device=CPU, seconds=5, least=3, clock=lambda: now[0]) == 2.0
    assert len(done) == 4


def test_the_share_of_a_core_is_the_time_of_this_thread_in_that_of_the_clock():
    wall, used = itertools.count(0, 0.1), itertools.count(0, 0.1)
    assert core_share(clock=lambda: next(wall), used=lambda: next(used)) == pytest.approx(0.1 / 0.2)
