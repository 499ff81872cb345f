"""The examples and the README's commands, run as a reader would run them."""

import os
import re
import shlex
import subprocess
import sys
import webbrowser
from pathlib import Path

import pytest
import torch
from trainings import judge_little, measure_once

from lucidlm.cli import main
from lucidlm.serve import listening

ROOT = Path(__file__).parent.parent
BOOK = "The tide came in and the tide went out. Nobody on the quay wrote it down but Anna. " * 40


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess:
    """Runs Python in a folder, one thread, no network's environment; its output is text."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_the_lecture_example_ends_at_the_lectures_numbers(tmp_path):
    printed = run([str(ROOT / "examples" / "lecture.py")], tmp_path).stdout
    assert "' Armed heNetflix'" in printed
    assert "cross entropy               10.7940" in printed
    assert re.search(r"exp = perplexity +48,725\.[78]", printed)


def test_the_attention_example_shows_that_no_token_sees_a_later_one(tmp_path):
    printed = run([str(ROOT / "examples" / "attention.py")], tmp_path).stdout
    assert "outputs before it changed: False" in printed
    assert "its own output changed:    True" in printed


def test_the_example_of_an_own_book_trains_and_measures(tmp_path):
    (tmp_path / "book.txt").write_text(BOOK)
    printed = run([str(ROOT / "examples" / "own_book.py"), "book.txt", "run", "0.02"], tmp_path).stdout
    assert "validation loss" in printed
    assert "bits per byte" in printed
    assert (tmp_path / "run" / "model.safetensors").exists()


def readme_commands() -> list[list[str]]:
    """The lines of the README's shell blocks that call lucidlm, in order."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("lucidlm ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def quicker(command: list[str]) -> list[str]:
    """The same command in seconds instead of minutes."""
    shorter = {"--minutes": "0.02", "--steps": "3"}
    return [shorter.get(before, word) for before, word in zip(["", *command], command, strict=False)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_command_of_the_readme_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    judge_little(monkeypatch)
    measure_once(monkeypatch)
    commands = readme_commands()
    assert len(commands) >= 6
    (tmp_path / "book.txt").write_text(BOOK)
    (tmp_path / "more.txt").write_text(BOOK[::-1])
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) is None)
    # It would serve until a signal comes: here until it is ready.
    monkeypatch.setattr(listening, "serve", lambda app, sock, ready: ready())
    for command in commands:
        if command[0] == "compress":  # token by token: the beginning is enough
            (tmp_path / "book.txt").write_text(BOOK[:500])
        code = main(quicker(command))  # in this process: importing PyTorch takes seconds each time
        torch.set_num_threads(1)
        assert code == 0, (command, capsys.readouterr().err)
    assert [address.startswith("http://127.0.0.1:") for address in opened] == [True]


def test_the_readme_is_narrow_and_names_tests_that_exist():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 100] == []
    named = re.findall(r"`(\w+/test_\w+\.py)`", "\n".join(lines))
    assert len(named) > 10
    assert [name for name in named if not (ROOT / "tests" / name).exists()] == []


@pytest.mark.slow
def test_the_python_of_the_readme_runs_as_it_stands(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    (tmp_path / "book.txt").write_text(BOOK)
    (tmp_path / "more.txt").write_text(BOOK[::-1])
    for block in blocks:
        run(["-c", block.replace("minutes=3", "minutes=0.02")], tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_lectures_notebook_shows_what_it_computes_when_run_again(tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shown = nbformat.read(ROOT / "examples" / "lecture.ipynb", as_version=4)
    again = nbformat.from_dict(shown)
    for cell in again.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(again, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for cell in (each for each in again.cells if each.cell_type == "code"):
        assert not [output for output in cell.outputs if output.output_type == "error"]
    texts = ["".join(str(cell.get("outputs", "")) for cell in book.cells) for book in (shown, again)]
    for part in (
        "7.4540e-05",
        "10.7940",
        "48,725.",
        "' Armed heNetflix'",
        "95 % interval",
        "162,419,712",
        "PPMd",
    ):
        assert all(part in text for text in texts), part
    assert all("text/html" in text and "lucid-explained" in text for text in texts)
