"""A run that a signal ends, or that is killed, is resumed to the bits of one that was not: in processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trainings import last_of

from lucidlm.runs.history import read_history
from lucidlm.runs.run_toml import write_settings
from lucidlm.runs.settings import Plan
from lucidlm.training.loop import train

pytestmark = pytest.mark.usefixtures("here", "quick_probes", "quick_judging")


def _settings_file(make_config, plan: Plan) -> None:
    Path("settings").mkdir()
    write_settings(Path("settings"), make_config(checkpoint_seconds=0), plan)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "lucidlm", "train", *arguments]


def _wait_for_step(run: str, step: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if (
            Path(run, "metrics.jsonl").exists()
            and f'"step": {step},' in Path(run, "metrics.jsonl").read_text()
        ):
            return
        time.sleep(0.01)
    raise AssertionError(f"{run} did not reach step {step}")


def _signalled(process: subprocess.Popen, number: int, code: int) -> float:
    """Seconds until the process ended."""
    sent = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    took_s = time.monotonic() - sent
    assert took_s < 10
    assert process.returncode == code, err
    assert "--resume --out run" in out
    assert "Traceback" not in err
    return took_s


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send")
def test_signals_end_the_command_with_their_code_and_a_checkpoint_and_resuming_is_bitwise(
    make_config, make_tiny_plan, fingerprint, timeless, record_property
):
    plan = make_tiny_plan(steps=120, drop_rate=0.1, validate_every=60)
    _settings_file(make_config, plan)
    begin, go_on = ("--config", "settings/run.toml", "--out", "run"), ("--resume", "--out", "run")
    stopped = 0
    for arguments, number, code in ((begin, signal.SIGTERM, 143), (go_on, signal.SIGINT, 130)):
        process = subprocess.Popen(
            _command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        _wait_for_step("run", stopped + 10)
        record_property(
            "seconds from a signal to the end, with a checkpoint", _signalled(process, number, code)
        )
        before, stopped = stopped, read_history(Path("run")).steps[-1].step
        assert before + 10 <= stopped < 120
        assert last_of("run").name == f"step_{stopped:06d}"
    train(make_config(), resume=True)
    train(make_config(out="whole"), plan=plan)
    assert fingerprint(last_of("run")) == fingerprint(last_of("whole"))
    assert fingerprint(Path("run")) == fingerprint(Path("whole"))
    assert timeless(Path("run")) == timeless(Path("whole"))


KILLED_AGAIN_AND_AGAIN = """
import os, random, signal, sys, time
from dataclasses import replace
from pathlib import Path
import torch
import torch._dynamo  # which an optimizer imports: once here, not in each child
from lucidlm.training import saving, setup, start
from lucidlm.training.loop import train
from lucidlm.training.prediction import Compressibility, predict
from lucidlm.runs.checkpoints import checkpoint_folders
from lucidlm.runs.run_toml import read_settings
from lucidlm.runtime.probes import Probe
from lucidlm.runtime import files

torch.set_num_threads(1)
saving.SAVING_SHARE = 1e9
setup.probe_matmul = lambda device, dtype: Probe("float32", 1e9, 0.0)
start.fastest_exact_float32 = lambda device: ("stock", "float32: as PyTorch has it")
config, plan = read_settings(Path("settings/run.toml"))
draw, inside = random.Random(int(sys.argv[1])), int(sys.argv[3])

def die_inside_a_save():
    # The k-th fsync or rename of the process is its last call.
    left = draw.randrange(5, 60)
    def counted(real):
        def call(*arguments):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)
        return call
    os.fsync, os.replace = counted(os.fsync), counted(os.replace)

kills = 0
while True:
    resume = bool(checkpoint_folders(Path("run")))
    child = os.fork()
    if child == 0:
        if 0 < kills <= inside:
            die_inside_a_save()
        try:
            train(config, plan=None if resume else plan, resume=resume, overwrite=not resume)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if kills < int(sys.argv[2]):
        if not 0 < kills <= inside:
            if kills == 0:
                while not checkpoint_folders(Path("run")):
                    time.sleep(0.01)
            time.sleep(draw.uniform(0.0, 0.4))
            os.kill(child, signal.SIGKILL)
        draw.random()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, -signal.SIGKILL):
        sys.exit(f"the run ended with {status} after {kills} kills")
    if status == 0:
        break
    kills += 1
print(kills)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(os, "fork"), reason="its processes are forks, so that none imports torch again"
)
@pytest.mark.parametrize(
    ("seed", "steps", "kills", "inside"),
    [(1, 30, 8, 3), pytest.param(2, 150, 20, 5, marks=pytest.mark.torture)],
)
def test_killed_at_random_moments_and_resumed_a_run_is_bitwise_the_uninterrupted_one(
    make_config,
    make_tiny_plan,
    undisturbed,
    fingerprint,
    timeless,
    seed,
    steps,
    kills,
    inside,
    record_property,
):
    """The seed is of the moments; what a run has done by then is the machine's matter."""
    plan = make_tiny_plan(steps=steps, drop_rate=0.1, validate_every=15)
    _settings_file(make_config, plan)
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AGAIN_AND_AGAIN, str(seed), str(kills), str(inside)],
        capture_output=True, text=True, timeout=100 if kills == 8 else 900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    assert int(done.stdout) >= (5 if kills == 8 else 20), f"seed {seed}: ended after {done.stdout} kills"
    record_property("kills, each resumed to the same bits", int(done.stdout))
    whole = undisturbed(plan)
    assert fingerprint(last_of("run")) == fingerprint(last_of(whole)), f"seed {seed}"
    assert fingerprint(Path("run")) == fingerprint(whole), f"seed {seed}"
    assert timeless(Path("run")) == timeless(whole), f"seed {seed}"
