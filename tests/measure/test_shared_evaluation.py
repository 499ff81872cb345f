"""One text on several processes: the numbers of one process, also after a kill; errors are said once."""

import json
import math
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from models import BYTES, END_OF_TEXT, FOREIGN, STORY, lively, made_up_text, shape
from worlds import differences, in_world

from lucidlm.errors import LucidError
from lucidlm.measure import shares, shortening
from lucidlm.measure.evaluation import evaluate_documents, score_share
from lucidlm.measure.protocol import Protocol
from lucidlm.measure.scoring import Scorer
from lucidlm.measure.shares import Share, hash_of, packed, unpacked
from lucidlm.runtime.distributed import World, joined
from lucidlm.runtime.ranks import ElsewhereError, Layout
from lucidlm.text.excerpts import Excerpt

SMALL = shape(family="modern", context_length=32, n_kv_heads=1, document_prefix_id=END_OF_TEXT)
LONG = made_up_text(sentences=16)
SHORT = [made_up_text(sentences=1, seed=seed)[: 5 + 7 * (seed % 9)] for seed in range(24)]
TEXTS = {
    "many short": SHORT,
    "one long": [LONG],
    "a long one among short ones": [*SHORT[:4], LONG, STORY, "", "a", FOREIGN],
    "fewer than processes": [STORY],
    "nothing to score for most": ["ab", "", ""],
}
PROTOCOLS = [
    Protocol(batch_size=2),
    Protocol(),
    Protocol(context_length=12, stride=5, prefix="none", batch_size=3),
    Protocol("lm-eval", batch_size=2),
    Protocol("hf-guide", stride=12, batch_size=2),
    Protocol("batch-mean", context_length=8, batch_size=2),
    Protocol(dtype="bfloat16", batch_size=1),
    Protocol(dtype="bfloat16", batch_size=4, context_length=16),
]


def documents_of(texts: list[str]) -> list[np.ndarray]:
    return [np.asarray(BYTES.encode(text), np.int64) for text in texts]


def model():
    return lively(SMALL)


def documents_in(name: str) -> list:
    """The documents of a name; those of "pieces" are read after the text before them."""
    if name != "pieces":
        return documents_of(TEXTS[name])
    ids = np.asarray(BYTES.encode(LONG))
    return [Excerpt(ids[start : start + 90], ids[:start]) for start in range(100, len(ids), 120)]


def share_of(world: World, scorer: Scorer, documents: list, of_model: str = "m") -> Share:
    return Share(world, scorer, model=of_model, text=hash_of(documents, scorer.context_length))


def shared(world: World, documents: list, protocol: Protocol, **how) -> dict | None:
    """The result of the first process, with the table of the documents; None on the others."""
    scorer = Scorer(model(), BYTES, protocol)
    share = share_of(world, scorer, documents)
    if not world.first:
        score_share(scorer.model, BYTES, documents, share, protocol=protocol)
        return None
    found = evaluate_documents(scorer.model, BYTES, documents, protocol=protocol, share=share, **how)
    share.forget()
    return found.to_dict() | {"table": found.by_document.tolist()}


def alone(documents: list, protocol: Protocol, **how) -> dict:
    found = evaluate_documents(model(), BYTES, documents, protocol=protocol, **how)
    return found.to_dict() | {"table": found.by_document.tolist()}


def cases() -> list[tuple[str, Protocol, dict]]:
    mixed = "a long one among short ones"
    return [
        *((name, PROTOCOLS[0], {}) for name in TEXTS),
        *((mixed, protocol, {}) for protocol in PROTOCOLS[1:]),
        *((name, PROTOCOLS[6], {}) for name in TEXTS if name != mixed),
        ("pieces", PROTOCOLS[1], {"design": "strata", "fraction": 0.1}),
    ]


def all_answers(cache: Path, every: int) -> list[str]:
    """What each case, or each second, third, ... one, is answered with, or the error's line."""
    os.environ["LUCIDLM_CACHE"] = str(cache)
    shortening.EVERY = 8
    said = []
    with joined(Layout(), device="cpu") as world:
        for name, protocol, how in cases()[::every]:
            try:
                said.append(json.dumps(shared(world, documents_in(name), protocol, **how)))
            except LucidError as error:
                said.append(str(error))
        left = list((cache / shares.EVALUATIONS).rglob("*.sums")) if world.first else []
    return [*said, str(left)]


@pytest.fixture(scope="module")
def expected() -> list[str]:
    """What one process answers to each case, without any share."""
    before, shortening.EVERY = shortening.EVERY, 8
    said = []
    for name, protocol, how in cases():
        try:
            said.append(json.dumps(alone(documents_in(name), protocol, **how)))
        except LucidError as error:
            said.append(str(error))
    shortening.EVERY = before
    return said


@pytest.mark.parametrize(("size", "every"), [(2, 3), (3, 1)])
def test_the_numbers_of_any_text_and_protocol_are_those_of_one_process(expected, size, every, tmp_path):
    first, *others = in_world(size, all_answers, tmp_path, every)
    asked = zip(cases()[::every], expected[::every], first[:-1], strict=True)
    for (name, protocol, _), one, many in asked:
        if not one.startswith("{"):
            assert many == one, (name, protocol)
            continue
        assert differences(json.loads(one), json.loads(many)) == [], (name, protocol)
    assert sum(each.startswith("{") for each in expected) > 14
    assert sum('"rounding": {' in each for each in expected) > 5
    assert first[-1] == "[]", "what was kept is deleted when the result is out"
    assert all(said == "null" for other in others for said in other[:-1])


def test_a_world_of_one_is_the_same_to_the_last_bit(tmp_path, monkeypatch):
    monkeypatch.setenv("LUCIDLM_CACHE", str(tmp_path))
    for protocol in PROTOCOLS[:3]:
        one = alone(documents_in("a long one among short ones"), protocol)
        assert shared(World(), documents_in("a long one among short ones"), protocol) == one


def batches_scored(monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> list[list]:
    """The batches that are scored from now on; an error instead of one after so many."""
    seen: list[list] = []
    scored = Scorer.scored

    def watched(self, batch):
        if stop_after is not None and len(seen) == stop_after:
            raise KeyboardInterrupt
        if len(batch) > 0 and self.protocol.dtype == "float32":
            seen.append([(window.document, window.place) for window in batch])
        return scored(self, batch)

    monkeypatch.setattr(Scorer, "scored", watched)
    return seen


@pytest.mark.parametrize("protocol", [PROTOCOLS[0], PROTOCOLS[5]])
def test_what_was_kept_is_neither_scored_again_nor_counted_twice(tmp_path, monkeypatch, protocol):
    monkeypatch.setenv("LUCIDLM_CACHE", str(tmp_path))
    documents = documents_in("a long one among short ones")
    expected = alone(documents, protocol)
    monkeypatch.setattr(shares, "SAVE_S", -1.0)
    monkeypatch.setattr(shares, "SAVE_TIMES", 0.0)
    total = 0
    for stop_after in (3, 0, 2, None):
        with monkeypatch.context() as patch:
            seen = batches_scored(patch, stop_after)
            try:
                assert differences(shared(World(), documents, protocol), expected) == []
            except KeyboardInterrupt:
                assert stop_after is not None
            total += len(seen)
    with monkeypatch.context() as patch:
        once = batches_scored(patch)
        alone(documents, protocol)
    assert total == len(once)


def kept_files(folder: Path) -> list[Path]:
    return sorted((folder / shares.EVALUATIONS).rglob("*.sums"))


def interrupted(documents: list, monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """An evaluation that is interrupted after so many batches, each of them kept."""
    with monkeypatch.context() as patch:
        patch.setattr(shares, "SAVE_S", -1.0)
        patch.setattr(shares, "SAVE_TIMES", 0.0)
        batches_scored(patch, after)
        with pytest.raises(KeyboardInterrupt):
            shared(World(), documents, PROTOCOLS[0])


def test_damaged_doubled_or_other_sums_are_not_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("LUCIDLM_CACHE", str(tmp_path))
    documents = documents_in("one long")
    expected = alone(documents, PROTOCOLS[0])
    interrupted(documents, monkeypatch, after=4)
    (kept,) = kept_files(tmp_path)
    data = kept.read_bytes()
    assert unpacked(data)["batches"].tolist() == [0, 1, 2, 3]

    kept.with_name("copy.sums").write_bytes(data)  # two files with the same batches: one counts
    assert differences(shared(World(), documents, PROTOCOLS[0]), expected) == []
    assert kept_files(tmp_path) == []

    for damage in (data[:-1], data[:100], b"", data[:200] + b"\0" + data[201:]):
        if damage == data:
            continue
        kept.parent.mkdir(parents=True)
        kept.write_bytes(damage)
        with monkeypatch.context() as patch:
            seen = batches_scored(patch)
            assert differences(shared(World(), documents, PROTOCOLS[0]), expected) == []
        assert len(seen) > 4

    interrupted(documents, monkeypatch, after=4)  # of another text, protocol or model: another folder
    folder = kept_files(tmp_path)[0].parent
    scorer = Scorer(model(), BYTES, PROTOCOLS[0])
    others = [
        share_of(World(), scorer, documents_of([LONG + "."])),
        share_of(World(), scorer, documents, "n"),
        share_of(World(), Scorer(model(), BYTES, Protocol(batch_size=3)), documents),
        share_of(World(), Scorer(model(), BYTES, Protocol(batch_size=2, stride=5)), documents),
        share_of(World(), Scorer(model(), BYTES, Protocol(batch_size=2, prefix="none")), documents),
    ]
    assert share_of(World(), scorer, documents).kept.folder == folder
    assert folder not in [each.kept.folder for each in others]
    assert len({each.kept.folder for each in others}) == len(others)


def test_all_that_decides_a_number_is_in_the_hash():
    ids = np.arange(9)
    texts = [
        *(["ab"], ["a", "b"], ["b", "a"], [ids], [ids[:8]], [Excerpt(ids[4:], ids[:4])], [Excerpt(ids[4:])]),
        [Excerpt(ids[4:], text="x")],
    ]
    assert len({hash_of(each, 3) for each in texts}) == len(texts)
    assert hash_of([Excerpt(ids[6:], ids[:6])], 3) == hash_of([Excerpt(ids[6:], ids[2:6])], 3)


def test_where_nothing_can_be_kept_the_numbers_come_all_the_same_and_it_is_said(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("LUCIDLM_CACHE", str(tmp_path / "cache"))
    documents = documents_in("one long")
    scorer = Scorer(model(), BYTES, PROTOCOLS[0])
    share = share_of(World(), scorer, documents)
    notes = []

    class Noting:
        def stage(self, name, total=None): ...

        def advance(self, n=1): ...

        def note(self, line):
            notes.append(line)

    found = evaluate_documents(
        scorer.model, BYTES, documents, protocol=PROTOCOLS[0], share=share, progress=Noting()
    )
    assert found == evaluate_documents(scorer.model, BYTES, documents, protocol=PROTOCOLS[0])
    assert len(notes) == 1
    assert "cannot be kept" in notes[0]


def fails(cache: Path, what: str) -> str:
    """What a process says where one has broken weights for one letter, other weights or another text."""
    os.environ["LUCIDLM_CACHE"] = str(cache)
    with joined(Layout(), device="cpu") as world:
        broken, documents = model(), documents_of([*["abcd"] * 7, "za", *["abcd"] * 4])
        mine = world.rank.number == 1
        if what == "weights":
            with torch.no_grad():
                broken.token_embedding.weight[ord("z")] = math.nan
        if what == "text" and mine:
            documents = documents[1:]
        scorer = Scorer(broken, BYTES, Protocol(batch_size=2))
        try:
            with world.said_once():
                share = share_of(world, scorer, documents, f"model {what == 'model' and mine}")
                score_share(broken, BYTES, documents, share, protocol=scorer.protocol)
        except ElsewhereError as error:
            return f"quiet: {error}"
        except LucidError as error:
            return f"says: {error}"
    return "nothing"


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("weights", "of document 8 hold NaN"),
        ("text", "rank 1 has another text than rank 0"),
        ("model", "rank 1 has another model than rank 0"),
    ],
)
def test_what_fails_on_one_process_or_on_all_is_said_once(tmp_path, what, line):
    said = in_world(3, fails, tmp_path, what)
    assert len([each for each in said if each.startswith("says: ")]) == 1, said
    assert all(line in each for each in said), said


def is_killed(cache: Path, of: int, after: int) -> str:
    """Kills one process after so many of its batches: those that it has kept are there when it is started
    again."""
    os.environ["LUCIDLM_CACHE"] = str(cache)
    shares.SAVE_S, shares.SAVE_TIMES = -1.0, 0.0
    scored, count = Scorer.scored, [0]

    def killing(self, batch):
        count[0] += 1
        if world.rank.number == of and count[0] > after:
            os.kill(os.getpid(), signal.SIGKILL)
        return scored(self, batch)

    with joined(Layout(patience=1), device="cpu") as world:
        Scorer.scored = killing
        try:
            return json.dumps(shared(world, documents_in("one long"), PROTOCOLS[0]))
        except LucidError:
            return f"lost after {count[0]}"


def resumes(cache: Path) -> tuple[int, str]:
    os.environ["LUCIDLM_CACHE"] = str(cache)
    count, scored = [0], Scorer.scored

    def counting(self, batch):
        count[0] += 1
        return scored(self, batch)

    Scorer.scored = counting
    with joined(Layout(), device="cpu") as world:
        return count[0], json.dumps(shared(world, documents_in("one long"), PROTOCOLS[0])), count[0]


def test_after_a_kill_another_number_of_processes_continues(tmp_path):
    in_world(2, is_killed, tmp_path, 1, 3, expect=1)
    kept = [len(unpacked(path.read_bytes())["batches"]) for path in kept_files(tmp_path)]
    batches = len(list(Scorer(model(), BYTES, PROTOCOLS[0]).batches(documents_in("one long"))))
    assert sorted(kept) == [3, math.ceil(batches / 2)]
    answers = in_world(3, resumes, tmp_path)
    assert sum(each[2] for each in answers) == batches - sum(kept)
    expected = alone(documents_in("one long"), PROTOCOLS[0])
    assert differences(json.loads(answers[0][1]), expected) == []


def test_sums_that_nobody_has_continued_for_long_are_deleted(tmp_path, monkeypatch):
    monkeypatch.setenv("LUCIDLM_CACHE", str(tmp_path))
    interrupted(documents_in("one long"), monkeypatch, after=2)
    interrupted(documents_in("many short"), monkeypatch, after=2)
    old, young = (path.parent for path in kept_files(tmp_path))
    os.utime(old, (0, 0))
    shared(World(), documents_in("fewer than processes"), PROTOCOLS[0])
    assert not old.exists()
    assert young.exists()


def test_packed_arrays_are_the_same_again_and_no_flipped_bit_passes():
    arrays = {"a": np.arange(3.0), "b": np.empty((0, 5)), "c": np.array([[1, 2]], np.int64)}
    data = packed(arrays)
    again = unpacked(data)
    assert all(np.array_equal(arrays[name], again[name]) for name in arrays)
    for place in random.Random(0).sample(range(len(data)), 20):
        assert unpacked(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]) is None
