"""A lock is held by one process, whatever links lead to its place, and ends with that process."""

import os
import subprocess
import sys

import pytest

from lucidlm.errors import InUseError
from lucidlm.runtime.files import replacing_folder
from lucidlm.runtime.locks import is_locked, lock


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_lock_is_held_against_this_process_and_freed_without_a_trace(tmp_path):
    with lock(tmp_path / "run"):
        with (
            pytest.raises(InUseError, match=rf"run .*pid {os.getpid()}.*--out"),
            lock(tmp_path / "run"),
        ):
            pass
        with lock(tmp_path / "other"):
            pass
    assert names(tmp_path) == []
    with lock(tmp_path / "run"):
        pass


def test_the_current_folder_and_a_link_are_the_place_that_they_lead_to(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    monkeypatch.chdir(tmp_path / "run")
    with lock("."):
        assert all(is_locked(each) for each in (".", tmp_path / "run", tmp_path / "link"))
        with pytest.raises(InUseError), lock(tmp_path / "link"):
            pass
    with replacing_folder(tmp_path / "link") as folder:
        (folder / "a").touch()
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "run") == ["a"]
    assert names(tmp_path) == ["link", "run"]


def test_whether_a_path_is_locked_is_seen_without_taking_the_lock(tmp_path, monkeypatch):
    import filelock

    path, file = tmp_path / "run", tmp_path / ".run.lock"
    assert not is_locked(path)
    with lock(path):
        assert is_locked(path)
    assert not is_locked(path)
    file.write_text("999999999")  # what a killed process left
    assert not is_locked(path)
    with lock(path):
        pass

    def refuse(self, *arguments, **named):
        raise PermissionError(13, "Permission denied")

    # A lock that cannot be opened: its process decides.
    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    file.write_text("999999999")
    assert not is_locked(path)
    file.write_text(str(os.getpid()))
    assert is_locked(path)


def test_a_lock_is_held_against_another_process_and_ends_with_it(tmp_path):
    code = (
        "import sys\nfrom lucidlm.runtime.locks import lock\n"
        "with lock(sys.argv[1]):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline().strip() == b"held"
        with pytest.raises(InUseError, match=f"pid {other.pid}"), lock(tmp_path / "run"):
            pass
        other.kill()
        other.wait()
        with lock(tmp_path / "run"):
            pass
