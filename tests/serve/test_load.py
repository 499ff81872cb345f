"""The real server under load: many streams, slow senders, clients that do not read or leave."""

import contextlib
import http.client
import json
import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from models import STORY
from serving import FOREVER, Apart, head_of

pytestmark = [pytest.mark.torture, pytest.mark.timeout(900)]
FLOOR_S = 0.25
"""Of what a client waits for a first token: the bound for 8 streams. Below it a wait is not felt."""
REQUESTS = [
    {"model": "tiny", "prompt": STORY[: 1 + 7 * number % 97], "seed": number, "max_tokens": 8 + number % 40,
     "temperature": 0.7 + number % 5 / 4, "stream": True, "stream_options": {"include_usage": True}}
    for number in range(64)
]  # fmt: skip


@pytest.fixture(scope="module")
def alone(real) -> list[str]:
    """The text of each request while no other one runs."""
    read(real, REQUESTS[0])  # warm
    return [read(real, each)[1] for each in REQUESTS]


@dataclass(slots=True)
class Seen:
    """What clients saw."""

    first_s: list[float] = field(default_factory=list)
    """Seconds from each request to its first token."""
    texts: list[tuple[int, str]] = field(default_factory=list)
    """Number of the request, and its text."""
    failures: list[str] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """Seconds that this share of the requests did not exceed."""
        return sorted(self.first_s)[min(len(self.first_s) - 1, int(share * len(self.first_s)))]

    def __str__(self) -> str:
        half, most = (1e3 * self.percentile(share) for share in (0.5, 0.99))
        return f"{len(self.texts):,} texts, first token: {half:.0f} ms, 99 % within {most:.0f} ms"


def posted(
    server: Apart, fields: dict, path: str = "/v1/completions", timeout_s: float = 60
) -> http.client.HTTPConnection:
    """A connection that has sent a request in one packet."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout_s)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.request("POST", path, json.dumps(fields), {"content-type": "application/json"})
    return connection


def read(server: Apart, fields: dict) -> tuple[float, str]:
    """Seconds to the first token, and the text; ValueError where a stream is not as it must be."""
    began, first_s, text, ended = time.perf_counter(), None, "", False
    with contextlib.closing(posted(server, fields)) as connection:
        answer = connection.getresponse()
        if answer.status != 200:
            raise ValueError(f"status {answer.status}: {answer.read()[:200]!r}")
        for line in answer:
            if line.startswith(b"data: {"):
                first_s = first_s or time.perf_counter() - began
                text += "".join(choice["text"] for choice in json.loads(line[6:])["choices"])
            ended = ended or line.startswith(b"data: [DONE]")
    if first_s is None or not ended:
        raise ValueError(f"a stream that did not end: {text!r}")
    return first_s, text


def clients(server: Apart, count: int, seconds: float) -> Seen:
    """`count` clients at once, each of which asks again as soon as its text has ended."""
    seen, lock, until = Seen(), threading.Lock(), time.monotonic() + seconds

    def ask(number: int) -> None:
        draw = random.Random(number)
        while time.monotonic() < until:
            which = draw.randrange(len(REQUESTS))
            try:
                first_s, text = read(server, REQUESTS[which])
            except (OSError, ValueError, http.client.HTTPException) as error:
                with lock:
                    seen.failures.append(f"{type(error).__name__}: {error}")
                return
            with lock:
                seen.first_s.append(first_s)
                seen.texts.append((which, text))

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(seconds + 90)
    seen.failures += [f"{each.name} hangs" for each in threads if each.is_alive()]
    return seen


@pytest.mark.parametrize("count", [1, 8, 32, 64])
def test_streams_for_a_minute_have_their_texts_and_none_fails_or_hangs(real, alone, count):
    seen = clients(real, count, 60)
    print(f"\n{count} streams, 60 s: {seen}")
    assert seen.failures == []
    assert [text for which, text in seen.texts if text != alone[which]] == []
    assert count != 8 or seen.percentile(0.99) < 0.25
    assert real.wait_for(0) < 1


def trickle(server: Apart, count: int, over: threading.Event) -> Callable[[], None]:
    """Connections that send a byte a second, half of them of headers and half of a body."""
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(count)]
    for number, sock in enumerate(slow):
        sock.sendall(head_of("content-length: 100000") + b"{" if number % 2 else head_of()[:-2] + b"x-slow: ")

    def send() -> None:
        while not over.wait(1):
            for sock in slow:
                sock.sendall(b" ")

    thread = threading.Thread(target=send, daemon=True)
    thread.start()

    def close() -> None:
        over.set()
        thread.join()
        for sock in slow:
            sock.close()

    return close


def unread(server: Apart, count: int) -> list[socket.socket]:
    """Streams that nobody reads, of texts that do not end by themselves."""
    fields = {
        "model": "tiny",
        "prompt": "ab",
        "stream": True,
        "logprobs": 20,
        "max_tokens": 4000,
        "logit_bias": FOREVER,
    }
    body = json.dumps(fields).encode()
    found = []
    for _ in range(count):
        sock = socket.create_connection(("127.0.0.1", server.port))
        sock.settimeout(60)
        sock.sendall(head_of(f"content-length: {len(body)}") + body)
        found.append(sock)
    for sock in found:
        assert sock.recv(12) == b"HTTP/1.1 200"  # and no byte more
    return found


def test_200_slow_senders_and_50_unread_streams_do_not_disturb_a_normal_client(real, alone):
    quiet = clients(real, 1, 15)
    close = trickle(real, 200, threading.Event())
    streams = unread(real, 50)
    try:
        seen = clients(real, 1, 30)
    finally:
        close()
        for sock in streams:
            sock.close()
    print(f"\na normal client, alone: {quiet}; beside 200 slow senders and 50 unread streams: {seen}")
    assert seen.failures == []
    assert [text for which, text in seen.texts if text != alone[which]] == []
    assert seen.percentile(0.99) <= max(2 * quiet.percentile(0.99), FLOOR_S)
    real.wait_for(0)


def test_a_client_that_left_frees_its_place_within_a_second(real):
    found = []
    for number in range(20):
        streams = unread(real, 1 + 3 * number)
        real.wait_for(len(streams))
        for sock in streams:
            sock.close()
        found.append(real.wait_for(0))
    print(
        f"\nplaces are free after a client left within {1e3 * max(found):.0f} ms (20 times, 1 to 58 streams)"
    )
    assert max(found) < 1
