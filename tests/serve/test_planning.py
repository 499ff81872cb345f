"""Plans without a training: what is refused, and processes that end where nobody waits for them."""

import asyncio
import contextlib
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from serving import LIMIT_S, wait_for

from lucidlm.errors import ServerError
from lucidlm.serve import planning

QUICK = {"tokenizer": "bytes", "context_length": 16, "batch_tokens": 32, "validate_every": 2, "device": "cpu"}


def test_what_cannot_be_planned_is_refused(live):
    reply = live.ask("POST", "/api/plan", QUICK | {"batch_tokens": 8, "steps": 1})
    assert reply.status == 400
    assert reply.fault["message"].startswith("--batch-tokens 8 is less than one window of 16 tokens")
    assert live.ask("POST", "/api/plan", {"name": "x"}).status == 400
    assert live.ask("POST", "/api/plan", {"minutes": 1, "steps": 1}).status == 400
    assert live.ask("POST", "/api/plan", {"text": "0" * 12}).status == 404


def test_a_plan_that_nobody_waits_for_is_given_up(live, monkeypatch):
    begun = []

    class Recorded(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            begun.append(self)

    monkeypatch.setattr(planning.subprocess, "Popen", Recorded)
    with contextlib.closing(live.connect()) as connection:
        connection.request("POST", "/api/plan", b"{}", {"content-type": "application/json"})
        (process,) = wait_for(lambda: begun)
    assert process.wait(LIMIT_S) == -signal.SIGKILL


def test_a_plan_that_nobody_waits_for_leaves_no_process(monkeypatch):
    begun = []

    class Kept(subprocess.Popen):
        def __init__(self, *words, **options):
            super().__init__(*words, **options)
            begun.append(self)

    async def ask():
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        over = threading.Event()
        busy = loop.run_in_executor(None, over.wait, LIMIT_S)  # so that the client leaves before its turn
        left = asyncio.ensure_future(planning._answered({}))
        while not begun:
            await asyncio.sleep(0.01)
        left.cancel()
        over.set()
        await asyncio.gather(busy, left, return_exceptions=True)
        monkeypatch.setattr(planning, "PLAN_S", 0.01)
        with pytest.raises(ServerError, match="takes over"):
            await planning._answered({})

    monkeypatch.setattr(planning.subprocess, "Popen", Kept)
    asyncio.run(ask())
    assert len(begun) == 2
    for each in begun:
        assert each.returncode == -signal.SIGKILL
        assert each.stdin.closed
        assert each.stdout.closed
        assert each.stderr.closed
