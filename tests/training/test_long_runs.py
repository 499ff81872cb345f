"""Runs that take minutes: thousands of steps, a disk that is nearly full, compiled models, every call."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from recorded import Recorded
from trainings import last_of, stop_after

from lucidlm.runs.run_toml import write_settings
from lucidlm.training import saving
from lucidlm.training.loop import train

pytestmark = [pytest.mark.torture, pytest.mark.usefixtures("here", "quick_probes", "quick_judging")]
TESTS = Path(__file__).parents[1]


@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_ten_thousand_steps_leave_memory_files_and_threads_as_they_were(
    make_config, make_tiny_plan, monkeypatch, record_property
):
    """And saves take less than a twentieth of the time, here of steps of a few milliseconds."""
    kept, save_s, saves, save = {}, 0.0, 0, saving._try

    def timed(run):
        nonlocal save_s, saves
        began = time.perf_counter()
        try:
            return save(run)
        finally:
            save_s, saves = save_s + time.perf_counter() - began, saves + 1

    def watch(report):
        if report.step.step % 1000 == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            kept[report.step.step] = (
                pages * os.sysconf("SC_PAGE_SIZE"),
                len(os.listdir("/proc/self/fd")),
                len(os.listdir("/proc/self/task")),
                threading.active_count(),
                sum(path.is_file() for path in Path("run").rglob("*")),
            )

    monkeypatch.setattr(saving, "_try", timed)
    began = time.perf_counter()
    plan = make_tiny_plan(steps=10_000, drop_rate=0.1, validate_every=500, workers=2)
    result = train(make_config(checkpoint_seconds=5), plan=plan, watch=watch)
    took_s = time.perf_counter() - began
    assert result.step == 10_000
    memory, *counts = zip(*(kept[step] for step in range(1000, 10_001, 1000)), strict=True)
    growth = max(memory) / memory[0] - 1
    record_property("largest growth of memory after step 1,000, %", round(100 * growth, 2))
    record_property("saves", saves)
    record_property("saves, % of the time", round(100 * save_s / took_s, 2))
    record_property(
        "open files, tasks, threads, files of the run at step 10,000", str([each[-1] for each in counts])
    )
    assert growth <= 0.02, memory
    for each in counts:
        assert len({*each}) == 1, kept
    assert saves > 3
    assert save_s / took_s < 0.05


# One and a half checkpoints on the disk

NEARLY_FULL = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from recorded import Recorded
import torch
from lucidlm.runs.run_toml import read_settings
from lucidlm.runtime.probes import Probe
from lucidlm.training import finish, loop, saving, setup, start
from lucidlm.report.assessment import Background, assess

torch.set_num_threads(1)
saving.SAVING_SHARE = 1e9
setup.probe_matmul = lambda device, dtype: Probe("float32", 1e9, 0.0)
start.fastest_exact_float32 = lambda device: ("stock", "float32: as PyTorch has it")
finish.assess = lambda model, tokenizer, text, background, **_: assess(model, tokenizer, text, Background())
config, plan = read_settings(Path("settings/run.toml"))
fill, free, said, temporary = Path("disk/fill"), int(sys.argv[1]), [], []

def watch(report):
    said.extend(report.notes)
    temporary.append(sum(path.is_dir() for path in Path("disk/run").rglob(".*")))
    if report.step.step == 1:
        with open(fill, "wb") as file:
            left = os.statvfs("disk").f_bavail * os.statvfs("disk").f_bsize - free
            file.write(bytes(max(0, left)))
    if report.step.step == int(sys.argv[2]) > 0:
        fill.unlink()

result = loop.train(config, plan=plan, watch=watch, progress=Recorded(said))
print(json.dumps([result.step, len(result.problems), said, max(temporary)]))
"""


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("freed_at", [0, 9], ids=["stays full", "is freed before the end"])
@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], check=False).returncode,
    reason="unshare -rm is not allowed here",
)
def test_a_disk_with_room_for_less_than_a_checkpoint_costs_no_training(
    make_config, make_tiny_plan, undisturbed, fingerprint, freed_at, record_property
):
    """A disk that has room for half a checkpoint more after the first."""
    plan = make_tiny_plan(steps=12, drop_rate=0.1)
    whole = undisturbed(plan)
    checkpoint = _size_of(last_of(whole))
    Path("settings").mkdir()
    config = make_config(text=str(Path("book.txt").resolve()), out="disk/run", checkpoint_seconds=0)
    write_settings(Path("settings"), config, plan)
    Path("disk").mkdir()
    Path("out").mkdir()
    code = NEARLY_FULL.format(tests=str(TESTS))
    command = shlex.join([sys.executable, "-c", code, str(checkpoint // 2), str(freed_at)])
    # The copy outlives the tmpfs, which ends with its namespace.
    script = f"mount -t tmpfs -o size=64m tmpfs disk && {command}; code=$?; cp -a disk/run out/; exit $code"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    step, problems, said, temporary = json.loads(done.stdout.splitlines()[-1])
    warned = [line for line in said if "no checkpoint at step" in line]
    record_property("warnings", len(warned))
    record_property("temporary folders at a time", temporary)
    assert step == 12
    assert len(warned) == 1, said
    assert "No space left on device" in warned[0]
    assert temporary <= 1
    # Where it stays full, the last weights and the pages are lost, and each is said.
    assert sum(line.startswith("the weights of step 12 are lost") for line in said) == (0 if freed_at else 1)
    assert bool(problems) == (not freed_at), said
    newest = last_of("out/run")
    if freed_at:
        assert fingerprint(newest) == fingerprint(last_of(whole))
        return
    # The checkpoint that was there is intact, and the run goes on from it elsewhere.
    assert newest.name < "step_000012"
    resumed = train(make_config(out="out/run"), resume=True)
    assert resumed.step == 12
    assert fingerprint(last_of("out/run")) == fingerprint(last_of(whole))


# What the faults of tests/faulty.py cannot see would never fail there

WATCHED = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
from faulty import Faults, faulty
from lucidlm.runs.run_toml import read_settings
from lucidlm.runtime.probes import Probe
from lucidlm.training import loop, saving, setup, start

torch.set_num_threads(1)
saving.SAVING_SHARE = 1e9
setup.probe_matmul = lambda device, dtype: Probe("float32", 1e9, 0.0)
start.fastest_exact_float32 = lambda device: ("stock", "float32: as PyTorch has it")
config, plan = read_settings(Path("settings/run.toml"))
faults = Faults("place")
with faulty(faults):
    loop.train(config, plan=plan)
Path("calls.json").write_text(json.dumps(faults.calls))
"""
SYSCALLS = {
    **dict.fromkeys(("open", "openat", "creat"), "open"),
    **dict.fromkeys(("mkdir", "mkdirat"), "mkdir"),
    **dict.fromkeys(("rename", "renameat", "renameat2"), "rename"),
    **dict.fromkeys(("unlink", "unlinkat", "rmdir"), "unlink"),
    **dict.fromkeys(("fsync", "fdatasync"), "fsync"),
    **dict.fromkeys(("write", "pwrite64", "writev", "sendfile", "copy_file_range"), "write"),
}


def _calls_of(log: str, below: Path) -> Counter:
    """(kind, path below a folder) of each call in a log of strace -y that changes a file."""
    found: Counter = Counter()
    for line in log.splitlines():
        match = re.match(r"\d+\s+(\w+)\((.*)", line)
        if match is None or (kind := SYSCALLS.get(match[1])) is None or " = -1 " in line:
            continue
        if kind == "open" and not re.search(r"O_WRONLY|O_RDWR|O_CREAT", line):
            continue
        place = re.match(r'(?:\w*(?:<([^>]*)>)?,? ?)?(?:"([^"]*)")?', match[2])
        assert place is not None
        named = place[2] if kind not in ("fsync", "write") else None
        path = os.path.normpath(os.path.join(place[1] or str(below.parent), named or ""))
        if path.startswith(f"{below}{os.sep}"):
            found[kind, os.path.relpath(path, below)] += 1
    return found


@pytest.mark.timeout(600)
@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_strace_sees_no_call_that_the_faults_do_not_see(
    make_config, make_tiny_plan, tmp_path, record_property
):
    """The faults replace Python's functions: a library that writes by itself would go past them."""
    Path("settings").mkdir()
    Path("place").mkdir()
    config = make_config(text=str(Path("book.txt").resolve()), out="place/run", checkpoint_seconds=0)
    write_settings(Path("settings"), config, make_tiny_plan(steps=2, validate_every=1))
    traced = ",".join(SYSCALLS)
    command = [sys.executable, "-c", WATCHED.format(tests=str(TESTS))]
    done = subprocess.run(
        ["strace", "-f", "-y", "-qq", "-s", "0", "-e", f"trace={traced}", "-o", "strace.log", *command],
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    if "ptrace" in done.stderr and not Path("calls.json").exists():
        pytest.skip(f"strace is not allowed here: {done.stderr[:200]}")
    assert done.returncode == 0, done.stderr[-2000:]
    below = Path("place").resolve()
    seen = Counter()
    for call in json.loads(Path("calls.json").read_text()):
        kind, _, path = call.partition(" ")
        seen[{"replace": "rename", "rmdir": "unlink"}.get(kind, kind), path] += 1
    traced_calls = _calls_of(Path("strace.log").read_text(errors="replace"), below)
    record_property("calls of the system that change a file of the run", traced_calls.total())
    assert traced_calls.total() > 300
    assert not {call: count for call, count in traced_calls.items() if call not in seen}


# Compiled


@pytest.mark.timeout(1200)
@pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a compiler"
)
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_compiled_run_that_is_interrupted_and_resumed_is_bitwise_the_uninterrupted_one(
    make_config, make_tiny_plan, fingerprint, optimizer
):
    plan = replace(make_tiny_plan(optimizer=optimizer, drop_rate=0.1), compile=True)
    said: list[str] = []
    train(make_config(out="whole"), plan=plan, progress=Recorded(said))
    assert not [line for line in said if "torch.compile failed" in line], said
    train(make_config(), plan=plan, watch=stop_after(5, signal.SIGINT))
    train(make_config(), resume=True)
    assert fingerprint(last_of("run")) == fingerprint(last_of("whole"))
