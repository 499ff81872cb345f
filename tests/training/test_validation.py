import json

import numpy as np
import pytest

from lucidlm.errors import DataError
from lucidlm.text.byte_level import END_OF_TEXT
from lucidlm.text.corpus import validation_documents
from lucidlm.text.preparation import prepare
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.training.validation import (
    FEWEST_PIECES,
    check_scorable,
    choose_samples,
    first_words,
    sample_of,
    write_sample,
)


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """A text of some 110 KB, held out in pieces from all over it."""
    folder = tmp_path_factory.mktemp("book")
    draw = np.random.default_rng(0)
    words = ["the", "river", "ran", "past", "a", "house", "and", "nobody", "knew", "why"]
    lines = (" ".join(words[place] for place in row) for row in draw.integers(len(words), size=(2500, 9)))
    (folder / "book.txt").write_text(".\n".join(lines), encoding="utf-8")
    return prepare([folder / "book.txt"], folder / "data", tokenizer="bytes")


def test_a_sample_of_a_text_in_pieces_is_whole_pieces_with_their_context_from_all_over_it(book):
    pieces = [*validation_documents(book)]
    assert book.design == "strata"
    sample = sample_of(book, tokens=book.validation_tokens // 2)
    assert len(sample) == pytest.approx(len(pieces) / 2, abs=1)
    places = []
    for each in sample:
        place = next(number for number, piece in enumerate(pieces) if np.array_equal(piece.ids, each.ids))
        np.testing.assert_array_equal(each.before, pieces[place].before)
        places.append(place)
    assert np.diff(places).max() <= 3
    assert places[0] <= 1
    assert places[-1] >= len(pieces) - 2


def test_all_pieces_are_taken_where_there_is_room_for_all(book):
    pieces = [*validation_documents(book)]
    sample = sample_of(book, tokens=book.validation_tokens)
    assert [len(each.ids) for each in sample] == [len(piece.ids) for piece in pieces]
    assert sum(len(each.ids) for each in sample) == book.heldout_tokens


def test_where_only_a_few_whole_pieces_fit_each_piece_gives_a_span_after_its_own_context(book):
    pieces = [*validation_documents(book)]
    tokens = book.validation_tokens * (FEWEST_PIECES - 2) // len(pieces)
    sample = sample_of(book, tokens=tokens)
    assert len(sample) == len(pieces)
    assert sum(len(each.ids) for each in sample) == pytest.approx(tokens, rel=0.1)
    for piece, each in zip(pieces, sample, strict=True):
        np.testing.assert_array_equal(piece.ids[: len(each.ids)], each.ids)
        np.testing.assert_array_equal(piece.before[-50:], each.before[-50:])


@pytest.fixture
def no_end(tmp_path):
    """no_end(validation, training): a corpus of these documents, by a tokenizer without end-of-text."""
    document = json.loads(json.dumps(Tokenizer.bytes().document()))
    del document["model"]["vocab"][END_OF_TEXT]
    document["added_tokens"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))

    def make(validation, training=("A long text to train on, and no end to it. " * 20,)):
        for name, texts in (("validation", validation), ("training", training)):
            lines = (json.dumps({"text": text}) + "\n" for text in texts)
            (tmp_path / f"{name}.jsonl").write_text("".join(lines))
        return prepare(
            [tmp_path / "training.jsonl"],
            tmp_path / "data",
            validation=[tmp_path / "validation.jsonl"],
            tokenizer=str(tmp_path),
        )

    return make


@pytest.mark.parametrize("tokens", [10_000, 3])
def test_a_first_document_of_one_token_gives_way_to_one_that_can_be_scored(no_end, tiny_gpt, tokens):
    corpus = no_end(["a", "b", "Some longer text. It has words."])
    check_scorable(corpus)
    samples = choose_samples(corpus, tokens=tokens, prompt=None)
    assert all(len(excerpt.ids) > 1 for excerpt in samples.validation)
    written = write_sample(tiny_gpt, corpus.tokenizer, samples, step=1)
    assert len(written["probe_log_probabilities"]) == len(written["probe_ids"]) - 1 > 0
    assert samples.prompt == ("It has words." if tokens > 3 else "Som")


def test_a_side_of_which_no_token_can_be_scored_is_named_before_the_work(no_end):
    with pytest.raises(DataError, match="validation text: each document is one token"):
        check_scorable(no_end(["a", "b"]))
    with pytest.raises(DataError, match="training text: each document is one token"):
        check_scorable(no_end(["Some longer text."], ["a", "b", "c"]))


def test_a_prompt_is_never_empty():
    tokenizer = Tokenizer.bytes()
    for text, prompt in (("One. Two three.", "Two three."), ("One two.\n", "One two."), (" \n", " ")):
        assert first_words(tokenizer, np.array(tokenizer.encode(text))) == prompt
