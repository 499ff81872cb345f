"""What belongs together in a run is held together: damage and mixtures are said before any number."""

import copy
import itertools
import json
import random
import shutil
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tomlkit
import torch

from lucidlm.cli import main
from lucidlm.measure.history import checked_line, read_history
from lucidlm.measure.judgement import Judgement, without_training_text
from lucidlm.runtime.files import MANIFEST, write_manifest
from lucidlm.text.corpus import prepare
from lucidlm.training import loop
from lucidlm.training.loop import train
from lucidlm.training.runs import checkpoint_folders

WEIGHTS = "model.safetensors"
HARMLESS = {"samples.jsonl", "README.md", "report.html", "generation_config.json"}
"""Files of a run that no number hangs on."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> str:
        """All of it, where a sentence may stand."""
        return self.out + self.err


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """say("info", run): what the command line answers; a traceback fails the test."""

    def run(*words: str | Path) -> Said:
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert "Traceback" not in err, words
        return Said(code, out, err)

    return run


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs of these tests stand, each made once and copied."""
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture
def run(here, quick_probes, shelf, make_config, make_tiny_plan, monkeypatch) -> Callable[..., Path]:
    """run("one", seed=1): a fresh copy of a finished run of 4 steps, in a folder of that name.

    Its baselines and its page are left out, and one thread computes: other tests are for these.
    """

    def judge(model, tokenizer, documents, *, design, fraction, **others) -> Judgement:
        return without_training_text(model, tokenizer, documents, design=design, fraction=fraction)

    def write_sample(model, tokenizer, samples, *, step) -> dict[str, Any]:
        return {"step": step, "prompt": "", "text": "", "probe_ids": [1], "probe_log_probabilities": [-1.0]}

    monkeypatch.setattr(loop, "judge", judge)
    monkeypatch.setattr(loop, "write_sample", write_sample)
    monkeypatch.setattr(loop, "write_report", lambda path, *words, **others: path.write_text("a page"))
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)

    def copied(name: str = "run", **changes: Any) -> Path:
        Path("short.txt").write_text("The river ran past a house and nobody knew why.\n")
        stored = shelf / ("-".join(map(str, changes.values())) or "run")
        if not stored.exists():
            text = changes.get("text")
            if text == "prepared":
                prepare("book.txt", "prepared", tokenizer="bytes")
            plan = make_tiny_plan(steps=4, validate_every=2)
            train(make_config(out=str(stored), **changes), plan=plan)
        shutil.copytree(stored, name)
        return Path(name)

    return copied


EVALUATE = ("--no-baselines", "--threads", "1", "--device", "cpu", "--json")


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
    assert f"its losses of step {best.step}, whose weights these are, are missing" in said["verdict"]
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
    assert f"its losses of step {best.step} are not those of these weights" in said["verdict"]


def test_one_broken_run_hides_no_other(run, say):
    folder, broken, torn = run("sound"), run("broken"), run("torn")
    (broken / "run.toml").write_bytes(b"\xff\xfe")
    (broken / MANIFEST).write_text("[1, 2")
    with open(torn / "metrics.jsonl", "a") as file:
        file.write('{"event": "st\n')
    said = say("runs", ".", "--json")
    assert said.code == 0
    rows = {row["run"]: row for row in json.loads(said.out)}
    assert set(rows) == {"sound", "broken", "torn"}
    assert rows["sound"]["problems"] == []
    assert any("run.toml" in problem for problem in rows["broken"]["problems"])
    assert any("1 line damaged" in problem for problem in rows["torn"]["problems"])
    table = say("runs", ".").out
    assert all(name in table for name in rows)
    assert str(folder) in rows


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
    folder = run()
    (folder / WEIGHTS).unlink()
    said = say("train", "--resume", "--out", folder, "--json")
    assert said.code == 0
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


# Damage at random


def damaged(data: bytes, draw: random.Random) -> bytes | None:
    """The bytes with one bit turned, or cut off; None for a file that is deleted."""
    kind = draw.random()
    if kind < 0.1 or not data:
        return None
    if kind < 0.25:
        return data[: draw.randrange(len(data))]
    place = draw.randrange(8 * len(data))
    changed = bytearray(data)
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


def _numbers(values: Any) -> Any:
    """The same without sentences, paths and times."""
    if isinstance(values, dict):
        kept = {key: _numbers(value) for key, value in values.items()}
        return {key: value for key, value in kept.items() if key not in ("verdict", "time_s", "status")}
    return [_numbers(value) for value in values] if isinstance(values, list) else values


def _asked(folder: Path, say: Callable[..., Said]) -> Iterator[Said]:
    last = checkpoint_folders(folder)
    yield say("evaluate", folder, *EVALUATE)
    yield say("info", folder, "--json")
    yield say("runs", ".", "--json")
    yield say("evaluate", last[-1] if last else folder, "short.txt", *EVALUATE)


def damage_each(folder: Path, say: Callable[..., Said], *, count: int, seed: int) -> Counter:
    """Of each file how many damages were said and how many were harmless; anything else fails."""
    draw = random.Random(seed)
    right = [_numbers(json.loads(said.out)) for said in _asked(folder, say)]
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found: Counter = Counter()
    for number in range(count):
        path = files[number % len(files)]
        name = path.relative_to(folder).as_posix()
        whole = path.read_bytes()
        changed = damaged(whole, draw)
        path.unlink() if changed is None else path.write_bytes(changed)
        told = False
        for said, expected in zip(_asked(folder, say), right, strict=True):
            case = f"seed {seed}, number {number}, {name}: {said}"
            named = path.name in said.told or path.name.partition(".")[0] in said.told
            named = named or any(word in said.told for word in ("interrupted", "weights", "no checkpoint"))
            if said.code == 0:
                answer = _numbers(json.loads(said.out))
                assert answer == expected or named, case
                told = told or answer != expected
            else:
                assert said.code == 2, case
                assert said.out == "", case
                assert named, case
                told = True
            told = told or path.name in said.told
        found[name, "said" if told else "harmless"] += 1
        path.write_bytes(whole)
    return found


def test_damages_of_a_runs_files_are_said_or_harmless(run, say):
    found = damage_each(run(), say, count=10, seed=1)
    assert sum(found.values()) == 10


@pytest.mark.torture
def test_five_hundred_damages_of_a_runs_files_are_said_or_harmless(run, say):
    found = damage_each(run(), say, count=600, seed=2)
    for name in sorted({name for name, _ in found}):
        print(f"{name:<50} {found[name, 'said']:>4} said {found[name, 'harmless']:>4} harmless")


# Values that no field expects


ODD = [None, True, -1, 0, 1e308, float("nan"), "", "x", [], {}, json.loads("[" * 400 + "]" * 400)]


def _leaves(value: Any, path: tuple = ()) -> Iterator[tuple]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, list) and value and not isinstance(value[0], int | float):
        yield from _leaves(value[0], (*path, 0))
    else:
        yield path


def _with(value: Any, path: tuple, odd: Any) -> Any:
    changed = copy.deepcopy(value)
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = odd
    return changed


def _json_of(
    whole: Any, leaf: tuple, odd: Any, *, before: Sequence[str] = (), after: Sequence[str] = ()
) -> str:
    return "\n".join([*before, json.dumps(_with(whole, leaf, odd)), *after])


def _toml_of(whole: Any, leaf: tuple, odd: Any) -> str:
    return tomlkit.dumps(_with(whole, leaf, odd))


def confusions(folder: Path) -> Iterator[tuple[Path, str, Callable[[], str]]]:
    """Each leaf of each file of JSON or TOML with each odd value, and what makes the file's text of it."""
    for path in sorted(folder.rglob("*.json")):
        whole = json.loads(path.read_bytes())
        for leaf, odd in itertools.product(_leaves(whole), ODD):
            yield path, f"{leaf} {odd!r:.20}", partial(_json_of, whole, leaf, odd)
    for path in sorted(folder.glob("*.jsonl")):
        lines = path.read_text().splitlines()
        for number in (0, 1, len(lines) - 1):
            whole, after = json.loads(lines[number]), [*lines[number + 1 :], ""]
            for leaf, odd in itertools.product(_leaves(whole), ODD):
                text = partial(_json_of, whole, leaf, odd, before=lines[:number], after=after)
                yield path, f"{leaf} {odd!r:.20}", text
    path = folder / "run.toml"
    whole = tomllib.loads(path.read_text())
    for leaf, odd in itertools.product(_leaves(whole), ODD[1:-1]):
        yield path, f"{leaf} {odd!r:.20}", partial(_toml_of, whole, leaf, odd)


def confuse(folder: Path, say: Callable[..., Said], *, every: int, seed: int) -> int:
    """How many of the confusions were tried, one in `every`: each is answered, or refused in one line."""
    draw, tried = random.Random(seed), 0
    for path, what, text in confusions(folder):
        if draw.randrange(every):
            continue
        whole = path.read_bytes()
        path.write_text(text())
        newest = checkpoint_folders(folder)[-1]
        for words in (
            ("info", folder),
            ("runs", "."),
            ("evaluate", folder, *EVALUATE),
            ("evaluate", newest, "short.txt", *EVALUATE),
        ):
            said = say(*words)
            case = f"seed {seed}: {path} {what}: {words} {said}"
            assert said.code in (0, 2), case
            if said.code == 2:
                errors = [line for line in said.err.splitlines() if line.startswith("lucidlm: ")]
                assert len(errors) == 1, case
        path.write_bytes(whole)
        tried += 1
    return tried


def without_hashes(folder: Path) -> Path:
    """The run as a former version would have left it: nothing in it vouches for anything."""
    (folder / MANIFEST).unlink()
    for name in ("metrics.jsonl", "samples.jsonl"):
        events = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        for event in events:
            del event["check"]
        (folder / name).write_text("".join(json.dumps(event) + "\n" for event in events))
    text = (folder / "run.toml").read_text()
    (folder / "run.toml").write_text(text[: text.rindex("# run ")])
    for weights in folder.rglob(WEIGHTS):
        from safetensors.torch import load_file, save_file

        save_file(load_file(weights), weights, {"format": "pt"})
    for manifest in (*folder.glob("checkpoints/*/manifest.json"), folder / "data" / MANIFEST):
        values = json.loads(manifest.read_text())
        extra = {key: value for key, value in values.items() if key not in ("files", "run", "kind")}
        if manifest.parent.name == "data":
            extra["kind"] = values["kind"]
        write_manifest(manifest.parent, extra)
        values = json.loads(manifest.read_text())
        del values["files"][MANIFEST]
        manifest.write_text(json.dumps(values))
    return folder


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


def test_a_sample_of_confused_files_is_answered_or_refused(run, say):
    assert confuse(run(), say, every=2000, seed=1) > 1
    shutil.rmtree("run")
    assert confuse(without_hashes(run()), say, every=2000, seed=2) > 1


@pytest.mark.torture
@pytest.mark.parametrize("former", [False, True])
def test_every_confused_file_is_answered_or_refused(run, say, former):
    folder = without_hashes(run()) if former else run()
    assert confuse(folder, say, every=1, seed=3) > 1000
