"""Runs with damage at random, and with values that no field expects: said or harmless, never a traceback."""

import hashlib
import itertools
import json
import random
import shutil
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from damage import CONFUSING, DEEP, places_in, with_odd
from run_folders import EVALUATE, WEIGHTS, Said, without_hashes

from lucidlm.report.assessment import Assessment
from lucidlm.runs.checkpoints import checkpoint_folders
from lucidlm.runtime.manifest import MANIFEST
from lucidlm.training import finish, loop

pytestmark = pytest.mark.usefixtures("quick_commands")
VERBS = ("evaluate", "info", "runs", "evaluate checkpoint", "resume")


@pytest.fixture
def stopped(run) -> Path:
    """A run of 4 steps that a signal ended after 2: checkpoints of step 0 and 2 are in it."""
    folder = run(stopped=2)
    assert [each.name for each in checkpoint_folders(folder)] == ["step_000000", "step_000002"]
    return folder


def answers(
    folder: Path, path: Path, say: Callable[..., Said], *, verbs: Sequence[str] = VERBS
) -> Iterator[tuple[str, Said]]:
    """Each verb, and what it says of a run in which `path` may be damaged.

    The checkpoint is the one that the file is of. One that is not the newest is resumed from, too: what is
    newer is taken away.
    """
    checkpoints = checkpoint_folders(folder)
    of = next((each for each in checkpoints if path.is_relative_to(each)), folder / "checkpoints/step_000002")
    commands = {
        "evaluate": ("evaluate", folder, *EVALUATE),
        "info": ("info", folder, "--json"),
        "runs": ("runs", folder, "--json"),
        "evaluate checkpoint": ("evaluate", of, "short.txt", *EVALUATE),
    }
    for verb in verbs:
        yield verb, say(*commands[verb]) if verb in commands else resumed(folder, of, say)


def resumed(folder: Path, of: Path, say: Callable[..., Said]) -> Said:
    """What --resume says of a copy of the run that has no newer checkpoint, and what its weights became."""
    shutil.rmtree("resumed", ignore_errors=True)
    shutil.copytree(folder, "resumed")
    for newer in checkpoint_folders(Path("resumed")):
        if newer.name > of.name:
            shutil.rmtree(newer)
    said = say("train", "--resume", "--out", "resumed", "--json")
    if said.code != 0:
        return said
    weights = hashlib.sha256(Path("resumed", WEIGHTS).read_bytes()).hexdigest()
    return Said(0, json.dumps({"answer": json.loads(said.out), "weights": weights}), said.err)


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


def numbers(values: Any) -> Any:
    """The same without sentences and times."""
    if isinstance(values, dict):
        kept = {key: numbers(value) for key, value in values.items()}
        return {key: value for key, value in kept.items() if key not in ("verdict", "time_s", "problems")}
    return [numbers(value) for value in values] if isinstance(values, list) else values


def sentences(said: Said) -> set[str]:
    """All that is told in words, a sentence each."""
    found = said.err.splitlines()
    waiting = [json.loads(said.out)] if said.out else []
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str):
            found += value.split(". ")
    return set(found)


def names(sentence: str, path: Path) -> bool:
    """Whether a sentence is about a file, or about the folder of the run that it is in."""
    return path.name in sentence or (path.parent.name.startswith("step_") and path.parent.name in sentence)


def damage_each(folder: Path, say: Callable[..., Said], *, count: int, seed: int) -> Counter:
    """Of each file how many damages were said, by which verb; the others changed no number. Or it fails."""
    draw = random.Random(seed)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    draw.shuffle(files)
    right: dict[str, dict[str, Said]] = {}
    found: Counter = Counter()
    wrong = []
    for number in range(count):
        path = files[number % len(files)]
        name, of = path.relative_to(folder).as_posix(), path.parent.name
        if of not in right:
            right[of] = dict(answers(folder, path, say))
            assert {said.code for said in right[of].values()} == {0}, right[of]
        whole = path.read_bytes()
        changed = damaged(whole, draw)
        path.unlink() if changed is None else path.write_bytes(changed)
        told = False
        for verb, said in answers(folder, path, say):
            expected = right[of][verb]
            case = f"seed {seed}, number {number}, {name}, {verb}: {said}"
            told_now = any(names(each, path) for each in sentences(said) - sentences(expected))
            if said.code == 0:
                same = numbers(json.loads(said.out)) == numbers(json.loads(expected.out))
                if not (same or told_now):
                    wrong.append(case)
            elif said.code != 2 or said.out or not told_now:
                wrong.append(case)
            found[name, verb] += told_now
            told = told or told_now
        found[name, "said" if told else "harmless"] += 1
        path.write_bytes(whole)
    assert not wrong, "\n".join(wrong)
    return found


def table_of(found: Counter, columns: Sequence[str]) -> str:
    """A line for each file."""
    lines = [f"{'':<42}{''.join(f'{column:>21}' for column in columns)}"]
    for name in sorted({name for name, _ in found}):
        lines.append(f"{name:<42}{''.join(f'{found[name, column]:>21}' for column in columns)}")
    return "\n".join(lines)


def test_damages_of_a_runs_files_are_said_or_harmless(stopped, say):
    found = damage_each(stopped, say, count=8, seed=1)
    assert sum(count for (_, column), count in found.items() if column in ("said", "harmless")) == 8


@pytest.mark.torture
def test_six_hundred_damages_of_a_runs_files_are_said_or_harmless(stopped, say, capsys, record_property):
    found = damage_each(stopped, say, count=600, seed=2)
    for kind, told in (("said", "damages that are named"), ("harmless", "damages that change no number")):
        record_property(told, sum(count for (_, column), count in found.items() if column == kind))
    with capsys.disabled():
        print(f"\nseed 2\n{table_of(found, ('said', 'harmless', *VERBS))}")


# Values that no field expects


def _json_text(whole: Any, place: tuple, odd: Any) -> str:
    return json.dumps(with_odd(whole, place, odd))


def _line_text(lines: Sequence[str], number: int, place: tuple, odd: Any) -> str:
    changed = json.dumps(with_odd(json.loads(lines[number]), place, odd))
    return "\n".join([*lines[:number], changed, *lines[number + 1 :], ""])


def _toml_text(whole: Any, place: tuple, odd: Any) -> str:
    return tomlkit.dumps(with_odd(whole, place, odd))


def confusions(folder: Path, *, whole: bool) -> Iterator[tuple[Path, str, Callable[[], str]]]:
    """Each place of each file of JSON or TOML with each odd value, and what makes the file's text of it.

    Of a whole run, one value for each place of a file that a hash vouches for: it is not read. A few for a
    copy that is read as its original is, and every other one for the long manifest of the text.
    """
    own = {folder / MANIFEST, folder / "checkpoints/step_000002" / MANIFEST}
    for path in sorted(folder.rglob("*.json")):
        if path.parent.name == "step_000000":
            continue  # as the newest is
        copied = path.parent != folder and (folder / path.name).exists() and path.name != MANIFEST
        step = 4 if copied else 2 if path.parent.name == "data" else 1
        step = 1 if path in own else len(CONFUSING) if whole else step
        document = json.loads(path.read_bytes())
        for place in places_in(document):
            for odd in CONFUSING[::step]:
                yield path, f"{place} {odd!r:.20}", partial(_json_text, document, place, odd)
    for path in sorted(folder.glob("*.jsonl")):
        lines = path.read_text().splitlines()
        first = {json.loads(line).get("event"): number for number, line in reversed([*enumerate(lines)])}
        for number in sorted(first.values()):
            for place in places_in(json.loads(lines[number])):
                for odd in CONFUSING:
                    yield path, f"{place} {odd!r:.20}", partial(_line_text, lines, number, place, odd)
    path = folder / "run.toml"
    document = tomllib.loads(path.read_text())
    for place in places_in(document):
        for odd in (odd for odd in CONFUSING if odd is not None and odd is not DEEP):  # which TOML lacks
            if place or odd == {}:
                yield path, f"{place} {odd!r:.20}", partial(_toml_text, document, place, odd)


def verbs_for(name: str, *, whole: bool) -> Sequence[str]:
    """The verbs that read a file of a run; what only a hash asks for is not read without."""
    place, _, file = name.rpartition("/")
    if place.startswith("checkpoints"):
        return ("resume",) if file == "state.json" else ("evaluate checkpoint", "resume")
    if place == "data":
        return ("evaluate", "resume")
    if file in ("config.json", "tokenizer.json", "tokenizer_config.json") and not whole:
        return ("evaluate", "info")
    return {"env.json": ("resume",), "samples.jsonl": ("info", "resume")}.get(file, VERBS)


def confuse(folder: Path, say: Callable[..., Said], *, whole: bool, every: int, seed: int) -> Counter:
    """Of each file how many confusions were tried, one in `every` of them, and refused; or it fails."""
    draw, found, wrong = random.Random(seed), Counter(), []
    for path, what, text in confusions(folder, whole=whole):
        if draw.randrange(every):
            continue
        right = path.read_bytes()
        path.write_text(text(), encoding="utf-8")
        name = path.relative_to(folder).as_posix()
        for verb, said in answers(folder, path, say, verbs=verbs_for(name, whole=whole)):
            errors = [line for line in said.err.splitlines() if line.startswith("lucidlm: ")]
            one_line = len(errors) == 1 and said.out == "" and errors[0] == said.err.splitlines()[-1]
            if said.code not in (0, 2) or (said.code == 2 and not one_line):
                wrong.append(f"seed {seed}: {name} {what}, {verb}: {said}")
            found[name, verb] += said.code == 2
        found[name, "tried"] += 1
        path.write_bytes(right)
    assert not wrong, f"{len(wrong)} of {found.total()}\n" + "\n".join(wrong)
    return found


@pytest.fixture
def few_steps(monkeypatch) -> None:
    """However many steps a confused plan has, a few are made; all that follows is one assessment."""
    steps, assess, made = loop.train_steps, finish.assess, []

    def first_of(training, *, stop) -> Iterator[loop.Report]:
        count = itertools.count(1)
        yield from steps(training, stop=lambda: next(count) > 20 or stop())

    def assess_once(*inputs: Any, **settings: Any) -> Assessment:
        made.extend([] if made else [assess(*inputs, **settings)])
        return made[0]

    monkeypatch.setattr(loop, "train_steps", first_of)
    monkeypatch.setattr(finish, "assess", assess_once)


@pytest.mark.usefixtures("few_steps")
def test_a_sample_of_confused_files_is_answered_or_refused(stopped, say):
    assert confuse(stopped, say, whole=True, every=700, seed=1).total() > 1
    assert confuse(without_hashes(stopped), say, whole=False, every=1500, seed=2).total() > 1


@pytest.mark.torture
@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("whole", [True, False])
def test_every_confused_file_is_answered_or_refused(stopped, say, capsys, whole):
    found = confuse(stopped if whole else without_hashes(stopped), say, whole=whole, every=1, seed=3)
    with capsys.disabled():
        print(table_of(found, ("tried", *VERBS)))
