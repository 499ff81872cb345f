"""A run that is killed, or whose disk fails, at any write of any of its files: bitwise right, or said."""

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from faulty import EIO, ENOSPC, Faults, faulty
from models import TINY
from recorded import Recorded

from lucidlm.errors import LucidError
from lucidlm.report.assessment import Background, assess
from lucidlm.runs.checkpoints import checkpoint_folders
from lucidlm.training import finish, loop, saving
from lucidlm.training.loop import train
from lucidlm.weights.whole import SETTINGS

pytestmark = [
    pytest.mark.usefixtures("here", "quick_probes"),
    pytest.mark.skipif(
        not hasattr(os, "fork"), reason="its processes are forks, so that none imports torch again"
    ),
]

KINDS = {
    "killed": (0, False),
    "EIO": (EIO, False),
    "ENOSPC": (ENOSPC, False),
    "full from there on": (ENOSPC, True),
}


CODES = {
    0: "ran on, all right",
    1: "ran on, what was lost is named",
    2: "refused with one line, then started again",
    -signal.SIGKILL: "killed, then resumed or started again",
}


@dataclass(frozen=True)
class Outcome:
    """What one process came to."""

    code: int
    """0 done, 1 done with a problem, 2 refused; under 0 the signal that killed it, over 2 a bug."""
    said: str
    hit: str
    calls: list[str]
    """What it wrote, in order."""
    half: bool = False
    """Whether it left something half written behind."""


@pytest.fixture
def trial(make_config, make_tiny_plan, monkeypatch, fingerprint, timeless):
    """trial(kind, at): what becomes of a run that fails there, checked, then resumed and compared."""
    assessments = []

    def assess_once(model, tokenizer, text, background, **_):
        """Of the first run; the others have its weights bitwise, or fail."""
        if not assessments:
            assessments.append(assess(model, tokenizer, text, Background()))
        return assessments[0]

    monkeypatch.setattr(finish, "assess", assess_once)
    monkeypatch.setattr(finish, "held_out_seen_by", lambda *_: None)
    sample = {"prompt": "", "text": "", "probe_ids": [], "probe_log_probabilities": []}
    monkeypatch.setattr(loop, "write_sample", lambda *_, step, **__: {"step": step} | sample)
    monkeypatch.setattr(finish, "write_report", lambda path, *_, **__: path.write_text("page"))
    monkeypatch.setattr(saving, "SAVING_SHARE", 1e9)
    plan = make_tiny_plan(
        steps=2,
        validate_every=1,
        drop_rate=0.1,
        model=TINY["modern"].changed(n_layers=1, drop_rate=0.1),
        validation_tokens=64,
    )
    config = make_config(checkpoint_seconds=0)
    train(make_config(out="whole", checkpoint_seconds=0), plan=plan)
    train(make_config(out="whole"), resume=True)  # so that no fork does first what is done once a process

    def found(run: str):
        return fingerprint(checkpoint_folders(Path(run))[-1]), fingerprint(Path(run)), timeless(Path(run))

    whole = found("whole")

    def begin() -> Outcome:
        begun = bool(checkpoint_folders(Path("run")))
        overwrite = not begun and Path("run", SETTINGS).exists()
        return in_a_fork(
            lambda said: train(
                config,
                plan=None if begun else plan,
                resume=begun,
                overwrite=overwrite,
                progress=Recorded(said),
            )
        )

    def run(kind: str, at: int, *, after_s: float | None = None) -> Outcome:
        error, lasting = KINDS[kind]
        for left in Path().glob("*run*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        outcome = in_a_fork(
            lambda said: train(config, plan=plan, progress=Recorded(said)),
            Faults(".", at=at, error=error, lasting=lasting),
            after_s,
        )
        where = f"{kind} at {at}, {outcome.hit}: code {outcome.code}, {outcome.said}"
        assert outcome.code in (0, 1, 2, -signal.SIGKILL), where
        assert outcome.code != 2 or "\n" not in outcome.said, where
        half = [path for path in Path().rglob(".*") if path.name.endswith((".tmp", ".old"))]
        assert sum(path.is_dir() for path in half) <= 1, where
        told = kind != "killed" and "goes on without it" in outcome.said  # lines of metrics are lost then
        if outcome.code == 0:
            assert found("run")[:2] == whole[:2], where
            assert told or found("run") == whole, where
        else:
            resumed = begin()
            assert resumed.code == 0, f"{where}; then {resumed.code}, {resumed.said}"
            assert found("run")[:2] == whole[:2], where
            assert told or found("run") == whole, where
        left = [str(path) for path in Path().rglob(".*") if path.name.endswith((".tmp", ".old", ".lock"))]
        assert outcome.code == 0 or not left, f"{where}; {left} is left"
        return replace(outcome, half=bool(half))

    return run


def in_a_fork(work, faults: Faults | None = None, after_s: float | None = None) -> Outcome:
    """What a process of its own did, whose writes go past `faults`; killed after some seconds, if given."""
    reader, writer = os.pipe()
    faults = faults or Faults(".")
    if (child := os.fork()) == 0:
        code, said = 3, []
        try:
            with faulty(faults):
                code = 1 if work(said).problems else 0
        except (LucidError, OSError) as error:
            code, said = 2, [*said, str(error)]
        except BaseException as error:
            said.append(repr(error))
        with os.fdopen(writer, "w") as file:
            json.dump([code, "; ".join(said), faults.hit, faults.calls], file)
        os._exit(0)
    os.close(writer)
    if after_s is not None:
        time.sleep(after_s)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reader) as file:
        text = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Outcome(*json.loads(text)) if text else Outcome(status, "", "", [])


def _points(trial) -> list[str]:
    """The calls of a run that nothing disturbs."""
    return trial("EIO", 0).calls


def test_a_sample_of_the_places_where_a_run_can_fail(trial):
    draw, calls = random.Random(0), _points(trial)
    inside = [place for place, call in enumerate(calls, start=1) if "checkpoints" in call]
    for kind in ("killed", "full from there on"):
        trial(kind, draw.choice(inside))
    of_settings = next(
        place for place, call in enumerate(calls, 1) if call.startswith("replace run/.run.toml")
    )
    trial("killed", of_settings)


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_at_each_call_that_changes_a_file_is_survived_or_said(trial, kind, capsys, record_property):
    calls, codes = _points(trial), Counter()
    wrong = []
    for at in range(1, len(calls) + 1):
        try:
            codes[trial(kind, at).code] += 1
        except AssertionError as error:
            wrong.append(str(error).splitlines()[0])
    record_property("calls that change a file", len(calls))
    for code, count in sorted(codes.items()):
        record_property(f"{kind}: {CODES[code]}", count)
    with capsys.disabled():
        names = Counter(call.split()[0] for call in calls)
        print(f"\n{kind} at each of {len(calls)} calls ({dict(names)}): {dict(codes)}")
    assert not wrong


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_killed_at_forty_random_moments_a_run_is_resumed_to_the_same_bits(trial, capsys, record_property):
    draw, codes, took, half = random.Random(1), Counter(), _seconds(trial), 0
    while codes[-signal.SIGKILL] < 40:
        outcome = trial("killed", -1, after_s=draw.uniform(0.0, took))
        codes[outcome.code] += 1
        half += outcome.half
    record_property("kills of a run of 2 steps", codes[-signal.SIGKILL])
    record_property("of these while something was half written", half)
    with capsys.disabled():
        print(f"\nkilled within {took:.2f} s: {dict(codes)}, {half} while something was half written")
    assert half


def _seconds(trial) -> float:
    began = time.monotonic()
    trial("EIO", 0)
    return time.monotonic() - began
