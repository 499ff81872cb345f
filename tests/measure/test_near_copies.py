import random

import numpy as np
import pytest

from lucidlm.measure import near_copies
from lucidlm.measure.near_copies import NearCopies, edit_distance, normalized, passages_of


def table(pattern, text):
    """The textbook's table of edits, a span of the text beginning and ending anywhere."""
    row = [0] * (len(text) + 1)
    for deleted, left in enumerate(pattern, 1):
        following = [deleted]
        for place, right in enumerate(text, 1):
            following.append(min(row[place] + 1, following[-1] + 1, row[place - 1] + (left != right)))
        row = following
    return min(row)


@pytest.mark.parametrize("alphabet", [b"ab", b"abcdefgh"])
def test_the_edit_distance_is_that_of_the_textbook(alphabet):
    draw = random.Random(0)
    for _ in range(150):
        pattern = bytes(draw.choice(alphabet) for _ in range(draw.randrange(25)))
        text = bytes(draw.choice(alphabet) for _ in range(draw.randrange(40)))
        assert edit_distance(pattern, text) == table(pattern, text)
    assert edit_distance(b"x" * 300, b"y" + b"x" * 299) == 1  # more bits than a machine word


def prose(length: int, seed: int = 0) -> bytes:
    draw = random.Random(seed)
    known = ["".join(draw.choice("etaoinshrdlu") for _ in range(draw.randrange(2, 9))) for _ in range(600)]
    return " ".join(draw.choice(known) for _ in range(length // 4)).encode()[:length]


def changed(text: bytes, every: int) -> bytes:
    return bytes(ord("#") if place % every == every - 1 else byte for place, byte in enumerate(text))


TRAINING = prose(60_000)
COPY = TRAINING[31_200:31_400]


@pytest.mark.parametrize(
    ("copy", "edits"),
    [
        (COPY, 0),
        (changed(COPY, 20), 10),
        (changed(COPY, 15), 13),
        (changed(COPY, 12), 16),
        (changed(COPY, 8), 25),
        (normalized(COPY.upper()), 0),
        (normalized(COPY.replace(b" ", b"  ")), 0),
        (normalized(b"\n".join(COPY.split())), 0),
        (COPY[:60] + COPY[75:140] + b"xyz" + COPY[140:], 18),
    ],
)
@pytest.mark.parametrize("chunk", [5_000, 60_000])
def test_a_window_s_edits_are_counted_to_the_source_that_it_was_changed_from(copy, edits, chunk):
    search = NearCopies([copy, prose(200, seed=9)])
    for start in range(0, len(TRAINING), chunk):
        search.look(normalized(TRAINING[start : start + chunk + 300]))
    assert search.edits[0] == edits
    assert search.shares[1] > 0.4


def test_frequent_seeds_give_way_to_rare_ones(monkeypatch):
    monkeypatch.setattr(near_copies, "MOST_VOTES", 2_000)
    search = NearCopies([changed(COPY, 15)])
    search.look(TRAINING + b" the same again" * 3000)
    assert search.edits == [13]


def test_case_and_white_space_do_not_count():
    assert normalized(" The  OLD\n\tman's\r\nÄpfel ".encode()) == "the old man's äpfel".encode()
    assert normalized(b"caf\xe9") == normalized(b"CAF\xe9")


def test_windows_cover_a_text_to_its_end():
    text = bytes(np.random.default_rng(0).integers(256, size=470, dtype=np.uint8))
    assert passages_of([text]) == [text[0:200], text[100:300], text[200:400], text[270:470]]
    assert passages_of([text[:99]]) == []
    assert passages_of([text[:100], text[:199]]) == [text[:100], text[:199]]
    assert len(passages_of([text] * 10, most=3)) == 3


def test_without_a_window_nothing_is_compared():
    search = NearCopies([])
    search.look(TRAINING)
    assert search.shares == []
    search = NearCopies([COPY])
    search.look(b"")
    search.look(b"abc")
    assert search.shares == [1.0]
