"""A preparation that is killed, or one of its processes: run again, it gives the same bytes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_texts import SIZES, contents
from recorded import Recorded
from waiting import LIMIT_S, children_of, until, until_ended, workers_of

from lucidlm.errors import DataError, RunError
from lucidlm.text import preparation
from lucidlm.text.corpus import open_corpus
from lucidlm.text.preparation import prepare

TESTS = Path(__file__).parent.parent
KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[4])
from recorded import Recorded
from waiting import LIMIT_S, children_of, until, until_ended, workers_of
from lucidlm.text import preparation
steps = 0
def step(stage):
    global steps
    steps += 1
    if steps == int(sys.argv[3]):
        os._exit(9)
if sys.argv[3] == "-1":
    preparation.write_manifest = lambda *a, **k: os._exit(9)
if sys.argv[3] == "-2":
    import lucidlm.runtime.files as files
    files._sync_tree = lambda folder: os._exit(9)
preparation.prepare(sys.argv[1], sys.argv[2], tokenizer="bpe:300", progress=Recorded(at=step))
os._exit(0)
"""


@pytest.mark.parametrize("old", [False, True])
def test_killed_at_any_moment_it_gives_the_same_when_run_again(book, tmp_path, old):
    prepare(book, tmp_path / "whole", tokenizer="bpe:300")
    whole, out = contents(tmp_path / "whole"), tmp_path / "out"
    for moment in (1, 3, 5, -1, -2):
        if old:
            prepare(book, out, tokenizer="bytes")
        before = contents(out) if old else None
        command = [sys.executable, "-c", KILLED, str(book), str(out), str(moment), str(TESTS)]
        assert subprocess.run(command, timeout=300, check=False).returncode == 9
        if old:
            assert contents(out) == before
        else:
            assert not out.exists()
            with pytest.raises(DataError, match=r"manifest\.json"):
                open_corpus(out)
        assert prepare(book, out, tokenizer="bpe:300").status == (
            "redone: the text or a setting has changed" if old else "new"
        )
        assert contents(out) == whole
        for path in out.iterdir():
            path.unlink()
        out.rmdir()


@pytest.mark.usefixtures("small")
def test_a_piece_that_was_damaged_while_it_was_kept_is_named_and_the_advice_works(book, tmp_path):
    def stop(stage):
        if stage == "encoding":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(book, tmp_path / "out", tokenizer="bytes", progress=Recorded(at=stop))
    parts = tmp_path / ".out.parts"
    for path in parts.glob("look-*-*.npz"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises(
        DataError, match=r"look-\S+\.npz: damaged while it was kept .*; delete (.+) and run"
    ) as caught:
        prepare(book, tmp_path / "out", tokenizer="bytes")
    assert "\n" not in str(caught.value)
    shutil.rmtree(parts)
    assert prepare(book, tmp_path / "out", tokenizer="bytes").status == "new"


# With several processes


PROGRAM = """
import sys, time
from lucidlm.cli import main
from lucidlm.text import leaks, preparation, token_writer
from lucidlm.text.work import Work
preparation.PORTION, token_writer.ENCODED, leaks.LOOKED_AT = {PORTION}, {ENCODED}, {LOOKED_AT}
stop, records = int(sys.argv[1]), Work.records
def stopping(work, pieces):
    for number, found in enumerate(records(work, pieces)):
        while number == stop:
            time.sleep(0.1)
        yield found
Work.records = stopping
sys.exit(main(sys.argv[2:]))
""".format(**SIZES)


def started(sources, out, workers=2, stop=-1):
    """The command in a process of its own; it does not go on after `stop` finished portions."""
    command = ["prepare", *map(str, sources), "--out", str(out), "--tokenizer", "bpe:400"]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(stop), *command, "--workers", str(workers)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


linux = pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="looks for processes in /proc")


@linux
def test_ctrl_c_ends_all_processes_says_how_to_go_on_and_the_next_call_gives_the_same_bytes(
    sources, tmp_path
):
    prepare(sources, tmp_path / "whole", tokenizer="bpe:400")
    parts = tmp_path / ".out.parts"
    with started(sources, tmp_path / "out", stop=3) as program:
        until(lambda: len(list(parts.glob("read-*.json"))) > 3)
        children = workers_of(program.pid, 2)
        program.send_signal(signal.SIGINT)
        _, said = program.communicate(timeout=LIMIT_S)
    assert program.returncode == 130
    assert f"what is done is kept in {parts}: run the same command again, or delete that folder" in said
    assert len(children) == 2
    until_ended(children)
    assert not (tmp_path / "out").exists()
    assert list(parts.glob("read-*.json"))
    prepare(sources, tmp_path / "out", tokenizer="bpe:400")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


@linux
@pytest.mark.parametrize("large", [True, False])
def test_a_worker_that_is_killed_is_named_and_the_advice_works(sources, tmp_path, monkeypatch, large):
    if large:
        monkeypatch.setattr(preparation, "PORTION", SIZES["PORTION"])
    killed, parts = [], tmp_path / ".out.parts"

    def kill(stage):
        if stage == "encoding" and not killed:
            killed.append(workers_of(os.getpid())[0])
            os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(RunError, match=r"worker process \d+ was ended by signal 9") as caught:
        prepare(sources, tmp_path / "out", tokenizer="bytes", workers=2, progress=Recorded(at=kill))
    assert str(caught.value).count("; what is done is kept: run the same command again") == large
    assert str(caught.value).endswith("run the same command again, with fewer --workers if memory is short")
    assert parts.exists() == large
    corpus = prepare(sources, tmp_path / "out", tokenizer="bytes", workers=1)
    assert corpus.status == "new"
    assert not list(tmp_path.glob(".*"))


@linux
@pytest.mark.torture
def test_killed_at_twenty_moments_and_run_again_the_folder_is_bitwise_the_same(sources, tmp_path):
    prepare(sources, tmp_path / "whole", tokenizer="bpe:400")
    whole = contents(tmp_path / "whole")
    began = time.monotonic()
    with started(sources, tmp_path / "timed") as program:
        assert program.wait(600) == 0
    seconds = time.monotonic() - began
    draw, done, redone = random.Random(30), 0, []
    for moment in range(20):
        out = tmp_path / f"out{moment}"
        parts = tmp_path / f".out{moment}.parts"
        for turn in range(draw.choice((1, 1, 2, 3))):
            with started(sources, out, workers=1 + (moment + turn) % 3) as program:
                time.sleep(draw.uniform(0.3, 1.0) * seconds)
                children = children_of(program.pid)
                program.kill()
                if program.wait(LIMIT_S) == 0:  # the timed one was slower, as the first one often is
                    done, seconds = done + 1, 0.9 * seconds
            until_ended(children)
        # A part is never taken for the whole.
        if out.exists():
            assert contents(out) == whole
        kept = {path.name: path.read_bytes() for path in parts.glob("*.json")} if parts.exists() else {}
        with started(sources, out) as program:
            _, said = program.communicate(timeout=600)
        assert program.returncode == 0, said
        assert contents(out) == whole
        redone.append(len(kept))
        assert not list(tmp_path.glob(f".out{moment}*"))
    print(f"20 preparations, {done} kills after the end; {min(redone)} to {max(redone)} pieces were kept")
    assert max(redone) > 3
