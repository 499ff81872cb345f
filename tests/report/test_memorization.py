from dataclasses import replace

import pytest
from memorizations import NOTHING

from lucidlm.measure.continuation import Continuation
from lucidlm.measure.memorized import LongestRun, NearShare, Repeated, Share
from lucidlm.report.memorization import sentence_of, table_of


@pytest.mark.parametrize(
    ("code", "changes", "start", "part"),
    [
        ("too_little", {"spans": Share(50, None, 0.0)}, "", ""),
        ("none", {}, "No memorization found in generated text: 0 % of the 50-byte spans", "the model"),
        ("memorized", {"spans": Share(50, 0.5, 0.0)}, "Memorization in generated text: 50 %", ""),
        (
            "memorized",
            {"longest": LongestRun(60, "x" * 60, 1, False, 0)},
            "Memorization in generated text: ",
            "longest generated passage that occurs in the training text: 60 bytes, once (",
        ),
        ("cannot_tell", {"spans": Share(50, 1.0, 0.6)}, "Memorization: cannot tell, as the run's", "60 %"),
        (
            "near_verbatim",
            {"near": NearShare(9, 5, 0.1, 32, 1)},
            "Memorization, nearly verbatim: 5 of 9 passages of 200 bytes",
            "1 of 32",
        ),
        (
            "repeated_sequence",
            {"repeated": Repeated("4929-1187", 9, 35, False, 0)},
            "No memorization of passages: 0 % of the 50-byte spans",
            "'4929-1187', which occurs 35 times in the training text",
        ),
    ],
)
def test_each_finding_has_its_sentence(code, changes, start, part):
    found = replace(NOTHING, **changes)
    assert found.code == code
    said = sentence_of(found)
    assert said.startswith(start)
    assert part in said
    assert bool(said) == (code != "too_little")


def test_what_goes_on_from_a_beginning_is_said_with_both_counts():
    said = sentence_of(replace(NOTHING, continuation=Continuation(32, 20, 100.0, 32, 0, 2.0)))
    assert said.startswith("Memorization of passages that are begun: 20 of 32 prompts from the training text")
    assert (
        "are continued verbatim for 50 bytes or more (prompts from the run's held-out text: 0 of 32); 0 %"
        in said
    )


def test_the_table_has_a_row_a_size_and_a_line_a_fact():
    found = replace(
        NOTHING,
        rows=(Share(4, 0.5, 0.25), Share(8, None, 0.0)),
        spans=Share(50, 0.001, 0.0),
        longest=LongestRun(22, "the old\nman", 3, True, 0),
        repeated=Repeated("y" * 70, 70, 35, True, 4),
    )
    assert table_of(found).splitlines() == [
        "     in a row  generated  the run's held-out text",
        "     4 tokens     50.0 %                   25.0 %",
        "     8 tokens          -                    0.0 %",
        "    50 bytes       0.1 %                    0.0 %",
        "share found verbatim in the training text, of 1,000 generated tokens and 9,000 of the run's "
        "held-out text",
        "longest generated passage that occurs in the training text: 22 bytes, at least 3 times "
        r"(for comparison, the run's held-out text: under 16 bytes): 'the old\nman'",
        "near copies (up to 20 % edited, case and white space ignored): 0 of 9 windows, "
        "the run's held-out text 0 of 32; the closest has 60 % edited",
        "greedy decoding: 0 of 32 prompts from the training text are continued verbatim for 50 bytes or more "
        "(prompts from the run's held-out text: 0 of 32); median 3 bytes",
        "sequence that occurs at least 35 times in the training text, 4 times in the run's held-out text: "
        f"'{'y' * 60}...'",
    ]
