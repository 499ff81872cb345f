"""How text is held out: what is a sample of what, and that nothing is lost or seen on both sides."""

import json
import random
import re
import shutil

import models
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lucidlm.errors import ConfigError, DataError
from lucidlm.runtime.manifest import MANIFEST, write_manifest
from lucidlm.text import split as module
from lucidlm.text import staged_text
from lucidlm.text.corpus import PLACES, open_corpus, train_documents, validation_documents
from lucidlm.text.preparation import prepare
from lucidlm.text.windows import IGNORE_INDEX, Windows

WORDS = [*models.WORDS, "größer", "東京"]


def prose(seed, size):
    """Paragraphs of words, of at least so many characters."""
    rng = random.Random(seed)
    text = ""
    while len(text) < size:
        text += " ".join(rng.choices(WORDS, k=rng.randint(3, 60))) + rng.choice([". ", ".\n", ".\n\n"])
    return text


def write(path, texts):
    if len(texts) == 1:
        path = path.with_suffix(".txt")
        path.write_text(texts[0], "utf-8", newline="")
    else:
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    return path


def put_back(corpus):
    """The documents as they were: each piece back in the training tokens, at its place."""
    decode = corpus.tokenizer.decode
    starts = np.load(corpus.folder / "train_documents.npy").tolist()
    places = np.load(corpus.folder / PLACES).tolist()
    pieces = [excerpt.ids for excerpt in validation_documents(corpus)]
    texts = []
    for start, end in zip(starts, [*starts[1:], len(corpus.train)]):
        text, at = "", start
        for (begin, place), ids in zip(places, pieces):
            if begin == start:
                text += decode(corpus.train[at:place]) + decode(ids)
                at = place
        texts.append(text + decode(corpus.train[at:end]))
    return texts


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:300", "gpt2"])
@pytest.mark.parametrize("sizes", [[30_000], [300_000], [9_000, 500, 20_000]])
def test_pieces_and_training_text_together_are_the_text(tmp_path, sizes, tokenizer):
    texts = [prose(seed, size) for seed, size in enumerate(sizes)]
    corpus = prepare(write(tmp_path / "a.jsonl", texts), tmp_path / "out", tokenizer=tokenizer)
    assert corpus.design == "strata"
    assert put_back(corpus) == texts
    assert corpus.train_bytes + corpus.validation_bytes == sum(len(text.encode()) for text in texts)
    assert corpus.characters == sum(map(len, texts))
    assert corpus.manifest["validation"]["documents"] == len(texts)


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text("aé東😀 \n", min_size=1, max_size=400), min_size=1, max_size=4),
    fraction=st.sampled_from([0.01, 0.1, 0.3, 0.5, 0.9]),
    least=st.sampled_from([5, 20, 250]),
)
def test_of_any_text_nothing_is_lost(tmp_path_factory, texts, fraction, least):
    folder = tmp_path_factory.mktemp("split")
    before = staged_text.BLOCK, module.LEAST_PIECE, module.WORD_BYTES
    staged_text.BLOCK, module.LEAST_PIECE, module.WORD_BYTES = 7, least, 4
    try:
        path = write(folder / "a.jsonl", texts)
        corpus = prepare(path, folder / "out", tokenizer="bytes", validation_fraction=fraction)
        assert put_back(corpus) == texts
        whole = {*texts}
        for excerpt in validation_documents(corpus):
            decode = corpus.tokenizer.decode_bytes
            passage = decode(excerpt.before) + decode(excerpt.ids)
            assert any(passage in text.encode() for text in whole)
    except DataError:
        # Too little text for two sides, of at least a character each.
        assert max(len(text.encode()) for text in texts) < 2 * 4 / min(fraction, 1 - fraction)
    finally:
        staged_text.BLOCK, module.LEAST_PIECE, module.WORD_BYTES = before
        shutil.rmtree(folder, ignore_errors=True)


def test_a_piece_at_the_end_of_a_document_is_read_after_that_document_not_the_next(tmp_path, monkeypatch):
    # Half of each stratum is held out, at its very end: so is the end of each document.
    monkeypatch.setattr(
        module, "_piece_places", lambda size, strata, fraction, key: iter([(size - size // 2, size // 2)])
    )
    texts = [prose(seed, 3000) for seed in range(3)]
    corpus = prepare(
        write(tmp_path / "a.jsonl", texts), tmp_path / "out", tokenizer="bytes", validation_fraction=0.5
    )
    assert put_back(corpus) == texts
    for excerpt, text in zip(validation_documents(corpus), texts, strict=True):
        decode = corpus.tokenizer.decode
        assert decode(excerpt.before) + decode(excerpt.ids) == text


def test_a_document_too_short_to_be_cut_stays_in_training_and_lends_no_context(tmp_path):
    texts = [prose(1, 20_000), "a"]
    corpus = prepare(write(tmp_path / "a.jsonl", texts), tmp_path / "out", tokenizer="bytes")
    assert put_back(corpus) == texts
    assert [corpus.tokenizer.decode(ids) for ids in train_documents(corpus)][-1] == "a"


@pytest.mark.parametrize(("size", "pieces"), [(21_000, 8), (60_000, 24), (400_000, 40)])
def test_a_book_has_one_piece_in_each_of_equal_strata(tmp_path, size, pieces):
    text = prose(1, size)
    corpus = prepare(write(tmp_path / "a.txt", [text]), tmp_path / "out", tokenizer="bytes")
    places = np.load(corpus.folder / PLACES)[:, 1].astype(int)
    lengths = np.array([len(excerpt.ids) for excerpt in validation_documents(corpus)])
    starts = places - 1 + np.concatenate(([0], np.cumsum(lengths)[:-1]))  # end-of-text stands first
    total = len(text.encode())
    assert abs(len(places) - pieces) <= 1
    strata = (starts + lengths // 2) * len(places) // total
    assert strata.tolist() == list(range(len(places)))
    assert abs(lengths.sum() / total - 0.1) < 0.003
    # A border moves on to the end of a word.
    assert np.abs(lengths - lengths.mean()).max() <= module.WORD_BYTES
    assert lengths.min() >= module.LEAST_PIECE - module.WORD_BYTES
    before = [text.encode()[start : start + 1] for start in starts.tolist()]
    assert {*before} <= {b" ", b"\n"}


@pytest.mark.parametrize(("sizes", "said"), [
    ((1300,), r"1 piece of \d\d\d bytes at a random place \(a piece under 250 bytes tells little: give more"),
    ((3200,), r"1 piece of \d\d\d bytes at a random place \(not more: pieces under 250 bytes"),
    ((800,) * 4, r"4 pieces of about \d\d bytes at random places \(pieces under 250 bytes tell little: give"),
    ((9000,), r"3 pieces of about \d\d\d bytes at random places \(not more: pieces under 250 bytes"),
    ((200_000,), r"40 pieces of about \d\d\d bytes at random places$"),
])  # fmt: skip
def test_one_piece_few_and_short_ones_are_said_as_such(tmp_path, sizes, said):
    path = write(tmp_path / "a.jsonl", [prose(seed, size) for seed, size in enumerate(sizes)])
    note = prepare(path, tmp_path / "out", tokenizer="bytes").notes
    assert any(re.search(said, each) for each in note), note


def test_pieces_lie_at_random_places_of_their_strata_and_are_those_of_the_text_and_fraction(tmp_path):
    offsets = []
    for seed in range(30):
        path = write(tmp_path / f"{seed}.txt", [prose(seed, 40_000)])
        corpus = prepare(path, tmp_path / str(seed), tokenizer="bytes")
        places = np.load(corpus.folder / PLACES)[:, 1].astype(int)
        lengths = np.array([len(excerpt.ids) for excerpt in validation_documents(corpus)])
        starts = places - 1 + np.concatenate(([0], np.cumsum(lengths)[:-1]))
        stratum = len(path.read_bytes()) / len(places)
        offsets += ((starts - np.arange(len(places)) * stratum) / (stratum - lengths)).tolist()
        if seed == 0:
            again = prepare(path, tmp_path / "again", tokenizer="bpe:300")
            other = prepare(path, tmp_path / "other", tokenizer="bytes", validation_fraction=0.11)
            first = corpus.tokenizer.decode(next(validation_documents(corpus)).ids)
            assert again.tokenizer.decode(next(validation_documents(again)).ids) == first
            assert other.tokenizer.decode(next(validation_documents(other)).ids)[:20] != first[:20]
    # Uniform over the stratum: mean 1/2, standard deviation 0.289 / sqrt(n).
    offsets = np.array(offsets)
    assert len(offsets) > 400
    assert abs(offsets.mean() - 0.5) < 4 * 0.289 / len(offsets) ** 0.5
    assert np.histogram(offsets, bins=4, range=(0, 1.05))[0].min() > len(offsets) / 6


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:300"])
def test_before_a_piece_stands_the_training_text_that_comes_before_it(tmp_path, tokenizer):
    texts = [prose(3, 30_000), prose(4, 10_000)]
    corpus = prepare(write(tmp_path / "a.jsonl", texts), tmp_path / "out", tokenizer=tokenizer)
    decode, whole = corpus.tokenizer.decode, "".join(texts)
    held_out = [decode(excerpt.ids) for excerpt in validation_documents(corpus)]
    for excerpt, piece in zip(validation_documents(corpus), held_out):
        before = decode(excerpt.before)  # end-of-text has no text
        assert before + piece in whole
        assert not any(other in before for other in held_out if len(other) > 100)
    starts = np.load(corpus.folder / "train_documents.npy").tolist()
    end_of_text = corpus.tokenizer.end_of_text
    assert [corpus.train[start] for start in starts] == [end_of_text] * len(texts)
    assert (corpus.train[:] == end_of_text).sum() == len(texts)


def test_no_window_of_training_holds_a_held_out_token(tmp_path):
    text = "".join(f"{number:05} " for number in range(6000))  # each word stands once
    corpus = prepare(write(tmp_path / "a.txt", [text]), tmp_path / "out", tokenizer="bytes")
    decode = corpus.tokenizer.decode
    held_out = {word for each in validation_documents(corpus) for word in decode(each.ids).split()}
    seen = set()
    windows = Windows(corpus.train, 64)
    for step in range(-(-windows.n_windows // 4)):
        inputs, targets = windows.batch_at(seed=1, step=step, batch_size=4)
        for row, target in zip(inputs, targets):
            kept = target != IGNORE_INDEX
            seen |= {*decode(row[kept]).split(), *decode(target[kept]).split()}
    seen = {word for word in seen if len(word) == 5}
    held_out = {word for word in held_out if len(word) == 5}
    assert not seen & held_out
    assert len(seen) + len(held_out) > 5700  # the rest are cut by a border of windows
    assert len(held_out) > 500


def test_each_way_of_holding_out_can_be_asked_for(tmp_path):
    few = write(tmp_path / "few.jsonl", [prose(seed, 2000) for seed in range(5)])
    many = write(tmp_path / "many.jsonl", [prose(seed, 400) for seed in range(25)])
    designs = {
        (path.stem, how): prepare(path, tmp_path / f"{path.stem}-{how}", tokenizer="bytes", split=how).design
        for path in (few, many)
        for how in ("auto", "pieces", "documents", "end")
    }
    expected = {"pieces": "strata", "documents": "documents", "end": "end"}
    for path in ("few", "many"):
        assert {how: designs[path, how] for how in expected} == expected
    assert (designs["few", "auto"], designs["many", "auto"]) == ("strata", "documents")
    with pytest.raises(ConfigError, match=r"--split halves: .* auto, pieces, documents, end"):
        prepare(few, tmp_path / "x", split="halves")
    with pytest.raises(ConfigError, match="--split pieces contradicts --val"):
        prepare(few, tmp_path / "x", split="pieces", validation=[many])
    assert prepare(few, tmp_path / "y", tokenizer="bytes", validation=[many]).design == "given"


@pytest.mark.parametrize(
    ("sizes", "how", "design"), [([3000], "end", "end"), ([300] * 25, "documents", "documents")]
)
def test_a_folder_of_an_earlier_version_is_read_as_it_was(tmp_path, sizes, how, design):
    texts = [prose(seed, size) for seed, size in enumerate(sizes)]
    corpus = prepare(write(tmp_path / "a.jsonl", texts), tmp_path / "out", tokenizer="bytes", split=how)
    manifest = json.loads((corpus.folder / MANIFEST).read_bytes())
    del manifest["split"]
    manifest.pop("files")
    write_manifest(corpus.folder, manifest)
    old = open_corpus(corpus.folder)
    assert old.design == design
    assert [each.ids.tolist() for each in validation_documents(old)] == [
        each.ids.tolist() for each in validation_documents(corpus)
    ]
    assert all(len(each.before) == 0 for each in validation_documents(old))


def test_tiny_texts_are_split_or_refused_with_a_reason(tmp_path):
    for size in (1, 2, 3, 4, 5, 6, 9, 14, 27, 59):
        path = write(tmp_path / f"{size}.txt", ["ab cd" * 12][:1])
        path.write_text(("ab cd " * 12)[:size])
        try:
            corpus = prepare(path, tmp_path / str(size), tokenizer="bytes")
        except DataError as error:
            assert "add text" in str(error)  # noqa: PT017
        else:
            assert put_back(corpus) == [("ab cd " * 12)[:size]]
    assert len([*train_documents(corpus)]) == 1
