"""The learning rate is where its corners say, at each step, and keeps its past where its end is moved."""

import random
from dataclasses import replace

import numpy as np
import pytest

from lucidlm.training.schedule import learning_rate_factor, moved, shortened, trapezoid


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
