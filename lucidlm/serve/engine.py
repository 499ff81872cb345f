"""One thread that owns the models: jobs come in from any thread, their events go out. It never dies.

Each round gives every text one token. Jobs that have no row yet (a prompt to read, an explanation) share one
part of a long prompt's work a round, in turns. Where more texts want to grow than there are places, they take
turns too: the one that has had a place longest is set aside. So no text waits for another one to end, as long
as memory holds the keys and values of all that have begun.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Generator, Mapping, Sequence

import torch

from lucidlm.errors import ServerError
from lucidlm.runtime.console import say
from lucidlm.runtime.device import autocast, dtype_of
from lucidlm.runtime.memory import free_on
from lucidlm.serve.jobs import PREFILL, Completion, Job, Served
from lucidlm.serve.limits import LIMITS, Limits
from lucidlm.serve.slots import ROWS, Slots, row_bytes

RETRY_S = 5
"""What a refused client is told to wait."""
TURN = 8
"""Tokens that a text may add before it is set aside: the copies of its keys and values cost far less."""
NEW_ONES = 4
"""Of so many places that become free, one goes to a text that was set aside, the others to new ones."""
MOST_BYTES = 4 * 2**30
"""Memory for keys and values where the system does not say how much is free."""


class Group:
    """The texts of one model whose rows have one capacity."""

    def __init__(self, served: Served, capacity: int) -> None:
        self.served, self.slots = served, Slots(served.generating, capacity)
        self.jobs: dict[int, Completion] = {}
        """By row."""

    def add(self, job: Completion) -> None:
        """Gives a text whose prompt has been read a row."""
        job.row = self.slots.take(job.leave_cache())
        self.jobs[job.row] = job

    def remove(self, job: Completion) -> None:
        """Frees the row of a text."""
        del self.jobs[job.row]
        self.slots.leave(job.row)

    def set_aside(self, job: Completion) -> None:
        """Frees the row of a text that will go on later."""
        job.keep_cache(self.slots.single(job.row))
        self.remove(job)


class Engine:
    """The models, their thread, and the jobs that wait for it.

    `start` starts the thread, `stop` ends it; `submit` and `cancel` may be called from any thread.
    """

    def __init__(self, served: Mapping[str, Served], limits: Limits = LIMITS) -> None:
        self.limits = limits
        self.replace(served)
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._aside: deque[Job] = deque()
        """Texts that have begun, and wait for their next turn."""
        self._given = 0
        """How many places were given, modulo NEW_ONES."""
        self._running: set[Job] = set()
        self._turns: deque[Job] = deque()
        """Running jobs without a row: each does a piece of work when it is its turn."""
        self._groups: list[Group] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def replace(self, served: Mapping[str, Served]) -> None:
        """Serves these models from now on; what has been asked of others goes on."""
        for each in served.values():
            each.model.eval()
        self.served = dict(served)  # as a whole: other threads read it meanwhile
        rows = min([self.limits.running + self.limits.waiting, *map(_rows_that_fit, served.values())])
        self.places = min(self.limits.running, rows)
        """How many texts run at once."""
        self._most_aside = rows - self.places
        """How many more keep their keys and values while they wait."""

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 3.0) -> None:
        """Fails what runs and waits, and ends the thread; a pass through a large model may outlast it."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    @property
    def running(self) -> int:
        """How many jobs have a place."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many jobs wait for a place, those that were set aside included."""
        return len(self._waiting) + len(self._aside)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Takes all jobs of a request, or refuses all of them: ServerError 429, or 503 at the end."""
        with self._changed:
            if self._stopping:
                raise ServerError("the server is stopping", "try again when it is back", status=503)
            room = self.limits.waiting + max(0, self.places - len(self._running))
            if self.waiting + len(jobs) > room:
                raise ServerError(
                    f"{len(self._running)} texts are running and {self.waiting} are waiting; the "
                    f"limits are {self.places} and {self.limits.waiting}",
                    "try again later",
                    status=429,
                    retry_s=RETRY_S,
                )
            self._waiting.extend(jobs)
            self._changed.notify()

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Frees the places of jobs that nobody waits for any more, after the piece of work that runs now."""
        with self._changed:
            for job in jobs:
                job.cancelled = True
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._admit()
                while not (self._running or self.waiting or self._stopping):
                    self._changed.wait()
                self._admit()
                if self._stopping:
                    break
            self._round()
        with self._changed:
            left = [*self._running, *self._waiting, *self._aside]
            self._running, self._waiting, self._aside = set(), deque(), deque()
        for job in left:
            job.forget()
            _hand_on(job, ServerError("the server is stopping", "try again when it is back", status=503))

    def _admit(self) -> None:
        """Forgets what was cancelled, and gives free places to those that wait longest."""
        for job in [job for job in (*self._running, *self._waiting, *self._aside) if job.cancelled]:
            self._end(job)
        self._waiting = deque(job for job in self._waiting if not job.cancelled)
        self._aside = deque(job for job in self._aside if not job.cancelled)
        while self.waiting and len(self._running) < self.places:
            # A first token is waited for most. But neither kind can keep the other out.
            self._given = (self._given + 1) % NEW_ONES
            new_first = self._given and len(self._aside) <= self._most_aside
            queues = (self._waiting, self._aside) if new_first else (self._aside, self._waiting)
            job = next(queue for queue in queues if queue).popleft()
            self._running.add(job)
            self._turns.append(job)

    def _set_aside(self) -> None:
        """If others wait, ends the turns of the texts that have had theirs longest.

        Few in a round: so turns end at different times, and a new text never waits long for a place.
        """
        if not self.waiting or len(self._running) < self.places:
            return
        room = self._most_aside - len(self._aside)
        # Where no more can be kept, one that was set aside changes places with one that runs.
        most = min(max(1, min(len(self._waiting), ROWS // 2)), room) if room > 0 else min(1, len(self._aside))
        held = [(group, job) for group in self._groups for job in group.jobs.values() if job.held >= TURN]
        held.sort(key=lambda each: -each[1].held)
        for group, job in held[:most]:
            with self._failing_alone([job]), _computing(group.served):
                group.set_aside(job)
                with self._changed:
                    self._running.discard(job)
                    self._aside.append(job)
        self._forget_empty_groups()

    def _round(self) -> None:
        """A token for each text that has a row, then about PREFILL tokens of work for jobs that have none."""
        self._set_aside()
        for group in list(self._groups):
            self._step(group)
        left = PREFILL
        while self._turns and left > 0:
            left -= self._turns[0].size
            self._turn(self._turns.popleft())

    def _turn(self, job: Job) -> None:
        """A piece of work for a job without a row, which then ends, gets one, or waits for its next turn."""
        # An explanation sets its own dtype, and must have the numbers that it has on the command line.
        computing = _computing(job.served) if isinstance(job, Completion) else contextlib.nullcontext()
        with self._failing_alone([job]), computing:
            if not job.advance():
                self._turns.append(job)
            elif isinstance(job, Completion) and not job.ended:
                self._group_for(job).add(job)
            else:
                self._end(job)

    def _step(self, group: Group) -> None:
        """One token for each text of a group."""
        rows = {row: job for row, job in group.jobs.items() if not job.cancelled}
        if not rows:
            return
        with self._failing_alone(list(rows.values())), _computing(group.served):
            logits = group.slots.step({row: job.ids[-1] for row, job in rows.items()})
            for row, job in rows.items():
                with self._failing_alone([job]):
                    job.draw(logits[row])
                    if job.ended:
                        self._end(job)

    def _group_for(self, job: Completion) -> Group:
        """A group with a free row for the text."""
        for group in self._groups:
            if group.served is job.served and group.slots.capacity == job.capacity and group.slots.free:
                return group
        self._groups.append(Group(job.served, job.capacity))
        return self._groups[-1]

    def _end(self, job: Job) -> None:
        """Frees the place of a job, its row, and what else it has in memory."""
        self._running.discard(job)
        job.forget()
        with contextlib.suppress(ValueError):
            self._turns.remove(job)
        for group in list(self._groups):
            if isinstance(job, Completion) and group.jobs.get(job.row) is job:
                group.remove(job)
        self._forget_empty_groups()

    def _forget_empty_groups(self) -> None:
        """The cache of a group may have hundreds of megabytes."""
        self._groups = [group for group in self._groups if group.jobs]

    @contextlib.contextmanager
    def _failing_alone(self, jobs: Sequence[Job]) -> Generator[None]:
        """An error inside ends these jobs, and nothing else."""
        try:
            yield
        except Exception as error:
            for job in jobs:
                if job in self._running:
                    self._end(job)
                    _hand_on(job, error)


def _rows_that_fit(served: Served) -> int:
    """Rows of the whole context that take no more than half of the free memory; at least one."""
    free = free_on(served.model.device)
    return max(1, (free.bytes // 2 if free is not None else MOST_BYTES) // row_bytes(served.generating))


@contextlib.contextmanager
def _computing(served: Served) -> Generator[None]:
    with torch.inference_mode(), autocast(served.model.device, dtype_of(served.autocast)):
        yield


def _hand_on(job: Job, error: Exception) -> None:
    """Tells whoever waits for a job that it failed; one who is gone cannot be told."""
    try:
        job.deliver(error)
    except Exception as problem:
        say(f"a failed request could not be answered: {type(problem).__name__}: {problem}")
