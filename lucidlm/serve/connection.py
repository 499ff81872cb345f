"""A connection of uvicorn's in, one with limits out: who sends or reads nothing for a while is cut off."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from lucidlm.serve.limits import LIMITS, Limits

WAITING_BYTES = 2**14
"""Of an answer that may wait here for the socket; asyncio's own value is four times as much."""


class Connection(H11Protocol):
    """HTTP by h11, with two clocks: one while a request comes in, one while an answer is not read.

    The state of its requests has `drop`, which cuts the connection at once.
    """

    limits: Limits = LIMITS

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state | {"drop": self._drop}, _loop)
        self._clock: asyncio.TimerHandle | None = None
        self._began = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Starts the clock for the first request."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=WAITING_BYTES)
        self._began = self.loop.time()
        self._wait(self.limits.idle_s)

    def data_received(self, data: bytes) -> None:
        """Handles the data; the clock runs until the request is complete."""
        if self.cycle is None or self.cycle.response_complete:
            self._began = self._began or self.loop.time()
        super().data_received(data)
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            left = self._began + self.limits.total_s - self.loop.time()
            self._wait(min(self.limits.idle_s, max(0.0, left)))
        else:
            self._began = 0.0
            self._wait(None)

    def pause_writing(self) -> None:
        """The client reads more slowly than the answer comes: a clock until it has caught up."""
        super().pause_writing()
        self._wait(self.limits.idle_s)

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        self._wait(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended, and its clock with it."""
        self._wait(None)
        super().connection_lost(exc)

    def _wait(self, seconds: float | None) -> None:
        """Cuts the connection after so many seconds, unless it is called again before."""
        if self._clock is not None:
            self._clock.cancel()
        self._clock = None if seconds is None else self.loop.call_later(seconds, self._drop)

    def _drop(self) -> None:
        if self.transport is not None:
            self.transport.abort()
