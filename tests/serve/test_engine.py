"""Many texts at once: the same text alone or among others, places that are freed, one failure alone."""

import contextlib
import gc
import http.client
import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from weakref import ref

import openai
import pytest
import torch
from models import END_OF_TEXT, STORY
from serving import FOREVER, LIMIT_S, running, served, slow_server, wait_for

from lucidlm.model.decoding import Decoding
from lucidlm.model.linear import Form, ShortLinear, for_generation
from lucidlm.runtime.memory import Free
from lucidlm.serve.engine import TURN, Engine
from lucidlm.serve.jobs import Completion, Wanted
from lucidlm.serve.limits import LIMITS
from lucidlm.serve.slots import Slots, row_bytes

ENDLESS = {"model": "tiny", "prompt": "ab", "logit_bias": FOREVER, "max_tokens": 2000}
"""A text that ends after 2,000 steps of a model, and not before."""


@contextlib.contextmanager
def asking(server, *, receive_bytes=None, **fields):
    """A connection that has asked for a text, and leaves at the end; the system buffers so many bytes."""
    with contextlib.closing(server.connect()) as connection:
        if receive_bytes is not None:
            connection.sock = socket.socket()
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            connection.sock.settimeout(LIMIT_S)
            connection.sock.connect(("127.0.0.1", server.port))
        body = json.dumps(ENDLESS | fields)
        connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
        yield connection


@contextlib.contextmanager
def streaming(server, **fields):
    """The answer of a stream that has begun, whose client leaves at the end."""
    with asking(server, stream=True, **fields) as connection, connection.getresponse() as answer:
        assert answer.status == 200
        answer.readline()
        yield answer


@contextlib.contextmanager
def several(server, count):
    """So many streams that have begun."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(streaming(server)) for _ in range(count)]


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
    with slow_server() as (server, head), streaming(server):
        assert server.complete(max_tokens=5).status == 200
        assert head.calls < 2000, "the long text goes on"


def test_a_long_prompt_is_read_in_parts_between_which_others_get_tokens():
    with slow_server(0.001) as (server, head), streaming(server):
        engine = server.engine
        step, steps = engine._step, []
        engine._step = lambda group: (steps.append(len(engine._turns)), step(group))[1]
        server.complete("x" * 2000, max_tokens=1)
        assert steps.count(1) >= 2000 // 256, "a token of the stream after each part of the prompt"
        assert head.calls < 2000, "the stream goes on"


def test_texts_take_turns_where_there_are_more_than_places():
    asked = [
        {"prompt": STORY[:5], "seed": seed, "max_tokens": 60, "logit_bias": FOREVER} for seed in range(5)
    ]
    with slow_server(0.003, running=2) as (server, head):
        engine = server.engine
        alone = [server.complete(**fields).json["choices"] for fields in asked]
        server.wait_for(0)
        before = head.calls
        with several(server, 3):
            server.wait_for(3)
            assert server.complete(max_tokens=1).status == 200
            assert head.calls < before + 2000, "no text has ended to make room"
        server.wait_for(0)
        assert head.calls < before + 2000, "the texts were given up"
        with ThreadPoolExecutor(5) as pool:  # each is set aside several times, and gets another row
            together = [pool.submit(server.complete, **fields) for fields in asked]
            assert [each.result().json["choices"] for each in together] == alone
        # A client has its answer a moment before the engine has cleared its place.
        wait_for(lambda: (engine.running, engine.waiting, engine._groups), (0, 0, []).__eq__)


def test_a_text_that_was_set_aside_is_forgotten_when_its_client_leaves():
    with slow_server(0.005, running=1) as (server, head):
        with several(server, 4):
            # A text that ends its turn is counted nowhere for a moment.
            wait_for(lambda: len(server.engine._aside) + len(server.engine._waiting), (3).__eq__)
        server.wait_for(0)
        assert head.calls < 2000, "no text has ended by itself"
        assert server.complete(max_tokens=1).status == 200


def test_a_client_that_leaves_frees_its_place():
    with slow_server() as (server, head):
        with several(server, 3):
            assert server.engine.running == 3
        server.wait_for(0)
        assert head.calls < 2000, "no text has ended by itself"


def test_a_client_that_leaves_before_its_answer_frees_its_place():
    with slow_server() as (server, head):
        with asking(server, n=8):
            server.wait_for(8)
        server.wait_for(0)
        assert head.calls < 2000, "no text has ended by itself"


def test_beyond_the_waiting_ones_a_request_is_refused_at_once():
    with slow_server(running=2, waiting=3) as (server, head):
        with asking(server, n=5):
            server.wait_for(5)
            reply = server.complete(max_tokens=1)
            assert (reply.status, reply.fault["type"]) == (429, "rate_limit_error")
            assert reply.headers["retry-after"]
            assert server.complete(max_tokens=1, stream=True).status == 429
            # Between two turns one place is free for a moment.
            state = {"status": "ok", "running": 2, "waiting": 3, "places": 2}
            wait_for(lambda: server.ask("GET", "/health").json, state.__eq__)
            assert head.calls < 2000, "the texts go on"
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


def test_texts_that_began_go_on_in_turns_where_no_more_can_be_set_aside(monkeypatch):
    three = 3 * row_bytes(served(context_length=4096).model)
    monkeypatch.setattr("lucidlm.serve.engine.free_on", lambda device: Free(2 * three, "a test"))
    with slow_server(0.002, running=2) as (server, head), several(server, 3) as answers:
        assert (server.engine.places, server.engine._most_aside) == (2, 1)
        for answer in answers:
            for _ in range(200):  # more than the first one had before the others came
                assert answer.readline()
        assert head.calls < 2000, "no text has ended to make room"


def test_rows_that_became_empty_are_given_back_where_not_all_turns_end(tiny):
    engine = Engine({"tiny": tiny}, replace(LIMITS, running=2))

    def text(most):
        wanted = Wanted(decoding=Decoding(max_new_tokens=most), seed=1, logit_bias=((END_OF_TEXT, -100),))
        return Completion(tiny, lambda event: None, [1, 2], wanted)

    first, second = text(20), text(20)
    second.capacity = 32  # as if its model had another context
    engine.submit([first])
    engine._admit()
    for _ in range(TURN + 1):
        engine._round()
    engine.submit([second])
    engine._admit()
    engine._round()
    assert len(engine._groups) == 2
    engine.submit([text(20), text(20)])
    engine._set_aside()
    assert list(engine._aside) == [first]
    assert [group.slots.capacity for group in engine._groups] == [32]


def test_keys_and_values_are_freed_when_a_client_leaves():
    gc.collect()
    gc.disable()  # a request and its jobs refer to each other
    try:
        with slow_server(0.005, running=1) as (server, _):
            with several(server, 4):
                kept = wait_for(lambda: [ref(job._cache) for job in list(server.engine._aside) if job._cache])
                kept += [ref(group.slots.cache) for group in server.engine._groups]
            server.wait_for(0)
            wait_for(lambda: [each for each in kept if each() is not None], [].__eq__)
    finally:
        gc.enable()


def test_a_request_that_was_answered_keeps_no_keys_and_values(server, monkeypatch):
    jobs, submit = [], server.engine.submit
    monkeypatch.setattr(server.engine, "submit", lambda some: (jobs.extend(some), submit(some)))
    with contextlib.closing(
        server.connect()
    ) as connection:  # the server keeps the request until the next one
        body = json.dumps(ENDLESS | {"max_tokens": 1})
        connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
        with connection.getresponse() as answer:
            assert answer.status == 200
            answer.read()
        (job,) = jobs
        wait_for(lambda: job._cache is None)


def test_a_text_that_cannot_be_set_aside_fails_alone(monkeypatch):
    single, calls = Slots.single, []

    def once(slots, row):
        calls.append(row)
        if len(calls) == 1:
            raise MemoryError("no room for a copy")
        return single(slots, row)

    monkeypatch.setattr(Slots, "single", once)
    with slow_server(0.002, running=1) as (server, _), ThreadPoolExecutor(3) as pool:
        fields = {"max_tokens": 40, "logit_bias": FOREVER}
        replies = [each.result() for each in [pool.submit(server.complete, **fields) for _ in range(3)]]
        assert sorted(reply.status for reply in replies) == [200, 200, 500]
        assert len(calls) > 1
        assert server.complete(**fields).status == 200


def test_stopping_ends_texts_that_wait_too():
    with slow_server(running=1) as (server, _), several(server, 3) as answers:
        server.engine.stop()
        for answer in answers:
            rest = answer.read().decode()
            assert "the server is stopping" in rest
            assert rest.endswith("data: [DONE]\n\n")
        server.wait_for(0)


def test_stopping_ends_running_streams():
    with slow_server() as (server, _), streaming(server) as answer:
        server.engine.stop()
        rest = answer.read().decode()
        assert "the server is stopping" in rest
        assert rest.endswith("data: [DONE]\n\n")
        reply = server.complete()
        assert (reply.status, reply.fault["type"]) == (503, "server_error")


def test_a_stream_that_is_not_read_is_dropped():
    fields = {"receive_bytes": 4096, "max_tokens": 4000, "logprobs": 20}
    with slow_server(0, unread_bytes=2000, unread_s=0.2) as (server, head):
        with streaming(server, **fields) as answer:
            server.wait_for(0)
            assert head.calls < 4000, "the text was given up; the sockets' own buffers hold some of it"
            with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
                answer.read()
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
    with slow_server(running=1, waiting=0) as (server, _), streaming(server):
        client = openai.OpenAI(base_url=f"{server.address}/v1", api_key="x", max_retries=0)
        with client, pytest.raises(openai.RateLimitError):
            client.completions.create(model="tiny", prompt="a")


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
