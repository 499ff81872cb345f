"""TrainConfig refuses what cannot be, by the flag's name."""

import itertools
import math
import re

import pytest

from lucidlm.errors import ConfigError
from lucidlm.model.presets import Recipe
from lucidlm.runs.settings import TrainConfig


@pytest.mark.parametrize("name", ["text", "val"])
def test_one_text_and_a_tuple_of_one_are_the_same_request(name):
    assert TrainConfig(**{name: "book.txt"}) == TrainConfig(**{name: ("book.txt",)})


@pytest.mark.parametrize(
    "pair", list(itertools.combinations([("minutes", 3.0), ("steps", 10), ("epochs", 2.0)], 2))
)
def test_two_budgets_contradict_each_other_and_both_are_named(pair):
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**dict(pair))
    assert all(f"--{name}" in str(caught.value) for name, _ in pair)


@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan])
@pytest.mark.parametrize(
    "name", ["minutes", "steps", "epochs", "context_length", "batch_tokens", "micro_batch", "validate_every"]
)
def test_a_number_that_must_be_more_than_0_is_refused_with_flag_and_value(name, value):
    limits = "(more than 0|at least 1) and at most [0-9,]+"
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} {value}: it must be {limits}"):
        TrainConfig(**{name: value})


@pytest.mark.parametrize(("name", "value"), [
    ("minutes", 1e308), ("steps", 10**12), ("epochs", 1e308), ("context_length", 2**31), ("seed", 2**63),
    ("checkpoint_seconds", math.nan), ("checkpoint_seconds", -1), ("checkpoint_seconds", math.inf),
    ("seed", -1), ("micro_batch", 10**9),
])  # fmt: skip
def test_a_number_beyond_all_use_is_refused_with_flag_value_and_limit(name, value):
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} {re.escape(str(value))}: it must be "):
        TrainConfig(**{name: value})


@pytest.mark.parametrize("name", ["beta1", "beta2", "momentum", "row_beta"])
def test_a_mean_that_forgets_nothing_is_refused(name):
    with pytest.raises(
        ConfigError, match=f"--optim.{name.replace('_', '-')} 1.0: it must be at least 0 and less than 1"
    ):
        Recipe(**{name: 1.0})


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_all_or_nothing_cannot_be_held_out(value):
    with pytest.raises(ConfigError, match=f"--val-fraction {value}"):
        TrainConfig(val_fraction=value)


@pytest.mark.parametrize("value", [1.0, -0.1, math.nan])
def test_dropout_of_everything_is_refused(value):
    with pytest.raises(ConfigError, match=f"--drop-rate {value}"):
        TrainConfig(drop_rate=value)


@pytest.mark.parametrize("name", ["lr", "matrix_lr", "weight_decay", "warmup_steps", "clip"])
@pytest.mark.parametrize("value", [-1, math.inf, math.nan])
def test_a_negative_or_endless_optimizer_setting_is_refused_with_its_flag(name, value):
    with pytest.raises(ConfigError, match=f"--optim.{name.replace('_', '-')} {value}"):
        Recipe(**{name: value})


@pytest.mark.parametrize("name", ["beta1", "beta2", "momentum", "row_beta", "decay_fraction"])
@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_a_share_outside_0_to_1_is_refused_with_its_flag(name, value):
    with pytest.raises(ConfigError, match=f"--optim.{name.replace('_', '-')} {value}"):
        Recipe(**{name: value})


def test_every_message_is_one_line():
    for wrong in ({"steps": 0}, {"val_fraction": 2.0}, {"steps": 1, "epochs": 1}, {"drop_rate": 7}):
        with pytest.raises(ConfigError) as caught:
            TrainConfig(**wrong)
        assert "\n" not in str(caught.value)
