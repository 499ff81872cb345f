"""One rule for the speed of a GPU, fitted to published runs: it meets those that the fit has not seen."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from lucidlm.errors import ConfigError
from lucidlm.model.presets import preset
from lucidlm.training.gpus import ATTENTION, GPUS, MATMUL, TRAFFIC, gpu_named, mfu, seconds_per_token

ROOT = Path(__file__).parents[2]
CHECKED = {
    ("llm.c 124M", "a100-80g"), ("llm.c 124M", "h100"), ("llm.c 1558M", "h100"), ("nanochat d26", "h100"),
    ("Llama-3-8B", "h100"),
}  # fmt: skip


@pytest.fixture(scope="module")
def bench():
    """benchmarks/published.py, which fits the rule."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield importlib.import_module("published")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
        for name in ("published", "tables"):
            sys.modules.pop(name, None)


def test_the_constants_are_those_of_the_fit(bench):
    fitted = bench.fitted(bench.published())
    used = [*MATMUL.values(), *ATTENTION.values(), *TRAFFIC.values()]
    assert used == pytest.approx(fitted, rel=0.02)  # they are written with two or three digits


def test_published_runs_are_met_within_15_percent_by_the_rule_that_is_fitted_without_them(bench):
    runs = bench.published()
    checked = [run for run in runs if (run.name, run.gpu) in CHECKED]
    assert {(run.name, run.gpu) for run in checked} == CHECKED
    for run in checked:
        # Without that model on that GPU, and without all that its program has published.
        for others in (bench.without_twins(run, runs), bench.without_program(run, runs)):
            assert run not in others
            assert abs(bench.error(run, others)) <= 0.15, run


def test_most_of_the_table_that_the_rule_rests_on_is_met_within_15_percent(bench):
    runs = bench.published()
    errors = [
        abs(bench.error(run, bench.without_twins(run, runs)))
        for run in runs
        if run.source.startswith("llm-foundry")
    ]
    assert np.mean(np.array(errors) <= 0.15) > 0.9


def test_the_mfu_of_a_published_run_is_its_operations_over_the_peak(bench):
    run = next(run for run in bench.published() if run.name == "llm.c 1558M")
    # 48,600 tokens a second; 6 operations for each of 1,556 million weights, and 6 C T L for attention.
    flops = 6 * 1_556e6 + 6 * 48 * 1600 * 1024
    assert run.mfu == pytest.approx(48_600 * flops / 989.4e12, rel=0.002)


def test_a_token_takes_longer_with_checkpointing_on_slower_gpus_and_without_fused_kernels():
    model = preset("modern-1.5b").shape
    h100, a100 = GPUS["h100"], GPUS["a100-80g"]
    usual = seconds_per_token(model, h100)
    assert 1.2 < seconds_per_token(model, h100, checkpointing=True) / usual < 1.334
    assert seconds_per_token(model, a100) > usual > seconds_per_token(model, h100, program="eager")
    assert seconds_per_token(model, h100, program="eager") > seconds_per_token(model, h100, program="fused")
    assert all(
        0 < mfu(model, gpu, seconds_per_token(model, gpu, program="fused")) < 1 for gpu in GPUS.values()
    )


def test_each_gpu_has_a_source_and_an_unknown_one_is_refused_with_the_names():
    assert all(gpu.source and gpu.name == name for name, gpu in GPUS.items())
    assert gpu_named("H100") is gpu_named("h100") is GPUS["h100"]
    for name in ("v100", "", "h100 "):
        with pytest.raises(ConfigError, match="h100, h200"):
            gpu_named(name)
