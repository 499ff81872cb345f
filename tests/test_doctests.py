"""The examples in docstrings are true: doctest runs those of every module of the package."""

import doctest
import importlib
from pathlib import Path

import pytest

import lucidlm

PACKAGE = Path(lucidlm.__file__).parent
EXAMPLES = sorted(file for file in PACKAGE.rglob("*.py") if ">>> " in file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_the_examples_of_a_module_give_what_they_show(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    found = doctest.testmod(importlib.import_module(name), optionflags=flags)
    assert found.attempted
    assert not found.failed
