import numpy as np
import pytest

from lucidlm.text.hashing import finalized
from lucidlm.text.letters import IDEOGRAPH, LINE, SHINGLE, read_letters


def read(*texts):
    """The letters of some documents, all in one batch."""
    (letters,) = read_letters((number, [text]) for number, text in enumerate(texts))
    return letters


def spelled(text):
    return read(text).codes.tolist()


def plain_hash(codes):
    value = 0
    for code in codes:
        value = (value * 0x9E3779B97F4A7C15 + code) % 2**64
    return value


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The SEA, the sea!", "the sea the sea"),
        ("caf\u00e9", "cafe\u0301"),
        ("caf\u00e9", "CAFE"),
        ("one\n two\tthree", "onetwothree"),
        ("\uff21\uff22", "ab"),
        ("\u00abvoil\u00e0\u00bb \u2014 3.5", "voila35"),
    ],
)
def test_case_accents_punctuation_and_white_space_make_no_difference(one, other):
    assert spelled(one) == spelled(other)


def test_different_letters_and_hangul_syllables_differ():
    text = "abcdefghijklmnopqrstuvwxyz0123456789\u0436\u03b2\ud55c\ud558\u4e2d\u56fd"
    assert len(set(spelled(text))) == len(text)


def test_a_chinese_character_weighs_three_letters():
    assert len(spelled("\u4e2d\u6587ab")) == 2 * IDEOGRAPH + 2
    places, _ = read("\u4e2d\u6587" * 20).shingles()
    assert (places % IDEOGRAPH == 0).all()


def test_shingles_are_those_of_a_textbook_loop():
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abc d"), 60)) for _ in range(3)] + ["short", ""]
    letters = read(*texts)
    expected = []
    for number in range(len(texts)):
        codes = letters.codes[letters.documents[letters.pieces] == number].tolist()
        for start in range(len(codes) - SHINGLE + 1):
            expected.append(plain_hash(codes[start : start + SHINGLE]))
    places, hashes = letters.shingles()
    assert hashes.tolist() == finalized(np.array(expected, np.uint64)).tolist()
    assert (np.diff(places) >= 1).all()


def test_characters_are_counted_within_the_document():
    letters = read("a, b", "-c d")
    assert letters.characters.tolist() == [0, 3, 1, 3]
    assert letters.documents[letters.pieces].tolist() == [0, 0, 1, 1]


def test_equal_lines_have_equal_hashes_wherever_they_stand():
    line = "A line that is long enough to be compared."
    letters = read(f"Another line that is long enough, too\n{line}\nshort\n", line.upper())
    firsts, ends, hashes = letters.whole_lines()
    assert len(hashes) == 3
    assert hashes[1] == hashes[2] != hashes[0]
    assert (ends - firsts >= LINE).all()


def test_a_long_document_is_read_in_parts_with_the_same_letters(monkeypatch):
    text = "\n".join(f"line {number} of a text, with some words" for number in range(200))
    whole = read(text)
    monkeypatch.setattr("lucidlm.text.letters.TOGETHER", 500)
    blocks = [text[start : start + 170] for start in range(0, len(text), 170)]
    parts = list(read_letters([(0, blocks)]))
    assert len(parts) > 5
    assert [part.first for part in parts] == np.cumsum(
        [0, *(len(part.codes) for part in parts[:-1])]
    ).tolist()
    for name in ("codes", "characters"):
        assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name))
    lines = [part.whole_lines()[2] for part in parts]
    assert np.array_equal(np.concatenate(lines), whole.whole_lines()[2])
