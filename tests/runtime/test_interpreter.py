"""Processes of the package import from the current folder only if the one that starts them does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lucidlm

PROGRAM = """
import json, subprocess, sys
from lucidlm.runtime.interpreter import own_flags
command = [sys.executable, *own_flags(), "-m", "found_here"]
print(json.dumps([own_flags(), subprocess.run(command, capture_output=True).returncode]))
"""


@pytest.mark.parametrize(
    ("given", "taken", "runs"),
    [(["-P"], ["-P"], False), ([], [], True), (["-P", "-s"], ["-P", "-s"], False)],
)
def test_a_process_has_the_current_folder_on_its_path_only_if_its_parent_has(tmp_path, given, taken, runs):
    (tmp_path / "found_here.py").write_text("")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, *given, "-c", PROGRAM],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        check=True,
    )
    flags, code = json.loads(done.stdout)
    assert flags == taken
    assert (code == 0) == runs


def test_every_python_process_of_the_package_is_started_with_them():
    package = Path(lucidlm.__file__).parent
    started = [
        f"{file.relative_to(package)}: {line.strip()}"
        for file in package.rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if "[sys.executable" in line and "own_flags()" not in line
    ]
    assert started == []
