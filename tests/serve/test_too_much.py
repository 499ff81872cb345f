"""All that is too much, sent to the real server: refused at once, and for little memory.

`total_s` and `documents_bytes` have tests with smaller values, in test_guards and test_documents_api.
"""

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from models import BUNDLED_STORY
from serving import FOREVER, Apart, Reply, head_of

from lucidlm.runtime.locks import lock
from lucidlm.serve.limits import LIMITS

pytestmark = [pytest.mark.torture, pytest.mark.timeout(300)]


@dataclass(frozen=True, slots=True)
class Refused:
    """What became of a request that is too much."""

    status: int
    seconds: float
    more_bytes: int


def refused(server: Apart, ask: Callable[[], tuple[int, float]]) -> Refused:
    """The fastest of three tries, as other programs run too; and the most memory that one of them took."""
    found = []
    for _ in range(3):
        server.forget_memory()
        before = server.memory_bytes
        status, seconds = ask()
        found.append(Refused(status, seconds, server.most_memory_bytes - before))
    assert len({each.status for each in found}) == 1
    return Refused(
        found[0].status, min(each.seconds for each in found), max(each.more_bytes for each in found)
    )


def timed(ask: Callable[[], Reply]) -> tuple[int, float]:
    began = time.perf_counter()
    return ask().status, time.perf_counter() - began


def chunked(server: Apart, path: str, kind: str, size: int) -> tuple[int, float]:
    """Sends a body of so many bytes without its length; the time counts from its last byte."""
    block = b"10000\r\n" + b"x" * 2**16 + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(head_of("transfer-encoding: chunked", path=path, kind=kind))
        for _ in range((size - 1) // 2**16):
            sock.sendall(block)
        left = size - (size - 1) // 2**16 * 2**16
        sock.sendall(b"%x\r\n%s\r\n" % (left, b"x" * left))
        began = time.perf_counter()
        answer = sock.recv(1000)
        return int(answer.split()[1]), time.perf_counter() - began


DOCUMENTS = "/api/documents?name=a.txt"
COMPLETIONS = {
    "texts": {"prompt": ["a"] * (LIMITS.texts + 1)},
    "n": {"n": LIMITS.n + 1},
    "stop": {"stop": ["a"] * (LIMITS.stop + 1)},
    "stop_characters": {"stop": "a" * (LIMITS.stop_characters + 1)},
    "logit_bias": {"logit_bias": {str(id): 1 for id in range(LIMITS.logit_bias + 1)}},
    "logprobs": {"logprobs": LIMITS.logprobs + 1},
    "context": {"prompt": "a" * 4096, "max_tokens": 1},
    "a context of a megabyte": {"prompt": "a" * 2**20},
    "nesting": {"prompt": "a", "logit_bias": {"1": {}}},
}
"""Fields that are one more than their limit, or far more."""


def one_more(server: Apart, name: str, fields: dict) -> tuple[int, float]:
    return timed(lambda: server.ask("POST", "/v1/completions", {"model": "tiny", "prompt": "a"} | fields))


@contextlib.contextmanager
def full(server: Apart) -> Iterator[None]:
    """All places are taken, and all that wait for one too."""
    fields = {"model": "tiny", "prompt": ["ab"] * 32, "max_tokens": 4000, "logit_bias": FOREVER}
    with contextlib.ExitStack() as stack:
        for _ in range((LIMITS.running + LIMITS.waiting) // 32):
            connection = stack.enter_context(contextlib.closing(server.connect()))
            body, kind = json.dumps(fields), {"content-type": "application/json"}
            connection.request("POST", "/v1/completions", body, kind)
        server.wait_for(LIMITS.running + LIMITS.waiting)
        yield
    server.wait_for(0)


@contextlib.contextmanager
def watched(server: Apart, run: Path) -> Iterator[str]:
    """As many clients follow a run as may, and the path that they follow."""
    with lock(run), contextlib.ExitStack() as stack:
        (row,) = server.ask("GET", "/api/runs").json["runs"]
        path = f"/api/runs/{row['id']}/events"
        for _ in range(LIMITS.watchers):
            connection = stack.enter_context(contextlib.closing(server.connect()))
            connection.request("GET", path)
            assert connection.getresponse().status == 200
        yield path


@contextlib.contextmanager
def kept(server: Apart) -> Iterator[None]:
    """As many texts are kept as may."""
    ids = [server.upload("a.txt", BUNDLED_STORY.encode()).json["id"] for _ in range(LIMITS.documents)]
    try:
        yield
    finally:
        for id in ids:
            server.ask("DELETE", f"/api/documents/{id}")


def announced(server: Apart, path: str, kind: str, size: int) -> tuple[int, float]:
    """Says that so many bytes will come, and sends none."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        began = time.perf_counter()
        sock.sendall(head_of(f"content-length: {size}", path=path, kind=kind))
        return int(sock.recv(1000).split()[1]), time.perf_counter() - began


def silent(server: Apart) -> tuple[int, float]:
    """Sends half of a body; the time counts from when the limit is over."""
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        sock.sendall(head_of("content-length: 9") + b"{")
        answer = sock.recv(1000)
        return int(answer.split()[1]) if answer else 408, time.perf_counter() - began - LIMITS.idle_s


def test_what_is_over_a_limit_is_refused_at_once_and_costs_no_memory(real, run):
    found: dict[str, Refused] = {}
    for name, fields in COMPLETIONS.items():
        found[name] = refused(real, lambda fields=fields, name=name: one_more(real, name, fields))
    texts = {"texts": ["a"] * (LIMITS.explain_texts + 1)}
    found["explain_texts"] = refused(real, lambda: timed(lambda: real.ask("POST", "/api/explain", texts)))
    json_kind, kind = "application/json", "application/octet-stream"
    found["body_bytes"] = refused(
        real, lambda: timed(lambda: real.ask("POST", "/v1/completions", b" " * (LIMITS.body_bytes + 1)))
    )
    found["body_bytes, chunked"] = refused(
        real, lambda: chunked(real, "/v1/completions", json_kind, LIMITS.body_bytes + 1)
    )
    found["document_bytes, chunked"] = refused(
        real, lambda: chunked(real, DOCUMENTS, kind, LIMITS.document_bytes + 1)
    )
    found["document_bytes"] = refused(
        real, lambda: announced(real, DOCUMENTS, kind, LIMITS.document_bytes + 1)
    )
    with full(real):
        found["running, waiting"] = refused(real, lambda: one_more(real, "one more", {}))
        many = {"prompt": ["a"] * 32}
        found["running, waiting: 32 texts"] = refused(real, lambda: one_more(real, "32 more", many))
    with watched(real, run) as path:
        found["watchers"] = refused(real, lambda: timed(lambda: real.ask("GET", path)))
    with kept(real):
        found["documents"] = refused(real, lambda: timed(lambda: real.upload("a.txt", b"abc")))
    found["idle_s"] = refused(real, lambda: silent(real))
    print()
    for name, each in found.items():
        print(f"{name}: {each.status} in {1e3 * each.seconds:.0f} ms, {each.more_bytes / 2**20:.1f} MB more")
    for name, each in found.items():
        assert 400 <= each.status < 500, name
        assert each.seconds < 0.2, name
        assert each.more_bytes < 50 * 2**20, name
    assert found["running, waiting"].seconds < 0.05
    assert real.complete(max_tokens=1).status == 200
