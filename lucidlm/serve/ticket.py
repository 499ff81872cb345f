"""Events of jobs come in on the model's thread, and go out where their request waits for them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from typing import Any

from starlette.requests import Request

from lucidlm.serve.engine import Engine
from lucidlm.serve.jobs import Event, Job
from lucidlm.serve.transcript import Piece


class Ticket:
    """The jobs of one request. At its end, whatever that is, those that have not ended are cancelled."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[Any, Event]] = asyncio.Queue()
        self._jobs: Sequence[Job] = ()
        self._left = 0
        request.state.at_end.append(self.close)  # also where the client left before a stream began

    def deliver(self, key: Hashable) -> Callable[[Event], None]:
        """What a job calls with its events, which then come out under this key."""

        def hand_over(event: Event) -> None:
            self._loop.call_soon_threadsafe(self._arrived, key, event)

        return hand_over

    def submit(self, jobs: Sequence[Job]) -> None:
        """Hands the jobs to the engine; ServerError where it is full."""
        self._engine.submit(jobs)
        self._jobs, self._left = jobs, len(jobs)

    def _arrived(self, key: Hashable, event: Event) -> None:
        self._events.put_nowait((key, event))

    async def events(self) -> AsyncIterator[tuple[Any, Event]]:
        """(key, event) until every job has ended; the error of one that failed is raised."""
        while self._left:
            key, event = await self._events.get()
            if isinstance(event, Exception):
                raise event
            self._left -= not isinstance(event, Piece) or event.finish_reason is not None
            yield key, event

    def close(self) -> None:
        """Frees the places of jobs that have not ended."""
        self._engine.cancel(self._jobs)
