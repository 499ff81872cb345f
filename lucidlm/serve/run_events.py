"""A run comes in, what happens to it goes out as events: first all, then what is new, until it ends."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Any

from lucidlm.report.curves import bits_per_nat, thinned
from lucidlm.serve.faults import error_of
from lucidlm.serve.run_view import RunView
from lucidlm.serve.runs_folder import LIVE, Runs, whole
from lucidlm.serve.streams import event

LOOK_S = 1.0
"""How often a client hears of a run."""
READING_SHARE = 0.1
"""Reading the records of a long run takes at most this share of the time."""
SILENT_S = 10.0
"""After so long without news a comment shows that the connection lives."""
MOST_POINTS = 20
"""Of the curve of batches, in one event."""
QUIET = ("memory_bytes", "time_left_s", "message")
"""What changes alone are no news."""
BEAT = b": no news\n\n"


@dataclass(frozen=True, slots=True)
class Sent:
    """How much of a run a client has: points of each curve, and the last one of each."""

    batch: int = 0
    validation: int = 0
    samples: int = 0
    last: tuple[Any, ...] = ()

    @classmethod
    def of(cls, view: RunView | None) -> "Sent":
        """All that is there; without an incomplete point at the end of the curve of batches."""
        if view is None:
            return cls()
        rows = view.rows
        last = (rows.batch[-1:], rows.validation[-1:])
        return cls(len(rows.batch), len(rows.validation), len(view.samples), last)

    def holds(self, view: RunView | None) -> bool:
        """Whether the run still has what was sent: one that is resumed or overwritten may have less."""
        if view is None:
            return self == Sent()
        rows = view.rows
        return self.last in (
            (),
            (
                rows.batch[max(0, self.batch - 1) : self.batch],
                rows.validation[max(0, self.validation - 1) : self.validation],
            ),
        )


def news(view: RunView, sent: Sent, *, all_of_it: bool) -> tuple[dict[str, Any], Sent]:
    """What a client that has `sent` lacks, and what it has with that.

    The names are those of the state: its curves, "validations", "samples". New batches are thinned as the
    curve is, by whole points; with `all_of_it` the rest is a point too.
    """
    new = view.rows.batch[sent.batch :]
    size = max(view.size, -(-len(new) // MOST_POINTS))
    taken = len(new) if all_of_it else len(new) - len(new) % size
    rows = view.rows
    now = Sent(
        sent.batch + taken,
        len(rows.validation),
        len(view.samples),
        (rows.batch[: sent.batch + taken][-1:], rows.validation[-1:]),
    )
    best = view.history.best
    return {
        "batch": thinned(new[:taken], size),
        "training": rows.training[sent.validation :],
        "validation": rows.validation[sent.validation :],
        "validations": [asdict(each) for each in view.history.validations[sent.validation :]],
        "samples": view.samples[sent.samples :],
        "best": None if best is None else (best.step, best.validation_loss_nats),
        "bits_per_nat": bits_per_nat(best),
    }, now


async def events_of(runs: Runs, id: str) -> AsyncIterator[bytes]:
    """The events of one run: "state", "news" and "end", and then [DONE]."""
    try:
        async for part in _parts(runs, id):
            yield part
    except Exception as error:
        yield event(error_of(error))
    yield event("[DONE]")


async def _parts(runs: Runs, id: str) -> AsyncIterator[bytes]:
    sent: Sent | None = None
    known, said_at = dict[str, Any](), time.monotonic()
    while True:
        view, head = await asyncio.to_thread(runs.view, id)
        live = head["status"] in LIVE
        part: dict[str, Any] = {}
        if sent is None or not sent.holds(view):
            part, sent = {"type": "state"} | whole(view, head), Sent.of(view)
        elif view is not None:
            more, sent = news(view, sent, all_of_it=not live)
            if any(more[key] for key in ("batch", "validation", "samples")) or _loud(head) != known:
                part = {"type": "news"} | head | {"new": more}
        elif _loud(head) != known:
            part = {"type": "news"} | head | {"new": {}}
        if part:
            known, said_at = _loud(head), time.monotonic()
            yield event(part)
        elif time.monotonic() - said_at > SILENT_S:
            said_at = time.monotonic()
            yield BEAT
        if not live:
            yield event({"type": "end"} | whole(view, head))
            return
        pause_s = max(LOOK_S, (view.read_s if view is not None else 0) / READING_SHARE)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(runs.closing.wait(), pause_s)
            return


def _loud(head: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in head.items() if key not in QUIET}
