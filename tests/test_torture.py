"""tests/torture.toml names tests that there are, and what became of them is told as it was."""

import importlib
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def torture():
    sys.path.insert(0, str(TESTS.parent / "benchmarks"))
    try:
        yield importlib.import_module("torture")
    finally:
        sys.path.remove(str(TESTS.parent / "benchmarks"))
        for name in ("torture", "tables"):
            sys.modules.pop(name, None)


def test_each_criterion_has_tests_that_there_are(torture):
    listed = torture.criteria()
    numbers = [each.number for each in listed]
    assert numbers == sorted({*numbers})
    for each in listed:
        assert each.tests, each.number
        for test in each.tests:
            file, _, name = test.partition("::")
            text = (TESTS / file).read_text(encoding="utf-8")
            assert f"def {name.partition('[')[0]}(" in text, f"({each.number}): no test {test}"


def test_a_row_has_what_failed_what_did_not_run_and_the_largest_of_each_figure(torture):
    outcomes = torture.Outcomes(
        results={
            "a.py::one[x]": "passed",
            "a.py::one[y]": "failed",
            "a.py::two": "skipped",
            "b.py::one": "passed",
        },
        seconds={"a.py::one[x]": 1.0, "a.py::one[y]": 2.0, "a.py::two": 0.0, "b.py::one": 9.0},
        figures={"a.py::one[x]": [("off", 0.25), ("by", "this")], "a.py::one[y]": [("off", 0.5)]},
        reasons={"a.py::two": "no strace"},
    )
    criterion = torture.Criterion(7, "It holds.", ("a.py::one", "a.py::two", "a.py::gone"))
    assert torture.row_of(criterion, outcomes) == [
        "7", "It holds.",
        "1 case passed; **1 failed**; 1 skipped: no strace; **not run: a.py::gone**",
        "off: 0.5; by: this", "3",
    ]  # fmt: skip
    assert not torture.holds(criterion, outcomes)
    assert torture.holds(torture.Criterion(7, "It holds.", ("b.py::one",)), outcomes)


def test_a_criterion_with_a_skipped_test_holds_in_part_and_does_not_count(torture):
    outcomes = torture.Outcomes(
        results={"a.py::one": "passed", "a.py::two": "skipped"},
        seconds={"a.py::one": 1.0, "a.py::two": 0.0},
        reasons={"a.py::two": "no strace"},
    )
    criterion = torture.Criterion(7, "It holds.", ("a.py::one", "a.py::two"))
    assert torture.row_of(criterion, outcomes)[2] == "1 case passed; holds in part (1 skipped: no strace)"
    assert not torture.holds(criterion, outcomes)
    skipped = torture.Criterion(7, "It holds.", ("a.py::two",))
    assert torture.row_of(skipped, outcomes)[2] == "0 cases passed; 1 skipped: no strace"
    assert not torture.holds(skipped, outcomes)


def test_rows_that_were_not_run_again_stay_unless_their_sentence_has_changed(torture):
    one, two, *left = torture.criteria()
    first = torture.merged([["1", one.says, "2 cases passed", "", "5", "abc"]], "")
    again = torture.merged([["2", two.says, "**1 failed**", "", "", "def"]], first)
    assert f"| 1 | {one.says} | 2 cases passed |   | 5 | abc |" in again
    assert f"| 2 | {two.says} | **1 failed** |   |   | def |" in again
    assert again.count(torture.NOT_RUN) == len(left)
    changed = torture.merged([], again.replace(one.says, "Another sentence."))
    assert f"| 1 | {one.says} | {torture.NOT_RUN} |" in changed
    assert f"| 2 | {two.says} | **1 failed** |" in changed


def test_the_page_has_a_row_for_each_criterion_with_its_sentence(torture):
    rows = torture.known_rows(torture.NUMBERS.read_text(encoding="utf-8"))
    assert [(each.number, each.says) for each in torture.criteria()] == [
        (int(number), row[1]) for number, row in rows.items()
    ]
