"""The command line under torchrun: one answer, errors said once, an evaluation that survives kills."""

import contextlib
import io
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from command_line import shown
from trainings import judge_little
from worlds import differences, in_world

from lucidlm import edge
from lucidlm.cli import main

RIGHT = [
    ("evaluate", "run", "--json"),
    ("evaluate", "run", "lines.jsonl", "--no-baselines", "--by", "document", "--csv", "{}.csv"),
    ("evaluate", "run", "other.txt", "--json", "--protocol", "lm-eval", "--html", "{}.html"),
]
WRONG = {
    ("evaluate", "run", "missing.txt"): r"lucidlm: missing.txt: no such file; ",
    ("evaluate", "no-run", "other.txt"): r"lucidlm: no-run: no folder and no model",
    (
        "evaluate",
        "run",
        "-",
    ): r"lucidlm: -: a pipe is read by one process, torchrun has started 2; give a file",
    ("evaluate", "run", "other.txt", "--stride", "9999"): r"lucidlm: --stride 9999: it must be",
    ("evaluate", "run", "other.txt", "--nonsense"): r"lucidlm: Unknown option: --nonsense",
    ("evaluate", "run", "tiny.txt", "--protocol", "batch-mean"): r"lucidlm: no token can be scored",
    ("compare", "run", "run", "other.txt"): (
        r"lucidlm: compare computes in one process, torchrun has started 2 \(train, evaluate run "
        r"under it\); start lucidlm compare without torchrun"
    ),
    ("info", "run"): r"lucidlm: info computes in one process",
    ("evaluate", "run", "other.txt", "--html", "-"): r"lucidlm: --html -: a dash means",
    ("train", "book.txt", "--out", "-"): r"lucidlm: --out -: a dash means",
    ("train", "book.txt", "--out", "new", "--steps", "1.5"): r"lucidlm: --steps 1\.5: give a whole number",
    ("train", "book.txt", "--out", "new", "--steps", "-1"): r"lucidlm: --steps -1: ",
    ("train", "book.txt", "--out", "new", "--config", "missing.toml"): r"lucidlm: missing\.toml: ",
    ("train", "book.txt", "--out", "new", "--config", "wrong.toml"): r"lucidlm: .*stepz",
    ("train", "--resume", "--steps", "3", "--out", "run"): r"lucidlm: --resume takes everything",
    ("train", "run", "--out", "new"): r"lucidlm: run is a run, not a text",
    ("train", "book.txt", "--out", "new", "--device", "gpu"): r"lucidlm: --device gpu: unknown",
}


def commands(folder: Path, ports: dict[tuple[str, ...], int]) -> list[tuple[int, str, str]]:
    """Exit code, results and notes of each command in this process."""
    os.chdir(folder)
    os.environ |= {"LUCIDLM_CACHE": str(folder / "cache"), "COLUMNS": "200"}
    said = []
    for command, port in ports.items():
        os.environ["MASTER_PORT"] = str(port)
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.MonkeyPatch.context() as patch,
        ):
            judge_little(patch)  # as in the process that is compared with
            patch.setattr(edge, "wait_to_be_ended", lambda: sys.exit(2))  # as torchrun does
            try:
                code = main([each.replace("{}", "many") for each in command])
            except SystemExit as ended:
                code = ended.code
        said.append((code, out.getvalue(), err.getvalue()))
    return said


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture
def texts(home, trained):
    assert trained.code == 0, trained.err
    lines = [f'{{"text": "{"Nobody knew the river. " * (number % 5 + 1)}{number}"}}' for number in range(24)]
    (home / "lines.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (home / "tiny.txt").write_text("ab", encoding="utf-8")
    return home


def test_the_first_process_answers_as_one_process_does_and_the_others_are_silent(texts, answer):
    asked = [(*command, "--threads", "1") for command in RIGHT]
    first, second = in_world(2, commands, texts, dict(zip(asked, free_ports(len(asked)), strict=True)))
    assert second == [(0, "", "")] * len(RIGHT)
    for command, (code, out, err) in zip(RIGHT, first, strict=True):
        alone = answer(*(each.replace("{}", "one") for each in command))
        assert code == 0, err
        assert err.replace("many.", "one.") == alone.err
        if "--json" in command:
            assert differences(shown(alone.out), shown(out)) == [], command
        else:
            assert out == alone.out
    for suffix in ("csv", "html"):
        assert (texts / f"many.{suffix}").read_bytes() == (texts / f"one.{suffix}").read_bytes()
    assert not list((texts / "cache").rglob("*.sums"))


def test_what_is_wrong_is_said_once_and_all_processes_end(texts):
    ports = dict(zip(WRONG, free_ports(len(WRONG)), strict=True))
    first, second = in_world(2, commands, texts, ports)
    for (command, line), *both in zip(WRONG.items(), first, second, strict=True):
        lines = [each for _, _, err in both for each in err.splitlines() if each.startswith("lucidlm: ")]
        assert len(lines) == 1, (command, lines)
        assert re.match(line, lines[0]), command
        assert both[0][0] == 2, command  # the second one's share of a text that is too short is none
        assert not any(out for _, out, _ in both)


PROGRAM = """
import os, sys
from pathlib import Path
from lucidlm.cli import main
from lucidlm.measure import shares
from lucidlm.measure.scoring import Scorer

shares.SAVE_S, shares.SAVE_TIMES = 0.05, 0.0
scored, log = Scorer.scored, Path(os.environ["SCORED"])

def logged(self, batch):
    yield from scored(self, batch)
    with log.open("a") as file:
        file.write(f"{batch[0].document} {batch[0].place}\\n")

score = shares.Share.score

def watched(*arguments):  # the paragraph that is explained at the end is scored too
    Scorer.scored = logged
    found = score(*arguments)
    Scorer.scored = scored
    return found

shares.Share.score = watched
sys.exit(main())
"""


class Torchrun:
    """An evaluation by three processes of torchrun, which starts them again after a failure."""

    def __init__(self, folder: Path, text: Path, name: str) -> None:
        self.folder, self.log = folder, folder / f"{name}.log"
        self.log.touch()
        (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
        launch = ["-m", "torch.distributed.run", "--nproc-per-node", "3", "--max-restarts", "3"]
        launch += ["--master-port", str(free_ports(1)[0]), "program.py"]
        evaluate = ["evaluate", "modern-1m", str(text), "--json", "--by", "document", "--threads", "1"]
        environment = {"LUCIDLM_CACHE": str(folder / "cache"), "SCORED": str(self.log)}
        self.process = subprocess.Popen(
            [sys.executable, *launch, *evaluate],
            cwd=folder,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    def kill(self, rank: int, *, after: int) -> None:
        """kill -9 for one of the processes when so many batches were scored in all."""
        while len(self.batches()) < after:
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.002)
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        of_rank = [each for each in children if f"\0RANK={rank}\0" in "\0" + environment_of(each)]
        for each in of_rank:
            os.kill(int(each), signal.SIGKILL)

    def batches(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines()

    def answer(self) -> dict:
        out, err = self.process.communicate(timeout=300)
        assert self.process.returncode == 0, err[-3000:]
        return shown(out)


def environment_of(process: str) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/environ").read_text(encoding="utf-8", errors="replace")
    return ""


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_ten_evaluations_of_which_a_process_is_killed_continue_under_torchrun(tmp_path, capsys):
    text, draw = tmp_path / "lines.jsonl", random.Random(0)
    text.write_text(
        "\n".join(f'{{"text": "{"Nobody knew the river. " * draw.randint(20, 200)}"}}' for _ in range(120))
    )
    undisturbed = Torchrun(tmp_path, text, "undisturbed")
    expected = undisturbed.answer()
    total, again = Counter(undisturbed.batches()), []
    assert len(total) > 60
    assert set(total.values()) == {1}
    for number in range(10):
        disturbed = Torchrun(tmp_path, text, str(number))
        for after in sorted(draw.sample(range(1, len(total)), 1 + number % 2)):
            disturbed.kill(draw.randrange(3), after=after)
        assert differences(disturbed.answer(), expected) == []
        counted = Counter(disturbed.batches())
        assert counted.keys() == total.keys()
        again.append(counted.total() - total.total())
        assert not list((tmp_path / "cache").rglob("*.sums"))
    with capsys.disabled():
        print(
            "\n10 of 10 evaluations with killed processes gave the numbers of one without; of "
            f"{len(total)} batches, {again} were scored again"
        )
