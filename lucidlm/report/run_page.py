"""The report page: an assessment and, for a run, its history in; verdict, curves and samples out.

The page holds its data, its script and the chart library, and fetches nothing.
"""

import base64
import gzip
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from lucidlm.measure.baseline import ADAPTS, STATIC
from lucidlm.measure.diagnosis import FEW
from lucidlm.measure.explanation import page_values
from lucidlm.pages.page import in_script, write_page
from lucidlm.report.assessment import Assessment
from lucidlm.report.curves import curves_of, finite
from lucidlm.report.ladder import Rung
from lucidlm.report.memorization import facts_of
from lucidlm.runs.history import SAMPLES, History, read_history
from lucidlm.runs.records import read_events
from lucidlm.runtime.wording import plural

REPORT = "report.html"
MOST_SAMPLES = 12
SHOWN_ABOVE = {"loss", "perplexity", "bits per byte", "accuracy", "rank", "calibration", "certainty"}
"""Rows of an evaluation that the page shows in other places."""


def write_report(
    path: str | os.PathLike,
    assessment: Assessment,
    *,
    title: str,
    subtitle: str = "",
    run: Path | None = None,
    environment: Mapping[str, Any] | None = None,
) -> None:
    """Writes the page to `path`; with `run`, also the curves and samples of that run."""
    history = read_history(run) if run is not None else None
    if history is not None and not history.validations:
        history = None
    explanation = assessment.explanation
    write_page(
        path,
        "report.html",
        title=title,
        subtitle=subtitle,
        assessment=assessment,
        evaluation=assessment.evaluation,
        ladder=_ladder(assessment),
        few=FEW,
        memorization_facts=facts_of(assessment.memorization) if assessment.memorization else [],
        facts=[row[:2] for row in assessment.evaluation.rows() if row[0] not in SHOWN_ABOVE],
        history=history,
        validated=_validated_on(history) if history is not None else "",
        charts=in_script(_charts(assessment, history, title)),
        library=_library(),
        samples=_samples(run) if run is not None else [],
        explained=page_values(explanation) if explanation is not None else None,
        environment={
            name: _readable(value) for name, value in (environment or {}).items() if value is not None
        },
    )


def write_runs(path: str | os.PathLike, runs: Mapping[str, History]) -> None:
    """A page with the curves of several runs on one axis; each has at least one validation."""
    curves = [curves_of(history, name) for name, history in runs.items()]
    write_page(
        path,
        "runs.html",
        title=", ".join(runs),
        rows=[{"name": name, "steps": each.last_step, "best": each.best} for name, each in runs.items()],
        charts=in_script({"curves": [each.to_dict() for each in curves]}),
        library=_library(),
    )


@cache
def _library() -> str:
    """plotly.js, compressed: the browser unpacks it, and the page stays under 2.5 MB."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode("utf-8"), mtime=0)).decode("ascii")


def _ladder(assessment: Assessment) -> list[dict[str, Any]]:
    """The baselines and the model, worst first, each difference as the page draws it."""
    ladder = assessment.ladder
    if ladder is None:
        return []
    nearest = (ladder.best(STATIC), ladder.best(ADAPTS))
    reach = 1.2 * max(abs(end) for rung in nearest for end in _ends(rung)) or 1.0
    return [
        row | {"drawn": None if row["ours"] else _drawn(ladder[row["code"]], reach)} for row in ladder.rows()
    ]


def _ends(rung: Rung) -> tuple[float, ...]:
    ends = () if rung.interval is None else (rung.interval.low, rung.interval.high)
    return (rung.difference, *ends)


def _drawn(rung: Rung, reach: float) -> dict[str, Any]:
    """The difference on a line of 100 units, 0 at 50; beyond: the side on which it lies outside of the line.

    The line reaches as far as the best baselines of both kinds: these decide.
    """
    places = [round(50 + 48 * end / reach, 1) for end in _ends(rung)]
    at, low, high = places if len(places) == 3 else (places[0], None, None)
    beyond = 0 if abs(rung.difference) <= reach else -1 if rung.difference < 0 else 1
    return {"outcome": rung.outcome, "at": at, "low": low, "high": high, "beyond": beyond}


def _charts(assessment: Assessment, history: History | None, name: str) -> dict[str, Any]:
    """The numbers that charts.js draws: losses in nats, and the factor to bits per byte."""
    evaluation, diagnosis = assessment.evaluation, assessment.evaluation.diagnosis
    bytes_per_token = (
        evaluation.bytes_scored / evaluation.tokens_scored if evaluation.bytes_scored else math.nan
    )
    charts: dict[str, Any] = {
        "bits_per_nat": finite(1 / (math.log(2) * bytes_per_token)) if bytes_per_token else None,
        "reliability": [
            [bin.confidence, bin.accuracy, bin.tokens, bin.low, bin.high, bin.tokens < FEW]
            for bin in diagnosis.reliability
        ],
        "position": [_group(group) for group in diagnosis.by_position],
        "frequency": [_group(group) for group in diagnosis.by_frequency],
        "frequency_of": diagnosis.frequency_of,
        "loss": evaluation.loss_nats,
    }
    if history is not None:
        curves = replace(curves_of(history, name), bits_per_nat=charts["bits_per_nat"])
        charts["curves"] = [curves.to_dict()]
        if assessment.baselines is not None and bytes_per_token:
            charts["lines"] = [
                [row.name, row.bits_per_byte * math.log(2) * bytes_per_token]
                for row in assessment.baselines.rows
            ]
    return charts


def _group(group: Any) -> list[Any]:
    name = f"{group.low:,}" if group.low == group.high else f"{group.low:,} to {group.high:,}"
    return [name, group.loss_nats, group.tokens, group.tokens < FEW]


def _validated_on(history: History) -> str:
    """The number of tokens behind the points of the curve; "" if they come from the whole held-out text."""
    last = history.validations[-1]
    if last.heldout_tokens is None or last.validation_tokens >= last.heldout_tokens:
        return ""
    return f"sample: {last.validation_tokens:,} of {plural(last.heldout_tokens, 'token')}"


def _readable(value: Any) -> str:
    """A value of env.json as text."""
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {item}" for name, item in value.items())
    return "; ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _samples(run: Path) -> Sequence[dict[str, Any]]:
    """The samples of at most MOST_SAMPLES steps of the run, always with the last one."""
    samples = list(read_events(run / SAMPLES))
    every = -(-len(samples) // MOST_SAMPLES) if samples else 1
    return samples[::-1][::every][::-1]
