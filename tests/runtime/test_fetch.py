import contextlib
import hashlib
import http.server
import importlib
import json
import mimetypes
import re
import sys
import threading
import urllib.request
from pathlib import Path
from typing import ClassVar

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from recorded import Recorded

from lucidlm.cli import main
from lucidlm.errors import FetchError, WeightsError
from lucidlm.runtime.fetch import cache_folder, fetch
from lucidlm.runtime.part_file import Patience, origin_of
from lucidlm.runtime.web import OnlyAsSafe
from lucidlm.weights.published import hub_folder

BODY = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(BODY).hexdigest()
AT_ONCE = Patience(pause_s=0)
IMPATIENT = Patience(pause_s=0, window_s=0.2, answer_s=0.2)


def download(url, folder, *, patience=AT_ONCE, **options):
    return fetch(url, folder, patience=patience, **options)


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
        with contextlib.suppress(ConnectionError):  # the other side has had enough
            self.wfile.write(body)
            self.wfile.flush()


@pytest.fixture
def server(monkeypatch):
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


def refusal(url, folder, **options) -> FetchError:
    """The error of a fetch: one line that begins with the address."""
    with pytest.raises(FetchError) as caught:
        download(url, folder, **options)
    assert "\n" not in str(caught.value)
    return caught.value


def code_of(url, folder, **options) -> str:
    return refusal(url, folder, **options).code


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
    told = Recorded()
    assert download(server.url(), tmp_path, sha256=SHA256, progress=told).read_bytes() == BODY
    assert [asked.get("Range") for asked in server.asked] == [None, "bytes=524288-", "bytes=786432-"]
    assert server.asked[1]["If-Range"] == '"one"'
    assert "524,288 of 1,048,576 bytes" in told.notes[0]
    assert [done for _, done, _ in told.stages] == [len(BODY) // 2, len(BODY) * 3 // 4, len(BODY)]


def test_a_later_call_goes_on_too(server, tmp_path):
    server.moods = ["breaks off"] * 3
    error = refusal(server.url(), tmp_path)
    assert error.code == "broken"
    assert str(error).startswith(f"{server.url()}: ")
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
    assert "of 1,048,586 bytes" in refusal(server.url(), tmp_path).problem
    assert [name for name in left(tmp_path) if not name.endswith(".part")] == []


def test_an_answer_without_a_length_is_taken_to_its_end(server, tmp_path):
    server.moods = ["no length"]
    assert download(server.url(), tmp_path, sha256=SHA256).read_bytes() == BODY


def test_wrong_bytes_are_refused_and_removed(server, tmp_path):
    server.body = BODY[:-1] + b"!"
    error = refusal(server.url(), tmp_path, sha256=SHA256)
    assert error.code == "damaged"
    assert SHA256 in error.problem
    assert hashlib.sha256(server.body).hexdigest() in error.problem
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
    assert code_of(server.url(), tmp_path, max_bytes=1000) == "too_large"
    server.moods = ["no length"]
    assert code_of(server.url("/b"), tmp_path, max_bytes=1000) == "too_large"
    assert download(server.url("/c"), tmp_path, max_bytes=len(BODY)).is_file()


def test_a_missing_file_is_an_error_at_once_and_a_busy_server_is_asked_again(server, tmp_path):
    server.moods = [404]
    error = refusal(server.url(), tmp_path)
    assert error.code == "answer"
    assert "404" in error.problem
    assert len(server.asked) == 1
    server.moods = [503, 503]
    assert download(server.url(), tmp_path).read_bytes() == BODY
    server.moods = [500] * 3
    assert "500" in refusal(server.url("/b"), tmp_path).problem


def test_redirections_are_followed_to_http_alone(server, tmp_path):
    server.moods = [f"to {server.url('/elsewhere')}"]
    assert download(server.url(), tmp_path).read_bytes() == BODY
    server.moods = ["to file:///etc/passwd"]
    assert "302" in refusal(server.url("/b"), tmp_path).problem


def test_https_is_never_left_for_http():
    handler = OnlyAsSafe()
    request = urllib.request.Request("https://example.org/a")
    with pytest.raises(FetchError) as caught:
        handler.redirect_request(request, None, 302, "Found", {}, "http://example.org/a")
    assert caught.value.code == "redirect"
    assert handler.redirect_request(request, None, 302, "Found", {}, "https://example.org/b") is not None


def test_a_server_that_is_not_there_is_an_error_in_one_line(tmp_path):
    assert code_of("http://127.0.0.1:1/a.txt", tmp_path) == "unreachable"


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
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    # Where caches of earlier versions lie.
    places = {"darwin": "Library/Caches/lucidlm", "win32": "local/lucidlm"}
    assert cache_folder() == tmp_path / places.get(sys.platform, ".cache/lucidlm")


def test_a_server_that_drips_is_given_up(server, tmp_path):
    server.moods = ["drips"]
    error = refusal(server.url(), tmp_path, patience=IMPATIENT)
    assert error.code == "slow"
    assert "500" in error.problem
    server.moods = ["drips headers"] * 3
    error = refusal(server.url(), tmp_path, patience=IMPATIENT)
    assert error.code == "answer"
    assert "0.2 s" in error.problem


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("ftp://127.0.0.1/book.txt", "redirect"),
        ("FTP://127.0.0.1/book.txt", "redirect"),
        ("file:///etc/passwd", "answer"),
        ("gopher://127.0.0.1/", "answer"),
        ("http://[bad/", "redirect"),
        ("http://127.0.0.1:99999999/", "unreachable|redirect|answer"),
    ],
)
def test_redirections_that_lead_astray_are_one_line(server, tmp_path, address, code):
    server.moods = [f"to {address}"] * 3
    assert code_of(server.url(), tmp_path) in code.split("|")
    assert left(tmp_path) == []


def test_redirections_without_end_are_one_line(server, tmp_path):
    server.moods = [f"to {server.url()}"] * 60
    assert code_of(server.url(), tmp_path) == "answer"


@pytest.mark.parametrize("length", ["9" * 5000, "\u00b2", "-5", "many"])
def test_a_length_that_is_no_number_is_not_believed(server, tmp_path, length):
    server.headers["Content-Length"] = length
    server.etag = None
    assert download(server.url(), tmp_path).read_bytes() == BODY


def test_headers_beyond_all_measure_are_one_line(server, tmp_path):
    server.headers |= {f"X-{number}": "a" for number in range(200)}
    assert code_of(server.url(), tmp_path) == "answer"


# Other stores


REGISTRY = importlib.import_module("fsspec.registry")  # fsspec.registry is a table in its place


class Bucket(MemoryFileSystem):
    """fsspec's filesystem in memory, under the protocol of a store."""

    protocol = "s3"
    store: ClassVar[dict] = {}
    asked: ClassVar[list[str]] = []

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.partition("://")[2].strip("/") if "://" in path else path

    def info(self, path, **options):
        self.asked.append(path)
        return {**super().info(path, **options), "ContentType": mimetypes.guess_type(path)[0]}


class Failing(Bucket):
    def _open(self, path, **options):
        raise ConnectionError("no\nnetwork")


@pytest.fixture
def bucket(monkeypatch):
    """bucket(scheme, filesystem=Bucket): a store of that scheme with BODY as book.html."""

    def make(scheme, filesystem=Bucket):
        monkeypatch.setitem(REGISTRY._registry, scheme, filesystem)
        Bucket.store.clear()
        Bucket.asked.clear()
        Bucket().pipe("/bucket/book.html", BODY)

    return make


@pytest.mark.parametrize("scheme", ["s3", "gs", "gcs", "hf"])
def test_a_file_of_a_store_is_fetched_once(bucket, tmp_path, scheme):
    bucket(scheme)
    told, url = Recorded(), f"{scheme}://bucket/book.html"
    path = download(url, tmp_path, sha256=SHA256, size=len(BODY), progress=told)
    assert path.read_bytes() == BODY
    assert path.suffix == ".html"
    assert origin_of(path).content_type == "text/html"
    assert [stage[1:] for stage in told.stages] == [[len(BODY), len(BODY)]]
    assert download(url, tmp_path) == path
    assert len(Bucket.asked) == 1
    assert left(tmp_path) == [path.name]


def test_limits_and_hashes_hold_for_a_store_too(bucket, tmp_path):
    bucket("s3")
    url = "s3://bucket/book.html"
    assert code_of(url, tmp_path, max_bytes=1000) == "too_large"
    assert code_of(url, tmp_path, sha256="0" * 64) == "damaged"
    assert code_of("s3://bucket/other.html", tmp_path) == "unreachable"
    assert code_of("s3://bucket", tmp_path) == "folder"
    assert left(tmp_path) == []
    bucket("s3", Failing)
    assert code_of(url, tmp_path) == "unreachable"


@pytest.mark.parametrize(("scheme", "extra"), [("s3", "s3"), ("gs", "gs")])
def test_a_missing_backend_names_the_extra_that_has_it(monkeypatch, tmp_path, scheme, extra):
    missing = {"class": "no_such_package.System", "err": "Install it"}
    monkeypatch.setitem(REGISTRY.known_implementations, scheme, missing)
    error = refusal(f"{scheme}://bucket/a.txt", tmp_path)
    assert error.code == "extra"
    assert f"pip install 'lucidlm[{extra}]'" in str(error)


def test_a_text_of_a_store_is_prepared(bucket, tmp_path, monkeypatch):
    bucket("s3")
    Bucket().pipe("/bucket/a.txt", b"Nobody knew why the river ran past.\n" * 30)
    monkeypatch.setenv("LUCIDLM_CACHE", str(tmp_path / "cache"))
    out = str(tmp_path / "prepared")
    assert main(["prepare", "s3://bucket/a.txt", "--out", out, "--tokenizer", "bytes"]) == 0
    manifest = json.loads((tmp_path / "prepared" / "manifest.json").read_text("utf-8"))
    assert "s3://bucket/a.txt" in json.dumps(manifest)


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
