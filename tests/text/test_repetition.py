import random

import pytest
from models import BUNDLED_STORY as STORY

from lucidlm.text import repetition as module
from lucidlm.text.repetition import RepetitionCount

THREE = "The first of three lines.\nA second one, no longer.\nThe third ends it.\n"


def counted(*texts):
    count = RepetitionCount()
    for text in texts:
        count.add(text)
    return count.repetition()


def test_three_lines_forty_times_are_three_lines():
    found = counted(THREE * 40)
    assert (found.lines, found.different_lines) == (120, 3)
    assert found.different_sequences < 0.05
    assert found.sentence == "3 of 120 lines are distinct; the others in this text are copies of them"
    assert set(found.same_units(7, found.same)) == {0}


def test_sentences_in_another_order_on_one_line_repeat_and_are_no_copies_of_the_line():
    rng = random.Random(3)
    sentences = [line.strip() + ". " for line in STORY.split("\n") if len(line) > 30][:5]
    found = counted("".join(rng.choice(sentences) for _ in range(150)))
    assert (found.lines, found.different_lines, found.mostly) == (1, 1, True)
    share = round(100 * found.different_sequences)
    assert 0 < share < 20
    assert f" {share} % " in found.sentence


def test_equal_documents_have_one_number():
    found = counted("one", "two", "one", "three", "two", "one")
    assert (found.documents, found.different_documents) == (6, 3)
    assert found.same.tolist() == [0, 1, 0, 3, 1, 0]
    assert found.sentence.startswith("3 of 6 documents and 3 of 6 lines ")
    assert found.same_units(3, found.same[[0, 2, 3]]).tolist() == [0, 0, 3]


@pytest.mark.parametrize("text", [STORY, STORY[:300], "1\n6\n3\n", ""])
def test_an_ordinary_text_needs_no_line_and_has_pages(text):
    found = counted(text)
    assert found.different_sequences > 0.95
    assert found.sentence == ""
    assert found.same_units(5, found.same).tolist() == [0, 1, 2, 3, 4]


def test_few_different_lines_in_another_order_each_time_are_pages_of_their_own():
    rng = random.Random(0)
    found = counted("\n".join(str(rng.randint(1, 6)) for _ in range(3000)))
    assert found.different_lines == 6
    assert found.different_sequences > 0.95


def test_a_long_text_is_counted_by_a_part_of_its_sequences(monkeypatch):
    whole = counted(STORY + STORY[:40_000])
    monkeypatch.setattr(module, "KEPT", 4000)
    assert counted(STORY + STORY[:40_000]).different_sequences == pytest.approx(
        whole.different_sequences, abs=0.03
    )
