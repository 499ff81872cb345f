"""A run is never overwritten unasked, and a damaged checkpoint is passed over."""

import contextlib
import dataclasses
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from models import BYTES
from recorded import Recorded

from lucidlm.errors import RunError
from lucidlm.runs import folder as runs
from lucidlm.runs.folder import (
    checkpoint_folders,
    claimed_run_folder,
    last_checkpoint,
    list_runs,
    new_run_folder,
    row_of,
    save_checkpoint,
    state_of,
)
from lucidlm.runs.run_toml import write_settings
from lucidlm.runtime.locks import lock


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _run(name: str = "run") -> Path:
    folder = Path(name)
    folder.mkdir(parents=True)
    (folder / "run.toml").write_text("steps = 1\n")
    return folder


def _save(run: Path, step: int) -> Path:
    return save_checkpoint(
        run,
        step,
        save_model=lambda folder: (folder / "model.safetensors").write_bytes(str(step).encode() * 1000),
        optimizer={"head.weight/exp_avg": torch.full((4,), float(step))},
        state={"tokens": 100 * step, "validations": []},
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("the-verdict.txt", "the-verdict"),
        ("books/war and peace.txt.gz", "war-and-peace"),
        ("corpus/", "corpus"),
        ("https://example.org/files/pg84.txt", "pg84"),
        ("größe.md", "größe"),
        ("-", "stdin"),
        ("books/*.txt", "books"),
        ("books/../.", "here"),
        (f"{'long' * 50}.txt", "long" * 25),
        ("-- all --.txt", "all"),
        (os.fsdecode(b"caf\xe9.txt"), "caf"),
    ],
)
def test_a_new_run_is_named_after_its_text(text, name, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert new_run_folder(None, (text, "other.txt"), overwrite=False) == Path("runs") / name


def test_a_run_without_a_text_is_named_after_the_story():
    assert new_run_folder(None, (), overwrite=False) == Path("runs/story")


def test_a_name_that_is_taken_is_numbered_and_nothing_is_made_yet():
    for expected in ("book", "book-2", "book-3"):
        folder = new_run_folder(None, ("book.txt",), overwrite=False)
        assert folder == Path("runs") / expected
        assert not folder.exists()
        _run(str(folder))


def test_a_name_that_nobody_chose_is_numbered_where_another_process_holds_it_and_a_chosen_one_is_not():
    said = []

    def claim(out=None, **flags):
        return claimed_run_folder(
            out, ("book.txt",), progress=Recorded(said), **({"overwrite": False} | flags)
        )

    with claim() as first, claim() as second, claim() as third:
        assert [str(each) for each in (first, second, third)] == ["runs/book", "runs/book-2", "runs/book-3"]
        assert said == [f"runs/book is taken, so this run goes to runs/book-{number}" for number in (2, 3)]
        for chosen in ({"out": "runs/book"}, {"overwrite": True}):
            with pytest.raises(RunError, match="in use by another"), claim(**chosen):
                pass
    with claim() as again:
        assert again == first


def test_a_run_that_appears_between_the_look_and_the_lock_is_seen(monkeypatch):
    real = runs.lock

    @contextlib.contextmanager
    def late(folder):
        if not Path("runs/book").exists():
            _run("runs/book")
        with real(folder):
            yield

    monkeypatch.setattr(runs, "lock", late)
    with claimed_run_folder(None, ("book.txt",), overwrite=False) as folder:
        assert folder == Path("runs/book-2")
    shutil.rmtree("runs")
    with (
        pytest.raises(RunError, match="is there already"),
        claimed_run_folder("runs/book", ("book.txt",), overwrite=False),
    ):
        pass


def test_the_folder_that_holds_the_text_is_never_the_run_that_replaces_it():
    _run("run")
    (Path("run") / "notes.txt").touch()
    for read in ({"texts": ("run/notes.txt",)}, {"texts": (), "others": ("run/notes.txt",)}):
        with pytest.raises(RunError, match="which is read"):
            new_run_folder("run", **read, overwrite=True)


def test_a_run_that_is_there_is_refused_and_stays():
    folder = _run()
    with pytest.raises(
        RunError, match=r"run is there already and holds a run; .*--out, --resume or --overwrite"
    ):
        new_run_folder("run", (), overwrite=False)
    assert (folder / "run.toml").exists()


def test_overwrite_allows_a_run_and_nothing_that_is_none(tmp_path):
    _run()
    assert new_run_folder("run", (), overwrite=True) == Path("run")
    assert Path("run").exists()  # deleting it waits for its lock
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_bytes(b"cat")
    for overwrite in (False, True):
        with pytest.raises(RunError, match="photos"):
            new_run_folder("photos", (), overwrite=overwrite)
    assert (photos / "cat.jpg").read_bytes() == b"cat"


def test_a_file_where_the_run_should_be_is_refused_and_stays(tmp_path):
    (tmp_path / "notes").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(RunError, match="notes"):
            new_run_folder("notes", (), overwrite=overwrite)
    assert (tmp_path / "notes").read_text() == "mine"


def test_an_empty_folder_is_free():
    Path("run").mkdir()
    assert new_run_folder("run", (), overwrite=False) == Path("run")


def test_a_checkpoint_is_read_back_and_only_the_last_two_are_kept():
    run = _run()
    for step in (1, 5, 20, 100, 1_000_000, 1_000_001):
        _save(run, step)
        found = last_checkpoint(run)
        assert (found.step, found.state["tokens"], found.notes) == (step, 100 * step, ())
        assert len(checkpoint_folders(run)) <= 2
    names = [folder.name for folder in checkpoint_folders(run)]
    assert names == ["step_1000000", "step_1000001"]
    assert sorted(os.listdir(run / "checkpoints")) == names


def test_a_step_that_is_saved_again_takes_the_place_of_the_first():
    run = _run()
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
    run = _run()
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
    run = _run()
    _save(run, 10)
    _save(run, 20)
    for folder in checkpoint_folders(run):
        _flip(folder / "model.safetensors")
    with pytest.raises(RunError, match=r"run: no checkpoint is whole: .*--overwrite"):
        last_checkpoint(run)


def test_a_run_without_a_checkpoint_is_an_error_that_says_what_to_do():
    with pytest.raises(RunError, match=r"run: no checkpoint was written yet; .*--overwrite"):
        last_checkpoint(_run())


@pytest.mark.parametrize("content", ['{"step": 20', '{"tokens": 5}', ""])
def test_a_state_that_is_none_is_one_step_back(content):
    from lucidlm.runtime.manifest import write_manifest

    run = _run()
    _save(run, 10)
    newest = _save(run, 20)
    (newest / "state.json").write_text(content)
    write_manifest(newest, {"step": 20})  # as a version with another idea of state would have written it
    assert last_checkpoint(run).step == 10


def test_a_save_that_fails_leaves_the_checkpoints_as_they_were():
    run = _run()
    _save(run, 10)

    def fail(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(run, 20, save_model=fail, optimizer={}, state={})
    assert os.listdir(run / "checkpoints") == ["step_000010"]
    assert last_checkpoint(run).step == 10


def test_what_a_killed_save_left_is_no_checkpoint_and_is_cleared_by_the_next():
    run = _run()
    _save(run, 10)
    half = run / "checkpoints/.step_000020.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    assert last_checkpoint(run).step == 10
    _save(run, 20)
    assert sorted(os.listdir(run / "checkpoints")) == ["step_000010", "step_000020"]


def test_runs_are_listed_newest_first_wherever_they_lie():
    for age, name in enumerate(["runs/c", "runs/deep/er/a", "runs/b"]):
        folder = _run(name)
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


# Whether a run came to its end.


def _with_events(run: Path, *events: dict) -> Path:
    lines = (json.dumps(event) + "\n" for event in events)
    (run / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    return run


STEP = {
    "event": "step", "step": 7, "epoch": 0.5, "tokens": 64, "loss_nats": 3.0, "learning_rate_factor": 1.0,
    "grad_norm": 1.0, "tokens_per_s": 1e3, "mfu": None, "time_s": 1.0,
}  # fmt: skip


def test_a_run_with_an_end_is_finished_one_without_was_interrupted_one_that_is_held_is_training():
    run = _with_events(_run(), STEP)
    assert state_of(run).status == "interrupted"
    with lock(run):
        assert state_of(run).status == "training"
    (run.parent / f".{run.name}.lock").write_text("what a killed process left")
    assert state_of(run).status == "interrupted"
    _with_events(run, STEP, {"event": "end", "step": 7, "interrupted": 0, "time_s": 2.0})
    assert state_of(run).status == "finished"
    assert state_of(run).sentence(run) == ""


def test_an_interrupted_run_says_where_how_and_what_goes_on_with_it():
    run = _with_events(_run(), STEP, {"event": "end", "step": 7, "interrupted": 15, "time_s": 2.0})
    state = state_of(run)
    assert (state.status, state.step, state.signal) == ("interrupted", 7, 15)
    told = state.sentence(run)
    assert "was interrupted at step 7 by SIGTERM:" in told
    assert "at step 7 by Ctrl-C (SIGINT):" in dataclasses.replace(state, signal=2).sentence(run)
    assert "lucidlm train --resume --out run" in told


def test_the_name_of_a_run_is_that_of_former_versions_whose_plan_had_no_document_prefix(
    make_tiny_plan, make_config
):
    plan, corpus = make_tiny_plan(), SimpleNamespace(manifest={"files": {}}, tokenizer=BYTES)
    now = dataclasses.replace(plan, model=plan.model.changed(document_prefix_id=256))
    assert runs.run_id(make_config(), now, corpus) == runs.run_id(make_config(), plan, corpus)
    other = dataclasses.replace(plan, steps=plan.steps + 1)
    assert runs.run_id(make_config(), other, corpus) != runs.run_id(make_config(), plan, corpus)


def test_a_row_of_the_list_has_status_dtype_and_threads(make_tiny_plan, make_config):
    run = _with_events(_run(), STEP)
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

    run = _run()

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
    run = _with_events(_run(), STEP)
    (run / "run.toml").write_text("steps = 1\nlater_setting = 2\n")
    assert row_of(run)["dtype"] is None
    assert row_of(run)["status"] == "interrupted"
