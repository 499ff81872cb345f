"""The table of runs fits the terminal: a line a run, columns left out in a known order, all in CSV."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
from command_line import shown

from lucidlm.cli import main
from lucidlm.cli.listing import COLUMNS, DROPPED_FIRST, table

FINISHED = {
    "run": "runs/verdict", "text": ["the-verdict.txt"], "parameters": 1_250_000, "tokens": 81_920, "seed": 7,
    "status": "finished", "steps": 40, "planned_steps": 40, "best_step": 30, "validation_loss_nats": 2.5,
    "perplexity": 12.18, "bits_per_byte": 3.6067, "bits_low": 3.5, "bits_high": 3.7,
    "validation_tokens": 1, "heldout_tokens": 1, "dtype": "float32", "threads": 1, "problems": [],
}  # fmt: skip
TRAINING = FINISHED | {
    "run": "runs/b",
    "status": "training",
    "steps": 12,
    "bits_low": None,
    "bits_high": None,
}
BROKEN = dict.fromkeys(FINISHED) | {
    "run": "runs/torn",
    "status": "broken",
    "steps": 0,
    "problems": ["no end"],
}
ROWS = [FINISHED, TRAINING, BROKEN]


def test_every_column_is_shown_where_there_is_room_and_each_run_has_one_line():
    lines, hidden = table(ROWS, None)
    assert hidden == []
    assert lines[0].split("  ")[0] == "run"
    for cell in ("1.25M", "81.9k", "the-verdict.txt", "3.6067", "3.500 to 3.700", "2.5000", "float32", "7"):
        assert cell in lines[1]
    assert "12 of 40" in lines[2]
    assert lines[3].split() == ["runs/torn", "broken", "0"]
    assert lines[4:] == ["runs/torn: no end"]


@pytest.mark.parametrize("width", [200, 100, 80, 60, 40, 25, 12])
def test_a_narrow_terminal_loses_columns_and_no_row_is_broken(width):
    lines, hidden = table(ROWS[:2], width)
    assert len(lines) == 3
    assert max(map(len, lines)) <= width
    assert set(hidden) == {COLUMNS[name].title for name in DROPPED_FIRST[: len(hidden)]}
    assert [line.split()[0] for line in lines] == ["run", "runs/verdict", "runs/b"]


def test_a_terminal_of_80_columns_shows_status_loss_and_bits_with_their_interval():
    lines, _ = table(ROWS, 80)
    for title in ("run", "status", "bits/byte", "95 % interval", "loss", "steps"):
        assert title in lines[0]


def test_a_newline_in_a_name_breaks_no_row():
    assert len(table([FINISHED | {"run": "two\nlines"}], None)[0]) == 2


@pytest.fixture
def three_runs(monkeypatch):
    rows = {Path(row["run"]): row for row in ROWS}
    monkeypatch.setattr("lucidlm.runs.listing.list_runs", lambda folder: iter(rows))
    monkeypatch.setattr("lucidlm.runs.listing.row_of", rows.get)


def test_runs_are_sorted_by_a_column_and_those_without_a_value_come_last(three_runs, capsys):
    listed = {}
    for column in COLUMNS.keys() - {"interval"}:
        assert main(["runs", "--sort", column, "--json"]) == 0
        listed[column] = [row["run"] for row in json.loads(capsys.readouterr().out)]
    assert listed["name"] == ["runs/b", "runs/torn", "runs/verdict"]
    assert listed["steps"] == ["runs/torn", "runs/b", "runs/verdict"]
    assert all(listed[column][-1] == "runs/torn" for column in ("loss", "bits", "seed", "dtype", "tokens"))


def test_csv_has_the_columns_of_json(three_runs, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["runs", "--csv", "table.csv"]) == 0
    with open("table.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(FINISHED)
    assert [row["run"] for row in rows] == [row["run"] for row in ROWS]
    assert (rows[0]["bits_per_byte"], rows[2]["problems"]) == ("3.6067", "no end")
    assert os.listdir() == ["table.csv"]


def test_runs_are_listed_with_their_best_loss(answer, trained):
    rows = shown(answer("runs", ".", "--json").out)
    mine = next(row for row in rows if Path(row["run"]) == Path("run"))
    assert (mine["steps"], mine["best_step"]) == (6, shown(trained.out)["best_step"])
    assert f"{mine['validation_loss_nats']:.4f}" in answer("runs", ".").out
    for name in ("bits_per_byte", "perplexity"):
        assert mine[name] == shown(trained.out)[name]
    assert mine["validation_tokens"] == shown(trained.out)["tokens_scored"]
    evaluation = shown(answer("info", "run", "--json").out)["evaluation"]
    assert evaluation["bits_per_byte"] == mine["bits_per_byte"]
    assert f"{mine['bits_per_byte']:.4f} bits per byte" in answer("info", "run").out


def test_a_run_that_was_killed_is_called_so_by_each_verb_and_in_its_report(answer, home, tmp_path):
    shutil.copytree(home / "run", home / "killed")
    lines = (home / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    assert '"end"' in lines[-1]
    (home / "killed" / "metrics.jsonl").write_text("".join(lines[:-1]), encoding="utf-8")
    said = "killed was interrupted at step 6 of 6"
    rows = {row["run"]: row for row in shown(answer("runs", ".", "--json").out)}
    assert (rows["killed"]["status"], rows["run"]["status"]) == ("interrupted", "finished")
    assert (rows["run"]["dtype"], rows["run"]["threads"]) == ("float32", 1)
    assert said in shown(answer("info", "killed", "--json").out)["verdict"]
    assert "interrupted" not in shown(answer("info", "run", "--json").out)["verdict"]
    evaluated = answer("evaluate", "killed", "--no-baselines", "--html", "killed.html").out
    assert evaluated.startswith(said)
    assert said in (home / "killed.html").read_text(encoding="utf-8")
    for command in (
        ("compare", "killed", "modern-1m", "other.txt"),
        ("compare", "modern-1m", "killed", "other.txt"),
        ("generate", "killed", "A", "--max-new-tokens", "2"),
        ("explain", "killed", "A house"),
        ("compress", "killed", "other.txt", "--out", str(tmp_path / "killed.lucz")),
        ("export", "killed", "--out", str(tmp_path / "killed")),
    ):
        told = answer(*command)
        assert [line.startswith(said) for line in told.lines].count(True) == 1, command
        assert "interrupted" not in told.out
    assert "interrupted" not in answer("generate", "run", "A", "--max-new-tokens", "2").err
    shutil.rmtree(home / "killed")


def test_no_runs_is_no_error(call):
    listed = call("runs", "nothing")
    assert (listed.code, listed.out) == (0, "")
    assert "no runs in nothing" in listed.err
    assert shown(call("runs", "nothing", "--json").out) == []
