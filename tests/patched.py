"""Bugs in, whether tests catch each: the package is copied, one bug is put in, and its tests run on the copy.

python tests/patched.py                       all bugs of tests/historic/bugs.toml
python tests/patched.py NAME ... [--json F]   these; what became of each goes into a file
"""

import contextlib
import functools
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import traceback
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "lucidlm"
GOOD_REASONS = ("AssertionError", "Failed", "LucidError")
"""A test that ends otherwise, as with an ImportError, has not understood what is wrong."""
LONGEST_S = 300
"""A bug whose tests take longer hangs."""


@dataclass(frozen=True, slots=True)
class Bug:
    """A bug that a project of this field had, as a change of one file of this package."""

    name: str
    reported: tuple[str, ...]
    """Issues and pull requests that are about it, as "PROJECT #NUMBER"."""
    says: str
    """What was wrong, in one sentence."""
    file: str
    """Below lucidlm/."""
    search: str
    """Stands once in the file."""
    replacement: str
    tests: tuple[str, ...]
    """Node ids below tests/: each of them must fail."""
    about: str = ""
    """How the bug is known, or why it is easily made; needed where no report is known."""

    def patched(self) -> str:
        """The text of the file with the bug in it; ValueError where it does not apply."""
        text = (PACKAGE / self.file).read_text(encoding="utf-8")
        if (count := text.count(self.search)) != 1:
            raise ValueError(
                f"{self.name}: patch does not apply, lucidlm/{self.file} has {count} times, not once, "
                f"{self.search!r}; take over the new text in tests/historic/bugs.toml"
            )
        return text.replace(self.search, self.replacement)


@dataclass(frozen=True, slots=True)
class Caught:
    """What the tests of a bug came to."""

    name: str
    missed: tuple[str, ...]
    """Tests that passed although the bug was there."""
    broken: tuple[str, ...]
    """Tests that failed for another reason, with it."""
    seconds: float

    def __bool__(self) -> bool:
        return not self.missed and not self.broken

    def __str__(self) -> str:
        said = [f"missed by {name}" for name in self.missed]
        return "; ".join([*said, *(f"not understood: {each}" for each in self.broken)]) or "caught"


@functools.cache
def bugs(name: str = "historic/bugs.toml") -> tuple[Bug, ...]:
    """All bugs of a file below tests/."""
    listed = tomllib.loads((TESTS / name).read_text(encoding="utf-8"))["bug"]
    lists = ("reported", "tests")
    return tuple(Bug(**{**each, **{name: tuple(each[name]) for name in lists}}) for each in listed)


def caught(bug: Bug) -> Caught:
    """Whether each of the tests of a bug fails where the bug is, for a good reason."""
    began = time.monotonic()
    reasons_of, _ = outcomes_of(bug.tests, patch={bug.file: bug.patched()})
    missed, broken = [], []
    for test in bug.tests:
        found = [why for name, why in reasons_of.items() if name == test or name.startswith(f"{test}[")]
        reasons = {reason for each in found for reason in each}
        if not found:
            broken.append(f"{test} was not run ({reasons_of})")
        elif not reasons:
            missed.append(test)
        elif not reasons & {*GOOD_REASONS}:
            broken.append(f"{test} ends with {', '.join(sorted(reasons))}")
    return Caught(bug.name, tuple(missed), tuple(broken), time.monotonic() - began)


def outcomes_of(tests: Iterable[str], *, patch: dict[str, str]) -> tuple[dict[str, list[str]], list[str]]:
    """Why each of these tests fails on a copy of the package with other texts for some files.

    And the modules that were imported for it. The tests run in a fork of this process, which must not have
    imported the package.
    """
    assert "lucidlm" not in sys.modules, "a fork would have the package as it is"
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(PACKAGE, Path(folder, "lucidlm"), ignore=shutil.ignore_patterns("__pycache__"))
        for file, text in patch.items():
            compile(text, file, "exec")
            Path(folder, "lucidlm", file).write_text(text, encoding="utf-8")
        answer = Path(folder, "answer.json")
        if (child := os.fork()) == 0:
            try:
                _run(folder, answer, list(tests))
            except BaseException:
                why = [traceback.format_exc()[-1000:]]
                answer.write_text(json.dumps([dict.fromkeys(tests, why), []]), encoding="utf-8")
            finally:
                os._exit(0)
        end = time.monotonic() + LONGEST_S
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.02)
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                break
        if not answer.exists():
            return {test: ["the tests hang or end their process"] for test in tests}, []
        return tuple(json.loads(answer.read_text(encoding="utf-8")))


class _Reasons:
    """A plugin of pytest: for each test, the kinds of exceptions that ended a part of it."""

    def __init__(self) -> None:
        self.of: dict[str, list[str]] = {}

    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo) -> None:
        reasons = self.of.setdefault(item.nodeid.removeprefix("tests/"), [])
        if call.excinfo is not None and not call.excinfo.errisinstance(pytest.skip.Exception):
            kinds = [kind.__name__ for kind in call.excinfo.type.__mro__]
            known = next((kind for kind in kinds if kind in GOOD_REASONS), kinds[0])
            reasons.append(known if call.when == "call" else f"{kinds[0]} in its {call.when}")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.of[report.nodeid.removeprefix("tests/")] = [
                f"an error of collection: {report.longrepr}"[-500:]
            ]


def _run(folder: str, answer: Path, tests: list[str]) -> None:
    """In the fork: runs tests of the copy of the package, and writes down why each fails."""
    before = {*sys.modules}
    os.environ["PYTHONPATH"] = folder
    sys.path.insert(0, folder)
    os.chdir(folder)
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    reasons, root = _Reasons(), TESTS.parent
    options = ["-c", str(root / "pyproject.toml"), "--rootdir", str(root), "-p", "no:cacheprovider"]
    options += ["--tb=no", "--assert=plain", "-m", "", "-p", "no:faulthandler"]
    pytest.main([*options, *(str(TESTS / test) for test in tests)], plugins=[reasons])
    tested = sys.modules["lucidlm"].__file__
    assert str(tested).startswith(os.path.realpath(folder)), tested
    ours = (folder, os.path.realpath(folder), str(TESTS))
    loaded = [
        name
        for name, module in sys.modules.items()
        if name not in before and not (getattr(module, "__file__", None) or folder).startswith(ours)
    ]
    answer.write_text(json.dumps([reasons.of, loaded]), encoding="utf-8")


def _import(names: Iterable[str]) -> None:
    """Imports the libraries that a run of the tests imported, so that no further fork has to do it."""
    for name in names:
        with warnings.catch_warnings(), contextlib.suppress(Exception):
            warnings.simplefilter("ignore")
            importlib.import_module(name)


def results_of(chosen: Iterable[Bug]) -> dict[str, Any]:
    """The tests that fail without a bug, and what became of each bug, which is printed."""
    chosen = list(chosen)
    without, loaded = outcomes_of(sorted({test for bug in chosen for test in bug.tests}), patch={})
    fail = {name: why for name, why in without.items() if why}
    print(f"{len(fail)} of {len(without)} tests fail without a bug {fail or ''}", flush=True)
    _import(loaded)
    results = []
    for bug in chosen:
        results.append(caught(bug))
        print(f"{results[-1].seconds:5.1f} s  {bug.name}: {results[-1]}", flush=True)
    print(f"{sum(map(bool, results))} of {len(results)} bugs are caught", flush=True)
    return {"fail": fail, "bugs": [asdict(each) | {"caught": bool(each)} for each in results]}


def main(words: list[str]) -> int:
    """The exit code: 1 where a bug is missed, or a test fails without one."""
    names, answer = words, None
    if "--json" in words:
        place = words.index("--json")
        names, answer = words[:place] + words[place + 2 :], Path(words[place + 1])
    if unknown := set(names) - {bug.name for bug in bugs()}:
        print(f"no bug is called {min(unknown)!r}; tests/historic/bugs.toml has their names", file=sys.stderr)
        return 2
    results = results_of(bug for bug in bugs() if not names or bug.name in names)
    if answer is not None:
        answer.write_text(json.dumps(results), encoding="utf-8")
    return 1 if results["fail"] or not all(bug["caught"] for bug in results["bugs"]) else 0


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"  # before any library starts threads, which a fork would not have
    sys.exit(main(sys.argv[1:]))
