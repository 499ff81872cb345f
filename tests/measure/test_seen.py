import importlib.resources
import json
import re

import pytest

from lucidlm.measure import seen as module
from lucidlm.measure.seen import Seen, find_seen
from lucidlm.text.preparation import prepare

STORY = (importlib.resources.files("lucidlm.text") / "assets" / "story.txt").read_text(encoding="utf-8")
BOOK, OTHER = STORY[:40_000], STORY[50_000:70_000]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Two corpora: of the book, all of it to train on but a sentence, and of 30 documents."""
    folder = tmp_path_factory.mktemp("corpora")
    (folder / "book.txt").write_text(BOOK, encoding="utf-8")
    (folder / "val.txt").write_text("Nothing of this stands anywhere else in these texts.", encoding="utf-8")
    pieces = [STORY[start : start + 500] for start in range(70_000, 85_000, 500)]
    (folder / "pieces.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in pieces))
    val = folder / "val.txt"
    return [
        prepare(folder / "book.txt", folder / "a", tokenizer="bpe:400", validation=val),
        prepare(folder / "pieces.jsonl", folder / "b", tokenizer="bytes", validation=val),
    ]


def seen(texts, *corpora):
    return find_seen([[text] for text in texts], [(f"run{n}", corpus) for n, corpus in enumerate(corpora)])


@pytest.mark.parametrize("tokens_at_once", [1 << 17, 37])
def test_the_training_text_itself_was_seen_wholly(corpora, monkeypatch, tokens_at_once):
    monkeypatch.setattr(module, "DECODED", tokens_at_once)
    found = seen([BOOK], corpora[0])
    assert found.share == pytest.approx(1, abs=1e-3)
    assert (found.documents, found.documents_total) == (1, 1)
    assert found.lines == found.lines_total > 100
    assert "All of this text was trained on" in found.sentence


def test_a_text_of_ones_own_was_not_and_needs_no_line(corpora):
    found = seen([OTHER], corpora[0])
    assert (found.share, found.documents, found.sentence) == (0, 0, "")
    assert found.searched == ("run0",)
    assert found.found_in == ()


@pytest.mark.parametrize(
    "change", [str, str.upper, lambda text: re.sub(r"[^\w\s]", "", text), lambda t: " ".join(t.split())]
)
def test_the_share_of_a_text_that_was_seen_in_part_is_that_of_its_letters(corpora, change):
    found = seen([change(BOOK[5000:9000]) + "\n" + OTHER[:12_000]], corpora[0])
    assert found.share == pytest.approx(0.25, abs=0.01)
    assert "25 % of this text was trained on" in found.sentence
    assert "`lucidlm evaluate run0` without a text gives the held-out number" in found.sentence


def test_each_document_is_looked_for_and_the_run_that_saw_it_is_named(corpora):
    found = seen([STORY[71_000:72_500], OTHER[:1500]], *corpora)
    assert found.share == pytest.approx(0.5, abs=0.03)
    assert (found.documents, found.documents_total) == (1, 2)
    assert (found.searched, found.found_in) == (("run0", "run1"), ("run1",))


def test_lines_that_were_trained_on_many_times_were_trained_on(tmp_path):
    lines = "The first of three lines of text.\nA second line that is not short.\n"
    (tmp_path / "a.txt").write_text(lines * 40, encoding="utf-8")
    (tmp_path / "val.txt").write_text(
        "Nothing of this stands anywhere else in these texts.", encoding="utf-8"
    )
    corpus = prepare(tmp_path / "a.txt", tmp_path / "out", tokenizer="bytes", validation=tmp_path / "val.txt")
    assert seen([lines * 3], corpus).share == 1
    assert seen([lines + OTHER[:3000]], corpus).share < 0.05
    assert seen([OTHER], corpus).share == 0


def test_a_text_that_is_too_short_to_tell_has_no_share(corpora):
    found = seen(["It was a dark night."], corpora[0])
    assert found.share is None
    assert found.sentence == ""


@pytest.mark.parametrize(("documents", "lines", "counts"), [
    ((0, 1), (3, 9), "(3 of 9 lines)"),
    ((2, 4), (3, 9), "(2 of 4 documents completely, 3 of 9 lines)"),
    ((0, 1), (0, 0), "training text of run."),
])  # fmt: skip
def test_only_what_there_are_several_of_is_counted(documents, lines, counts):
    of = dict(
        zip(("documents", "documents_total", "lines", "lines_total"), (*documents, *lines), strict=True)
    )
    assert counts in Seen(share=0.6, **of, searched=("run",), found_in=("run",)).sentence


@pytest.mark.parametrize(
    ("share", "held_out", "mostly"),
    [
        (0.9, False, True),
        (module.MOSTLY, False, True),
        (0.49, False, False),
        (0.9, True, False),
        (None, False, False),
    ],
)
def test_a_text_that_was_trained_on_for_the_most_part_is_no_sample_of_new_text(share, held_out, mostly):
    of = {"documents": 0, "documents_total": 1, "lines": 3, "lines_total": 9}
    found = Seen(share=share, **of, searched=("run",), found_in=("run",), held_out=held_out)
    assert found.mostly == mostly


@pytest.mark.parametrize(
    ("share", "held_out", "words"),
    [
        (0.0005, False, ""),
        (0.004, False, "0.4 % of this text also occurs"),
        (0.004, True, "too little to change the number much"),
        (0.2, True, "20 % of this held-out text also occurs"),
        (0.2, False, "This is not a held-out number."),
        (1.0, False, "how well the model remembers it"),
    ],
)
def test_the_sentence_says_what_the_share_means(share, held_out, words):
    of = {"documents": 0, "documents_total": 1, "lines": 3, "lines_total": 9}
    found = Seen(share=share, **of, searched=("run", "base"), found_in=("base",), held_out=held_out)
    assert words in found.sentence
    assert bool(found.sentence) == bool(words)
    assert words == "" or "training text of base" in found.sentence
    assert found.to_dict()["share"] == share
