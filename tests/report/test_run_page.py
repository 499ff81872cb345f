import base64
import dataclasses
import gzip
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from selectolax.lexbor import LexborHTMLParser

from lucidlm.measure.baselines import FEWEST_BYTES
from lucidlm.pages import page
from lucidlm.report.memorization import facts_of
from lucidlm.report.run_page import MOST_SAMPLES, SHOWN_ABOVE, write_report
from lucidlm.report.verdict import too_few_bytes, too_little_text
from lucidlm.runs.history import METRICS, SAMPLES
from lucidlm.text import reasons
from lucidlm.text.account import Account
from lucidlm.text.corpus import validation_documents


@pytest.fixture
def run(tmp_path):
    """A run's metrics and samples: a loss that falls, then rises."""
    steps = [
        {"event": "step", "step": step, "epoch": 0.1, "tokens": step, "loss_nats": 5 - step / 2000,
         "learning_rate_factor": 1.0, "grad_norm": 1.0, "tokens_per_s": 1.0, "mfu": None, "time_s": 1.0}
        for step in range(1, 4001)
    ]  # fmt: skip
    sides = ("validation", "training")
    validations = [
        {"event": "validation", "step": step, "epoch": 0.1, "time_s": 1.0}
        | {f"{side}_loss_nats": loss for side, loss in zip(sides, losses, strict=True)}
        | {f"{side}_{name}": 1.0 for side in sides for name in ("perplexity", "bits_per_byte", "tokens")}
        for step, losses in {1: (5.5, 5.5), 2000: (3.0, 2.5), 4000: (3.6, 1.2)}.items()
    ]
    (tmp_path / METRICS).write_text("".join(json.dumps(row) + "\n" for row in steps + validations))
    samples = [{"step": step, "prompt": "<i>The", "text": f" tide {step}"} for step in range(0, 4001, 100)]
    (tmp_path / SAMPLES).write_text("".join(json.dumps(row) + "\n" for row in samples))
    return tmp_path


def page_of(path) -> LexborHTMLParser:
    return LexborHTMLParser(path.read_text(encoding="utf-8"))


def test_the_report_of_a_run_holds_its_numbers_curves_and_samples(assessment, run):
    write_report(
        run / "report.html", assessment, title="tide", run=run, environment={"torch": "2", "gpu": None}
    )
    page = page_of(run / "report.html")
    charts = json.loads(page.css_first("#charts").text())
    (curves,) = charts["curves"]
    assert curves["best"] == [2000, 3.0]
    assert curves["validation"] == [[1, 5.5], [2000, 3.0], [4000, 3.6]]
    assert curves["training"] == [[1, 5.5], [2000, 2.5], [4000, 1.2]]
    lines = dict(charts["lines"])
    nats_per_bit = math.log(2) * assessment.evaluation.bytes_scored / assessment.evaluation.tokens_scored
    assert lines["xz"] == pytest.approx(assessment.baselines["xz"].bits_per_byte * nats_per_bit)
    tokens = assessment.evaluation.tokens_scored
    for name, place in (("position", 2), ("frequency", 2), ("reliability", 2)):
        assert sum(row[place] for row in charts[name]) == tokens
        few = [row[place] < 30 for row in charts[name]]
        assert [row[-1] for row in charts[name]] == few  # drawn hollow
    shown = page.body.text()
    for part in ("tide", f"{assessment.evaluation.bits_per_byte:.4f}", "95 % interval", "this model", "xz"):
        assert part in shown
    ladder = [[cell.text() for cell in row.css("td")] for row in page.css("table.ladder tr")][1:]
    assert [[row["name"], f"{row['bits']:.4f}", row["gap"], row["kind"], row["sees"]]
            for row in assessment.ladder.rows()] == [[*row[:2], *row[3:]] for row in ladder]  # fmt: skip
    assert len(page.css("table.ladder tr.ours")) == 1
    drawn = [svg.attributes["class"].removeprefix("interval ") for svg in page.css("table.ladder svg")]
    assert drawn == [
        assessment.ladder[row["code"]].outcome for row in assessment.ladder.rows() if not row["ours"]
    ]
    for fact in facts_of(assessment.memorization):
        assert fact in shown
    samples = page.css("details:not(.places)")
    assert 2 < len(samples) <= MOST_SAMPLES
    assert "<i>The tide 4000" in samples[-1].text()
    assert "open" in samples[-1].attributes
    assert "torch" in [cell.text() for cell in page.css("table.facts th")]
    assert "gpu" not in [cell.text() for cell in page.css("table.facts th")]


def test_the_page_brings_the_chart_library_and_fetches_nothing(assessment, tmp_path):
    from plotly.offline import get_plotlyjs

    write_report(tmp_path / "report.html", assessment, title="tide")
    page = page_of(tmp_path / "report.html")
    packed = page.css_first("#library").text().strip()
    assert gzip.decompress(base64.b64decode(packed)).decode() == get_plotlyjs()
    text = (tmp_path / "report.html").read_text(encoding="utf-8").replace(packed, "")
    assert not re.search(r"https?://|src=|@import|url\(|<link", text)
    assert (tmp_path / "report.html").stat().st_size < 2.5e6
    assert "curves" not in json.loads(page.css_first("#charts").text())
    assert page.css_first("#curves") is None


def test_a_page_without_a_corpus_has_no_baselines_and_no_memorization(assessment, tmp_path):
    alone = dataclasses.replace(assessment, baselines=None, ladder=None, memorization=None, sentences=())
    write_report(tmp_path / "report.html", alone, title="alone")
    page = page_of(tmp_path / "report.html")
    assert page.css_first(".verdict") is None
    assert page.css_first("table.ladder") is None
    assert "Memorization" not in [heading.text() for heading in page.css("h2")]


def test_numbers_that_are_infinite_do_not_break_the_page(assessment, run):
    text = (run / METRICS).read_text().replace('"validation_loss_nats": 5.5', '"validation_loss_nats": NaN')
    (run / METRICS).write_text(text)
    write_report(run / "report.html", assessment, title="tide", run=run)

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    charts = page_of(run / "report.html").css_first("#charts").text()
    assert json.loads(charts, parse_constant=refuse)["curves"][0]["validation"][0] == [1, None]


def test_a_page_has_every_row_that_the_terminal_has(assessment, tmp_path):
    account = Account(read=4000, files=1, stored=4000)
    account.leave_out(reasons.CARRIAGE_RETURNS, 100)
    account.saw(reasons.SURROGATES, 3)
    evaluation = dataclasses.replace(assessment.evaluation, account=account, bytes_spelled=7)
    write_report(tmp_path / "r.html", dataclasses.replace(assessment, evaluation=evaluation), title="tide")
    shown = page_of(tmp_path / "r.html").body.text()
    rows = evaluation.rows()
    assert {"certainty", "scored", "left out", "read", "changed"} | SHOWN_ABOVE <= {
        name for name, _, _ in rows
    }
    for name, value, _ in rows:
        if name not in SHOWN_ABOVE or name == "certainty":
            assert value in shown


def test_a_curve_of_a_sample_says_so(assessment, run):
    write_report(run / "report.html", assessment, title="tide", run=run)
    assert "sample:" not in page_of(run / "report.html").body.text()
    lines = (run / METRICS).read_text().replace('"validation_tokens": 1.0', '"validation_tokens": 770')
    (run / METRICS).write_text(
        lines.replace('"event": "validation"', '"event": "validation", "heldout_tokens": 7700')
    )
    write_report(run / "report.html", assessment, title="tide", run=run)
    assert "(sample: 770 of 7,700 tokens)" in page_of(run / "report.html").body.text()


def test_a_page_is_whole_or_not_there(assessment, tmp_path):
    class Odd:
        """A name in the last table that cannot be written: most of the page is written by then."""

        def __str__(self):
            raise ZeroDivisionError

    (tmp_path / "report.html").write_text("before")
    with pytest.raises(ZeroDivisionError):
        write_report(tmp_path / "report.html", assessment, title="tide", environment={Odd(): "1"})
    assert (tmp_path / "report.html").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_no_rule_of_the_page_reaches_into_the_charts():
    """Plotly draws bars in a group of class "bars": a rule for the table's column once hid them at 400 px."""
    look = (Path(page.__file__).parent / "templates" / "look.css").read_text(encoding="utf-8")
    of_charts = {"bars", "points", "point", "lines", "trace", "plot", "legend", "xaxis", "yaxis"}
    loose = re.findall(r"(?<![\w\])])\.([\w-]+)", re.sub(r"\{[^}]*\}", "", look))
    assert not of_charts.intersection(loose)


@pytest.mark.parametrize("count", [1, FEWEST_BYTES - 1, FEWEST_BYTES])
def test_a_text_of_few_bytes_is_compared_with_no_compressor_and_said_so(assessed, count, tmp_path):
    text = np.frombuffer(("The tide came in. " * 30).encode()[:count], np.uint8).astype(np.uint16)
    found = assessed([text])
    enough = count >= FEWEST_BYTES
    assert (found.ladder is not None) == (found.baselines is not None) == enough
    assert (too_few_bytes(count) in found.sentences) != enough
    assert len(found.sentences) == len(set(found.sentences))
    assert not re.search(r"(?<![\d,.])1 (tokens|bytes|documents|pieces|blocks)\b", str(found))
    assert (found.to_dict()["ladder"] is None) != enough
    write_report(tmp_path / "page.html", found, title="few", subtitle="")


def test_a_sample_is_called_so_beside_each_number_and_on_the_ladder(assessed, corpus, tmp_path):
    heldout = [*validation_documents(corpus)]
    total = corpus.heldout_tokens
    part = heldout[::2]
    scored = sum(len(excerpt.ids) for excerpt in part)
    result = assessed(part, sample_of=total)
    mark = f"sample: {scored:,} of {total:,} tokens"
    assert result.evaluation.caution == mark
    assert sum(mark in line for line in str(result.ladder).splitlines()) == 1
    assert sum(mark in sentence for sentence in result.sentences) == 1
    write_report(tmp_path / "report.html", result, title="part")
    assert page_of(tmp_path / "report.html").css_first(".figures").text().count(mark) == 4
    whole = assessed(heldout, sample_of=total)
    assert whole.evaluation.sample_of is None
    assert whole.evaluation.tokens_total == total


def test_a_handful_of_held_out_tokens_has_no_verdict_and_its_bars_are_marked(assessed, corpus, tmp_path):
    first = next(iter(validation_documents(corpus)))
    result = assessed([first.part(0, 20)])
    assert too_little_text(20) in result.sentences
    assert not any("bits per byte" in sentence for sentence in result.sentences)
    write_report(tmp_path / "report.html", result, title="few")
    charts = json.loads(page_of(tmp_path / "report.html").css_first("#charts").text())
    for name in ("position", "frequency", "reliability"):
        assert all(row[-1] for row in charts[name])


def test_a_page_says_that_the_paragraph_is_read_alone_where_pieces_were_not(assessed, corpus, tmp_path):
    documents = [*validation_documents(corpus)]
    for design in ("strata", None):
        found = assessed(documents, design=design)
        write_report(tmp_path / "page.html", found, title="a run")
        noted = page_of(tmp_path / "page.html").css_first("p.alone") is not None
        assert noted == found.evaluation.protocol.in_pieces == (design == "strata")
