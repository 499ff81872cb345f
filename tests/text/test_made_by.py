"""The hash of the code that makes pieces: another one for any other code, and for no other reason."""

import ast
import importlib.metadata
import shutil
import sys
from pathlib import Path

import lucidlm
from lucidlm.text import made_by as module
from lucidlm.text.made_by import LIBRARIES, made_by

ROOM = Path(lucidlm.__file__).parent / "text"


def test_a_change_of_the_code_of_a_version_or_of_a_library_is_another_hash(tmp_path, monkeypatch):
    shutil.copytree(ROOM, tmp_path / "room", ignore=shutil.ignore_patterns("assets"))
    seen = {made_by(tmp_path / "room")}
    assert seen == {made_by()}
    for path in (tmp_path / "room" / "formats" / "pdf.py", tmp_path / "room" / "new.py"):
        with open(path, "a") as file:
            file.write("# changed")
        seen.add(made_by(tmp_path / "room"))
    monkeypatch.setattr(lucidlm, "__version__", "0.0.0")
    seen.add(made_by())
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9" if name == "pypdf" else "1")
    seen.add(made_by())
    assert len(seen) == 5


def test_each_library_that_reads_or_encodes_counts_and_one_may_be_missing(monkeypatch):
    imported = set()
    for path in ROOM.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    # Every reader of .zst files gives the same bytes, and torch is imported for types alone.
    others = {*sys.stdlib_module_names, "lucidlm", "backports", "compression", "torch"}
    assert imported - others == {*LIBRARIES}
    monkeypatch.setattr(module, "LIBRARIES", (*LIBRARIES, "no-such-library"))
    assert len(made_by()) == 32
