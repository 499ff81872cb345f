"""The curves of a run are its records: thinned, with each unit, as a table and on one axis with others."""

import csv
import io
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from histories import BEND, FALL, TRAIN, curve, taken, validation
from selectolax.lexbor import LexborHTMLParser

from lucidlm.cli import main
from lucidlm.report.curves import MOST_POINTS, chart_of, curves_of, rows_of, table_of, thinned, thinning
from lucidlm.report.run_page import write_runs
from lucidlm.runs.history import METRICS, History
from lucidlm.runs.records import checked_line

ONE = History(tuple(taken(step, 5 - step / 2000) for step in range(1, 4001)), curve(BEND, TRAIN).validations)
OTHER = curve([math.nan, *FALL[1:]], TRAIN)


def test_batches_are_thinned_to_means_and_validations_kept_as_they_are():
    curves = curves_of(ONE, "one")
    assert 1000 < len(curves.batch) <= MOST_POINTS
    assert np.mean([loss for _, loss in curves.batch]) == pytest.approx(4.0, abs=0.01)
    assert curves.validation == tuple((10 * place, loss) for place, loss in enumerate(BEND, start=1))
    assert curves.best == (40, 3.0)
    assert curves.bits_per_nat == 0.5


def test_a_chart_of_one_run_has_its_batches_and_one_of_several_has_a_colour_for_each():
    one = chart_of([curves_of(ONE, "one")])
    assert [each.kind for each in one.curves] == ["thin", "dashed", "solid"]
    both = chart_of([curves_of(ONE, "one"), curves_of(OTHER, "other")], "bits")
    assert [(each.colour, each.kind) for each in both.curves] == [
        (0, "dashed"), (0, "solid"), (1, "dashed"), (1, "solid")
    ]  # fmt: skip
    assert both.curves[1].values == [loss / 2 for loss in BEND]
    assert both.curves[3].values[0] is None
    assert chart_of([curves_of(ONE, "one")], "perplexity").stars == [(40, math.exp(3.0), 0)]


def test_the_table_has_a_row_for_each_point_in_each_unit():
    rows = list(csv.DictReader(io.StringIO(table_of([curves_of(ONE, "a, b"), curves_of(OTHER, "other")]))))
    assert {row["run"] for row in rows} == {"a, b", "other"}
    validated = [row for row in rows if (row["run"], row["curve"]) == ("a, b", "validation")]
    assert [(int(row["step"]), float(row["loss_nats"])) for row in validated] == [
        (10 * place, loss) for place, loss in enumerate(BEND, start=1)
    ]
    assert float(validated[3]["perplexity"]) == pytest.approx(math.exp(3.0))
    assert float(validated[3]["bits_per_byte"]) == 1.5
    nan = next(row for row in rows if (row["run"], row["curve"]) == ("other", "validation"))
    assert (nan["loss_nats"], nan["perplexity"]) == ("", "")


def test_a_page_of_several_runs_names_each(tmp_path):
    write_runs(tmp_path / "page.html", {"one": ONE, "other": OTHER})
    page = LexborHTMLParser((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert [row.css_first("td").text() for row in page.css("table tr")[1:]] == ["one", "other"]
    assert page.css_first("#curves") is not None


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, history in (("one", ONE), ("two", curve(FALL, TRAIN)), ("empty", History((), ()))):
        (tmp_path / name).mkdir()
        rows = [{"event": "validation"} | asdict(each) for each in history.validations]
        lines = "".join(checked_line(row, number) for number, row in enumerate(rows, start=1))
        (tmp_path / name / METRICS).write_text(lines, encoding="utf-8")
    return tmp_path


def test_report_writes_what_was_asked_for(runs, capsys):
    assert main(["report", "one", "two", "--svg", "a/b.svg", "--csv", "b.csv", "--html", "b.html"]) == 0
    assert (runs / "a" / "b.svg").read_text().startswith("<svg")
    assert "two,validation,110,3.001," in (runs / "b.csv").read_text()
    assert "<h1>one, two</h1>" in (runs / "b.html").read_text()
    assert main(["report", "one", "--svg", "bits.svg", "--unit", "bits"]) == 0
    assert "bits per byte" in (runs / "bits.svg").read_text()


@pytest.mark.parametrize(
    "words", ["", "one", "empty --csv a.csv", "nowhere --svg a.svg", "one --svg one/metrics.jsonl"]
)
def test_report_says_what_is_missing_and_writes_nothing(runs, words, capsys):
    before = (runs / "one" / METRICS).read_bytes()
    assert main(["report", *words.split()]) == 2
    assert capsys.readouterr().err.startswith("lucidlm: ")
    assert not list(runs.glob("a.*"))
    assert (runs / "one" / METRICS).read_bytes() == before


def test_a_point_has_its_tokens_and_seconds_too_and_a_resumed_clock_goes_on():
    before = [replace(taken(step), time_s=time_s) for step, time_s in ((1, 2.0), (2, 3.0))]
    resumed = [replace(taken(step), time_s=time_s) for step, time_s in ((3, 0.5), (4, 1.5))]
    validations = [
        replace(validation(step, 3.5), time_s=time_s) for step, time_s in ((0, 1.0), (2, 4.0), (4, 2.0))
    ]
    rows = rows_of(History((*before, *resumed), tuple(validations)))
    assert [(step, tokens, time_s) for step, _, tokens, time_s in rows.batch] == [
        (1, 64, 2.0), (2, 128, 3.0), (3, 192, 4.5), (4, 256, 5.5)
    ]  # fmt: skip
    assert rows.validation == ((0, 3.5, 0, 1.0), (2, 3.5, 128, 4.0), (4, 3.5, 256, 6.0))
    assert [loss for _, loss, *_ in rows.training] == [2.9, 2.9, 2.9]


def test_thinned_points_are_means_at_the_place_of_the_last():
    rows = tuple((step, float(step), 10 * step, step / 2) for step in range(1, 8))
    assert thinned(rows, 3) == ((3, 2.0, 30, 1.5), (6, 5.0, 60, 3.0), (7, 7.0, 70, 3.5))
    assert thinned(((1, None, 10, 0.5), *rows[1:2]), 2) == ((2, None, 20, 1.0),)
    assert [thinning(steps) for steps in (0, 1, MOST_POINTS, MOST_POINTS + 1)] == [1, 1, 1, 2]
