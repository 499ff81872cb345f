import numpy as np
import pytest

from lucidlm.text.corpus import prepare, validation_documents
from lucidlm.training.validation import FEWEST_PIECES, sample_of


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
