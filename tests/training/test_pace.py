"""A run that is late gets another plan, and run.toml has it, so that a repetition is bitwise the same."""

from pathlib import Path
from typing import Any

import pytest
from trainings import last_of

from lucidlm.runs.run_toml import read_settings
from lucidlm.training import loop, start
from lucidlm.training.loop import train
from lucidlm.training.prediction import Compressibility, predict
from lucidlm.training.schedule import learning_rate_factor, trapezoid
from lucidlm.training.state import TrainingRun

pytestmark = pytest.mark.usefixtures("here", "quick_probes", "quick_judging")


def _hurry(monkeypatch: pytest.MonkeyPatch, **pace: Any) -> None:
    """A given plan has no deadline and has measured nothing: this one has what is given here."""
    real = start.start_run

    def start_run(*arguments: Any, **named: Any) -> TrainingRun:
        run = real(*arguments, **named)
        for name, value in pace.items():
            setattr(run.pace, name, value)
        return run

    monkeypatch.setattr(loop, "start_run", start_run)


def test_too_little_time_shortens_the_plan_and_run_toml_has_it_so_that_repeating_is_bitwise(
    make_config, make_tiny_plan, fingerprint, monkeypatch
):
    notes = []
    warming = trapezoid(100_000, warmup_steps=50_000, decay_fraction=0.4)  # its end comes before it is warm
    text = Compressibility(ppmd_2=2.5, ppmd_6=1.8, ppmd_16=1.8, unigram=4.3, digits=0.0, nats=0.7)
    with monkeypatch.context() as hurried:
        _hurry(hurried, deadline_s=2.0, text=text)
        result = train(
            make_config(),
            plan=make_tiny_plan(steps=100_000, validate_every=10**9, schedule=warming),
            watch=lambda report: notes.extend(report.notes),
        )
    assert result.time_s < 10
    assert 1 < result.step < 100_000
    moved = [note for note in notes if "slower than planned" in note]
    config, plan = read_settings(Path("run"))
    assert str(predict(text, plan)) in moved[-1]
    assert predict(text, plan).middle > predict(text, make_tiny_plan(steps=100_000)).middle
    assert plan.steps == result.step
    train(make_config(out="again"), plan=plan)
    assert fingerprint(last_of("again")) == fingerprint(last_of("run"))
    assert config.out == "run"


@pytest.mark.parametrize("warmup_steps", [0, 2])
def test_a_constant_rate_keeps_to_the_minutes_and_stays_constant(
    make_config, make_tiny_plan, monkeypatch, warmup_steps
):
    _hurry(monkeypatch, deadline_s=2.0)
    schedule = trapezoid(100_000, warmup_steps=warmup_steps, decay_fraction=0.0)
    plan = make_tiny_plan(steps=100_000, schedule=schedule, validate_every=10**9)
    result = train(make_config(), plan=plan)
    assert 1 < result.step < 100_000
    shortened = read_settings(Path("run"))[1].schedule
    assert {learning_rate_factor(shortened, step) for step in range(warmup_steps, result.step)} == {1.0}


def test_threads_that_stall_are_left_for_one_and_run_toml_has_it(
    make_config, make_tiny_plan, monkeypatch, fingerprint
):
    told = []
    with monkeypatch.context() as contended:
        # Whatever a step takes, one thread would be faster.
        _hurry(contended, deadline_s=600.0, one_thread_s=1e-9)
        result = train(
            make_config(), plan=make_tiny_plan(threads=2), watch=lambda report: told.extend(report.notes)
        )
    assert result.step == 8
    assert [note for note in told if "using 1 thread from step 3" in note]
    plan = read_settings(Path("run"))[1]
    assert plan.threads_from == ((3, 1),)
    assert [plan.threads_at(step) for step in (0, 2, 3, 7)] == [2, 2, 1, 1]
    train(make_config(out="again"), plan=plan)
    assert fingerprint(last_of("again")) == fingerprint(last_of("run"))
