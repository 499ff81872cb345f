import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lucidlm.errors import PlaceError
from lucidlm.runtime import places
from lucidlm.runtime.places import check_file_place, check_folder_place, path_from_text, path_text

ODD = os.fsdecode(b"caf\xe9")


NAMES = [b"plain", "größe".encode(), b"caf\xe9.txt", rb"back\slash", rb"a\udce9b", rb"a\u005cb"]
NAMES += [b"\xff\\u005c\xc3", b"\xed\xa0\x80", b"\xe9\\\\"]


@pytest.mark.parametrize("name", NAMES)
def test_each_path_becomes_text_that_utf8_holds_and_comes_back(name):
    path = os.fsdecode(name)
    text = path_text(path)
    text.encode("utf-8")
    assert os.fsencode(path_from_text(text)) == name


def test_only_a_name_that_is_no_utf8_or_looks_escaped_is_changed():
    assert path_text(r"C:\new größe") == r"C:\new größe"
    assert path_text(Path(ODD)) == r"caf\udce9"
    assert path_text(r"caf\udce9") == r"caf\u005cudce9"


def both(path):
    """What is said of a path as a file and as a folder; None where nothing is."""
    said = []
    for check in (check_file_place, check_folder_place):
        try:
            check(path, "--out")
            said.append(None)
        except PlaceError as error:
            said.append(str(error))
    for line in filter(None, said):
        assert line.startswith("--out ")
        assert line.isprintable()
    return said


@pytest.mark.parametrize("path", ["", "a\0b", "n" * 240, "ab/" * 1500 + "c", "/", ".", "..", "there/.."])
def test_what_no_file_and_no_new_folder_can_be_called_is_refused(path, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    assert all(both(path))


def test_files_and_folders_each_need_their_own_kind_of_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    assert both("new") == [None, None]
    assert both("not/yet/there") == [None, None]
    for name, refused in {"new/": [0], "file": [1], "file/inside": [0, 1], "folder": [0]}.items():
        found = both(name)
        assert [n for n, line in enumerate(found) if line] == refused
        assert all(line.startswith(f"--out {name}: ") for line in found if line)
    assert both("folder")[1] is None
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]


def test_links_devices_pipes_and_sockets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for name, target in {
        "to-file": "file",
        "to-folder": "folder",
        "to-nothing": "none",
        "loop": "loop",
    }.items():
        (tmp_path / name).symlink_to(target)
    os.mkfifo("pipe")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("socket")
    assert both("to-file")[0] is None
    assert both("to-folder")[1]
    assert all(both("to-nothing"))
    assert all(both("loop"))
    assert both("pipe")[0] is None
    assert both("pipe")[1]
    assert both("socket")[0]
    assert both("/dev/null")[0] is None
    assert all(both("/dev/null/x"))
    listening.close()


def test_a_place_that_holds_what_is_read_is_refused(tmp_path):
    book = tmp_path / "texts" / "book.txt"
    book.parent.mkdir()
    book.touch()
    (tmp_path / "again").hardlink_to(book)
    for place in (book, tmp_path / "again", tmp_path / "texts" / ".." / "texts" / "book.txt"):
        with pytest.raises(PlaceError, match=f"--out {place}: "):
            check_file_place(place, "--out", inputs=[book])
    with pytest.raises(PlaceError, match=str(book)):
        check_folder_place(tmp_path / "texts", "--out", inputs=[book])
    with pytest.raises(PlaceError, match=f"--out {book}: "):
        check_file_place(book, "--out", inputs=[tmp_path / "texts"])
    check_file_place(tmp_path / "texts" / "new", "--out", inputs=[tmp_path / "texts"])
    check_folder_place(tmp_path / "texts" / "prepared", "--out", inputs=[tmp_path / "texts"])
    check_file_place(tmp_path / "new", "--out", inputs=["-", "https://example.org/x", "*.txt", "a\0b"])


def test_more_than_the_disk_has_is_refused_with_both_figures(tmp_path):
    with pytest.raises(PlaceError, match=r"1000000000\.0 GB .* \d+\.\d GB"):
        check_file_place(tmp_path / "a" / "b", "--out", need_bytes=10**18)


AS_NOBODY = """
import os, sys
from lucidlm.errors import PlaceError
from lucidlm.runtime.places import check_file_place, check_folder_place
os.setgid(65534), os.setuid(65534)
files = ["closed/new", "kept", "sticky/other", "/proc/new", "open/new"]
for check, path in [*((check_file_place, file) for file in files), (check_folder_place, "closed/deep/new")]:
    try:
        check(path, "--out")
        print(None)
    except PlaceError as error:
        print(error)
"""


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root can become another user")
def test_what_the_user_may_not_write_is_refused_before_the_work():
    # Root may write everywhere, so another user asks; pytest's own folders are closed to that one.
    with tempfile.TemporaryDirectory() as folder:
        for name, mode in {".": 0o755, "closed": 0o755, "sticky": 0o1777, "open": 0o777}.items():
            (Path(folder) / name).mkdir(exist_ok=True)
            (Path(folder) / name).chmod(mode)
        for name in ("kept", "sticky/other"):
            (Path(folder) / name).touch(0o644)
        environment = os.environ | {"PYTHONPATH": str(Path(places.__file__).parents[2])}
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY],
            cwd=folder, env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
    refused = [line.startswith("--out") for line in done.stdout.splitlines()]
    assert refused == [True, True, True, True, False, True], done.stdout
