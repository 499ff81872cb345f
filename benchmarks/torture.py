"""Runs the tests of each criterion of tests/torture.toml, and writes their figures into docs/numbers.md.

python benchmarks/torture.py                  all: up to 40 minutes of two cores
python benchmarks/torture.py --only 9 12      these rows of docs/numbers.md alone
"""

import argparse
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tables import NUMBERS, machine, table, write

from lucidlm.runtime.wording import plural

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"


@dataclass(frozen=True, slots=True)
class Criterion:
    """What must hold, and the tests that show it."""

    number: int
    says: str
    tests: tuple[str, ...]
    """Node ids below tests/, which may leave out their parameters."""


@dataclass(slots=True)
class Outcomes:
    """A plugin of pytest: what became of each test, by its node id below tests/."""

    results: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    figures: dict[str, list[tuple[str, Any]]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called for the set-up, the call and the end of each test, also of other processes."""
        name = report.nodeid.removeprefix("tests/")
        self.seconds[name] = self.seconds.get(name, 0.0) + report.duration
        if report.when == "call" or report.outcome != "passed":
            self.results[name] = report.outcome
        if report.when == "call":
            self.figures[name] = list(report.user_properties)
        if report.skipped and isinstance(report.longrepr, tuple):
            self.reasons[name] = report.longrepr[2].removeprefix("Skipped: ")

    def of(self, criterion: Criterion) -> list[str]:
        """The tests that ran for a criterion."""
        return [name for name in self.results if any(_is_of(name, test) for test in criterion.tests)]


def criteria(path: Path = TESTS / "torture.toml") -> list[Criterion]:
    """All criteria, in their order."""
    listed = tomllib.loads(path.read_text(encoding="utf-8"))["criterion"]
    return [Criterion(each["number"], each["says"], tuple(each["tests"])) for each in listed]


def run(chosen: Iterable[Criterion], *, jobs: int) -> Outcomes:
    """What became of the tests of these criteria."""
    outcomes = Outcomes()
    # The tests and their processes must not import from this folder: encodings.py is another module there.
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != ROOT / "benchmarks"]
    tests = sorted({test for each in chosen for test in each.tests})
    options = ["-m", "", "--timeout", "3600", "--tb", "short", "-c", str(ROOT / "pyproject.toml")]
    pytest.main([*options, "-n", str(jobs), *(str(TESTS / test) for test in tests)], plugins=[outcomes])
    return outcomes


def figures_of(criterion: Criterion, outcomes: Outcomes) -> list[str]:
    """What its tests recorded: of numbers of one name the largest, of texts each one once."""
    found: dict[str, list[Any]] = {}
    for name in outcomes.of(criterion):
        for key, value in outcomes.figures.get(name, ()):
            found.setdefault(key, []).append(value)
    return [
        f"{key}: {_number(max(values))}"
        if all(isinstance(value, int | float) for value in values)
        else f"{key}: {'; '.join(dict.fromkeys(map(str, values)))}"
        for key, values in found.items()
    ]


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def row_of(criterion: Criterion, outcomes: Outcomes) -> list[str]:
    """Number, sentence, result, figures, seconds."""
    names = outcomes.of(criterion)
    by_kind = {
        kind: [name for name in names if outcomes.results[name] == kind]
        for kind in ("passed", "failed", "skipped")
    }
    unrun = [test for test in criterion.tests if not any(_is_of(name, test) for name in names)]
    parts = [f"{plural(len(by_kind['passed']), 'case')} passed"]
    parts += [f"**{len(by_kind['failed'])} failed**"] if by_kind["failed"] else []
    if skipped := by_kind["skipped"]:
        part = f"{len(skipped)} skipped: {outcomes.reasons.get(skipped[0], 'no reason')}"
        in_part = by_kind["passed"] and not by_kind["failed"] and not unrun
        parts.append(f"holds in part ({part})" if in_part else part)
    parts += [f"**not run: {', '.join(unrun)}**"] if unrun else []
    seconds = f"{sum(outcomes.seconds[name] for name in names):.0f}" if names else ""
    figures = "; ".join(figures_of(criterion, outcomes))
    return [str(criterion.number), criterion.says, "; ".join(parts), figures, seconds]


def _is_of(name: str, test: str) -> bool:
    return name == test or name.startswith(f"{test}[")


def holds(criterion: Criterion, outcomes: Outcomes) -> bool:
    """Whether each of its tests ran and all cases passed: with a skipped one it holds in part at most."""
    names = outcomes.of(criterion)
    ran = all(any(_is_of(name, test) for name in names) for test in criterion.tests)
    return ran and all(outcomes.results[name] == "passed" for name in names)


NOT_RUN = "not run yet"
HEAD = ("", "what must hold", "tests", "figures", "seconds", "at")


def revision() -> str:
    """The commit, with a plus sign where files of the working tree differ, other than this page."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    status = [*git, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/numbers.md"]
    changed = subprocess.run(status, capture_output=True, text=True, check=True)
    return head.stdout.strip() + ("+" if changed.stdout else "")


def known_rows(page: str) -> dict[str, list[str]]:
    """The rows of the page's table of criteria, by their numbers."""
    lines = page.rpartition("<!-- bench: torture -->")[2].partition("<!-- end: torture -->")[0].splitlines()
    rows = [line[2:-2].split(" | ") for line in lines if re.match(r"\| \d+ \|", line)]
    return {row[0]: [cell.strip() for cell in row] for row in rows}


def merged(rows: list[list[str]], page: str) -> str:
    """The table of all criteria: these rows, and for the others those that the page has.

    Where the sentence has changed since then, the row is no longer about it.
    """
    known = known_rows(page) | {row[0]: row for row in rows}
    listed = []
    for each in criteria():
        row = known.get(str(each.number))
        listed.append(
            row if row and row[1] == each.says else [str(each.number), each.says, NOT_RUN, "", "", ""]
        )
    return table(HEAD, ([cell or " " for cell in row] for row in listed))


def main() -> int:
    """The exit code: 1 where a criterion does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", type=int, nargs="+", metavar="NUMBER", help="criteria (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="tests at a time (default: 2)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "torture", help="folder of torture.json")
    given = parser.parse_args()
    listed = criteria()
    if unknown := sorted({*(given.only or ())} - {each.number for each in listed}):
        parser.error(f"--only {unknown[0]}: tests/torture.toml has no such criterion")
    chosen = [each for each in listed if not given.only or each.number in given.only]
    os.environ["OMP_NUM_THREADS"] = "1"
    began = time.monotonic()
    outcomes = run(chosen, jobs=given.jobs)
    minutes = (time.monotonic() - began) / 60
    rows = [[*row_of(each, outcomes), revision()] for each in chosen]
    for number, says, result, figures, seconds, _ in rows:
        print(
            f"({number}) {says}\n    {result}",
            *filter(None, (figures, seconds and f"{seconds} s")),
            sep="\n    ",
        )
    missed = [each.number for each in chosen if not holds(each, outcomes)]
    held = f"{len(chosen) - len(missed)} of {len(chosen)} criteria hold"
    print(held + (f"; not: {missed}" if missed else "") + f"; {minutes:.1f} minutes")
    head = f"{machine()}. Seconds are those of the tests, one after the other.\n\n"
    text = head + merged(rows, NUMBERS.read_text(encoding="utf-8"))
    write("torture", {"rows": rows, "minutes": minutes}, text, folder=given.out)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
