"""Addresses and the cache: what is fetched once, and where it lies."""

import re
import sys
import threading

import pytest
from web_server import BODY, SHA256, download, left, refusal

from lucidlm.cli import main
from lucidlm.errors import WeightsError
from lucidlm.runtime.fetch import cache_folder
from lucidlm.runtime.part_file import origin_of
from lucidlm.weights.published import hub_folder


def test_a_file_is_fetched_once(server, tmp_path):
    server.headers["Content-Type"] = "text/plain; charset=utf-8"
    path = download(server.url(), tmp_path / "new" / "folder", sha256=SHA256.upper())
    assert path.read_bytes() == BODY
    assert path.suffix == ".txt"
    assert left(path.parent) == [path.name]
    assert origin_of(path).content_type == "text/plain; charset=utf-8"
    url = server.url()
    server.shutdown()
    server.server_close()
    assert download(url, tmp_path / "new" / "folder") == path
    assert download(url, tmp_path / "new" / "folder", sha256=SHA256) == path
    assert len(server.asked) == 1


def test_a_damaged_copy_in_the_cache_is_fetched_again(server, tmp_path):
    path = download(server.url(), tmp_path)
    path.write_bytes(BODY[:-1] + b"!")
    assert download(server.url(), tmp_path, sha256=SHA256).read_bytes() == BODY
    path.write_bytes(BODY[:-1])
    assert download(server.url(), tmp_path).read_bytes() == BODY
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    "url",
    ["ftp://x/a", "file:///etc/passwd", "a.txt", "http://", "http://[::1", "http://x:y/", "http://a:b@c/"],
)
def test_what_is_no_web_address_is_refused(tmp_path, url):
    refusal(url, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_password_in_an_address_is_not_repeated(tmp_path):
    for url in ("https://me:secret@example.org/a", "s3://me:secret@bucket/a"):
        error = refusal(url, tmp_path)
        assert error.code == "password"
        assert "secret" not in str(error)


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd", "/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/a/..", "/" + "x" * 500 + ".txt", "/",
        "/Käse%20Brot/ü ö.txt", "/nul\\..\\con:x|y", "/.hidden", "/a.txt?x=../../y",
    ],
)  # fmt: skip
def test_any_address_gives_a_name_inside_the_folder(server, tmp_path, path):
    found = download(server.url(path), tmp_path)
    assert found.parent == tmp_path
    assert re.fullmatch(r"[0-9a-f]{16}(-[A-Za-z0-9][A-Za-z0-9._-]{0,79})?", found.name)
    assert found.read_bytes() == BODY


def test_two_addresses_with_one_last_part_do_not_share_a_file(server, tmp_path):
    assert download(server.url("/a/x.txt"), tmp_path) != download(server.url("/b/x.txt"), tmp_path)
    assert download(server.url("/a/x.txt?1"), tmp_path) != download(server.url("/a/x.txt"), tmp_path)


def test_four_at_once_fetch_one_file(server, tmp_path):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(download(server.url(), tmp_path))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(server.asked) == 1


def test_a_folder_that_cannot_be_written_is_a_clear_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    error = refusal("http://127.0.0.1:1/a", tmp_path / "file" / "folder")
    assert error.code == "cache"
    assert "LUCIDLM_CACHE" in str(error)


def test_the_cache_lies_where_the_platform_has_it(monkeypatch, tmp_path):
    monkeypatch.setenv("LUCIDLM_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("LUCIDLM_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    # Where caches of earlier versions lie.
    places = {"darwin": "Library/Caches/lucidlm", "win32": "local/lucidlm"}
    assert cache_folder() == tmp_path / places.get(sys.platform, ".cache/lucidlm")


# Where there is no home folder


@pytest.fixture
def homeless(monkeypatch):
    """A user id without an entry in the system's list, and no HOME, as in many containers."""
    pwd = pytest.importorskip("pwd")

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "LUCIDLM_CACHE", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("home", [None, "relative"])
def test_without_a_home_folder_the_line_says_what_to_set_and_that_works(
    homeless, home, monkeypatch, tmp_path, server, capsys
):
    monkeypatch.chdir(tmp_path)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    server.body = b"Nobody knew why the river ran past a house.\n" * 20
    for command in (
        ["prepare", server.url(), "--out", "prepared", "--tokenizer", "bytes"],
        ["info", "gpt2"],
        ["info", "owner/name"],
    ):
        assert main(command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "LUCIDLM_CACHE" in line
        assert "HF_HOME" in line
    assert not any(tmp_path.iterdir())
    monkeypatch.setenv("LUCIDLM_CACHE", str(tmp_path / "cache"))
    assert main(["prepare", server.url(), "--out", "prepared", "--tokenizer", "bytes"]) == 0
    assert left(tmp_path / "cache")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.snapshot_download", _not_there)
    assert main(["info", "owner/name"]) == 2
    assert "owner/name: " in capsys.readouterr().err


def _not_there(*arguments, **flags):
    from huggingface_hub.errors import LocalEntryNotFoundError

    raise LocalEntryNotFoundError("nothing here")


def test_a_home_that_cannot_be_written_names_what_to_set_instead(homeless, monkeypatch, tmp_path, server):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    error = refusal(server.url(), cache_folder())
    assert error.code == "cache"
    assert f"{tmp_path}/file/.cache/lucidlm" in error.problem
    monkeypatch.setenv("LUCIDLM_CACHE", str(tmp_path / "cache"))
    assert download(server.url(), cache_folder()).read_bytes() == BODY

    def refused(*arguments, **flags):
        raise PermissionError(13, "Permission denied", "/home/somebody/.cache/huggingface")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refused)
    with pytest.raises(WeightsError, match=r"/home/somebody/.*Permission denied.*HF_HOME"):
        hub_folder("owner/name")


def test_a_relative_cache_of_the_desktop_is_ignored_and_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("LUCIDLM_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    if sys.platform == "linux":
        assert cache_folder() == tmp_path / ".cache" / "lucidlm"
    monkeypatch.setenv("LUCIDLM_CACHE", "~/texts")
    assert cache_folder() == tmp_path / "texts"
