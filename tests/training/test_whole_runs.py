"""What belongs together in a run is held together: damage and mixtures are said before any number."""

import json
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from run_folders import EVALUATE, WEIGHTS, Said, without_hashes

from lucidlm.runs.checkpoints import checkpoint_folders
from lucidlm.runs.history import read_history
from lucidlm.runs.records import checked_line
from lucidlm.runtime.manifest import MANIFEST
from lucidlm.text.preparation import prepare

pytestmark = pytest.mark.usefixtures("quick_commands")
HARMLESS = {"samples.jsonl", "README.md", "report.html", "generation_config.json"}
"""Files of a run that no number hangs on."""


def refused(said: Said, *names: str) -> None:
    """One line that names the file, and no number."""
    assert said.code == 2, said
    assert said.out == ""
    last = said.err.splitlines()[-1]
    assert last.startswith("lucidlm: ")
    assert all(name in last for name in names), last


def test_a_sound_run_and_its_checkpoints_say_nothing(run, say):
    folder = run()
    for model in (folder, *checkpoint_folders(folder)):
        said = say("evaluate", model, "short.txt", *EVALUATE)
        assert said.code == 0
        assert [line for line in said.err.splitlines() if "damaged" in line or "missing" in line] == []
    assert read_history(folder).remarks == ()
    assert json.loads(say("runs", ".", "--json").out)[0]["problems"] == []


def test_another_runs_weights_are_refused_and_the_way_out_works(run, say):
    folder, other = run(), run("other", seed=1)
    shutil.copy(other / WEIGHTS, folder / WEIGHTS)
    said = say("evaluate", folder, "short.txt", *EVALUATE)
    refused(said, f"{folder / WEIGHTS}", "not of this one")
    advised = said.err.strip().rpartition(": ")[2]
    assert say("evaluate", advised, "short.txt", *EVALUATE).code == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [("rms_norm_eps", 1e-2), ("rope_theta", 5e4), ("document_prefix_id", 7), ("max_position_embeddings", 8)],
)
def test_a_changed_config_is_refused_and_its_copy_mends_it(run, say, field, value):
    folder = run()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {field: value}))
    said = say("info", folder)
    refused(said, "config.json")
    copied = said.err.split("copy it from ")[1].partition(",")[0]
    shutil.copy(copied, folder / "config.json")
    assert say("info", folder).code == 0


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_another_tokenizer_is_refused(run, say, name):
    folder = run()
    document = (folder / name).read_text(encoding="utf-8")
    (folder / name).write_text(document.replace("endoftext", "endoftexT"), encoding="utf-8")
    for words in (("info",), ("evaluate",), ("generate",), ("explain", "a text")):
        refused(say(words[0], folder, *words[1:]), name)


@pytest.mark.parametrize("text", ["book.txt", "prepared"])
def test_another_runs_text_is_refused(run, say, text):
    folder = run(text=text)
    Path("other.txt").write_text(Path("book.txt").read_text()[::-1])
    other = run("other")
    if text == "prepared":
        shutil.rmtree(folder / "data")
    else:
        prepare("other.txt", "changed", tokenizer="bytes")
        shutil.rmtree(other / "data")
        shutil.copytree("changed", other / "data")
        shutil.rmtree(folder / "data")
    shutil.copytree(other / "data", folder / "data")
    refused(say("evaluate", folder, *EVALUATE), f"{folder / 'data'}")
    refused(say("train", "--resume", "--out", folder), f"{folder / 'data'}")
    assert say("evaluate", folder, "short.txt", *EVALUATE).code == 0  # a text of one's own needs no data


def test_another_runs_checkpoint_is_no_step_to_go_on_from(run, say):
    folder, other = run(), run("other", seed=1)
    newest = checkpoint_folders(folder)[-1]
    shutil.rmtree(newest)
    shutil.copytree(other / "checkpoints" / newest.name, newest)
    refused(say("evaluate", newest, "short.txt", *EVALUATE), newest.name, "of the run")
    said = say("train", "--resume", "--out", folder)
    assert f"{newest.name} is damaged (it is of the run" in said.err


def test_another_runs_settings_are_refused_at_resume_and_said_elsewhere(run, say):
    folder, other = run(), run("other", seed=1)
    shutil.copy(other / "run.toml", folder / "run.toml")
    refused(say("train", "--resume", "--out", folder), "run.toml", "of the run")
    assert f"{folder / 'run.toml'}: of the run" in say("info", folder).out
    shutil.copy(run("again") / "run.toml", folder / "run.toml")


def test_changed_settings_are_refused_at_resume_and_their_way_out_works(run, say):
    folder = run()
    text = (folder / "run.toml").read_text(encoding="utf-8")
    (folder / "run.toml").write_text(text.replace("seed = 123", "seed = 122"), encoding="utf-8")
    said = say("train", "--resume", "--out", folder)
    refused(said, "run.toml", "--out NEW")
    words = said.err.strip().rpartition("lucidlm train ")[2].replace("NEW", "new").split()
    assert say("train", *words).code == 0
    assert tomllib.loads(Path("new/run.toml").read_text())["seed"] == 122


def test_a_run_repeats_to_the_byte_from_its_own_settings(run, say):
    folder = run()
    assert say("train", "--config", folder / "run.toml", "--out", "again").code == 0
    assert (folder / WEIGHTS).read_bytes() == Path("again", WEIGHTS).read_bytes()


def test_the_best_step_is_that_of_the_weights_whatever_lines_are_lost_or_doubled(run, say):
    folder = run()
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    best = read_history(folder).best
    lost = [line for line in lines if not ('"validation"' in line and f'"step": {best.step},' in line)]
    (folder / "metrics.jsonl").write_text("".join(lost))
    history = read_history(folder)
    assert history.best == replace(best, time_s=0.0)
    said = json.loads(say("info", folder, "--json").out)
    assert said["best_step"] == best.step
    assert f"step {best.step}" in said["verdict"]
    assert "1 line missing" in said["verdict"]
    assert f"the losses of step {best.step}, the step of the weights, are missing" in said["verdict"]
    row = json.loads(say("runs", ".", "--json").out)[0]
    assert (row["best_step"], len(row["problems"])) == (best.step, 2)
    (folder / "metrics.jsonl").write_text("".join([*lines, *lines]))
    assert read_history(folder).validations.count(best) == 1


def test_records_that_contradict_the_weights_are_said(run, say):
    folder = run()
    best = read_history(folder).best
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for event in events:
        if event["event"] == "validation" and event["step"] == best.step:
            event["validation_loss_nats"] += 1
    text = "".join(checked_line(event, number) for number, event in enumerate(events, start=1))
    (folder / "metrics.jsonl").write_text(text)
    said = json.loads(say("evaluate", folder, *EVALUATE).out)
    assert f"the losses of step {best.step} differ from those in" in said["verdict"]


def test_one_broken_run_hides_no_other(run, say):
    folder, broken, torn, lost = run("sound"), run("broken"), run("torn"), run("lost")
    (lost / "run.toml").unlink()
    (broken / "run.toml").write_bytes(b"\xff\xfe")
    (broken / MANIFEST).write_text("[1, 2")
    with open(torn / "metrics.jsonl", "a") as file:
        file.write('{"event": "st\n')
    said = say("runs", ".", "--json")
    assert said.code == 0
    rows = {row["run"]: row for row in json.loads(said.out)}
    assert set(rows) == {"sound", "broken", "torn", "lost"}
    assert rows["sound"]["problems"] == []
    assert any("run.toml" in problem for problem in rows["broken"]["problems"])
    assert any("1 line damaged" in problem for problem in rows["torn"]["problems"])
    assert any("lost/run.toml: not there" in problem for problem in rows["lost"]["problems"])
    table = say("runs", ".").out
    assert all(name in table for name in rows)
    assert str(folder) in rows


def test_a_checkpoint_whose_manifest_lists_nothing_is_damaged(run, say):
    folder = run()
    newest = checkpoint_folders(folder)[-1]
    manifest = json.loads((newest / MANIFEST).read_text())
    (newest / MANIFEST).write_text(json.dumps(manifest | {"files": {}}))
    refused(say("evaluate", newest, "short.txt", *EVALUATE), f"{newest / MANIFEST}")
    said = say("train", "--resume", "--out", folder)
    assert (said.code, f"{newest.name} is damaged" in said.err) == (0, True)


@pytest.mark.parametrize("name", ["run.toml", "data"])
def test_what_the_line_of_a_model_is_read_from_is_missed_aloud(run, say, name):
    folder = run()
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    for model in (folder, checkpoint_folders(folder)[-1]):
        said = say("evaluate", model, "short.txt", *EVALUATE)
        assert said.code == 0
        assert f"{path}" in said.err
        assert json.loads(said.out)["seen_in_training"] is None


def test_a_run_that_has_no_weights_yet_says_its_state_its_plan_and_its_first_losses(run, say):
    folder = run()
    shutil.rmtree(folder / "checkpoints")
    (folder / WEIGHTS).unlink()
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:1]))
    said = say("info", folder, "--json")
    assert said.code == 0
    values = json.loads(said.out)
    assert values["status"] == "interrupted"
    assert (values["step"], values["best_step"], values["planned_steps"]) == (0, 0, 4)
    assert values["validation"]["validation_loss_nats"] == pytest.approx(5.55, abs=0.1)
    assert "not there" in values["weights"]
    refused(say("evaluate", folder, *EVALUATE), "no weights yet")


def test_resuming_without_the_best_weights_says_so_and_keeps_better_ones(run, say):
    folder = run("old; and new")
    weights = folder / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    refused(say("evaluate", folder, *EVALUATE), f"{weights}: damaged: ", f"{folder / 'checkpoints'}")
    weights.unlink()
    said = say("train", "--resume", "--out", folder, "--json")
    assert said.code == 0
    assert f"{weights}: " in said.err
    assert "the weights of step 4 are the best" in said.err
    assert say("evaluate", folder, *EVALUATE).code == 0


@pytest.mark.parametrize("content", [None, "[1]", '{"seed":'])
def test_a_run_without_its_environment_is_resumed(run, say, content):
    folder = without_hashes(run())
    (folder / "env.json").unlink()
    if content is not None:
        (folder / "env.json").write_text(content)
    said = say("train", "--resume", "--out", folder, "--json")
    assert said.code == 0
    assert "could not be written" not in said.err


FILES = [
    "run.toml", "env.json", "config.json", "tokenizer.json", "tokenizer_config.json", "metrics.jsonl",
    "generation_config.json", "samples.jsonl", WEIGHTS, MANIFEST, "README.md", "report.html",
    "data/manifest.json", "data/train.npy", "data/validation.npy", "data/tokenizer.json", "data",
]  # fmt: skip


def test_each_missing_file_is_named_in_one_line_or_changes_no_number(run, say):
    folder = run()
    shutil.copytree(folder, "copy")
    right = json.loads(say("evaluate", "copy", *EVALUATE).out)
    shutil.rmtree("copy")
    for name in FILES:
        shutil.copytree(folder, "copy")
        path = Path("copy", name)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        said = say("evaluate", "copy", *EVALUATE)
        if said.code == 0:
            known = name in said.told or name in say("info", "copy").out
            same = json.loads(said.out) == right | {"verdict": json.loads(said.out)["verdict"]}
            assert known or (same and (name in HARMLESS or name == "env.json")), name
        else:
            assert said.code == 2, name
            assert len([line for line in said.err.splitlines() if line.startswith("lucidlm: ")]) == 1, name
            assert Path(name).name in said.err, name
        assert say("runs", ".").code == 0, name
        assert say("info", "copy").code in (0, 2), name
        shutil.rmtree("copy")


def test_a_run_of_a_former_version_is_read_resumed_and_says_nothing(run, say):
    folder = without_hashes(run())
    for model in (folder, *checkpoint_folders(folder)):
        said = say("evaluate", model, "short.txt", *EVALUATE)
        assert said.code == 0
        assert "damaged" not in said.told
    assert json.loads(say("runs", ".", "--json").out)[0]["problems"] == []
    said = say("train", "--resume", "--out", folder)
    assert said.code == 0
    assert read_history(folder).remarks == ()
    assert say("evaluate", folder, *EVALUATE).code == 0
