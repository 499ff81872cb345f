"""Values come in as the model makes them, a stream of events goes out as fast as its client reads."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.requests import Request

from lucidlm.serve.faults import error_of, json_text
from lucidlm.serve.limits import Limits

PART_BYTES = 2**14
"""Sent at once: so small that a slow client is seen to take something every moment."""
LOOKS = 4
"""A client is idle if it was so in each of so many looks: one long wait may be this program's own."""


class Outbox:
    """What a stream has to send: filled as fast as the model writes, emptied as fast as the client reads.

    It drops a client who takes nothing for `unread_s` while more than `unread_bytes` wait: a model does not
    write for one who does not read. One who reads may get parts that are larger.
    """

    def __init__(self, limits: Limits, drop: Callable[[], None]) -> None:
        self._limits, self._drop = limits, drop
        self._waiting = bytearray()
        self._changed, self._taken = asyncio.Event(), asyncio.Event()
        self._closed = self.dropped = False

    def put(self, part: bytes) -> None:
        """Adds a part."""
        self._waiting += part
        self._changed.set()

    async def room(self) -> None:
        """Returns when little enough waits, or the client has been dropped."""
        # Values may come without a pause: here the sender and other requests get their turn.
        await asyncio.sleep(0)
        idle = 0
        while len(self._waiting) > self._limits.unread_bytes and not self.dropped:
            self._taken.clear()
            try:
                async with asyncio.timeout(self._limits.unread_s / LOOKS):
                    await self._taken.wait()
                idle = 0
            except TimeoutError:
                idle += 1
            if idle == LOOKS:
                self.dropped = True
                self._drop()

    def close(self) -> None:
        """Ends the stream after what it holds."""
        self._closed = True
        self._changed.set()

    async def parts(self) -> AsyncIterator[bytes]:
        """What waits, as it can be sent: all that has come meanwhile, up to PART_BYTES."""
        while not self.dropped:
            if not self._waiting:
                if self._closed:
                    return
                self._changed.clear()
                await self._changed.wait()
                continue
            part = bytes(self._waiting[:PART_BYTES])
            del self._waiting[:PART_BYTES]
            yield part
            self._taken.set()


def event(value: Any) -> bytes:
    """One event of a stream; [DONE] is a word, all else is JSON."""
    text = value if isinstance(value, str) else json_text(value)
    return format_sse_event(data_str=text.encode("utf-8", errors="backslashreplace").decode())


def event_stream(values: AsyncIterator[Any], request: Request, limits: Limits) -> EventSourceResponse:
    """The answer that sends each value as an event, the error that ended them if one did, and [DONE]."""
    outbox = Outbox(limits, request.state.drop)

    async def fill() -> None:
        try:
            async for value in values:
                outbox.put(event(value))
                await outbox.room()
        except Exception as error:
            outbox.put(event(error_of(error)))
        outbox.put(event("[DONE]"))
        outbox.close()

    return EventSourceResponse(_sent(outbox, fill))


async def _sent(outbox: Outbox, fill: Callable[[], Any]) -> AsyncIterator[bytes]:
    """The parts of an outbox while a task fills it; the task ends when the stream does."""
    filling = asyncio.ensure_future(fill())
    try:
        async for part in outbox.parts():
            yield part
    finally:
        filling.cancel()
        await asyncio.gather(filling, return_exceptions=True)
