"""TensorBoard's files hold what a run tells, and cost it nothing where they cannot be written."""

import os
from pathlib import Path

import pytest
from recorded import Recorded

from lucidlm.runs.curves import Curves
from lucidlm.runs.history import METRICS, Step
from lucidlm.runs.metrics import Metrics
from lucidlm.runs.records import read_lines


@pytest.fixture
def make_step():
    def make(number: int) -> Step:
        return Step(
            step=number, epoch=0.5, tokens=7, loss_nats=2.5, learning_rate_factor=0.5, grad_norm=1.0,
            tokens_per_s=9.0, mfu=0.1, time_s=1.0,
        )  # fmt: skip

    return make


def events_in(path: Path) -> list:
    """As TensorBoard itself reads them, with their checksums."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    return list(loader.LegacyEventFileLoader(str(path)).Load())


def test_tensorboard_reads_the_numbers_and_texts_of_a_run(tmp_path, make_step):
    told = Recorded()
    metrics = Metrics(tmp_path, tensorboard=True, progress=told)
    metrics.step(make_step(1))
    metrics.sample({"prompt": "It was ", "text": "late.", "step": 2})
    first, points, sample = events_in(metrics.curves.path)
    assert first.file_version == "brain.Event:2"
    assert points.step == 1
    assert {value.tag: value.simple_value for value in points.summary.value} == {
        "step/loss_nats": 2.5, "step/learning_rate_factor": 0.5, "step/grad_norm": 1.0,
        "step/tokens_per_s": 9.0,
    }  # fmt: skip
    assert (sample.step, sample.summary.value[0].tensor.string_val) == (2, [b"It was late."])
    assert Curves(tmp_path).path != metrics.curves.path
    assert not told.notes


@pytest.mark.parametrize("make", [lambda place: place.write_text(""), lambda place: place.symlink_to("no/x")])
def test_a_place_for_tensorboard_that_is_no_folder_is_said_once_and_the_rest_written(
    tmp_path, make_step, make
):
    make(tmp_path / "tensorboard")
    told: list[str] = []
    metrics = Metrics(tmp_path, tensorboard=True, progress=Recorded(told))
    for number in (1, 2):
        metrics.step(make_step(number))
    assert len(told) == 1
    assert f"{tmp_path}/tensorboard cannot be written" in told[0]
    assert len(read_lines(tmp_path / METRICS).events) == 2


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limits")
def test_what_takes_no_more_bytes_is_said_once_and_tears_no_record(tmp_path, make_step):
    import resource

    told: list[str] = []
    metrics = Metrics(tmp_path, tensorboard=True, progress=Recorded(told))
    place, before = metrics.curves.path, resource.getrlimit(resource.RLIMIT_FSIZE)
    for number in range(6):
        size = place.stat().st_size if place.exists() else 0
        limit = size + 10 if number in (0, 2, 3) else before[0]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            metrics.step(make_step(number))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(told) == 2
    assert f"{METRICS} cannot be written (File too large)" in told[0]
    assert "tensorboard cannot be written (File too large)" in told[1]
    assert [each.step for each in events_in(place)][1:] == [1, 4, 5]
    assert [each["step"] for each in read_lines(tmp_path / METRICS).events] == [1, 4, 5]
