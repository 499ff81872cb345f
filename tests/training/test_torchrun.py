"""Real processes of torchrun: they end cleanly, and where one is killed the run goes on by itself."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from models import made_up_text
from worlds import in_world

from lucidlm.runtime.distributed import joined
from lucidlm.runtime.ranks import Layout

STEPS = 24
FLAGS = (
    "--tokenizer bytes --context-length 32 --preset modern-1m --batch-tokens 256 --device cpu --threads 1 "
    f"--steps {STEPS} --validate-every 12 --checkpoint-seconds 0 --drop-rate 0 --optim.name adamw"
).split()


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("torchrun") / "book.txt"
    path.write_text(made_up_text(sentences=120), encoding="utf-8")
    return path


def torchrun(*arguments: str, size: int = 2, restarts: int = 0) -> subprocess.Popen[str]:
    """lucidlm under torchrun on this machine."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(size)]
    command += ["--master-port", str(port), "--max-restarts", str(restarts), "-m", "lucidlm", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str], *, within: float = 110) -> tuple[int, str, str]:
    """Exit code, output and notes; a process that hangs is ended with all that it has started."""
    try:
        out, notes = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, notes = process.communicate()
        raise AssertionError(f"torchrun hangs: {notes[-2000:]}") from None
    return process.returncode, out, notes


def losses_in(run: Path) -> dict[int, float]:
    """The loss of each step, of which none is there twice."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [(line["step"], line["loss_nats"]) for line in lines if line["event"] == "step"]
    assert len(dict(steps)) == len(steps)
    return dict(steps)


def ranks_of(launcher: int) -> list[int]:
    """The processes that torchrun has started and that train."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text(encoding="ascii").split()
    return [int(child) for child in children]


def killed_once(book: Path, run: Path, draw: random.Random, *, size: int = 2) -> str:
    """The notes of a run of which one process was killed at a step, and that ended well all the same."""
    process = torchrun("train", str(book), "--out", str(run), *FLAGS, size=size, restarts=2)
    wanted, end = draw.randrange(1, STEPS - 4), time.monotonic() + 100
    while time.monotonic() < end and process.poll() is None:
        try:
            if max(losses_in(run), default=0) >= wanted and len(ranks := ranks_of(process.pid)) >= size:
                os.kill(draw.choice(ranks), signal.SIGKILL)
                break
        except (OSError, ValueError, AssertionError):
            pass
        time.sleep(0.02)
    code, out, notes = ended(process)
    assert code == 0, notes[-3000:]
    assert "loss" in out
    return notes


@pytest.mark.torture
@pytest.mark.timeout(1800)
def test_each_of_ten_kills_costs_one_restart_and_no_loss(tmp_path, book, record_property):
    code, _, notes = ended(torchrun("train", str(book), "--out", str(tmp_path / "whole"), *FLAGS))
    assert code == 0, notes[-3000:]
    expected, fine = losses_in(tmp_path / "whole"), 0
    for number in range(10):
        run = tmp_path / f"killed{number}"
        notes = killed_once(book, run, random.Random(number))
        assert len(re.findall(r"resuming \S+ at step", notes)) == 1
        assert losses_in(run) == expected
        fine += 1
    record_property("of 10 kills, runs that went on and ended alike", fine)


@pytest.mark.torture
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_torchrun_saves_the_step_and_the_run_goes_on_in_one_process(tmp_path, book, number):
    run = tmp_path / "ended"
    process = torchrun("train", str(book), "--out", str(run), *FLAGS)
    end = time.monotonic() + 100
    while time.monotonic() < end and not ((run / "metrics.jsonl").exists() and losses_in(run)):
        time.sleep(0.05)
    os.kill(process.pid, number)
    _, out, _ = ended(process)
    assert f"go on with: lucidlm train --resume --out {run}" in out
    reached = max(losses_in(run))
    done = subprocess.run(
        [sys.executable, "-m", "lucidlm", "train", "--resume", "--out", str(run)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"at step {reached}" in done.stderr
    assert len(losses_in(run)) == STEPS


def ends() -> float:
    """A small exchange, after which the process ends."""
    with joined(Layout(), device="cpu") as world:
        model = torch.nn.Linear(4, 4)
        world.same(list(model.parameters()))
        return world.total([1.0])[0]


@pytest.mark.torture
@pytest.mark.timeout(600)
def test_processes_end_cleanly_fifty_times(record_property):
    for _ in range(50):
        assert in_world(2, ends) == [2.0, 2.0]
    record_property("worlds of 2 processes that ended with exit code 0, of 50", 50)


def test_an_error_of_the_user_is_said_once_by_all_processes_together(tmp_path, book):
    flags = [flag if flag != "256" else "224" for flag in FLAGS]  # 7 windows
    code, out, notes = ended(torchrun("train", str(book), "--out", str(tmp_path / "odd"), *flags))
    assert code != 0
    assert notes.count("7 windows of a step cannot be divided among 2 processes") == 1
    assert not (tmp_path / "odd").exists()
    assert not out
