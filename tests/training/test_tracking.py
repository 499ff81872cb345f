"""Trackers get each step of a run, cost it nothing where they fail, and are imported only when asked for."""

import contextlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from recorded import Recorded

from lucidlm.errors import ConfigError
from lucidlm.runs.history import METRICS, Step, Validation
from lucidlm.runs.metrics import Metrics
from lucidlm.runs.records import read_lines
from lucidlm.runs.settings import TrainConfig
from lucidlm.training.loop import train
from lucidlm.training.state import Report
from lucidlm.training.tracking import Trackers, tensorboard


def report_of(number: int, **changes) -> Report:
    step = Step(
        step=number, epoch=0.5, tokens=7, loss_nats=2.5, learning_rate_factor=0.5, grad_norm=1.0,
        tokens_per_s=9.0, mfu=0.1, time_s=1.0,
    )  # fmt: skip
    return Report(step, 10, 1.0, **changes)


STEP_VALUES = {
    "step/loss_nats": 2.5, "step/learning_rate_factor": 0.5, "step/grad_norm": 1.0, "step/tokens_per_s": 9.0,
}  # fmt: skip


def events_in(path: Path) -> list:
    """As TensorBoard itself reads them, with their checksums."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    return list(loader.LegacyEventFileLoader(str(path)).Load())


@pytest.fixture
def trackers(tmp_path, request):
    """Those of a run that asks for TensorBoard, and what they noted."""
    progress = Recorded()
    run = SimpleNamespace(folder=tmp_path, config=TrainConfig(tensorboard=True))
    return Trackers(run, None, progress), progress


def test_tensorboard_reads_the_numbers_and_texts_of_a_run(tmp_path):
    track = tensorboard(tmp_path)
    track(report_of(1))
    side = {"loss_nats": 2.0, "perplexity": 7.4, "bits_per_byte": 1.5, "tokens": 9}
    both = {f"{name}_{key}": value for name in ("validation", "training") for key, value in side.items()}
    track(report_of(2, validation=Validation(step=2, epoch=1.0, time_s=1.0, **both), sample="It was late."))
    (path,) = (tmp_path / "tensorboard").iterdir()
    first, points, more, sample = events_in(path)
    assert first.file_version == "brain.Event:2"
    assert points.step == 1
    assert {value.tag: value.simple_value for value in points.summary.value} == STEP_VALUES
    assert {value.tag for value in more.summary.value} - STEP_VALUES.keys() == {
        f"{name}/{side}"
        for name in ("loss_nats", "perplexity", "bits_per_byte")
        for side in ("validation", "training")
    }
    assert (sample.step, sample.summary.value[0].tensor.string_val) == (2, [b"It was late."])
    tensorboard(tmp_path)(report_of(3))
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


@pytest.mark.parametrize("make", [lambda place: place.write_text(""), lambda place: place.symlink_to("no/x")])
def test_a_place_for_tensorboard_that_is_no_folder_is_noted_once(tmp_path, trackers, make):
    make(tmp_path / "tensorboard")
    track, progress = trackers
    for number in (1, 2):
        track(report_of(number))
    assert len(progress.notes) == 1
    assert str(tmp_path / "tensorboard") in progress.notes[0]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limits")
def test_what_takes_no_more_bytes_is_noted_once_and_tears_no_record(tmp_path, trackers):
    import resource

    track, progress = trackers
    metrics = Metrics(tmp_path, progress=progress)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for number in range(6):
        place = next(iter((tmp_path / "tensorboard").glob("*")), None)
        size = place.stat().st_size if place is not None else 0
        limit = size + 10 if number in (0, 2, 3) else before[0]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            metrics.event("step", {"step": number, "padding": "x" * 1000})
            track(report_of(number))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(progress.notes) == 2
    assert [each.step for each in events_in(place)][1:] == [1, 4, 5]
    assert [each["step"] for each in read_lines(tmp_path / METRICS).events] == [1, 4, 5]


class FakeLibrary:
    """What wandb and trackio have in common."""

    def __init__(self, *, failing: bool = False) -> None:
        self.calls, self.failing = [], failing

    def init(self, *, project, name, config):
        self.calls.append(("init", project, name, config["plan"]["steps"]))

    def log(self, values, *, step):
        if self.failing:
            raise ConnectionError("no network")
        self.calls.append(("log", step, values))

    def finish(self):
        self.calls.append(("finish",))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
@pytest.mark.parametrize("failing", [False, True])
def test_a_tracker_gets_each_step_and_one_that_fails_is_noted_once(
    tmp_path, make_tiny_plan, monkeypatch, name, failing
):
    monkeypatch.setitem(sys.modules, name, library := FakeLibrary(failing=failing))
    run = SimpleNamespace(folder=tmp_path / "run", config=TrainConfig(track=name), plan=make_tiny_plan())
    with contextlib.ExitStack() as stack:
        track = Trackers(run, stack, progress := Recorded())
        for number in (1, 2):
            track(report_of(number))
    logged = [] if failing else [("log", 1, STEP_VALUES), ("log", 2, STEP_VALUES)]
    assert library.calls == [("init", "lucidlm", "run", 8), *logged, ("finish",)]
    assert len([line for line in progress.notes if "no network" in line]) == failing


def test_a_run_gives_its_reports_to_the_tracker_that_it_asks_for(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", library := FakeLibrary())
    monkeypatch.setitem(sys.modules, "trackio", None)  # an import would raise
    run(track="wandb")
    logs = [call for call in library.calls if call[0] == "log"]
    assert [step for _, step, _ in logs] == [0, 1, 2, 3, 4]
    validated = [step for _, step, values in logs if "loss_nats/validation" in values]
    assert validated == [0, 2, 4]


@pytest.mark.usefixtures("here")
def test_a_tracker_that_is_not_installed_is_refused_before_any_work(make_config, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ConfigError, match=r"lucidlm\[track\]"):
        train(make_config(track="trackio"))
    assert not Path("run").exists()
