"""The list of runs has each run, how it ended, and its numbers."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
from trainings import begun_run

from lucidlm.runs.listing import list_runs, row_of, state_of
from lucidlm.runs.run_toml import write_settings
from lucidlm.runtime.locks import lock

pytestmark = pytest.mark.usefixtures("empty_folder")


def test_runs_are_listed_newest_first_wherever_they_lie():
    for age, name in enumerate(["runs/c", "runs/deep/er/a", "runs/b"]):
        folder = begun_run(name)
        os.utime(folder / "run.toml", (1000 - age, 1000 - age))
        (folder / "checkpoints/step_000001").mkdir(parents=True)
        (folder / "checkpoints/step_000001/run.toml").touch()
    (Path("runs/c") / "metrics.jsonl").write_text(json.dumps({"event": "step"}))
    os.utime("runs/c/metrics.jsonl", (10, 10))
    assert list(list_runs(Path("runs"))) == [Path("runs/c"), Path("runs/deep/er/a"), Path("runs/b")]
    os.utime("runs/b/run.toml", (5000, 5000))
    assert next(list_runs(Path("runs"))) == Path("runs/b")


def test_no_runs_are_an_empty_list():
    assert list(list_runs(Path("nowhere"))) == []


def _with_events(run: Path, *events: dict) -> Path:
    lines = (json.dumps(event) + "\n" for event in events)
    (run / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    return run


STEP = {
    "event": "step", "step": 7, "epoch": 0.5, "tokens": 64, "loss_nats": 3.0, "learning_rate_factor": 1.0,
    "grad_norm": 1.0, "tokens_per_s": 1e3, "mfu": None, "time_s": 1.0,
}  # fmt: skip


def test_a_run_with_an_end_is_finished_one_without_was_interrupted_one_that_is_held_is_training():
    run = _with_events(begun_run(), STEP)
    assert state_of(run).status == "interrupted"
    with lock(run):
        assert state_of(run).status == "training"
    (run.parent / f".{run.name}.lock").write_text("what a killed process left")
    assert state_of(run).status == "interrupted"
    _with_events(run, STEP, {"event": "end", "step": 7, "interrupted": 0, "time_s": 2.0})
    assert state_of(run).status == "finished"
    assert state_of(run).sentence(run) == ""


def test_an_interrupted_run_says_where_how_and_what_goes_on_with_it():
    run = _with_events(begun_run(), STEP, {"event": "end", "step": 7, "interrupted": 15, "time_s": 2.0})
    state = state_of(run)
    assert (state.status, state.step, state.signal) == ("interrupted", 7, 15)
    told = state.sentence(run)
    assert "was interrupted at step 7 by SIGTERM:" in told
    assert "at step 7 by Ctrl-C (SIGINT):" in dataclasses.replace(state, signal=2).sentence(run)
    assert "lucidlm train --resume --out run" in told


def test_a_row_of_the_list_has_status_dtype_and_threads(make_tiny_plan, make_config):
    run = _with_events(begun_run(), STEP)
    plan = dataclasses.replace(make_tiny_plan(steps=20), threads=3, threads_from=((5, 1),))
    write_settings(run, make_config(), plan)
    row = row_of(run)
    assert {key: row[key] for key in ("status", "steps", "planned_steps", "dtype", "threads")} == {
        "status": "interrupted",
        "steps": 7,
        "planned_steps": 20,
        "dtype": "float32",
        "threads": 1,
    }
    assert row["best_step"] is None


VALIDATION = {
    "event": "validation", "step": 7, "epoch": 0.5, "time_s": 1.0, "validation_loss_nats": 3.0,
    "validation_perplexity": 20.0, "validation_bits_per_byte": 2.0, "validation_tokens": 100,
    "training_loss_nats": 2.9, "training_perplexity": 18.0, "training_bits_per_byte": 1.9,
    "training_tokens": 100, "heldout_tokens": 900,
}  # fmt: skip


FINAL = {
    "loss_nats": 3.2, "perplexity": 24.5, "bits_per_byte": 2.2, "bits_low": 2.1, "bits_high": 2.3,
    "tokens": 900, "heldout_tokens": 900,
}  # fmt: skip


def test_a_finished_run_has_the_numbers_of_its_evaluation_and_any_other_those_of_its_best_validation():
    names = (
        "best_step",
        "validation_loss_nats",
        "bits_per_byte",
        "bits_low",
        "validation_tokens",
        "heldout_tokens",
    )
    end = {"event": "end", "step": 7, "interrupted": 0, "time_s": 2.0}

    run = begun_run()

    def numbers(*events):
        row = row_of(_with_events(run, STEP, VALIDATION, *events))
        return tuple(row[name] for name in names)

    sampled = (7, 3.0, 2.0, None, 100, 900)
    assert numbers() == sampled
    assert numbers(end) == sampled  # of an older version
    assert numbers(end | {"final": FINAL}) == (7, 3.2, 2.2, 2.1, 900, 900)
    # What was evaluated before a run went on is no number of the run now.
    assert numbers(end | {"final": FINAL}, STEP | {"step": 8}) == sampled


def test_settings_of_a_newer_version_do_not_hide_the_run_from_the_list():
    run = _with_events(begun_run(), STEP)
    (run / "run.toml").write_text("steps = 1\nlater_setting = 2\n")
    assert row_of(run)["dtype"] is None
    assert row_of(run)["status"] == "interrupted"
