"""Processes that are a world, as torchrun would start them, but from one that has imported torch already."""

import contextlib
import math
import multiprocessing
import os
import queue
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

WITHIN_S = 60.0
"""Seconds: processes that take longer are ended, and the test fails."""


def in_world(
    size: int,
    work: Callable[..., Any],
    *arguments: Any,
    restarts: int = 0,
    expect: int | None = None,
    within: float = WITHIN_S,
) -> list[Any]:
    """What `work(*arguments)` returns in each of `size` processes, in the order of their ranks.

    `work` is a function of a module. What it raises is raised here, with its traceback, unless some process
    is expected to be lost: `expect` is then the number of those that answer, and a lost one's answer is None.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch.distributed", "lucidlm.training.loop"])
    answers = context.Queue()
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    processes = [
        context.Process(
            target=_answer,
            args=(answers, _environment(rank, size, port, restarts), work, arguments),
            daemon=True,
        )
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    given: dict[int, tuple[bool, Any]] = {}
    end = time.monotonic() + within
    try:
        while len(given) < (size if expect is None else expect):
            try:
                rank, fine, value = answers.get(timeout=0.2)
            except queue.Empty:
                assert time.monotonic() < end, f"after {within} s only ranks {sorted(given)} have answered"
                gone = [each for each, process in enumerate(processes) if not process.is_alive()]
                unsaid = [each for each in gone if each not in given]
                assert expect is not None or not unsaid or not answers.empty(), (
                    f"rank {unsaid} ended silently"
                )
                continue
            given[rank] = fine, value
            if not fine and expect is None:
                raise AssertionError(_all_said(answers, {rank: value}))
        if expect is None:
            for process in processes:
                process.join(max(0.1, end - time.monotonic()))
            assert [process.exitcode for process in processes] == [0] * size
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()
    return [given.get(rank, (True, None))[1] for rank in range(size)]


def _all_said(answers: Any, said: dict[int, str]) -> str:
    """The errors of all processes that have one now: the first that is heard may come from another's end."""
    with contextlib.suppress(queue.Empty):
        while True:
            rank, fine, value = answers.get(timeout=2)
            if not fine:
                said[rank] = value
    return "\n".join(f"rank {rank}: {each}" for rank, each in sorted(said.items()))


def _environment(rank: int, size: int, port: int, restarts: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RESTART_COUNT": str(restarts),
        "OMP_NUM_THREADS": "1",
    }


def _answer(answers: Any, environment: dict[str, str], work: Callable[..., Any], arguments: tuple) -> None:
    import torch

    os.environ.update(environment)
    torch.set_num_threads(1)
    rank = int(environment["RANK"])
    try:
        answers.put((rank, True, work(*arguments)))
    except BaseException:
        answers.put((rank, False, traceback.format_exc()))


def differences(one: object, other: object, place: str = "") -> list[str]:
    """Where two values of JSON differ: numbers by more than 1e-9, all else at all."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [line for key in one for line in differences(one[key], other[key], f"{place}/{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [line for at, (a, b) in pairs for line in differences(a, b, f"{place}/{at}")]
    if isinstance(one, float) and isinstance(other, float):
        same = math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9) or (one != one and other != other)
        return [] if same else [f"{place}: {one} {other}"]
    return [] if type(one) is type(other) and one == other else [f"{place}: {one} {other}"]
