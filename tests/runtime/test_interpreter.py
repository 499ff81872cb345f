"""Processes of the package import from the current folder only if the one that starts them does."""

import json
import os
import subprocess
import sys

import pytest

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
