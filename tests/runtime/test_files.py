import json
import os
import stat
import subprocess
import sys
import threading

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
@pytest.mark.parametrize(("umask", "mode"), [(0o027, 0o640), (0o077, 0o600), (0o002, 0o664)])
def test_the_mode_is_0666_less_the_umask_or_that_of_the_file_that_is_there(tmp_path, umask, mode):
    before = os.umask(umask)
    (tmp_path / "kept").touch()
    (tmp_path / "kept").chmod(0o604)
    try:
        for name in ("a", "kept"):
            files.write_atomically(tmp_path / name, b"new")
            with files.replacing_file(tmp_path / f"{name}-2") as temporary:
                temporary.write_bytes(b"new")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"a": mode, "a-2": mode, "kept-2": mode, "kept": 0o604}


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


def test_a_link_is_followed_and_a_missing_folder_is_made(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("file")
    files.write_atomically(tmp_path / "link", b"new")
    with files.replacing_file(tmp_path / "link") as temporary:
        temporary.write_bytes(b"newer")
    files.write_atomically(tmp_path / "not" / "yet" / "file", b"")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"newer"
    assert names(tmp_path) == ["file", "link", "not"]


def test_a_link_to_nothing_a_loop_and_a_folder_are_never_written_over(tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("nothing", "loop"):
        (tmp_path / f"to-{name}").symlink_to(tmp_path / f"to-{name}" if name == "loop" else "nothing")
    for name in ("folder", "to-nothing", "to-loop"):
        with pytest.raises(OSError, match=name):
            files.write_atomically(tmp_path / name, b"new")
        with pytest.raises(OSError, match=name), files.replacing_file(tmp_path / name):
            pass
    assert names(tmp_path) == ["folder", "to-loop", "to-nothing"]


def test_a_pipe_gets_what_is_written_and_stays_one(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    content = os.urandom(200_000)  # more than a pipe holds
    for _ in range(2):
        with subprocess.Popen(["cat", str(tmp_path / "pipe")], stdout=subprocess.PIPE) as reader:
            with files.replacing_file(tmp_path / "pipe") as temporary:
                temporary.write_bytes(content[:1000])
            assert reader.stdout.read() == content[:1000]
    with subprocess.Popen(["cat", str(tmp_path / "pipe")], stdout=subprocess.PIPE) as reader:
        read = threading.Thread(target=lambda: setattr(reader, "got", reader.stdout.read()))
        read.start()
        files.write_atomically(tmp_path / "pipe", content)
        read.join()
        assert reader.got == content
    monkeypatch.setattr(files, "READER_S", 0.1)
    with pytest.raises(RunError, match="start the reader first"):
        files.write_atomically(tmp_path / "pipe", b"")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert names(tmp_path) == ["pipe"]


def test_a_device_is_written_to_and_stays_one(tmp_path):
    try:
        os.mknod(tmp_path / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(tmp_path / "full", 0o666 | stat.S_IFCHR, os.makedev(1, 7))
        (tmp_path / "null").write_bytes(b"")
    except OSError:
        pytest.skip("only root can make devices, and not everywhere")
    (tmp_path / "link").symlink_to("null")
    for name in ("null", "link"):
        files.write_atomically(tmp_path / name, b"gone")
        with files.replacing_file(tmp_path / name) as temporary:
            temporary.write_bytes(b"gone")
    with pytest.raises(OSError, match=r"No space left.*full"):
        files.write_atomically(tmp_path / "full", b"x")
    assert [stat.S_ISCHR((tmp_path / name).lstat().st_mode) for name in ("null", "full")] == [True, True]
    assert names(tmp_path) == ["full", "link", "null"]


def test_an_error_of_a_write_a_sync_or_a_rename_names_the_file_that_was_meant(tmp_path, monkeypatch):
    def refuse(*arguments, **named):
        raise OSError(27, "File too large")

    for call in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(files.os, call, refuse)
            with pytest.raises(OSError, match=r"File too large: '.*/new'"):
                files.write_atomically(tmp_path / "new", b"")
            with (
                pytest.raises(OSError, match=r"File too large: '.*/new'"),
                files.replacing_file(tmp_path / "new"),
            ):
                pass
    assert names(tmp_path) == []


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


def test_the_current_folder_and_a_link_are_the_place_that_they_lead_to(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    monkeypatch.chdir(tmp_path / "run")
    with files.lock("."):
        assert all(files.is_locked(each) for each in (".", tmp_path / "run", tmp_path / "link"))
        with pytest.raises(RunError, match="in use"), files.lock(tmp_path / "link"):
            pass
    with files.replacing_folder(tmp_path / "link") as folder:
        (folder / "a").touch()
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "run") == ["a"]
    assert names(tmp_path) == ["link", "run"]


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
