"""What stops a save, a page or a beginning costs no training: it is said, and what the line advises works."""

import errno
import os
import shutil
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from recorded import Recorded
from trainings import last_of

from lucidlm.errors import RunError
from lucidlm.report.assessment import Background, assess
from lucidlm.runs import metrics
from lucidlm.runs.checkpoints import checkpoint_folders, sweep
from lucidlm.runs.folder import bring_back, new_run_folder, set_aside
from lucidlm.training import finish, loop, saving, start
from lucidlm.training.loop import train
from lucidlm.weights.whole import SETTINGS

pytestmark = pytest.mark.usefixtures("here", "quick_probes", "quick_judging")


def _dead() -> int:
    """The number of a process that is no more."""
    child = os.fork() if hasattr(os, "fork") else 0
    if hasattr(os, "fork") and child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


@pytest.fixture(autouse=True)
def _judged_in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def assess_alone(model, tokenizer, text, background, **_):
        return assess(model, tokenizer, text, Background())

    monkeypatch.setattr(finish, "assess", assess_alone)


@pytest.fixture
def interrupted(make_config, make_tiny_plan) -> Path:
    """A run that a signal ended after its first step."""

    def watch(report) -> None:
        if report.step.step == 1:
            signal.raise_signal(signal.SIGTERM)

    return train(make_config(), plan=make_tiny_plan(steps=2, validate_every=2), watch=watch).run


def test_a_page_that_cannot_be_written_loses_no_number_and_is_said(interrupted, make_config, monkeypatch):
    def full(*arguments, **named):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(finish, "write_card", full)
    monkeypatch.setattr(finish, "write_report", full)
    told = []
    result = train(
        make_config(), resume=True, answer=lambda each: told.append(each.assessment), progress=Recorded(told)
    )
    assert result.assessment in told
    lines = [line for line in told if isinstance(line, str) and "could not be written" in line]
    assert lines == list(result.problems) == told[-2:]
    assert "run/README.md could not be written: No space left on device (" in lines[0]
    assert "run/report.html" in lines[1]


def test_memory_that_runs_out_while_judging_costs_no_run_and_resuming_judges(
    interrupted, make_config, monkeypatch
):
    real = finish.assess

    def assess_alone(*arguments, **named):
        raise MemoryError

    monkeypatch.setattr(finish, "assess", assess_alone)
    told = []
    result = train(make_config(), resume=True, progress=Recorded(told))
    assert (result.interrupted, result.step, result.assessment) == (0, 2, None)
    assert result.problems == tuple(told[-1:])
    assert "lucidlm train --resume --out run" in told[-1]
    monkeypatch.setattr(finish, "assess", real)
    assert train(make_config(), resume=True).assessment is not None


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send")
def test_a_signal_while_judging_ends_it_and_resuming_judges(interrupted, make_config, monkeypatch):
    real = finish.assess

    def assess_alone(*arguments, **named):
        signal.raise_signal(signal.SIGHUP)
        raise AssertionError("judged on in spite of the signal")

    monkeypatch.setattr(finish, "assess", assess_alone)
    result = train(make_config(), resume=True)
    assert (result.interrupted, result.step, result.assessment) == (signal.SIGHUP, 2, None)
    monkeypatch.setattr(finish, "assess", real)
    monkeypatch.setattr(finish, "write_report", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    told = []
    result = train(make_config(), resume=True, answer=told.append)
    assert (result.interrupted, told[0].assessment) == (signal.SIGINT, result.assessment)
    assert result.assessment is not None


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send")
@pytest.mark.parametrize("place", ["corpus_for", "apply", "write_settings", "save_first"])
def test_a_signal_before_the_first_step_leaves_nothing_that_blocks(
    make_config, make_tiny_plan, monkeypatch, place
):
    from lucidlm.runtime.signals import Interrupted

    real = getattr(start, place)

    def signalled(*arguments, **named):
        real(*arguments, **named)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(start, place, signalled)
    with pytest.raises(Interrupted, match="nothing was trained: run the same command again"):
        train(make_config(), plan=make_tiny_plan())
    assert os.listdir() == ["book.txt"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send")
def test_a_signal_in_a_validation_ends_it_and_resuming_begins_with_it(
    make_config, make_tiny_plan, monkeypatch, timeless
):
    plan, real = make_tiny_plan(steps=4, validate_every=2), loop.write_sample
    # What the end says is not asked for here.
    monkeypatch.setattr(finish, "assess", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    train(make_config(out="whole"), plan=plan)

    def write_sample(*arguments, step, **named):
        if step == 2 and "resumed" not in told:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments, step=step, **named)

    told: list[str] = []
    monkeypatch.setattr(loop, "write_sample", write_sample)
    stopped = train(make_config(), plan=plan)
    assert (stopped.step, checkpoint_folders(stopped.run)[-1].name) == (2, "step_000002")
    told.append("resumed")
    train(make_config(), resume=True)
    assert timeless(Path("run")) == timeless(Path("whole"))
    assert Path("run/samples.jsonl").read_bytes() == Path("whole/samples.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("train_step", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")),
        ("validate", MemoryError()),
    ],
    ids=["train_step", "validate"],
)
def test_where_memory_runs_out_the_last_checkpoint_stands_and_resuming_is_bitwise(
    make_config, make_tiny_plan, monkeypatch, timeless, place, error
):
    plan, config = make_tiny_plan(steps=3, validate_every=3), make_config(checkpoint_seconds=0)
    monkeypatch.setattr(saving, "SAVING_SHARE", 1e9)
    monkeypatch.setattr(finish, "assess", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    whole = train(make_config(out="whole"), plan=plan)
    real = getattr(loop, place)

    def failing(*arguments, step, **named):
        if step >= 2:
            raise error
        return real(*arguments, step=step, **named)

    with monkeypatch.context() as patch:
        patch.setattr(loop, place, failing)
        with pytest.raises(RunError, match=r"out of memory.* the checkpoint of step 2 remains: .* --resume"):
            train(config, plan=plan)
    assert train(make_config(), resume=True).step == whole.step
    assert timeless(Path("run")) == timeless(Path("whole"))


def test_another_error_of_a_step_is_not_taken_for_one_of_memory(make_config, make_tiny_plan, monkeypatch):
    def failing(*arguments, **named):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(loop, "train_step", failing)
    with pytest.raises(RuntimeError, match="mat1"):
        train(make_config(), plan=make_tiny_plan())


# What killed processes leave


def test_a_beginning_is_what_stands_before_run_toml_does_and_the_rest_of_writing_it():
    run = Path("run")
    names = ("data/train.npy", "metrics.jsonl", "env.json")
    for name in (*names, ".env.json.7.tmp", ".run.toml.4711.tmp", ".lucidlm.12.tmp"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("")
        for overwrite in (False, True):
            assert new_run_folder("run", (), overwrite=overwrite) == run
    (run / ".letter.txt.4711.tmp").write_text("")  # not of ours
    with pytest.raises(RunError, match="choose another"):
        new_run_folder("run", (), overwrite=False)


def test_what_killed_saves_left_is_swept_by_the_next_run_and_what_was_moved_aside_comes_back():
    run = Path("run")
    standing = run / "checkpoints" / "step_000002"
    for folder in (
        standing,
        run / "checkpoints" / ".step_000004.tmp",
        run / "checkpoints" / ".step_000001.old",
    ):
        folder.mkdir(parents=True)
        (folder / "state.json").write_text("{}")
    (run / "checkpoints" / ".step_000002.old").mkdir()
    (run / ".data.tmp").mkdir()
    for name in (
        ".model.safetensors.17.tmp",
        f".run.toml.{os.getpid()}.tmp",
        "checkpoints/step_000002/.x.3.tmp",
    ):
        (run / name).write_text("half")
    (run / "notes.tmp").write_text("mine")
    (run / SETTINGS).write_text("")
    sweep(run)
    assert sorted(path.name for path in run.rglob("*")) == [
        "checkpoints", "notes.tmp", "run.toml", "state.json", "state.json", "step_000001", "step_000002"
    ]  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process that is no more")
def test_a_file_is_written_without_the_leavings_of_dead_processes_and_with_those_of_living_ones():
    from lucidlm.runtime.files import write_atomically

    leavings = {f".a.html.{_dead()}.tmp": False, f".a.html.{os.getppid()}.tmp": True, ".b.html.9.tmp": True}
    for name in leavings:
        Path(name).write_text("half")
    write_atomically("a.html", "whole")
    assert {name: Path(name).exists() for name in leavings} == leavings


def test_a_run_that_was_to_be_overwritten_comes_back_unless_its_successor_has_a_checkpoint():
    run = Path("run")
    for began in (False, True):
        (run / "checkpoints" / "step_000003").mkdir(parents=True)
        (run / SETTINGS).write_text("first")
        set_aside(run)
        (run / "data").mkdir(parents=True)
        if began:
            (run / "checkpoints" / "step_000000").mkdir(parents=True)
        (run / SETTINGS).write_text("second")
        bring_back(run)
        assert (run / SETTINGS).read_text() == ("second" if began else "first")
        assert sorted(os.listdir()) == ["book.txt", "run"]
        shutil.rmtree(run)


def test_a_limit_on_the_size_of_files_is_found_before_the_first_step(
    make_config, make_tiny_plan, monkeypatch
):
    monkeypatch.setattr(start, "largest_file_bytes", lambda: 20_000)
    with pytest.raises(RunError, match=r"run: files of at most 20,000 bytes .*ulimit -f.*; raise the limit"):
        train(make_config(), plan=make_tiny_plan())
    assert os.listdir() == ["book.txt"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limits")
def test_an_array_and_tensors_that_do_not_fit_are_errors_with_a_name():
    import resource

    import numpy as np
    import torch

    from lucidlm.text.token_file import write_array, write_tokens
    from lucidlm.weights.tensor_files import write_tensors

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        for write in (
            lambda: write_array("a.npy", np.zeros(100)),
            lambda: write_tokens("b.npy", [np.zeros(1000, np.int64)], 257),
            lambda: write_tensors("c.safetensors", {"x": torch.zeros(())} | {"y": torch.zeros(100)}),
        ):
            with pytest.raises(OSError, match=r"File too large: '[abc]\.") as caught:
                write()
            assert caught.value.errno == errno.EFBIG
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_for_metrics_stops_no_training_and_is_said_once_a_file(
    make_config, make_tiny_plan, undisturbed, monkeypatch, fingerprint
):
    whole = undisturbed(make_tiny_plan())

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(metrics, "append_whole", full)
    said = []
    result = train(make_config(), plan=make_tiny_plan(), progress=Recorded(said))
    assert result.step == 8
    assert fingerprint(last_of("run")) == fingerprint(last_of(whole))
    told = [line.partition(" ")[0] for line in said if "No space left" in line]
    assert told == ["run/metrics.jsonl", "run/samples.jsonl"]  # each once


def test_a_save_that_fails_midway_is_a_note_and_the_run_goes_on(
    make_config, make_tiny_plan, undisturbed, monkeypatch, save_always, fingerprint
):
    whole = undisturbed(make_tiny_plan())
    real, failing = saving.save_checkpoint, {2: 28, 3: 28, 4: 28, 5: 5}

    def sometimes(run, step, **named):
        if step in failing:
            raise OSError(failing[step], os.strerror(failing[step]), f"run/.step_{step}.tmp/x")
        return real(run, step, **named)

    monkeypatch.setattr(saving, "save_checkpoint", sometimes)
    reports = []
    result = train(make_config(checkpoint_seconds=0), plan=make_tiny_plan(), watch=reports.append)
    assert (result.step, result.problems) == (8, ())
    noted = {report.step.step: " ".join(report.notes) for report in reports if report.notes}
    assert noted.keys() == {2, 5, 6}  # each reason once
    assert "run/.step_2.tmp/x: No space left on device" in noted[2]
    assert "Input/output error" in noted[5]
    assert "saved again" in noted[6]
    assert fingerprint(last_of("run")) == fingerprint(last_of(whole))


def test_a_save_in_the_background_writes_the_step_that_it_was_made_at(
    make_config, make_tiny_plan, monkeypatch, save_always, fingerprint
):
    real, written, taken = saving.save_checkpoint, {}, {}

    def recorded(run, step, *, slowly: bool, **named):
        if slowly and step:  # until training has gone on
            begun.append(step)
            assert passed[step].wait(60)
        folder = real(run, step, **named)
        (written if slowly else taken)[step] = fingerprint(folder)
        ended[step].set()
        return folder

    def watch(report):
        if (step := report.step.step) > 1:
            passed[step - 1].set()
            for before in [each for each in begun if each < step]:  # so that the next save can begin
                assert ended[before].wait(60)

    begun = []
    passed, ended = ({step: threading.Event() for step in range(9)} for _ in range(2))
    passed[8].set()  # nothing comes after the last
    monkeypatch.setattr(saving, "save_checkpoint", partial(recorded, slowly=False))
    train(make_config(checkpoint_seconds=0, out="at once"), plan=make_tiny_plan())
    monkeypatch.setattr(saving, "save_checkpoint", partial(recorded, slowly=True))
    monkeypatch.setattr(saving, "in_background", lambda run: True)
    result = train(make_config(checkpoint_seconds=0), plan=make_tiny_plan(), watch=watch)
    assert (result.step, result.problems) == (8, ())
    assert 8 in written
    assert len(written) > 3
    assert written == {step: taken[step] for step in written}


def test_a_save_in_the_background_that_fails_is_reported_and_never_chosen(
    make_config, make_tiny_plan, monkeypatch, save_always
):
    real = saving.save_checkpoint

    def sometimes(run, step, **named):
        if step in (3, 4):
            raise OSError(28, "No space left on device", f"run/.step_{step}.tmp/x")
        return real(run, step, **named)

    monkeypatch.setattr(saving, "save_checkpoint", sometimes)
    monkeypatch.setattr(saving, "in_background", lambda run: True)
    reports = []

    def watch(report):
        reports.append(report)
        time.sleep(0.1)  # so that each save ends within a step

    result = train(make_config(checkpoint_seconds=0), plan=make_tiny_plan(), watch=watch)
    assert (result.step, result.problems) == (8, ())
    noted = {report.step.step: " ".join(report.notes) for report in reports if report.notes}
    assert "run/.step_3.tmp/x: No space left on device" in noted[4]
    assert "the last checkpoint is of step 2" in noted[4]
    assert "saved again" in noted[6]
    assert sorted(folder.name for folder in Path("run/checkpoints").iterdir())[-1] == "step_000008"


def test_a_first_save_that_fails_ends_the_run_before_it_trained_and_leaves_no_folder(
    make_config, make_tiny_plan, monkeypatch
):
    def never(run, step, **named):
        raise OSError(27, "File too large", "run/x")

    monkeypatch.setattr(saving, "save_checkpoint", never)
    with pytest.raises(RunError, match=r"run: .*run/x: File too large.*nothing was trained; .*another --out"):
        train(make_config(), plan=make_tiny_plan())
    assert not Path("run").exists()
