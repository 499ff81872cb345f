"""The losses of runs as curves: histories in; charts, a table for CSV and numbers for a page's script out."""

import csv
import io
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lucidlm.pages.charts import Chart, Curve, svg
from lucidlm.runs.history import History, Validation
from lucidlm.runtime.files import write_atomically

Unit = Literal["nats", "bits", "perplexity"]
UNITS: dict[Unit, str] = {"nats": "loss, nats per token", "bits": "bits per byte", "perplexity": "perplexity"}
MOST_POINTS = 1500
"""A curve of more steps is drawn by the means of neighbours: no screen has more points."""
Point = tuple[int, float | None]
Row = tuple[int, float | None, int | None, float]
"""A point with all its places: step, loss in nats per token, tokens trained on, seconds of training."""


@dataclass(frozen=True, slots=True)
class RunCurves:
    """The losses of one run in nats per token, each with its step; None where a loss is not finite."""

    name: str
    batch: tuple[Point, ...]
    """Losses of the training batches, thinned."""
    training: tuple[Point, ...]
    validation: tuple[Point, ...]
    best: Point | None
    bits_per_nat: float | None
    """Bits per byte for a nat per token, on the run's held-out text."""

    def to_dict(self) -> dict[str, Any]:
        """What charts.js draws."""
        return asdict(self)


def curves_of(history: History, name: str) -> RunCurves:
    """The curves of a run, whose name is for the legend."""
    best = history.best
    rows = history.validations
    return RunCurves(
        name,
        tuple(row[:2] for row in thinned(rows_of(history).batch, thinning(len(history.steps)))),
        tuple((each.step, finite(each.training_loss_nats)) for each in rows),
        tuple((each.step, finite(each.validation_loss_nats)) for each in rows),
        (best.step, finite(best.validation_loss_nats)) if best is not None else None,
        bits_per_nat(best),
    )


def bits_per_nat(best: Validation | None) -> float | None:
    """Bits per byte for a nat per token on the text of a validation; None where both are 0, or unknown."""
    if best is None or not best.validation_loss_nats or not best.validation_bits_per_byte:
        return None
    return best.validation_bits_per_byte / best.validation_loss_nats


@dataclass(frozen=True, slots=True)
class Rows:
    """The points of a run's curves over steps, tokens and time; not thinned."""

    batch: tuple[Row, ...]
    training: tuple[Row, ...]
    validation: tuple[Row, ...]


def rows_of(history: History) -> Rows:
    """All points of a run. A resumed run's clock begins again: its seconds are added to those before."""
    steps, validations = history.steps, history.validations
    events = sorted([*((each.step, 0, each.time_s) for each in steps),
                     *((each.step, 1, each.time_s) for each in validations)])  # fmt: skip
    seconds, before, last = dict[tuple[int, int], float](), 0.0, 0.0
    for step, kind, time_s in events:
        if time_s < last:
            before += last
        last = time_s
        seconds[step, kind] = before + time_s
    tokens = {0: 0} | {each.step: each.tokens for each in steps}

    def of(side: Literal["training", "validation"]) -> tuple[Row, ...]:
        losses = (finite(getattr(each, f"{side}_loss_nats")) for each in validations)
        return tuple(
            (each.step, loss, tokens.get(each.step), seconds[each.step, 1])
            for each, loss in zip(validations, losses, strict=True)
        )

    batch = tuple((each.step, finite(each.loss_nats), each.tokens, seconds[each.step, 0]) for each in steps)
    return Rows(batch, of("training"), of("validation"))


def thinning(steps: int) -> int:
    """How many neighbours are one point of a curve of so many steps."""
    return max(1, -(-steps // MOST_POINTS))


def thinned(rows: Sequence[Row], size: int) -> tuple[Row, ...]:
    """Means of `size` neighbours, each at the place of the last; None where one is not finite."""
    pieces = (rows[start : start + size] for start in range(0, len(rows), size))
    return tuple((piece[-1][0], _mean([row[1] for row in piece]), *piece[-1][2:]) for piece in pieces)


def _mean(losses: Sequence[float | None]) -> float | None:
    known = [loss for loss in losses if loss is not None]
    return sum(known) / len(losses) if len(known) == len(losses) else None


def chart_of(runs: Sequence[RunCurves], unit: Unit = "nats") -> Chart:
    """All runs on one axis: validation losses solid, training losses dashed; of one run the batches too."""
    curves, stars = [], []
    for place, run in enumerate(runs):
        of = f"{run.name}: " if len(runs) > 1 else ""
        parts = [("training", run.training, "dashed"), ("validation", run.validation, "solid")]
        if len(runs) == 1:
            parts.insert(0, ("batch", run.batch, "thin"))
        for name, points, kind in parts:
            values = [_in(unit, loss, run) for _, loss in points]
            curves.append(Curve(f"{of}{name}", [step for step, _ in points], values, place, kind))
        if run.best is not None and (value := _in(unit, run.best[1], run)) is not None:
            stars.append((run.best[0], value, place))
    return Chart(UNITS[unit], curves, stars=stars)


def table_of(runs: Sequence[RunCurves]) -> str:
    """CSV: a row for each point of each curve."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["run", "curve", "step", "loss_nats", "perplexity", "bits_per_byte"])
    for run in runs:
        for curve in ("batch", "training", "validation"):
            for step, loss in getattr(run, curve):
                values = (_in(unit, loss, run) for unit in ("nats", "perplexity", "bits"))
                writer.writerow(
                    [run.name, curve, step, *("" if value is None else value for value in values)]
                )
    return out.getvalue()


def write_svg(path: str | os.PathLike, runs: Sequence[RunCurves], *, unit: Unit = "nats") -> None:
    """The chart of the runs as a picture."""
    write_atomically(path, svg(chart_of(runs, unit)))


def write_csv(path: str | os.PathLike, runs: Sequence[RunCurves]) -> None:
    """The curves of the runs as a table."""
    write_atomically(path, table_of(runs))


def finite(number: float) -> float | None:
    """The number, None where it is infinite or NaN: JSON has no word for these."""
    return number if math.isfinite(number) else None


def _in(unit: Unit, loss: float | None, run: RunCurves) -> float | None:
    if loss is None or unit == "nats":
        return loss
    if unit == "perplexity":
        return math.exp(loss) if loss < 700 else None
    return None if run.bits_per_nat is None else loss * run.bits_per_nat
