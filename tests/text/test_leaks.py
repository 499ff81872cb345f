import json
import random
import re
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from models import BUNDLED_STORY as STORY

from lucidlm.text import copies, letters, passages, staged_text
from lucidlm.text.copies import CopySearch
from lucidlm.text.preparation import prepare

CITIES = ["Berlin", "Hamburg", "Cologne"]
PIECES = [STORY[start : start + 1800] for start in range(0, len(STORY) - 1800, 1800)]


def check(tmp_path, train, validation):
    """The corpus of these documents."""
    for name, texts in (("train", train), ("val", validation)):
        lines = [json.dumps({"text": text}) for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    out = tmp_path / "out"
    return prepare(tmp_path / "train.jsonl", out, tokenizer="bytes", validation=tmp_path / "val.jsonl")


def numbers(leaks):
    """Which validation documents were found, from 1, as documents or by their passages."""
    named = [*leaks["documents"], *leaks["examples"]]
    return {int(each["validation"].rpartition(":")[2]) for each in named}


def chinese(seed, count):
    """Text without spaces: characters as frequent as words are, none like the next."""
    rng = random.Random(seed)
    alphabet = [chr(0x4E00 + 7 * rank) for rank in range(1500)]
    weights = [1 / (rank + 3) for rank in range(1500)]
    return "".join(rng.choices(alphabet, weights, k=count))


# Planted copies


def with_words_changed(text, share):
    rng = random.Random(text)
    pool = STORY.split()
    words = re.split(r"(\s+)", text)
    return "".join(rng.choice(pool) if word.strip() and rng.random() < share else word for word in words)


PLANTED = {
    **{f"{share:.1%} of the words": (lambda text, share=share: with_words_changed(text, share))
       for share in (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.15)},
    "upper case": str.upper,
    "no punctuation": lambda text: re.sub(r"[^\w\s]", "", text),
    "other line ends": lambda text: " ".join(text.split()),
    "no spaces": lambda text: "".join(text.split()),
    "half of it": lambda text: text[: len(text) // 2] + PIECES[-1][: len(text) // 2],
    "the other half of it": lambda text: PIECES[-1][: len(text) // 2] + text[len(text) // 2 :],
}  # fmt: skip


@pytest.mark.parametrize("kind", PLANTED)
def test_10_of_10_planted_copies_are_found_and_nothing_else(kind, tmp_path):
    validation = PIECES[:10] + ["A preface. " + PLANTED[kind](text) for text in PIECES[20:30]]
    corpus = check(tmp_path, PIECES[15:45], validation)
    leaks = corpus.manifest["leaks"]
    assert numbers(leaks) == set(range(11, 21))
    assert leaks["near_documents"] == 10
    assert [each["train"].rpartition(":")[2] for each in leaks["documents"]] == [str(n) for n in range(6, 16)]
    assert any("10 of 20 validation documents" in note for note in corpus.notes)


@pytest.mark.parametrize("changed", [0, 0.05, 0.1])
def test_copies_of_chinese_text_are_found(changed, tmp_path):
    rng = random.Random(0)
    texts = [chinese(seed, 3600) for seed in range(12)]
    copied = "".join(rng.choice(texts[0]) if rng.random() < changed else letter for letter in texts[5])
    lines = "\n".join(copied[start : start + 180] for start in range(0, 3600, 180))
    leaks = check(tmp_path, texts[2:], [texts[0], lines, texts[1]]).manifest["leaks"]
    assert numbers(leaks) == {2}
    assert leaks["documents"][0]["overlap"] > 0.8
    assert leaks["share"] == pytest.approx(1 / 3, abs=0.06)


def test_a_passage_of_the_stated_length_is_found_and_its_characters_are_counted(tmp_path):
    passage = PIECES[30][100:330]
    validation = PIECES[0] + "\n" + passage + "\n" + PIECES[1]
    leaks = check(tmp_path, PIECES[20:], [validation]).manifest["leaks"]
    assert (leaks["near_documents"], leaks["passages"]) == (0, 1)
    assert leaks["passage_characters"] == pytest.approx(len(passage), abs=4)
    assert passage[5:60] in leaks["examples"][0]["text"]
    assert leaks["share"] == pytest.approx(leaks["passage_characters"] / len(validation), rel=0.15)


def test_a_passage_below_the_stated_length_is_not(tmp_path):
    letters_of = re.sub(r"[^a-zA-Z]", "", PIECES[30])
    short = letters_of[: passages.VERBATIM - 10]
    leaks = check(tmp_path, PIECES[20:], [PIECES[0] + "\n" + short + ".\n" + PIECES[1]]).manifest["leaks"]
    assert (leaks["near_documents"], leaks["passages"], leaks["share"]) == (0, 0, 0)


def test_a_little_text_in_both_parts_is_said_to_matter_little(tmp_path):
    validation = "\n".join([*PIECES[:20], PIECES[30][:240]])
    corpus = check(tmp_path, PIECES[25:], [validation])
    assert 0 < corpus.manifest["leaks"]["share"] < 0.01
    assert any("too little to change" in note for note in corpus.notes)


def test_paragraphs_repeated_over_the_border_of_one_book_are_found(tmp_path):
    paragraphs = [text for text in STORY.split("\n\n") if len(text) > 250]
    repeated = paragraphs[5:19]
    (tmp_path / "a.txt").write_text("\n\n".join([STORY, *repeated]), encoding="utf-8")
    share = sum(map(len, repeated)) / len(STORY)
    settings = {"tokenizer": "bytes", "validation_fraction": share}
    end = prepare(tmp_path / "a.txt", tmp_path / "end", split="end", **settings)
    assert end.manifest["leaks"]["share"] > 0.8
    # Of pieces from all over the book as many repeat training text as of the book: both copies do.
    pieces = prepare(tmp_path / "a.txt", tmp_path / "pieces", split="pieces", **settings)
    expected = 2 * share / (1 + share)
    assert pieces.manifest["leaks"]["share"] == pytest.approx(expected, abs=0.5 * expected)
    assert any("held-out pieces repeat the training text" in note for note in pieces.notes)


def test_short_lines_repeated_in_any_order_are_found(tmp_path):
    rng = random.Random(0)
    sentences = [text for text in re.split(r"(?<=[.!?])\s+", " ".join(STORY.split())) if 40 < len(text) < 120]
    repeated = rng.sample(sentences, 150)
    (tmp_path / "train.txt").write_text("\n".join(sentences), encoding="utf-8")
    (tmp_path / "val.txt").write_text("\n".join(repeated), encoding="utf-8")
    out = tmp_path / "out"
    corpus = prepare(tmp_path / "train.txt", out, tokenizer="bytes", validation=tmp_path / "val.txt")
    leaks = corpus.manifest["leaks"]
    assert leaks["lines"] == leaks["lines_total"] > 140
    assert leaks["share"] > 0.95


def test_copies_are_found_in_a_long_training_text_read_in_small_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(staged_text, "BLOCK", 700)
    monkeypatch.setattr(letters, "TOGETHER", 1500)
    monkeypatch.setattr(copies, "PENDING", 50)
    leaks = check(tmp_path, ["\n".join(PIECES[5:])], [PIECES[0], PIECES[20], PIECES[30].upper()]).manifest[
        "leaks"
    ]
    assert numbers(leaks) == {2, 3}
    assert min(each["overlap"] for each in leaks["documents"]) > 0.95


# Clean corpora


def log_line(rng):
    day, minute = rng.randint(1, 28), f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"
    user = rng.choice(["anna", "ben", "carla", "david", "eva", "frank"]) + rng.choice(
        [".adams", ".brown", ".clark"]
    )
    return (
        f"2024-{rng.randint(1, 12):02}-{day:02} {minute} WARNING connection of user {user} from "
        f"{rng.choice(CITIES)} was closed by the remote side before the answer had been sent completely; "
        f"the client will try again in {rng.randint(1, 90)} s"
    )


def csv_row(rng):
    number, city = rng.randrange(10**6), rng.choice(CITIES)
    return f"{number},{city},{rng.gauss(12, 8):.1f},{rng.random():.3f},N"


def json_record(rng):
    items = [{"article": rng.randrange(500), "count": rng.randint(1, 9)} for _ in range(rng.randint(1, 4))]
    amount = round(rng.expovariate(0.01), 2)
    record = {"id": rng.randrange(10**6), "city": rng.choice(CITIES), "country": "Germany"}
    return json.dumps(record | {"amount": amount, "currency": "EUR", "items": items})


def question(rng):
    name = "".join(rng.choice("bcdfglmnprst") + rng.choice("aeiou") for _ in range(4)).title()
    return f"How far is it from {rng.choice(CITIES)} to {name}, and how long does it take?"


def random_numbers(rng):
    return " ".join(str(rng.randrange(1000)) for _ in range(20))


def modules():
    names = "argparse ast bisect calendar csv datetime decimal difflib dis doctest fractions heapq inspect"
    folder = Path(sysconfig.get_paths()["stdlib"])
    return [(folder / f"{name}.py").read_text(encoding="utf-8") for name in names.split()]


def html_page(number):
    sentences = re.split(r"(?<=[.!?])\s+", STORY)
    return (
        '<!DOCTYPE html><html><head><meta charset="utf-8"><link rel="stylesheet" href="style.css"></head>'
        '<body><nav><ul><li><a href="/">Home</a></li><li><a href="/news">News</a></li></ul></nav><main><p>'
        + " ".join(sentences[4 * number : 4 * number + 4])
        + "</p></main><footer>Copyright 2024 The Example Company. All rights reserved. No part of this page "
        "may be copied without written permission of the company.</footer></body></html>"
    )


def generated(make, count=800):
    rng = random.Random(7)
    return list(dict.fromkeys(make(rng) for _ in range(count)))


LICENCE = (
    "# Licensed under the Example License; you may not use this file except in compliance with the License.\n"
    * 3
)
RECORDS = {make.__name__: make for make in (log_line, csv_row, json_record, question, random_numbers)}
CLEAN = {
    "prose": lambda: PIECES,
    "prose, short pieces": lambda: [STORY[start : start + 300] for start in range(0, len(STORY) - 300, 300)],
    "verse": lambda: [" /\n".join(text.split("\n")) for text in PIECES],
    "code": modules,
    "code with a licence": lambda: [LICENCE + text for text in modules()],
    "Chinese": lambda: [chinese(seed, 1500) for seed in range(60)],
    "HTML": lambda: [html_page(number) for number in range(100)],
    **{f"{name}, a document each": lambda make=make: generated(make) for name, make in RECORDS.items()},
}


@pytest.mark.parametrize("name", CLEAN)
def test_documents_that_are_no_copies_raise_no_alarm(name, tmp_path):
    documents = CLEAN[name]()
    train, validation = [text for place, text in enumerate(documents) if place % 5], documents[::5]
    corpus = check(tmp_path, train, validation)
    leaks = corpus.manifest["leaks"]
    assert leaks["near_documents"] == 0
    assert leaks["share"] < 0.005
    assert not any("too low" in note for note in corpus.notes)


ONE_TEXT = {
    "prose": lambda: STORY,
    "Chinese": lambda: chinese(3, 40_000),
    "code": lambda: "\n".join(modules()[:4]),
    **{name: lambda make=make: "\n".join(generated(make, 2000)) for name, make in RECORDS.items()},
}


@pytest.mark.parametrize("name", ONE_TEXT)
def test_one_text_that_repeats_nothing_raises_no_alarm(name, tmp_path):
    (tmp_path / "a.txt").write_text(ONE_TEXT[name](), encoding="utf-8")
    corpus = prepare(tmp_path / "a.txt", tmp_path / "out", tokenizer="bytes")
    leaks = corpus.manifest["leaks"]
    assert leaks["share"] < (0.1 if name == "code" else 0.01)  # methods of one class are copies of each other
    assert not any("too low" in note for note in corpus.notes)


def test_a_copied_block_of_log_lines_is_found_among_lines_of_one_template(tmp_path):
    lines = generated(log_line, 2000)
    validation = [*lines[1800:], *lines[300:330]]
    leaks = check(tmp_path, ["\n".join(lines[:1800])], ["\n".join(validation)]).manifest["leaks"]
    assert leaks["passages"] >= 1 or leaks["near_documents"]
    assert leaks["share"] == pytest.approx(30 / 230, abs=0.03)


# What the check cannot see


@pytest.mark.parametrize(("short", "said"), [
    (["no letters", "few"], "2 of 2 validation documents have fewer than 20 letters"),
    (["few"], "1 of 1 validation document has fewer than 20 letters"),
])  # fmt: skip
def test_documents_that_are_too_short_are_said(tmp_path, short, said):
    train = [f"the word {number}" for number in range(50)]
    corpus = check(tmp_path, train, short)
    assert corpus.manifest["leaks"]["too_short_documents"] == len(short)
    assert any(said in note for note in corpus.notes)


def test_templates_that_are_not_counted_are_said(tmp_path):
    corpus = check(tmp_path, (lines := generated(log_line))[:700], lines[700:])
    assert corpus.manifest["leaks"]["template_share"] > 0.5
    (note,) = (note for note in corpus.notes if "follows templates" in note)
    assert re.search(r"times in the training text: \d+%, in the validation text itself: \d+%\)", note)


@pytest.mark.parametrize(("in_training", "in_validation", "where"), [
    (40, 1, "in the training text)"),
    (0, 40, "in the validation text itself)"),
    (40, 40, "in the training text: 100%, in the validation text itself: 100%)"),
])  # fmt: skip
def test_where_templates_repeat_is_said(tmp_path, in_training, in_validation, where):
    phrase = "the same entry of a log that stands there again and again, whatever the hour of the day. "
    story = "Another book has other words: nobody in it ever read a line of what a machine had written. "
    corpus = check(tmp_path, [story + phrase * in_training], [phrase * in_validation])
    (note,) = (note for note in corpus.notes if "follows templates" in note)
    assert f"more than 16 times {where}" in note


def test_a_validation_text_that_is_too_long_is_checked_in_part_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "MOST_LETTERS", 5000)
    monkeypatch.setattr(letters, "TOGETHER", 1000)
    corpus = check(tmp_path, PIECES[20:], PIECES[:15])
    unchecked = corpus.manifest["leaks"]["unchecked_documents"]
    assert 8 <= unchecked <= 12
    assert any(f"not in the other {unchecked}" in note for note in corpus.notes)


# The search itself


def test_fewer_shingles_of_a_long_text_find_the_same_copies(monkeypatch):
    texts = [[PIECES[0]], [PIECES[20]], [PIECES[1]], [PIECES[30]]]

    def found():
        search = CopySearch(texts)
        search.look((number, [text]) for number, text in enumerate(PIECES[15:]))
        return search.copies()

    all_of_them = found()
    monkeypatch.setattr(copies, "INDEXED", 1500)
    some = found()
    assert some.source.tolist() == all_of_them.source.tolist() == [-1, 5, -1, 15]
    assert some.copied == pytest.approx(all_of_them.copied, rel=0.03)
    assert all_of_them.copied == pytest.approx(np.array([0, 1, 0, 1]) * all_of_them.letters)
    assert some.known == pytest.approx(all_of_them.known, rel=0.2, abs=60)


def test_texts_without_letters_or_without_anything_are_no_error():
    search = CopySearch([["--- ***"], [""], ["some words, but too few"]])
    search.look([(0, ["--- ***"]), (1, [])])
    found = search.copies()
    assert found.passages == ()
    assert found.copied.tolist() == [0, 0, 0]
