"""A web server for tests that answers as badly as it is told, and fetches from it that do not wait."""

import contextlib
import hashlib
import http.server
import re
import threading
from pathlib import Path

import pytest

from lucidlm.errors import FetchError
from lucidlm.runtime.fetch import fetch
from lucidlm.runtime.part_file import Patience

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
