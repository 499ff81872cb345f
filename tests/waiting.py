"""Waiting for what other processes do: a condition in, its value out; the limit is that of a busy machine."""

import time
from pathlib import Path

from lucidlm.runtime.leavings import process_lives

LIMIT_S = 60.0


def until(condition, seconds=LIMIT_S):
    """The value of the condition as soon as it is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not true within {seconds:g} s"
        time.sleep(0.01)
    return found


def runs(number):
    """Whether a process runs: one that has ended and that nobody has waited for does not."""
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        state = ""
    return process_lives(number) and state != "Z"


def until_ended(numbers):
    """Returns when none of these processes runs."""
    until(lambda: not any(map(runs, numbers)))


def children_of(number):
    """The processes that a process has started, on Linux."""
    try:
        return [int(child) for child in Path(f"/proc/{number}/task/{number}/children").read_text().split()]
    except OSError:
        return []


def workers_of(number, count=1):
    """The worker processes of a preparation, when there are `count` of them.

    A process has other children too, such as the server that forks the processes of a world. One that was
    just started does not have its own command line yet.
    """
    return until(
        lambda: len(found := [child for child in children_of(number) if _works(child)]) >= count and found
    )


def _works(number):
    try:
        return b"lucidlm.text.processes" in Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return False
