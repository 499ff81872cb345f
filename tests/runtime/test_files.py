"""Files and folders are written whole, or not at all, whatever fails on the way."""

import os
import stat
import subprocess
import threading

import pytest

from lucidlm.errors import RunError
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


def test_all_of_a_folder_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """A power cut may lose what was written and not synced, but keep the rename that came after it."""
    synced, renamed = set(), []
    fsync, replace = os.fsync, os.replace

    def identity(status):
        return status.st_dev, status.st_ino

    def sync(descriptor):
        synced.add(identity(os.fstat(descriptor)))
        fsync(descriptor)

    def rename(old, new):
        below = [old, *old.rglob("*")] if old.is_dir() else [old]
        renamed.append([path.name for path in below if identity(path.stat()) not in synced])
        replace(old, new)

    monkeypatch.setattr(files.os, "fsync", sync)
    monkeypatch.setattr(files.os, "replace", rename)
    with files.replacing_folder(tmp_path / "run") as temporary:
        (temporary / "inside").mkdir()
        for name in ("a", "inside/b"):
            (temporary / name).write_bytes(b"new")
    files.write_atomically(tmp_path / "file", b"new")
    assert renamed == [[], []]
    assert identity(tmp_path.stat()) in synced, "the folder that has the new names"


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


def test_a_pipe_gets_what_is_written_and_stays_one(tmp_path):
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
    with pytest.raises(RunError, match=r"pipe: .* 0\.1 s"):
        files.write_atomically(tmp_path / "pipe", b"", reader_s=0.1)
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
    (tmp_path / ".run.old").mkdir()  # killed between the two renames
    (tmp_path / ".run.old" / "whole").write_text("")
    with pytest.raises(ValueError, match="again"), files.replacing_folder(tmp_path / "run") as folder:  # noqa: PT012
        assert names(folder) == []
        assert names(tmp_path / "run") == ["whole"]
        raise ValueError("again")
    assert names(tmp_path) == ["run"]
    assert names(tmp_path / "run") == ["whole"]


def test_free_bytes_are_those_of_the_nearest_folder_that_exists(tmp_path):
    assert files.free_bytes(tmp_path / "not" / "yet") > 0
    assert files.free_bytes(tmp_path / "not" / "yet") == pytest.approx(files.free_bytes(tmp_path), rel=0.1)
