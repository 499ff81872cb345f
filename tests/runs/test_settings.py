"""TrainConfig refuses what cannot be, by the flag's name; the learning rate's line is where it should be."""

import itertools
import math
import random
import re
from dataclasses import replace

import numpy as np
import pytest

from lucidlm.errors import ConfigError
from lucidlm.model.presets import Recipe
from lucidlm.runs.settings import (
    TrainConfig,
    learning_rate_factor,
    moved,
    shortened,
    trapezoid,
)


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


@pytest.mark.parametrize("name", ["beta1", "beta2", "momentum"])
def test_a_mean_that_forgets_nothing_is_refused(name):
    with pytest.raises(ConfigError, match=f"--optim.{name} 1.0: it must be at least 0 and less than 1"):
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


@pytest.mark.parametrize("name", ["beta1", "beta2", "momentum", "decay_fraction"])
@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_a_share_outside_0_to_1_is_refused_with_its_flag(name, value):
    with pytest.raises(ConfigError, match=f"--optim.{name.replace('_', '-')} {value}"):
        Recipe(**{name: value})


def test_every_message_is_one_line():
    for wrong in ({"steps": 0}, {"val_fraction": 2.0}, {"steps": 1, "epochs": 1}, {"drop_rate": 7}):
        with pytest.raises(ConfigError) as caught:
            TrainConfig(**wrong)
        assert "\n" not in str(caught.value)


def test_the_learning_rate_is_the_straight_line_through_its_corners():
    generator = np.random.default_rng(0)
    for _ in range(50):
        corners = sorted(set(generator.integers(-5, 100, size=generator.integers(1, 6)).tolist()))
        schedule = tuple((at, float(generator.random())) for at in corners)
        steps = range(-10, 110)
        expected = np.interp(list(steps), corners, [factor for _, factor in schedule])
        np.testing.assert_allclose(
            [learning_rate_factor(schedule, step) for step in steps], expected, atol=1e-12
        )


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("warmup_steps", [0, 1, 2, 20, 5000])
@pytest.mark.parametrize("decay_fraction", [0.0, 0.3, 0.6, 1.0])
def test_every_step_of_a_trapezoid_moves_and_none_exceeds_the_peak(steps, warmup_steps, decay_fraction):
    schedule = trapezoid(steps, warmup_steps=warmup_steps, decay_fraction=decay_fraction)
    factors = [learning_rate_factor(schedule, step) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    peak = factors.index(max(factors))
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert learning_rate_factor(schedule, steps) == (0.0 if decay_fraction else factors[-1])


def test_a_trapezoid_rises_in_the_warm_up_stays_and_falls_in_its_last_part():
    schedule = trapezoid(100, warmup_steps=10, decay_fraction=0.4)
    factors = [learning_rate_factor(schedule, step) for step in range(101)]
    np.testing.assert_allclose(factors[:10], np.arange(1, 11) / 10)
    np.testing.assert_allclose(factors[10:61], 1.0)
    np.testing.assert_allclose(factors[60:101], np.linspace(1, 0, 41), atol=1e-12)


def test_no_warm_up_and_no_decay_is_a_constant_rate():
    schedule = trapezoid(50, warmup_steps=0, decay_fraction=0.0)
    assert {learning_rate_factor(schedule, step) for step in range(60)} == {1.0}


@pytest.mark.parametrize("at", [5, 30, 60, 75])
def test_a_shortened_line_is_the_same_before_and_goes_straight_to_0_after(at):
    schedule = trapezoid(100, warmup_steps=10, decay_fraction=0.4)
    shorter = shortened(schedule, step=at, steps=80)
    before = range(at + 1)
    assert [learning_rate_factor(shorter, step) for step in before] == pytest.approx(
        [learning_rate_factor(schedule, step) for step in before]
    )
    start = learning_rate_factor(schedule, at)
    after = [learning_rate_factor(shorter, step) for step in range(at, 81)]
    np.testing.assert_allclose(after, np.linspace(start, 0, 81 - at), atol=1e-12)


def test_a_decay_shorter_than_a_step_leaves_the_rate_at_its_peak():
    schedule = trapezoid(12, warmup_steps=0, decay_fraction=0.01)
    assert [learning_rate_factor(schedule, step) for step in range(12)] == [1.0] * 12


def test_a_decay_moved_to_another_end_keeps_the_past_and_gives_a_plan_again_and_again(make_tiny_plan):
    draw = random.Random(3)
    for _ in range(300):
        steps = draw.randrange(3, 60)
        warmup, fraction = draw.randrange(0, steps), draw.choice((0.2, 0.5, 0.9))
        plan = make_tiny_plan(
            steps=steps, schedule=trapezoid(steps, warmup_steps=warmup, decay_fraction=fraction)
        )
        for _ in range(3):
            if plan.decay_from < 1:
                break
            step, before = draw.randrange(plan.decay_from), plan
            steps = draw.randrange(step + 1, 90)
            down = max(step, plan.decay_from * steps // plan.steps)
            plan = replace(plan, steps=steps, schedule=moved(plan.schedule, down=down, steps=steps))
            old, new = (
                [learning_rate_factor(each.schedule, at) for at in range(down + 1)] for each in (before, plan)
            )
            top = min(down, before.decay_from)
            assert new[: top + 1] == pytest.approx(old[: top + 1])
            assert new[top:] == pytest.approx([old[top]] * (down - top + 1))
            assert learning_rate_factor(plan.schedule, steps) == 0.0
            assert plan.decay_from == down


def test_a_decay_moved_on_the_flat_part_leaves_no_corner_there():
    line = ((-1, 0.0), (8, 1.0), (12, 1.0), (18, 0.0))
    assert moved(line, down=20, steps=30) == ((-1, 0.0), (8, 1.0), (20, 1.0), (30, 0.0))
    assert moved(line, down=10, steps=15) == ((-1, 0.0), (8, 1.0), (10, 1.0), (15, 0.0))
    assert moved(line, down=5, steps=11) == ((-1, 0.0), (5, pytest.approx(2 / 3)), (11, 0.0))
