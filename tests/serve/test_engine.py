"""Many texts at once: the same text alone or among others, places that are freed, one failure alone."""

import contextlib
import gc
import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import openai
import pytest
import torch
from models import END_OF_TEXT, STORY
from serving import running, served

from lucidlm.model.linear import Form, ShortLinear, for_generation
from lucidlm.runtime.memory import Free
from lucidlm.serve.engine import Engine
from lucidlm.serve.limits import LIMITS
from lucidlm.serve.slots import row_bytes

FOREVER = {str(END_OF_TEXT): -100}


class Slow(torch.nn.Module):
    """A head that takes a while, so that requests meet."""

    def __init__(self, head, seconds):
        super().__init__()
        self.head, self.seconds, self.calls = head, seconds, 0

    def forward(self, hidden):
        self.calls += 1
        time.sleep(self.seconds)
        return self.head(hidden)


@contextlib.contextmanager
def slow_server(seconds=0.02, *, context_length=4096, **limits):
    each = served(context_length=context_length)
    each.model.head = Slow(each.model.head, seconds)
    with running(each, limits=replace(LIMITS, **limits)) as live:
        yield live


def stream_of(server, *, receive_bytes=None, **fields):
    """A connection whose stream has begun, and its answer; the system keeps so many bytes for it."""
    body = {
        "model": "tiny",
        "prompt": "ab",
        "stream": True,
        "logit_bias": FOREVER,
        "max_tokens": 2000,
    } | fields
    connection = server.connect()
    if receive_bytes is not None:
        connection.sock = socket.socket()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.sock.connect(("127.0.0.1", server.port))
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 200
    answer.readline()
    return connection, answer


def test_a_seeded_text_is_the_same_alone_and_among_8(client):
    asked = [
        {
            "model": "tiny",
            "prompt": STORY[: 3 + 5 * number],
            "seed": number,
            "max_tokens": 20,
            "temperature": 1.3,
        }
        for number in range(8)
    ]

    def text(fields):
        return client.completions.create(**fields, logprobs=2).choices[0].model_dump()

    alone = [text(fields) for fields in asked]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(text, asked)) == alone
    together = client.completions.create(
        model="tiny", prompt=[fields["prompt"] for fields in asked], seed=5, max_tokens=20, n=4
    )
    single = client.completions.create(model="tiny", prompt=asked[6]["prompt"], seed=5, max_tokens=20, n=4)
    assert [choice.text for choice in together.choices][24:28] == [choice.text for choice in single.choices]


def test_a_long_text_does_not_keep_short_ones_waiting():
    with slow_server() as server, contextlib.closing(stream_of(server)[0]):
        began = time.monotonic()
        assert server.complete(max_tokens=5).status == 200
        # Five tokens of 0.02 s, each beside one of the long text's; alone the long one takes 40 s.
        assert time.monotonic() - began < 2


def test_a_long_prompt_is_read_in_parts_between_which_others_get_tokens():
    with slow_server(0) as server:
        connection, answer = stream_of(server)
        seen = threading.Event()
        engine = server.engine
        step, steps = engine._step, []
        engine._step = lambda group: (steps.append(len(engine._turns)), step(group))[1]
        with contextlib.closing(connection):
            server.complete("x" * 2000, max_tokens=1)
        assert steps.count(1) >= 2000 // 256, "a token of the stream after each part of the prompt"
        assert not seen.is_set()
        assert answer.status == 200


def test_texts_take_turns_where_there_are_more_than_places():
    asked = [
        {"prompt": STORY[:5], "seed": seed, "max_tokens": 60, "logit_bias": FOREVER} for seed in range(5)
    ]
    with slow_server(0.003, running=2) as server:
        alone = [server.complete(**fields).json["choices"] for fields in asked]
        connections = [stream_of(server)[0] for _ in range(3)]  # each takes 10 s
        engine = server.engine
        assert engine.running + engine.waiting == 3
        began = time.monotonic()
        assert server.complete(max_tokens=1).status == 200
        assert time.monotonic() - began < 1
        for connection in connections:
            connection.sock.close()
            connection.close()
        del connections, connection
        server.wait_for(0)
        with ThreadPoolExecutor(
            5
        ) as pool:  # each is set aside several times, and comes back into another row
            together = [pool.submit(server.complete, **fields) for fields in asked]
            assert [each.result().json["choices"] for each in together] == alone
        # A client has its answer a moment before the engine has cleared its place.
        end = time.monotonic() + 10
        while (engine.running, engine.waiting, engine._groups) != (0, 0, []):
            assert time.monotonic() < end
            time.sleep(0.01)


def test_a_text_that_was_set_aside_is_forgotten_when_its_client_leaves():
    with slow_server(0.005, running=1) as server:
        connections = [stream_of(server)[0] for _ in range(4)]
        assert len(server.engine._aside) + len(server.engine._waiting) == 3
        for connection in connections:
            connection.sock.close()
            connection.close()
        del connections, connection
        assert server.wait_for(0) < 1
        assert server.complete(max_tokens=1).status == 200


def test_a_client_that_leaves_frees_its_place():
    with slow_server() as server:
        connections = [stream_of(server)[0] for _ in range(3)]
        assert server.engine.running == 3
        for connection in connections:
            connection.sock.close()  # the stream itself holds the socket open
            connection.close()
        del connections, connection
        assert server.wait_for(0) < 1


def test_a_client_that_leaves_before_its_answer_frees_its_place():
    with slow_server() as server:
        connection = server.connect()
        body = {"model": "tiny", "prompt": "ab", "logit_bias": FOREVER, "max_tokens": 2000, "n": 8}
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        server.wait_for(8)
        connection.close()
        assert server.wait_for(0) < 1


def test_beyond_the_waiting_ones_a_request_is_refused_at_once():
    with slow_server(running=2, waiting=3) as server:
        body = {"model": "tiny", "prompt": "ab", "logit_bias": FOREVER, "max_tokens": 2000, "n": 5}
        connection = server.connect()
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        server.wait_for(5)
        end = time.monotonic() + 10
        while (server.engine.running, server.engine.waiting) != (2, 3):  # they wait before they run
            assert time.monotonic() < end
            time.sleep(0.01)
        began = time.monotonic()
        reply = server.complete(max_tokens=1)
        assert time.monotonic() - began < 0.5
        assert (reply.status, reply.fault["type"]) == (429, "rate_limit_error")
        assert reply.headers["retry-after"]
        assert server.complete(max_tokens=1, stream=True).status == 429
        assert server.ask("GET", "/health").json == {"status": "ok", "running": 2, "waiting": 3, "places": 2}
        connection.close()
        server.wait_for(0)
        assert server.complete(max_tokens=1).status == 200


def test_one_failing_request_fails_alone_and_the_server_goes_on():
    each = served()
    spoilt = torch.nn.Embedding(257, 64)
    spoilt.weight = torch.nn.Parameter(each.model.token_embedding.weight.detach().clone())
    spoilt.weight.data[7] = torch.nan  # a token that breaks its own text
    each.model.token_embedding = spoilt
    with running(each) as server, ThreadPoolExecutor(6) as pool:
        fields = {"seed": 1, "max_tokens": 12, "logit_bias": {"7": -100}}
        good = server.complete("ab", **fields).json["choices"]
        bad = [pool.submit(server.complete, [97, 7, 98], max_tokens=12) for _ in range(3)]
        echoed = pool.submit(server.complete, [97, 7, 98], max_tokens=0, echo=True, logprobs=1)
        others = [pool.submit(server.complete, "ab", **fields) for _ in range(3)]
        for reply in [*(each.result() for each in bad), echoed.result()]:
            assert (reply.status, reply.fault["type"]) in [
                (400, "invalid_request_error"),
                (500, "server_error"),
            ]
            assert "NaN" in reply.fault["message"]
        assert [each.result().json["choices"] for each in others] == [good] * 3
        stream = server.complete([97, 7, 98], max_tokens=12, stream=True)
        assert stream.status == 200
        assert "NaN" in stream.events[-1]["error"]["message"]
        assert server.complete("ab", **fields).json["choices"] == good
        server.wait_for(0)


def test_stopping_ends_running_streams():
    with slow_server() as server:
        connection, answer = stream_of(server)
        server.engine.stop()
        rest = answer.read().decode()
        assert "the server is stopping" in rest
        assert rest.endswith("data: [DONE]\n\n")
        reply = server.complete()
        assert (reply.status, reply.fault["type"]) == (503, "server_error")
        connection.close()


def test_a_stream_that_is_not_read_is_dropped():
    with slow_server(0, unread_bytes=2000, unread_s=0.2) as server:
        connection, _ = stream_of(server, receive_bytes=4096, max_tokens=4000, logprobs=20)
        assert server.wait_for(0, timeout_s=10) < 10  # the sockets' own buffers hold some hundred kilobytes
        with contextlib.closing(connection):
            assert server.complete(max_tokens=1).status == 200


def test_a_client_that_reads_gets_a_stream_whose_parts_are_larger_than_what_may_wait(server):
    reply = server.complete(
        [STORY[:50] + str(number) for number in range(10, 42)],
        max_tokens=3, logprobs=20, echo=True, stream=True, logit_bias=FOREVER,
    )  # fmt: skip
    assert len(reply.body) > 10 * LIMITS.unread_bytes
    ended = [choice["finish_reason"] for event in reply.events for choice in event["choices"]]
    assert ended.count("length") == 32


def test_the_client_sees_429_as_a_rate_limit():
    with slow_server(running=1, waiting=0) as server:
        connection, _ = stream_of(server)
        client = openai.OpenAI(base_url=f"{server.address}/v1", api_key="x", max_retries=0)
        with client, pytest.raises(openai.RateLimitError):
            client.completions.create(model="tiny", prompt="a")
        connection.close()


def test_fewer_texts_run_at_once_where_memory_is_short(monkeypatch):
    each = served()
    row = row_bytes(each.model)
    assert row == 2 * 2 * 64 * 64 * 4  # keys and values, layers, channels, places, bytes
    for free, places in ((row, 1), (6 * row, 3), (1000 * row, LIMITS.running)):
        monkeypatch.setattr("lucidlm.serve.engine.free_on", lambda device, free=free: Free(free, "a test"))
        assert Engine({"tiny": each}).places == places


def test_bfloat16_writes_with_a_copy_and_explains_in_float32():
    plain = served()
    short = for_generation(plain.model, Form("bfloat16", ShortLinear))
    with running(plain) as server:
        expected = server.complete(STORY[:30], max_tokens=3, echo=True, logprobs=1, temperature=0).json
    with running(replace(plain, writer=short, dtype="bfloat16")) as server:
        found = server.complete(STORY[:30], max_tokens=3, echo=True, logprobs=1, temperature=0).json
    a, b = (each["choices"][0]["logprobs"]["token_logprobs"] for each in (expected, found))
    assert a[:30] == b[:30]
    assert a[30] != b[30] == pytest.approx(a[30], abs=0.3)


@pytest.mark.parametrize("count", [8, pytest.param(64, marks=pytest.mark.torture)])
def test_streams_that_run_at_once_have_the_text_that_each_has_alone(server, count):
    asked = [
        {"prompt": STORY[: 1 + number % 40], "seed": number, "max_tokens": 20, "stream": True, "logprobs": 1}
        for number in range(count)
    ]

    def choices(fields):
        reply = server.complete(**fields)
        assert reply.status == 200
        return [event["choices"] for event in reply.events]

    alone = list(map(choices, asked))
    with ThreadPoolExecutor(count) as pool:
        assert list(pool.map(choices, asked)) == alone


@pytest.mark.torture
@pytest.mark.timeout(1200)
def test_10000_requests_leave_memory_as_it_was(server):
    def some(count):
        for number in range(count):
            server.complete(
                STORY[: number % 50], max_tokens=1 + number % 5, stream=number % 3 == 0, logprobs=1
            )
            server.complete([400])
            server.ask("POST", "/api/explain", {"texts": [STORY[:20]]})
        gc.collect()
        return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1])

    some(300)
    before = some(300)
    assert some(3000) < before * 1.05
