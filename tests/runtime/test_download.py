import hashlib
import http.server
import json
import re
import sys
import threading
from pathlib import Path

import pytest
from recorded import Recorded

from lucidlm.cli import main
from lucidlm.errors import DataError, WeightsError
from lucidlm.runtime import download as module
from lucidlm.runtime.download import cache_folder, download, origin_of
from lucidlm.weights.published import hub_folder

BODY = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(BODY).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `body` at every path, as badly as it is told: one entry of `moods` a request, then well."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.etag, self.moods, self.asked = BODY, '"one"', [], []
        self.headers = {}

    def url(self, path="/book.txt"):
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.asked.append(dict(self.headers))
        mood = server.moods.pop(0) if server.moods else "well"
        if isinstance(mood, int):
            return self.send_error(mood)
        if mood.startswith("to "):
            return self.answer(302, b"", {"Location": mood[3:]})
        body, status, headers = server.body, 200, {"Content-Length": str(len(server.body)), **server.headers}
        if server.etag:
            headers["ETag"] = server.etag
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and mood != "no ranges" and self.headers.get("If-Range") in (None, server.etag):
            first = int(asked[1])
            if first >= len(body):
                return self.send_error(416)
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
            body, status = body[first:], 206
            headers["Content-Length"] = str(len(body))
        if mood in ("drips", "drips headers"):
            return self.drip(body if mood == "drips" else b"X-More: 1\r\n" * 1000, mood == "drips")
        if mood == "breaks off":
            body = body[: len(body) // 2]
        if mood == "too long":
            headers["Content-Length"] = str(len(body) + 10)
        if mood == "wrong part":
            headers["Content-Range"] = "bytes 7-9/10"
        if mood == "no length":
            del headers["Content-Length"]
        return self.answer(status, body, headers)

    def drip(self, data, headers):
        """A byte now and then, until the other side has had enough."""
        self.send_response(200)
        if headers:
            self.end_headers()
        self.wfile.flush()
        for byte in data[:200]:
            threading.Event().wait(0.02)
            try:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
            except OSError:
                return

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        return self.wfile.flush()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # nobody listens there
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def left(folder: Path) -> list[str]:
    """The files in `folder` that are neither notes nor locks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix not in (".json", ".lock"))


def refusal(url, folder, **options) -> str:
    with pytest.raises(DataError) as caught:
        download(url, folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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


def test_a_broken_transfer_goes_on_where_it_stopped(server, tmp_path):
    server.moods = ["breaks off", "breaks off"]
    told = []
    assert download(server.url(), tmp_path, sha256=SHA256, progress=Recorded(told)).read_bytes() == BODY
    assert [asked.get("Range") for asked in server.asked] == [None, "bytes=524288-", "bytes=786432-"]
    assert server.asked[1]["If-Range"] == '"one"'
    assert "broke off after 524,288 of 1,048,576 bytes" in told[0]


def test_a_later_call_goes_on_too(server, tmp_path):
    server.moods = ["breaks off"] * 3
    message = refusal(server.url(), tmp_path)
    assert server.url() in message
    assert "broke off after" in message
    assert "run the command again" in message
    assert download(server.url(), tmp_path).read_bytes() == BODY
    assert server.asked[3]["Range"] == "bytes=917504-"


def test_a_part_of_another_version_is_thrown_away(server, tmp_path):
    server.moods = ["breaks off"] * 3
    refusal(server.url(), tmp_path)
    server.body, server.etag = b"new" * 400_000, '"two"'
    assert download(server.url(), tmp_path).read_bytes() == server.body


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_validator_it_starts_again(server, tmp_path, etag):
    server.etag, server.moods = etag, ["breaks off"]
    assert download(server.url(), tmp_path).read_bytes() == BODY
    assert "Range" not in server.asked[1]


def test_a_server_without_ranges_or_with_a_wrong_part_is_asked_for_all(server, tmp_path):
    server.moods = ["breaks off", "no ranges"]
    assert download(server.url("/a"), tmp_path).read_bytes() == BODY
    server.moods = ["breaks off", "wrong part"]
    assert download(server.url("/b"), tmp_path).read_bytes() == BODY


def test_a_part_that_is_longer_than_the_file_is_thrown_away(server, tmp_path):
    server.moods = ["breaks off"] * 3
    refusal(server.url(), tmp_path)
    (part,) = tmp_path.glob("*.part")
    part.write_bytes(BODY + b"more")
    assert download(server.url(), tmp_path).read_bytes() == BODY


def test_a_whole_part_needs_no_request(server, tmp_path):
    server.moods = ["breaks off"] * 3
    refusal(server.url(), tmp_path)
    (part,) = tmp_path.glob("*.part")
    part.write_bytes(BODY)  # as after a kill between the last byte and the renaming
    assert download(server.url(), tmp_path, sha256=SHA256).read_bytes() == BODY
    assert len(server.asked) == 3


def test_a_length_that_does_not_come_is_an_error_and_never_a_file(server, tmp_path):
    server.etag, server.moods = None, ["too long"] * 3
    assert "of 1,048,586 bytes" in refusal(server.url(), tmp_path)
    assert [name for name in left(tmp_path) if not name.endswith(".part")] == []


def test_an_answer_without_a_length_is_taken_to_its_end(server, tmp_path):
    server.moods = ["no length"]
    assert download(server.url(), tmp_path, sha256=SHA256).read_bytes() == BODY


def test_wrong_bytes_are_refused_and_removed(server, tmp_path):
    server.body = BODY[:-1] + b"!"
    message = refusal(server.url(), tmp_path, sha256=SHA256)
    assert SHA256 in message
    assert hashlib.sha256(server.body).hexdigest() in message
    assert left(tmp_path) == []
    server.body = BODY
    assert download(server.url(), tmp_path, sha256=SHA256).read_bytes() == BODY


def test_a_damaged_copy_in_the_cache_is_fetched_again(server, tmp_path):
    path = download(server.url(), tmp_path)
    path.write_bytes(BODY[:-1] + b"!")
    assert download(server.url(), tmp_path, sha256=SHA256).read_bytes() == BODY
    path.write_bytes(BODY[:-1])
    assert download(server.url(), tmp_path).read_bytes() == BODY
    assert len(server.asked) == 3


def test_too_much_is_refused_whether_announced_or_not(server, tmp_path):
    assert "more than the limit of 1,000" in refusal(server.url(), tmp_path, max_bytes=1000)
    server.moods = ["no length"]
    assert "more than the limit of 1,000" in refusal(server.url("/b"), tmp_path, max_bytes=1000)
    assert download(server.url("/c"), tmp_path, max_bytes=len(BODY)).is_file()


def test_a_missing_file_is_an_error_at_once_and_a_busy_server_is_asked_again(server, tmp_path):
    server.moods = [404]
    message = refusal(server.url(), tmp_path)
    assert "404 Not Found" in message
    assert "give its path" in message
    assert len(server.asked) == 1
    server.moods = [503, 503]
    assert download(server.url(), tmp_path).read_bytes() == BODY
    server.moods = [500] * 3
    assert "500" in refusal(server.url("/b"), tmp_path)


def test_redirections_are_followed_to_http_alone(server, tmp_path):
    server.moods = [f"to {server.url('/elsewhere')}"]
    assert download(server.url(), tmp_path).read_bytes() == BODY
    server.moods = ["to file:///etc/passwd"]
    assert "file:///etc/passwd" in refusal(server.url("/b"), tmp_path)


def test_https_is_never_left_for_http():
    handler = module._OnlyAsSafe()
    request = module.urllib.request.Request("https://example.org/a")
    with pytest.raises(DataError, match="not encrypted"):
        handler.redirect_request(request, None, 302, "Found", {}, "http://example.org/a")
    assert handler.redirect_request(request, None, 302, "Found", {}, "https://example.org/b") is not None


def test_a_server_that_is_not_there_is_an_error_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    assert "Connection refused" in refusal("http://127.0.0.1:1/a.txt", tmp_path).replace(
        "refused it", "refused"
    )


@pytest.mark.parametrize(
    "url",
    ["ftp://x/a", "file:///etc/passwd", "a.txt", "http://", "http://[::1", "http://x:y/", "http://a:b@c/"],
)
def test_what_is_no_web_address_is_refused(tmp_path, url):
    refusal(url, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_password_in_an_address_is_not_repeated(tmp_path):
    assert "secret" not in refusal("https://me:secret@example.org/a", tmp_path)


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
    assert "LUCIDLM_CACHE" in refusal("http://127.0.0.1:1/a", tmp_path / "file" / "folder")


def test_an_illegible_note_is_as_none(tmp_path):
    path = tmp_path / "a"
    assert origin_of(path) is None
    for note in ("", "[]", "{}", json.dumps({"url": "x", "unknown": 1}), "\ufffd"):
        (tmp_path / "a.json").write_text(note, "utf-8")
        assert origin_of(path) is None


def test_the_cache_lies_where_the_platform_has_it(monkeypatch, tmp_path):
    monkeypatch.setenv("LUCIDLM_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("LUCIDLM_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: Path("/home"))
    monkeypatch.setenv("LOCALAPPDATA", "local")
    expected = {
        "linux": Path("/home/.cache/lucidlm"),
        "darwin": Path("/home/Library/Caches/lucidlm"),
        "win32": Path("local/lucidlm"),
    }
    for platform, folder in expected.items():
        monkeypatch.setattr(sys, "platform", platform)
        assert cache_folder() == folder


def test_a_server_that_drips_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE_S", 0.2)
    server.moods, server.etag = ["drips"], '"one"'
    assert "the slowest that is waited for is 500 a second" in refusal(server.url(), tmp_path)
    monkeypatch.setattr(module, "_ANSWER_S", 0.2)
    server.moods = ["drips headers"] * 3
    assert "no headers within" in refusal(server.url(), tmp_path)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("ftp://127.0.0.1/book.txt", "neither http nor https"),
        ("FTP://127.0.0.1/book.txt", "neither http nor https"),
        ("file:///etc/passwd", "answered 302"),
        ("gopher://127.0.0.1/", "answered 302"),
        ("http://[bad/", "an invalid address"),
        ("http://127.0.0.1:99999999/", "an address that is none|no proper answer|cannot be reached"),
    ],
)
def test_redirections_that_lead_astray_are_one_line(server, tmp_path, address, reason):
    server.moods = [f"to {address}"] * 3
    assert re.search(reason, refusal(server.url(), tmp_path))
    assert left(tmp_path) == []


def test_redirections_without_end_are_one_line(server, tmp_path):
    server.moods = [f"to {server.url()}"] * 60
    assert "infinite loop" in refusal(server.url(), tmp_path)


@pytest.mark.parametrize("length", ["9" * 5000, "\u00b2", "-5", "many"])
def test_a_length_that_is_no_number_is_not_believed(server, tmp_path, length):
    server.headers["Content-Length"] = length
    server.etag = None
    assert download(server.url(), tmp_path).read_bytes() == BODY


def test_headers_beyond_all_measure_are_one_line(server, tmp_path):
    server.headers |= {f"X-{number}": "a" for number in range(200)}
    assert "no proper answer" in refusal(server.url(), tmp_path)


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


NO_HOME = "set LUCIDLM_CACHE to a folder for texts and OpenAI's models, and HF_HOME to one for the hub's"


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
        assert NO_HOME in line
    assert not any(tmp_path.iterdir())
    monkeypatch.setenv("LUCIDLM_CACHE", str(tmp_path / "cache"))
    assert main(["prepare", server.url(), "--out", "prepared", "--tokenizer", "bytes"]) == 0
    assert left(tmp_path / "cache")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.snapshot_download", _not_there)
    assert main(["info", "owner/name"]) == 2
    assert "owner/name: not in the cache, and the hub cannot be reached" in capsys.readouterr().err


def _not_there(*arguments, **flags):
    from huggingface_hub.errors import LocalEntryNotFoundError

    raise LocalEntryNotFoundError("nothing here")


def test_a_home_that_cannot_be_written_names_what_to_set_instead(homeless, monkeypatch, tmp_path, server):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot be kept in .*file/.cache/lucidlm .*set LUCIDLM_CACHE"):
        download(server.url(), cache_folder())
    monkeypatch.setenv("LUCIDLM_CACHE", str(tmp_path / "cache"))
    assert download(server.url(), cache_folder()).read_bytes() == BODY

    def refused(*arguments, **flags):
        raise PermissionError(13, "Permission denied", "/home/somebody/.cache/huggingface")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refused)
    with pytest.raises(WeightsError, match=r"kept in /home/somebody/.* \(Permission denied\); set HF_HOME"):
        hub_folder("owner/name", progress=Recorded())


def test_a_relative_cache_of_the_desktop_is_ignored_and_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("LUCIDLM_CACHE", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache" / "lucidlm"
    monkeypatch.setenv("LUCIDLM_CACHE", "~/texts")
    assert cache_folder() == tmp_path / "texts"
