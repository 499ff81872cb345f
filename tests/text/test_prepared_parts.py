"""The training part and the held-out part of a prepared folder: the split, and text that is in both."""

import random

import pytest
from made_texts import decoded, words, write_jsonl

from lucidlm.errors import ConfigError, DataError
from lucidlm.text import split
from lucidlm.text.preparation import prepare


def test_twenty_documents_or_more_are_split_whole_by_their_content_alone(tmp_path):
    texts = [words(seed, 30) for seed in range(100)]
    corpus = prepare(write_jsonl(tmp_path / "a.jsonl", texts), tmp_path / "a", tokenizer="bytes")
    train, validation = decoded(corpus)
    assert [text for text in texts if text in {*train}] == train
    assert sorted(train + validation) == sorted(texts)
    assert 3 <= len(validation) <= 20  # 10 expected, three standard deviations
    more = [words(seed, 30) for seed in range(1000, 1200)]
    shuffled = random.Random(0).sample(texts + more, k=300)
    larger = decoded(prepare(write_jsonl(tmp_path / "b.jsonl", shuffled), tmp_path / "b", tokenizer="bytes"))
    assert {*validation} <= {*larger[1]}
    assert {*train} <= {*larger[0]}
    assert corpus.manifest["train"]["documents"] == len(train)


def test_files_of_a_folder_are_documents_and_are_split_alike(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for seed in range(25):
        (folder / f"{seed}.txt").write_text(words(seed, 30))
    from_folder = decoded(prepare(folder, tmp_path / "a", tokenizer="bytes"))
    lines = write_jsonl(tmp_path / "a.jsonl", [words(seed, 30) for seed in range(25)])
    from_lines = decoded(prepare(lines, tmp_path / "b", tokenizer="bytes"))
    assert [sorted(part) for part in from_folder] == [sorted(part) for part in from_lines]


def test_equal_documents_fall_on_one_side(tmp_path):
    texts = [words(seed % 15, 30) for seed in range(60)]
    train, validation = decoded(
        prepare(write_jsonl(tmp_path / "a.jsonl", texts), tmp_path / "a", tokenizer="bytes")
    )
    assert not {*train} & {*validation}
    assert len(train) + len(validation) == 60


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
def test_neither_side_is_left_without_a_document(tmp_path, fraction):
    texts = [words(seed, 30) for seed in range(20)]
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    corpus = prepare(path, tmp_path / "a", tokenizer="bytes", validation_fraction=fraction)
    assert sorted(map(len, decoded(corpus))) == [1, 19]


def test_documents_that_are_all_the_same_cannot_be_split(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["the same"] * 30)
    with pytest.raises(DataError, match=r"30 documents are the same text.*--val"):
        prepare(path, tmp_path / "a")
    alone = write_jsonl(tmp_path / "b.jsonl", [words(0, 300)])
    with pytest.raises(DataError, match=r"only one document: use --split pieces or end, or give --val"):
        prepare(alone, tmp_path / "b", split="documents")


def test_the_validation_part_is_bounded_by_halving_the_fraction(tmp_path, monkeypatch):
    text = "x" * 100_000
    (tmp_path / "a.txt").write_text(text)
    texts = [words(seed, 30) for seed in range(400)]
    lines = write_jsonl(tmp_path / "a.jsonl", texts)
    before = decoded(prepare(lines, tmp_path / "c", tokenizer="bytes"))[1]
    monkeypatch.setattr(split, "LARGEST_VALIDATION", 3000)
    corpus = prepare(tmp_path / "a.txt", tmp_path / "e", tokenizer="bytes")
    assert (corpus.design, corpus.validation_bytes) == ("strata", 2500)
    corpus = prepare(tmp_path / "a.txt", tmp_path / "a", tokenizer="bytes", split="end")
    assert corpus.validation_bytes == 2500
    assert corpus.notes[0] == "held out: the last 2.5 % of the text"
    corpus = prepare(lines, tmp_path / "b", tokenizer="bytes")
    assert 0 < corpus.validation_bytes <= 3000
    assert {*decoded(corpus)[1]} < {*before}


def test_validation_sources_of_their_own_are_the_validation_part(book, tmp_path):
    (tmp_path / "val.txt").write_text(words(999, 400))
    corpus = prepare(book, tmp_path / "out", tokenizer="bytes", validation=[tmp_path / "val.txt"])
    assert decoded(corpus) == ([book.read_text("utf-8")], [words(999, 400)])
    assert corpus.manifest["validation_sources"][0]["path"].endswith("val.txt")


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 2, float("nan")])
def test_a_fraction_that_leaves_nothing_is_an_error(book, tmp_path, fraction):
    with pytest.raises(ConfigError, match="validation fraction"):
        prepare(book, tmp_path / "out", validation_fraction=fraction)


@pytest.mark.parametrize("text", ["a", "ab", "abcdefghijklm"])
def test_a_text_too_short_for_two_parts_is_an_error_or_works(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    if len(text) < 2:
        with pytest.raises(DataError, match="1 character leaves no validation text; add text or give --val"):
            prepare(tmp_path / "a.txt", tmp_path / "out")
        assert not (tmp_path / "out").exists()
    else:
        corpus = prepare(tmp_path / "a.txt", tmp_path / "out", split="end")
        assert "".join(map("".join, decoded(corpus))) == text
        assert any("only 1 token:" in note or "only 2 tokens" in note for note in corpus.notes)


# Text in both parts


def test_a_planted_copy_in_the_validation_text_is_taken_out_of_training_and_named(tmp_path):
    texts = [words(seed, 50) for seed in range(10)]
    train = write_jsonl(tmp_path / "train.jsonl", texts)
    validation = write_jsonl(tmp_path / "val.jsonl", [texts[3], words(77, 50)])
    corpus = prepare(train, tmp_path / "out", tokenizer="bytes", validation=validation)
    assert decoded(corpus) == (texts[:3] + texts[4:], [texts[3], words(77, 50)])
    assert any("1 training document" in note and "train.jsonl:4" in note for note in corpus.notes)


def test_a_validation_text_that_is_the_training_text_is_an_error(book, tmp_path):
    with pytest.raises(DataError, match="the training text is also"):
        prepare(book, tmp_path / "out", validation=book)


def test_the_manifest_and_the_notes_name_a_copy(tmp_path):
    texts = [words(seed, 300) for seed in range(8)]
    changed = texts[5].split()
    changed[100] = changed[200] = "altered"
    validation = write_jsonl(tmp_path / "val.jsonl", [words(500, 300), " ".join(changed)])
    train = write_jsonl(tmp_path / "train.jsonl", texts)
    corpus = prepare(train, tmp_path / "out", tokenizer="bytes", validation=validation)
    (leak,) = corpus.manifest["leaks"]["documents"]
    assert (leak["validation"], leak["train"]) == (f"{validation}:2", f"{train}:6")
    assert 0.9 <= leak["overlap"] <= 1
    assert any(f"{validation}:2" in note and "its loss is too low" in note for note in corpus.notes)


def test_a_validation_text_of_few_tokens_is_a_warning(book, tmp_path):
    corpus = prepare(book, tmp_path / "out", tokenizer="gpt2")
    assert corpus.validation_tokens < 1000
    assert f"the held-out text is only {corpus.heldout_tokens} tokens: its loss is uncertain" in corpus.notes
