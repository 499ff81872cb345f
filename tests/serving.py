"""What the tests of the server share: a server in a thread of this process, and plain requests to it.

A test leaves no connection open, also where it fails: the next test would be blamed for it.
"""

import asyncio
import contextlib
import http.client
import json
import re
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
import uvicorn
from models import BYTES, END_OF_TEXT, TINY, sharp

from lucidlm.serve.app import make_app
from lucidlm.serve.engine import Engine
from lucidlm.serve.guards import Settings
from lucidlm.serve.jobs import Served
from lucidlm.serve.limits import LIMITS, Limits
from lucidlm.serve.listening import listen, server_of

LIMIT_S = 60.0
"""Against a test that hangs: it says nothing of how fast a machine is."""
FOREVER = {str(END_OF_TEXT): -100}
"""A bias with which a text ends at its maximum of tokens alone."""


def wait_for(look: Callable[[], Any], reached: Callable[[Any], object] = bool) -> Any:
    """What `look` returns as soon as `reached` holds of it."""
    until = time.monotonic() + LIMIT_S
    while not reached(seen := look()):
        assert time.monotonic() < until, seen
        time.sleep(0.02)
    return seen


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
class Listening(ABC):
    """A server that listens on a port of this machine."""

    port: int

    @property
    def address(self) -> str:
        """http://127.0.0.1:PORT."""
        return f"http://127.0.0.1:{self.port}"

    @property
    @abstractmethod
    def texts(self) -> int:
        """How many texts run or wait."""

    def wait_for(self, texts: int) -> float:
        """Seconds until so many texts run or wait."""
        began = time.monotonic()
        wait_for(lambda: self.texts, lambda count: count == texts)
        return time.monotonic() - began

    def connect(self) -> http.client.HTTPConnection:
        """A connection of one's own, which `contextlib.closing` closes."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """One request; `body` is sent as JSON unless it is bytes, `_` in a header's name is a dash."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json"} if data is not None else {}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, data, sent)
            with connection.getresponse() as answer:
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
    server: uvicorn.Server

    @property
    def texts(self) -> int:
        """How many texts run or wait."""
        return self.engine.running + self.engine.waiting

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self.server.server_state.connections)


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

    @property
    def texts(self) -> int:
        """How many texts run or wait."""
        health = self.ask("GET", "/health").json
        return health["running"] + health["waiting"]


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
        wait_for(lambda: server.started)
        try:
            yield Running(port, engine, server)
        finally:
            server.should_exit = True
            thread.join(LIMIT_S)
            assert not thread.is_alive(), "the server stops"


class Slow(torch.nn.Module):
    """A head that takes a while, so that requests meet, and counts its calls."""

    def __init__(self, head: torch.nn.Module, seconds: float) -> None:
        super().__init__()
        self.head, self.seconds, self.calls = head, seconds, 0

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """The head's logits, later."""
        self.calls += 1
        time.sleep(self.seconds)
        return self.head(hidden)


@contextlib.contextmanager
def slow_server(
    seconds: float = 0.02, *, context_length: int = 4096, **limits: Any
) -> Iterator[tuple[Running, Slow]]:
    """A server whose model takes so long for a token, and the model's head; clients need not read."""
    each = served(context_length=context_length)
    head = each.model.head = Slow(each.model.head, seconds)
    with running(each, limits=replace(LIMITS, **{"unread_s": 600.0} | limits)) as server:
        yield server, head
