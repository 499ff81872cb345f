"""The plan that is shown without a training is the one that a training writes into run.toml."""

import contextlib
from functools import partial

import pytest
import tomlkit
from trainings import KnownMachine

from lucidlm.model.presets import Recipe
from lucidlm.runs.run_toml import read_settings
from lucidlm.runtime.progress import SILENT
from lucidlm.training import plan as plan_module
from lucidlm.training import preview as preview_module
from lucidlm.training import start
from lucidlm.training.pace import Pace
from lucidlm.training.preview import lines, preview, to_dict
from lucidlm.training.setup import with_prefix


@pytest.fixture(autouse=True)
def same_machine(quick_probes, monkeypatch):
    """One speed, and a clock that stands still: else two plans by --minutes differ."""
    monkeypatch.setattr(plan_module, "Machine", KnownMachine)
    for module in (start, preview_module):
        monkeypatch.setattr(module, "Pace", partial(Pace, clock=lambda: 0.0))
    monkeypatch.setattr(preview_module, "float32_kernels", start.float32_kernels)


@pytest.mark.parametrize(
    "asked",
    [
        {"steps": 3, "preset": "modern-1m", "context_length": 16, "batch_tokens": 32},
        {"epochs": 0.5, "optim": Recipe(name="adamw"), "context_length": 16},
        {"minutes": 0.5, "preset": "modern-1m", "context_length": 16},
    ],
    ids=["steps", "epochs", "minutes"],
)
def test_the_plan_is_the_one_that_a_training_by_the_same_request_writes(here, make_config, tmp_path, asked):
    config = make_config(**asked)
    before = {*here.iterdir()}
    shown = preview(config, tmp_path / "prepared", SILENT)
    assert {*here.iterdir()} - {tmp_path / "prepared"} == before
    with contextlib.ExitStack() as stack:
        run = start.start_run(config, stack, SILENT)
    _, written = read_settings(run.folder)
    assert with_prefix(shown.planned.plan, shown.corpus) == written
    table = tomlkit.loads((run.folder / "run.toml").read_text(encoding="utf-8"))["plan"]
    values = to_dict(shown)
    assert table.keys() == values["plan"].keys()
    assert table["steps"] == values["plan"]["steps"] == values["steps"]


def test_device_memory_and_prediction_are_said(here, make_config, tmp_path):
    config = make_config(steps=3, preset="modern-1m", context_length=16)
    shown = preview(config, tmp_path, SILENT)
    for verbose in (False, True):
        said = "\n".join(lines(shown, config, verbose=verbose))
        assert all(word in said for word in ("device: cpu", "GiB", "predicted: "))
    assert "optimizer: " in said
    values = to_dict(shown)
    assert values["device"] == "cpu"
    assert values["memory_bytes"] == shown.planned.memory_bytes > 0
    assert values["predicted"]["bits_low"] < values["predicted"]["bits_high"]
