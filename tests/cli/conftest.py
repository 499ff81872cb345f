"""One tiny run, trained once, and the command line called in this process."""

import contextlib
import io
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import QUICK, WORDS, Answer
from trainings import judge_little, measure_once

from lucidlm.cli import main


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a book and texts that cannot be read as one."""
    folder = tmp_path_factory.mktemp("cli")
    draw = random.Random(0)
    book = "".join(" ".join(draw.choice(WORDS) for _ in range(8)).capitalize() + ".\n" for _ in range(60))
    (folder / "book.txt").write_text(book, encoding="utf-8")
    (folder / "other.txt").write_text("Nobody knew the house.\n" * 10, encoding="utf-8")
    (folder / "empty.txt").touch()
    (folder / "binary.txt").write_bytes(bytes(range(256)) * 8)
    (folder / "latin.txt").write_bytes("Größe und Güte. ".encode("latin-1") * 20)
    (folder / "wrong.toml").write_text("stepz = 5\n")
    (folder / "broken.toml").write_text("steps = = 5\n")
    (folder / "nothing").mkdir()
    return folder


@pytest.fixture(scope="session")
def squeezed(home: Path, trained: Answer) -> Path:
    """other.txt, compressed by the run in a process of its own."""
    assert trained.code == 0, trained.err
    command = ["compress", "run", "other.txt", "--out", "other.lucz", "--threads", "1"]
    subprocess.run([sys.executable, "-m", "lucidlm", *command], cwd=home, check=True, capture_output=True)
    return home / "other.lucz"


@pytest.fixture(scope="session")
def trained(home: Path) -> Answer:
    """The run that the other tests look at."""
    command = ["train", "book.txt", "--out", "run", "--steps", "6", "--validate-every", "3", *QUICK, "--json"]
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        patch.chdir(home)
        _make_quick(patch)
        code = main(command)
    return Answer(code, out.getvalue(), err.getvalue())


def _make_quick(patch: pytest.MonkeyPatch) -> None:
    from lucidlm.training import start

    patch.setattr(start, "fastest_exact_float32", lambda device: ("stock", "float32: stock"))
    judge_little(patch)
    measure_once(patch)


@pytest.fixture
def call(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., Answer]:
    """call("evaluate", "run", ...): the command in this process, in the folder with the book."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("COLUMNS", "200")
    _make_quick(monkeypatch)

    def run(*arguments: str) -> Answer:
        capsys.readouterr()
        if arguments[0] in ("evaluate", "explain", "generate", "compare", "compress", "decompress"):
            arguments = (*arguments, "--threads", "1")
        try:
            code = main(arguments)
        except SystemExit as stopped:
            code = stopped.code
        if arguments[0] in ("import", "export"):  # which take all processors
            torch.set_num_threads(1)
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return run


@pytest.fixture
def answer(call: Callable[..., Answer], trained: Answer) -> Callable[..., Answer]:
    """answer("evaluate", "run", ...): the same, where a run is needed and the command must succeed."""
    assert trained.code == 0, trained.err

    def run(*arguments: str) -> Answer:
        answered = call(*arguments)
        assert answered.code == 0, answered.err
        return answered

    return run
