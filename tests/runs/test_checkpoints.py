"""A checkpoint is whole or not there, and a damaged one is passed over."""

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from models import BYTES
from trainings import begun_run

from lucidlm.errors import RunError
from lucidlm.runs.checkpoints import checkpoint_folders, last_checkpoint, run_id, save_checkpoint

pytestmark = pytest.mark.usefixtures("empty_folder")


def _save(run: Path, step: int) -> Path:
    return save_checkpoint(
        run,
        step,
        save_model=lambda folder: (folder / "model.safetensors").write_bytes(str(step).encode() * 1000),
        optimizer={"head.weight/exp_avg": torch.full((4,), float(step))},
        state={"tokens": 100 * step, "validations": []},
    )


def test_a_checkpoint_is_read_back_and_only_the_last_two_are_kept():
    run = begun_run()
    for step in (1, 5, 20, 100, 1_000_000, 1_000_001):
        _save(run, step)
        found = last_checkpoint(run)
        assert (found.step, found.state["tokens"], found.notes) == (step, 100 * step, ())
        assert len(checkpoint_folders(run)) <= 2
    names = [folder.name for folder in checkpoint_folders(run)]
    assert names == ["step_1000000", "step_1000001"]
    assert sorted(os.listdir(run / "checkpoints")) == names


def test_a_step_that_is_saved_again_takes_the_place_of_the_first():
    run = begun_run()
    _save(run, 5)
    (run / "checkpoints/step_000005/model.safetensors").write_bytes(b"damaged")
    _save(run, 5)
    assert last_checkpoint(run).notes == ()


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _empty(file: Path) -> None:
    file.write_bytes(b"")


DAMAGES = {"truncated": _truncate, "flipped": _flip, "deleted": Path.unlink, "emptied": _empty}


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
)
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_checkpoint_is_one_step_back_with_a_note(name, damage):
    run = begun_run()
    _save(run, 10)
    _save(run, 20)
    damage(run / "checkpoints/step_000020" / name)
    found = last_checkpoint(run)
    if name == "manifest.json" and found.step == 20:
        # A flipped bit of the manifest may leave all that it vouches for as it was.
        assert damage is _flip or damage is _truncate
        return
    assert found.step == 10
    assert len(found.notes) == 1
    assert "step_000020" in found.notes[0]
    assert "one step back" in found.notes[0]


def test_no_whole_checkpoint_is_an_error_that_says_what_to_do():
    run = begun_run()
    _save(run, 10)
    _save(run, 20)
    for folder in checkpoint_folders(run):
        _flip(folder / "model.safetensors")
    with pytest.raises(RunError, match=r"run: no checkpoint is whole: .*--overwrite"):
        last_checkpoint(run)


def test_a_run_without_a_checkpoint_is_an_error_that_says_what_to_do():
    with pytest.raises(RunError, match=r"run: no checkpoint was written yet; .*--overwrite"):
        last_checkpoint(begun_run())


@pytest.mark.parametrize("content", ['{"step": 20', '{"tokens": 5}', ""])
def test_a_state_that_is_none_is_one_step_back(content):
    from lucidlm.runtime.manifest import write_manifest

    run = begun_run()
    _save(run, 10)
    newest = _save(run, 20)
    (newest / "state.json").write_text(content)
    write_manifest(newest, {"step": 20})  # as a version with another idea of state would have written it
    assert last_checkpoint(run).step == 10


def test_a_save_that_fails_leaves_the_checkpoints_as_they_were():
    run = begun_run()
    _save(run, 10)

    def fail(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(run, 20, save_model=fail, optimizer={}, state={})
    assert os.listdir(run / "checkpoints") == ["step_000010"]
    assert last_checkpoint(run).step == 10


def test_what_a_killed_save_left_is_no_checkpoint_and_is_cleared_by_the_next():
    run = begun_run()
    _save(run, 10)
    half = run / "checkpoints/.step_000020.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    assert last_checkpoint(run).step == 10
    _save(run, 20)
    assert sorted(os.listdir(run / "checkpoints")) == ["step_000010", "step_000020"]


def test_the_name_of_a_run_is_that_of_former_versions_whose_plan_had_no_document_prefix(
    make_tiny_plan, make_config
):
    plan, corpus = make_tiny_plan(), SimpleNamespace(manifest={"files": {}}, tokenizer=BYTES)
    now = dataclasses.replace(plan, model=plan.model.changed(document_prefix_id=256))
    assert run_id(make_config(), now, corpus) == run_id(make_config(), plan, corpus)
    other = dataclasses.replace(plan, steps=plan.steps + 1)
    assert run_id(make_config(), other, corpus) != run_id(make_config(), plan, corpus)
