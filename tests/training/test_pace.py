"""A run that is late gets another plan, and run.toml has it, so that a repetition is bitwise the same."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from trainings import last_of

from lucidlm.runs.run_toml import read_settings
from lucidlm.training import loop, pace, start
from lucidlm.training.loop import train
from lucidlm.training.pace import Pace
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


def test_a_plan_of_a_former_version_changes_its_threads_where_it_says(
    make_config, make_tiny_plan, monkeypatch
):
    used = []
    monkeypatch.setattr(loop, "set_threads", lambda threads, *, recorded: used.append(threads))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 0)
    plan = make_tiny_plan(threads=2, threads_from=((3, 1),))
    assert [plan.threads_at(step) for step in (0, 2, 3, 7)] == [2, 2, 1, 1]
    train(make_config(), plan=plan)
    assert used == [2, 2, 2, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("used", "now", "effort"), [(1.9, 1.0, 1.0), (0.95, 1.0, 1.0), (0.3, 1.0, 0.3), (1.9, 0.4, 0.4)]
)
def test_a_run_whose_cores_were_its_own_spares_no_work_at_its_end(monkeypatch, used, now, effort):
    monkeypatch.setattr(pace, "core_share", lambda: now)
    time = [0.0]
    its = Pace(clock=lambda: time[0], used=lambda: used * time[0], deadline_s=100.0)
    time[0] = 90.0
    assert its.effort() == pytest.approx(effort)


def test_what_the_workers_compute_counts_as_the_runs(monkeypatch):
    monkeypatch.setattr(pace, "core_share", lambda: 1.0)
    seconds = [0.0]
    its = Pace(deadline_s=100.0, clock=lambda: seconds[0])
    before = its.used()
    worker = threading.Thread(target=lambda: sum(range(3_000_000)))
    worker.start()
    worker.join()
    assert its.used() - before > 0
    seconds[0] = its.used() - before
    assert its.effort() == 1.0
