"""Pieces of work come in; their times go out, taken in turn (A B A B) and each beside a canary matmul.

Other programs slow a machine down for seconds at a time. In turn, all pieces of work meet the same machine,
and the canary says what it could do around each time: times beside a slow canary are dropped.
"""

import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

import torch

Clock = Callable[[], float]
"""Returns seconds."""
QUIET = 0.8
"""A time counts if the canaries before and after it reach this part of the best one."""


@dataclass(frozen=True, slots=True)
class Times:
    """What one piece of work took, in seconds."""

    seconds: tuple[float, ...]
    """Those that count, in the order in which they were taken."""
    taken: int
    """How many were taken in all."""
    quiet: bool = True
    """False if no canary was good: then all of them count."""

    @property
    def median(self) -> float:
        """The figure to compare on a quiet machine."""
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        """The figure to compare while other programs run: nothing makes work faster than it is."""
        return min(self.seconds)

    @property
    def spread(self) -> float:
        """Largest less least, as a part of the median."""
        return (max(self.seconds) - self.least) / self.median

    def __str__(self) -> str:
        """Milliseconds: median, least, spread, and how many of the times count."""
        noisy = "" if self.quiet else ", no quiet moment"
        return (
            f"{1e3 * self.median:.4g} ms (least {1e3 * self.least:.4g}, spread {self.spread:.0%}, "
            f"{len(self.seconds)} of {self.taken}{noisy})"
        )


def canary(*, size: int = 768, repeats: int = 5, clock: Clock = time.perf_counter) -> float:
    """FLOP/s of a bfloat16 matmul on this process's threads: the best of a few, some milliseconds in all."""
    left = torch.ones(size, size, dtype=torch.bfloat16)
    least = float("inf")
    for _ in range(repeats):
        began = clock()
        left @ left
        least = min(least, clock() - began)
    return 2 * size**3 / least


def timed(work: Callable[[], object], *, clock: Clock = time.perf_counter) -> Callable[[], float]:
    """The work as a function that returns the seconds it took."""

    def seconds() -> float:
        began = clock()
        work()
        return clock() - began

    return seconds


def interleaved(
    works: Mapping[str, Callable[[], float]],
    *,
    rounds: int,
    warm_up: bool = True,
    canary: Callable[[], float] = canary,
) -> dict[str, Times]:
    """Times of each piece of work, which returns its own seconds (see `timed`): each once in each round.

    With `warm_up` there is a round more, the first, which is not counted.
    """
    for work in works.values() if warm_up else ():
        work()
    canary()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    before = best = canary()
    for _ in range(rounds):
        for name, work in works.items():
            seconds = work()
            after = canary()
            found[name].append((seconds, min(before, after)))
            best, before = max(best, after), after
    return {name: counted(taken, best=best) for name, taken in found.items()}


def counted(taken: list[tuple[float, float]], *, best: float) -> Times:
    """The times beside which the canary was good, of pairs (seconds, lower canary of the two around them)."""
    good = tuple(seconds for seconds, speed in taken if speed >= QUIET * best)
    return Times(good or tuple(seconds for seconds, _ in taken), len(taken), quiet=bool(good))


@contextlib.contextmanager
def busy_loops(count: int) -> Generator[None]:
    """A context in which `count` other programs compute without a pause."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
