import json
import os
import subprocess
import sys

import pytest

from lucidlm.errors import DataError, RunError
from lucidlm.runtime import files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_written_atomically_holds_the_bytes_and_leaves_nothing_beside_it(tmp_path):
    files.write_atomically(tmp_path / "a.bin", b"\x00\r\n\xff")
    files.write_atomically(tmp_path / "b.txt", "häuser\r\n")
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\r\n\xff"
    assert (tmp_path / "b.txt").read_bytes() == "häuser\r\n".encode()
    assert names(tmp_path) == ["a.bin", "b.txt"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no file modes")
def test_the_mode_is_0644_less_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_atomically(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_failed_write_leaves_the_old_file_and_its_oserror_passes_through(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        files.write_atomically(tmp_path / "a", b"new")
    assert caught.value.errno == 28
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_folder_appears_when_its_block_ends_and_replaces_the_old_one(tmp_path):
    target = tmp_path / "deep" / "run"
    for content in ("one", "two"):
        with files.replacing_folder(target) as folder:
            (folder / "inner").mkdir()
            (folder / "inner" / f"{content}.txt").write_text(content)
            assert folder.parent == target.parent
            assert target.exists() == (content == "two")
    assert names(target / "inner") == ["two.txt"]
    assert names(target.parent) == ["run"]


def test_a_failed_block_leaves_the_old_folder_and_no_temporary_one(tmp_path):
    with files.replacing_folder(tmp_path / "run") as folder:
        (folder / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt), files.replacing_folder(tmp_path / "run") as folder:  # noqa: PT012
        (folder / "a").write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["run"]
    assert (tmp_path / "run" / "a").read_text() == "old"


def test_what_a_killed_process_left_is_deleted_and_a_folder_moved_away_comes_back(tmp_path):
    (tmp_path / ".run.tmp").mkdir()
    (tmp_path / ".run.tmp" / "stale").write_text("")
    (
        tmp_path / ".run.old"
    ).mkdir()  # killed after the old folder was moved, before the new one took its place
    (tmp_path / ".run.old" / "whole").write_text("")
    with pytest.raises(ValueError, match="again"), files.replacing_folder(tmp_path / "run") as folder:  # noqa: PT012
        assert names(folder) == []
        assert names(tmp_path / "run") == ["whole"]
        raise ValueError("again")
    assert names(tmp_path) == ["run"]
    assert names(tmp_path / "run") == ["whole"]


def test_sha256_of_is_the_published_digest(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-4, appendix of examples
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256_of(tmp_path / "abc") == expected


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.bin").write_bytes(b"12345")
    (tmp_path / "sub" / "b.txt").write_bytes(b"abc")
    files.write_manifest(tmp_path, {"kind": "test", "ä": [1, 2]})
    return tmp_path


def test_a_manifest_lists_every_file_and_comes_back_with_what_was_added(folder):
    manifest = files.check_manifest(folder)
    assert manifest["kind"] == "test"
    assert manifest["ä"] == [1, 2]
    assert list(manifest["files"]) == ["a.bin", "sub/b.txt"]
    assert manifest["files"]["sub/b.txt"]["size"] == 3
    assert manifest["files"]["a.bin"]["sha256"] == files.sha256_of(folder / "a.bin")


def test_a_missing_a_short_and_a_changed_file_are_each_named(folder):
    file = folder / "sub" / "b.txt"
    file.write_bytes(b"abd")
    with pytest.raises(DataError, match=r"b\.txt: content changed"):
        files.check_manifest(folder)
    files.check_manifest(folder, contents=False)
    file.write_bytes(b"ab")
    with pytest.raises(DataError, match=r"b\.txt: 2 bytes, manifest\.json says 3"):
        files.check_manifest(folder, contents=False)
    file.unlink()
    with pytest.raises(DataError, match=r"b\.txt: listed in manifest\.json but missing"):
        files.check_manifest(folder)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"files": []}',
        '{"files": {"a": 3}}',
        '{"files": {"../a": {"size": 1, "sha256": ""}}}',
        '{"files": {"/etc/passwd": {"size": 1, "sha256": ""}}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_manifest_is_an_error_that_names_it(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json"):
        files.check_manifest(tmp_path)


def test_a_folder_without_a_manifest_is_an_error_that_names_it(tmp_path):
    with pytest.raises(DataError, match=r"manifest\.json: not there"):
        files.check_manifest(tmp_path)


def test_free_bytes_are_those_of_the_nearest_folder_that_exists(tmp_path):
    assert files.free_bytes(tmp_path / "not" / "yet") > 0
    assert files.free_bytes(tmp_path / "not" / "yet") == pytest.approx(files.free_bytes(tmp_path), rel=0.1)


def test_a_lock_is_held_against_this_process_and_freed_without_a_trace(tmp_path):
    with files.lock(tmp_path / "run"):
        with (
            pytest.raises(RunError, match=rf"run is in use .*pid {os.getpid()}.*--out"),
            files.lock(tmp_path / "run"),
        ):
            pass
        with files.lock(tmp_path / "other"):
            pass
    assert names(tmp_path) == []
    with files.lock(tmp_path / "run"):
        pass


def test_whether_a_path_is_locked_is_seen_without_taking_the_lock(tmp_path, monkeypatch):
    import filelock

    path, file = tmp_path / "run", tmp_path / ".run.lock"
    assert not files.is_locked(path)
    with files.lock(path):
        assert files.is_locked(path)
    assert not files.is_locked(path)
    file.write_text("999999999")  # what a killed process left
    assert not files.is_locked(path)
    with files.lock(path):
        pass

    def refuse(self, *arguments, **named):
        raise PermissionError(13, "Permission denied")

    # A lock that cannot be opened: its process decides.
    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    file.write_text("999999999")
    assert not files.is_locked(path)
    file.write_text(str(os.getpid()))
    assert files.is_locked(path)


def test_a_lock_is_held_against_another_process_and_ends_with_it(tmp_path):
    code = (
        "import sys\nfrom lucidlm.runtime.files import lock\n"
        "with lock(sys.argv[1]):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline().strip() == b"held"
        with pytest.raises(RunError, match=f"pid {other.pid}"), files.lock(tmp_path / "run"):
            pass
        other.kill()
        other.wait()
        with files.lock(tmp_path / "run"):
            pass


def test_a_manifest_is_plain_json_that_others_can_read(folder):
    assert json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["kind"] == "test"
