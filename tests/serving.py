"""What the tests of the server share: a server in a thread of this process, and plain requests to it."""

import asyncio
import contextlib
import http.client
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from models import BYTES, TINY, sharp

from lucidlm.serve.app import make_app
from lucidlm.serve.engine import Engine
from lucidlm.serve.guards import Settings
from lucidlm.serve.jobs import Served
from lucidlm.serve.limits import LIMITS, Limits
from lucidlm.serve.listening import listen, server_of


def served(name: str = "tiny", family: str = "gpt2", *, context_length: int = 64, **options: Any) -> Served:
    """A tiny model of bytes whose predictions are far from uniform."""
    return Served(
        name, "preset", sharp(TINY[family].changed(context_length=context_length)), BYTES, **options
    )


@dataclass(frozen=True, slots=True)
class Reply:
    """What a request was answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def fault(self) -> dict[str, Any]:
        """The error object, of which all fields must be there."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error

    @property
    def events(self) -> list[Any]:
        """The events of a stream, which must end with [DONE], without comments."""
        *parts, done, nothing = self.body.decode().split("\n\n")
        assert (done, nothing) == ("data: [DONE]", "")
        return [json.loads(part.removeprefix("data: ")) for part in parts if not part.startswith(":")]


def head_of(
    *headers: str, path: str = "/v1/completions", kind: str = "application/json", host: str = "localhost"
) -> bytes:
    """The head of a POST, for a test that sends it in its own way."""
    lines = (f"POST {path} HTTP/1.1", f"host: {host}", f"content-type: {kind}", *headers, "", "")
    return "\r\n".join(lines).encode()


@dataclass(frozen=True, slots=True)
class Listening:
    """A server that listens on a port of this machine."""

    port: int

    @property
    def address(self) -> str:
        """http://127.0.0.1:PORT."""
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> http.client.HTTPConnection:
        """A connection of one's own."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """One request; `body` is sent as JSON unless it is bytes, `_` in a header's name is a dash."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json"} if data is not None else {}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, data, sent)
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    def upload(self, name: str, data: bytes, query: str = "") -> Reply:
        """A text for /api/documents."""
        path = f"/api/documents?name={quote(name, safe='')}{query}"
        return self.ask("POST", path, data, content_type="application/octet-stream")

    def complete(self, prompt: Any = "The old", **fields: Any) -> Reply:
        """A request to /v1/completions."""
        return self.ask("POST", "/v1/completions", {"model": "tiny", "prompt": prompt} | fields)


@dataclass(frozen=True, slots=True)
class Running(Listening):
    """One in a thread of this process."""

    engine: Engine

    def wait_for(self, running: int, *, timeout_s: float = 5.0) -> float:
        """Seconds until so many texts run; they must within the time."""
        began = time.monotonic()
        while self.engine.running + self.engine.waiting != running:
            assert time.monotonic() - began < timeout_s, (self.engine.running, self.engine.waiting)
            time.sleep(0.005)
        return time.monotonic() - began


@dataclass(frozen=True, slots=True)
class Apart(Listening):
    """`lucidlm serve` in a process of its own."""

    process: int

    @property
    def memory_bytes(self) -> int:
        """What the process holds in memory."""
        return self._status("VmRSS")

    @property
    def most_memory_bytes(self) -> int:
        """The most that it held since `forget_memory`."""
        return self._status("VmHWM")

    def forget_memory(self) -> None:
        """`most_memory_bytes` counts from now on."""
        Path(f"/proc/{self.process}/clear_refs").write_text("5")

    def _status(self, name: str) -> int:
        status = Path(f"/proc/{self.process}/status").read_text()
        return 1024 * int(re.search(rf"{name}:\s+(\d+)", status)[1])

    def wait_for(self, running: int, *, timeout_s: float = 5.0) -> float:
        """Seconds until so many texts run or wait; they must within the time."""
        began = time.monotonic()
        while True:
            health = self.ask("GET", "/health").json
            if health["running"] + health["waiting"] == running:
                return time.monotonic() - began
            assert time.monotonic() - began < timeout_s, health
            time.sleep(0.01)


@contextlib.contextmanager
def apart(*models: Path, runs: Path) -> Iterator[Apart]:
    """`lucidlm serve` of these folders, as a user starts it."""
    words = (
        "-m",
        "lucidlm",
        "serve",
        *map(str, models),
        "--runs",
        str(runs),
        "--port",
        "0",
        "--threads",
        "1",
    )
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None
        try:
            lines = iter(process.stdout.readline, "")
            address = next(line for line in lines if line.startswith("listening on")).split()[2]
            yield Apart(int(address.rpartition(":")[2]), process.pid)
            assert process.poll() is None, "the server lives"
        finally:
            process.terminate()


@contextlib.contextmanager
def running(
    *models: Served, limits: Limits = LIMITS, runs: Path | None = None, **settings: Any
) -> Iterator[Running]:
    """A server in a thread, on a free port; with the folder `runs`, trainings can be started there."""
    configured = Settings(port=0, limits=limits, **settings)
    guard = make_app(models or [served()], configured, runs=runs)
    engine = guard.app.state.engine  # ty: ignore[unresolved-attribute]
    with listen(configured) as sock:
        port = sock.getsockname()[1]
        server = server_of(guard)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[sock])), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.005)
        try:
            yield Running(port, engine)
        finally:
            server.should_exit = True
            thread.join(15)
            assert not thread.is_alive(), "the server stops within seconds"
