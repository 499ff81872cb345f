"""Clients that read streams of a server at once come in; tokens/s and the wait for a token go out.

python benchmarks/serving.py [--streams 1 8 32 64] [--seconds 10] [--write]: a minute. The server is a process
of its own with a random model of the shape modern-1m; the clients are threads of this one.
"""

import argparse
import contextlib
import http.client
import json
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field

from tables import ROOT, load, machine, revision, table, write

MODEL = "modern-1m"
PROMPT, TOKENS = "Once upon a time", 64


@dataclass(slots=True)
class Seen:
    """What the clients of one load saw."""

    first_s: list[float] = field(default_factory=list)
    """Seconds from each request to its first token."""
    texts: dict[int, str] = field(default_factory=dict)
    """By seed: the same request must have the same text in every load."""
    tokens: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        """Of all clients together."""
        return self.tokens / self.seconds

    def percentile(self, share: float) -> float:
        """Milliseconds to the first token that this share of the requests did not exceed."""
        ordered = sorted(self.first_s)
        return 1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@contextlib.contextmanager
def server() -> Generator[int]:
    """The port of a server that runs meanwhile."""
    call = [sys.executable, "-m", "lucidlm", "serve", MODEL, "--port", "0"]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                    yield int(found[1])
                    break
            else:
                raise SystemExit("the server ended before it listened; its last words are above")
        finally:
            process.terminate()


def streams(port: int, count: int, *, seconds: float) -> Seen:
    """`count` clients at once; each asks again as soon as its text has ended, for so many seconds."""
    seen, lock, began = Seen(), threading.Lock(), time.perf_counter()

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        connection.connect()
        # Headers and body are two packets; the second would wait 40 ms for the answer to the first.
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        seed = number
        while time.perf_counter() - began < seconds:
            try:
                first_s, text, tokens = _one(connection, seed)
            except (OSError, ValueError, http.client.HTTPException) as error:
                with lock:
                    seen.failures.append(f"{type(error).__name__}: {error}")
                return
            with lock:
                seen.first_s.append(first_s)
                seen.tokens += tokens
                seen.texts[seed] = text
            seed += count
        connection.close()

    clients = [threading.Thread(target=client, args=(number,)) for number in range(count)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    seen.seconds = time.perf_counter() - began
    return seen


def _one(connection: http.client.HTTPConnection, seed: int) -> tuple[float, str, int]:
    """Seconds to the first token, the text and its tokens."""
    body = {"model": MODEL, "prompt": PROMPT, "max_tokens": TOKENS, "seed": seed, "stream": True,
            "stream_options": {"include_usage": True}}  # fmt: skip
    began, first_s, text, tokens = time.perf_counter(), None, "", 0
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise ValueError(f"status {answer.status}: {answer.read()[:200]!r}")
    for line in answer:
        if not line.startswith(b"data: {"):
            continue
        first_s = first_s or time.perf_counter() - began
        part = json.loads(line[6:])
        text += "".join(choice["text"] for choice in part["choices"])
        tokens = (part.get("usage") or {}).get("completion_tokens", tokens)
    if first_s is None or tokens == 0:
        raise ValueError("a stream without a token")
    return first_s, text, tokens


def main() -> None:
    """Prints the table, and writes it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    before = load()
    with server() as port:
        streams(port, 1, seconds=1)  # warm
        found = {count: streams(port, count, seconds=given.seconds) for count in given.streams}
    base = found[given.streams[0]]
    rows = []
    for count, seen in found.items():
        shared = base.texts.keys() & seen.texts.keys()
        equal = sum(base.texts[seed] == seen.texts[seed] for seed in shared)
        rows.append([
            str(count), f"{len(seen.first_s):,}", f"{seen.tokens_per_s:,.0f}",
            f"{seen.tokens_per_s / base.tokens_per_s:.2f}", f"{statistics.median(seen.first_s) * 1e3:.0f}",
            f"{seen.percentile(0.99):.0f}", f"{equal:,} of {len(shared):,}", str(len(seen.failures)),
        ])  # fmt: skip
        for failure in seen.failures[:3]:
            print(failure, file=sys.stderr)
    head = ["streams", "texts", "tokens/s, all together", "times one stream", "first token, ms: median",
            "99 %", "texts equal to those alone", "failures"]  # fmt: skip
    text = (
        f"{MODEL} (random), {TOKENS} tokens after {PROMPT!r}, {given.seconds:g} s each. {revision()}, "
        f"{machine()}, load {before}.\n\n{table(head, rows)}"
    )
    print(text)
    if given.write:
        record = {count: [seen.tokens_per_s, seen.first_s] for count, seen in found.items()}
        write("serving", record, text, folder=ROOT / "build" / "bench")


if __name__ == "__main__":
    main()
