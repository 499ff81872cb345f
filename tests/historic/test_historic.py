"""Bugs that other projects had, put into a copy of this one: its tests catch each of them."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from patched import TESTS, bugs


def test_each_patch_applies_and_each_of_its_tests_is_there():
    names = [bug.name for bug in bugs()]
    assert len(names) == len({*names})
    texts = {}
    for bug in bugs():
        compile(bug.patched(), bug.file, "exec")
        assert bug.tests, bug.name
        for test in bug.tests:
            file, _, name = test.partition("::")
            text = texts.setdefault(file, (TESTS / file).read_text(encoding="utf-8"))
            assert f"\ndef {name.partition('[')[0]}(" in text, f"{bug.name}: no test {test}"


def test_each_bug_says_where_it_was_reported_or_how_it_is_known():
    for bug in bugs():
        assert bug.reported or bug.about.endswith("."), bug.name
        for report in bug.reported:
            assert re.fullmatch(r"[\w.-]+(/[\w.-]+)? #[1-9]\d*", report), f"{bug.name}: {report}"
        assert len(bug.reported) == len({*bug.reported}), bug.name


def test_a_patch_of_a_text_that_is_gone_is_refused_by_its_name():
    bug = bugs()[0]
    gone = replace(bug, search="a line that no file has")
    with pytest.raises(ValueError, match=rf"^{bug.name}: patch does not apply") as refused:
        gone.patched()
    assert bug.file in str(refused.value)


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.skipif(
    not hasattr(os, "fork"), reason="its processes are forks, so that none imports torch again"
)
def test_every_bug_is_caught(tmp_path: Path, record_property):
    """In a process of its own, which has not imported the package: each bug is put into a fork of it."""
    answer = tmp_path / "answer.json"
    subprocess.run(
        [sys.executable, str(TESTS / "patched.py"), "--json", str(answer)], check=False, timeout=3500
    )
    results = json.loads(answer.read_text(encoding="utf-8"))
    caught = [bug["name"] for bug in results["bugs"] if bug["caught"]]
    record_property("bugs", len(bugs()))
    record_property("of these caught", len(caught))
    record_property(
        "of these false scores of Parameter Golf", sum(name.startswith("golf") for name in caught)
    )
    assert not results["fail"], "tests fail without a bug"
    assert not [bug for bug in results["bugs"] if not bug["caught"]]
    assert len(caught) == len(bugs())
