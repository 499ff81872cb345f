"""Runs of several seeds have one plan, differ in the seed alone, and go on where they were."""

import math
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from lucidlm.errors import ConfigError, RunError
from lucidlm.runs.run_toml import read_settings
from lucidlm.training.seeds import train_seeds


@pytest.fixture
def small(run, make_config, make_tiny_plan):
    """Request and plan of a few steps; the fixture `run` has made their end quick."""
    return make_config(seed=7), make_tiny_plan(steps=4, validate_every=2, validation_tokens=32)


def test_each_seed_has_a_run_of_one_plan_and_the_spread_is_theirs(small):
    config, plan = small
    spread = train_seeds(config, 3, plan=plan)
    folders = [Path(f"run-seed{seed}") for seed in (7, 8, 9)]
    assert [each.run for each in spread.results] == folders
    settings = [read_settings(folder) for folder in folders]
    assert [asked.seed for asked, _ in settings] == [7, 8, 9]
    assert all(planned == settings[0][1] for _, planned in settings)
    losses = [each.evaluation.loss_nats for each in spread.results]
    assert len(set(losses)) == 3
    found = spread.to_dict()
    assert found["n"] == 3
    assert found["loss_nats_mean"] == pytest.approx(math.fsum(losses) / 3)
    assert found["loss_nats_sd"] == pytest.approx(statistics.stdev(losses))
    assert f"{found['bits_per_byte_mean']:.4f}" in str(spread)


def test_what_is_there_is_refused_before_any_training_and_resumed_where_asked(small):
    config, plan = small
    train_seeds(config, 2, plan=plan)
    with pytest.raises(RunError, match="run-seed8"):
        train_seeds(replace(config, seed=8), 2, plan=plan)
    assert not Path("run-seed9").exists()
    spread = train_seeds(replace(config, seed=123), 3, resume=True)
    assert [each.run.name for each in spread.results] == ["run-seed7", "run-seed8", "run-seed9"]
    assert read_settings(Path("run-seed9"))[1] == read_settings(Path("run-seed7"))[1]


@pytest.mark.parametrize("seeds", [0, 1, 101])
def test_a_number_of_seeds_that_has_no_spread_is_refused(small, seeds):
    with pytest.raises(ConfigError, match="--seeds"):
        train_seeds(small[0], seeds)


def test_nothing_to_resume_is_said_by_the_name_that_was_given(small):
    with pytest.raises(RunError, match="nowhere"):
        train_seeds(replace(small[0], out="nowhere"), 2, resume=True)
