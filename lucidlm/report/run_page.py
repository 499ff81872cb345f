"""One HTML page that says it all: a judgement and, of a run, its history in; verdict, curves and samples out.

The page holds its data, its script and the chart library, and fetches nothing.
"""

import base64
import gzip
import math
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lucidlm.measure.diagnosis import FEW
from lucidlm.measure.explanation import page_values
from lucidlm.pages.page import in_script, write_page
from lucidlm.report.assessment import Judgement
from lucidlm.runs.history import SAMPLES, History, read_events, read_history
from lucidlm.runtime.wording import plural

REPORT = "report.html"
MOST_POINTS = 1500
"""A curve of more steps is drawn by the means of neighbours: no screen has more points."""
MOST_SAMPLES = 12
SHOWN_ABOVE = {"loss", "perplexity", "bits per byte", "first choice", "rank", "calibration", "certainty"}
"""Rows of an evaluation that have a place of their own on the page."""


def write_report(
    path: str | os.PathLike,
    judgement: Judgement,
    *,
    title: str,
    subtitle: str = "",
    run: Path | None = None,
    environment: Mapping[str, Any] | None = None,
) -> None:
    """The page at `path`; with `run`, its curves and its samples are in it too."""
    history = read_history(run) if run is not None else None
    if history is not None and not history.validations:
        history = None
    explanation = judgement.explanation
    write_page(
        path,
        "report.html",
        title=title,
        subtitle=subtitle,
        judgement=judgement,
        evaluation=judgement.evaluation,
        ladder=_ladder(judgement),
        few=FEW,
        facts=[row[:2] for row in judgement.evaluation.rows() if row[0] not in SHOWN_ABOVE],
        history=history,
        validated=_validated_on(history) if history is not None else "",
        charts=in_script(_charts(judgement, history)),
        library=_library(),
        samples=_samples(run) if run is not None else [],
        explained=page_values(explanation) if explanation is not None else None,
        environment={
            name: _readable(value) for name, value in (environment or {}).items() if value is not None
        },
    )


@cache
def _library() -> str:
    """plotly.js, compressed: the browser unpacks it, and the page stays under 2.5 MB."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode("utf-8"), mtime=0)).decode("ascii")


def _ladder(judgement: Judgement) -> list[dict[str, Any]]:
    """The baselines and the model, worst first, each with the width of its bar in percent."""
    if judgement.ladder is None:
        return []
    rows = judgement.ladder.rows()
    most = max(row["bits"] for row in rows)
    return [row | {"width": 100 * row["bits"] / most} for row in rows]


def _charts(judgement: Judgement, history: History | None) -> dict[str, Any]:
    """What report.js draws: numbers in nats, and how to turn them into bits per byte."""
    evaluation, diagnosis = judgement.evaluation, judgement.evaluation.diagnosis
    bytes_per_token = (
        evaluation.bytes_scored / evaluation.tokens_scored if evaluation.bytes_scored else math.nan
    )
    charts: dict[str, Any] = {
        "bits_per_nat": _finite(1 / (math.log(2) * bytes_per_token)) if bytes_per_token else None,
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
        charts["curves"] = _curves(history)
        if judgement.baselines is not None and bytes_per_token:
            charts["lines"] = [
                [row.name, row.bits_per_byte * math.log(2) * bytes_per_token]
                for row in judgement.baselines.rows
            ]
    return charts


def _group(group: Any) -> list[Any]:
    name = f"{group.low:,}" if group.low == group.high else f"{group.low:,} to {group.high:,}"
    return [name, group.loss_nats, group.tokens, group.tokens < FEW]


def _curves(history: History) -> dict[str, Any]:
    """Steps and losses of the batches, thinned to means, and of the validations."""
    size = -(-len(history.steps) // MOST_POINTS)
    pieces = [history.steps[start : start + size] for start in range(0, len(history.steps), max(1, size))]
    best = history.best
    return {
        "batch": [
            [piece[-1].step for piece in pieces],
            [_finite(sum(step.loss_nats for step in piece) / len(piece)) for piece in pieces],
        ],
        "steps": [each.step for each in history.validations],
        "validation": [_finite(each.validation_loss_nats) for each in history.validations],
        "training": [_finite(each.training_loss_nats) for each in history.validations],
        "best": best.step if best is not None else None,
    }


def _validated_on(history: History) -> str:
    """What the curve's points are of, where that is a part of the held-out text."""
    last = history.validations[-1]
    if last.heldout_tokens is None or last.validation_tokens >= last.heldout_tokens:
        return ""
    return f"sample: {last.validation_tokens:,} of {plural(last.heldout_tokens, 'token')}"


def _readable(value: Any) -> str:
    """A value of env.json as a person would write it."""
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {item}" for name, item in value.items())
    return "; ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _samples(run: Path) -> Sequence[dict[str, Any]]:
    """What the run wrote after some of its steps, the last one among them."""
    samples = list(read_events(run / SAMPLES))
    every = -(-len(samples) // MOST_SAMPLES) if samples else 1
    return samples[::-1][::every][::-1]
