"""The table of runs fits the terminal: a line a run, columns left out in a known order, all in CSV."""

import csv
import json
import os
from pathlib import Path

import pytest

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
    monkeypatch.setattr("lucidlm.runs.folder.list_runs", lambda folder: iter(rows))
    monkeypatch.setattr("lucidlm.runs.folder.row_of", rows.get)


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
