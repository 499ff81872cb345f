"""A stream whose parts come faster than they are sent: who is dropped, and who gets a turn."""

import asyncio
import time
from dataclasses import replace
from types import SimpleNamespace

from lucidlm.serve.limits import LIMITS
from lucidlm.serve.streams import event_stream


def read(values, *, unread_s=LIMITS.unread_s, unread_bytes=LIMITS.unread_bytes, pause_s=0.0):
    """What a client gets, each part after a pause, and whether it was dropped."""

    async def all_of_it():
        dropped, parts = [], []
        request = SimpleNamespace(state=SimpleNamespace(drop=lambda: dropped.append(True)))
        limits = replace(LIMITS, unread_s=unread_s, unread_bytes=unread_bytes)
        async for part in event_stream(values, request, limits).body_iterator:
            await asyncio.sleep(pause_s)
            parts.append(part)
        return b"".join(parts), bool(dropped)

    return asyncio.run(all_of_it())


def test_a_client_that_reads_is_not_dropped_while_the_program_itself_is_busy():
    async def values():
        for number in range(5):
            yield f"{number}" * 100
            for _ in range(5):
                await asyncio.sleep(0)  # the client begins to take it
            time.sleep(0.1)  # the loop stands still, and the client with it

    text, dropped = read(values(), unread_s=0.08, unread_bytes=10, pause_s=0.02)
    assert not dropped
    assert text.count(b"data: ") == 6


def test_values_that_come_at_once_let_the_sender_have_its_turn():
    made = []

    async def values():
        for number in range(1000):
            made.append(number)
            yield "value"

    async def first():
        request = SimpleNamespace(state=SimpleNamespace(drop=None))
        await anext(aiter(event_stream(values(), request, LIMITS).body_iterator))
        return len(made)

    assert asyncio.run(first()) < 1000


def test_a_client_that_takes_nothing_is_dropped():
    async def values():
        while True:
            yield "x" * 1000

    text, dropped = read(values(), unread_s=0.02, unread_bytes=5000, pause_s=0.5)
    assert dropped
    assert len(text) < 2**15
