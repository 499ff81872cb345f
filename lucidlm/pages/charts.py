"""A chart of curves as a picture that any program opens: numbers in, SVG out; no browser is needed.

x is the step, y the value; the script templates/charts.js draws the same charts on pages by the same rules.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lucidlm.pages.page import render

WIDTH, HEIGHT = 900, 520
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 46, 52
LETTER, LINE = 6.6, 15
"""Width of a letter and height of a line of small text, in pixels."""
COLOURS = ("#a8481f", "#2a6f97", "#5b7f2b", "#7a4fa3", "#b0892a", "#3d8b8b", "#b1487c", "#5d6678")
"""Of the runs; dark enough for lines on white, and told apart by people who see no red or green."""
EARLY = 0.1
"""Losses of the first tenth of the steps fall so far that the rest would look flat: they are cut off."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a chart."""

    name: str
    steps: Sequence[int]
    values: Sequence[float | None]
    """None where a value is not finite."""
    colour: int = 0
    """The place of its run."""
    kind: str = "solid"
    """solid, dashed, or thin: a loss of batches, which is noise around a curve."""


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves on one axis."""

    title: str
    """Of the y axis."""
    curves: Sequence[Curve]
    stars: Sequence[tuple[int, float, int]] = ()
    """Step, value and colour of the best step of each run."""
    x_title: str = "step"
    """Of the x axis."""


def svg(chart: Chart, *, whole: bool = False) -> str:
    """The picture. `whole`: from the first step on; else the y axis begins where the curves have settled."""
    low, high = value_range(chart.curves, whole=whole)
    legend = _legend(chart.curves)
    top = max([TOP, *(down + LINE for _, _, down in legend)])
    height = HEIGHT + top - TOP  # many runs have more rows of names: they take nothing from the curves
    right, bottom = WIDTH - RIGHT, height - BOTTOM
    last = max((curve.steps[-1] for curve in chart.curves if len(curve.steps)), default=1) or 1

    def x(step: float) -> float:
        return round(LEFT + (right - LEFT) * step / last, 1)

    def y(value: float) -> float:
        return round(bottom - (bottom - top) * (value - low) / (high - low), 1)

    return render(
        "chart.svg",
        width=WIDTH, height=height, left=LEFT, top=top, right=right, bottom=bottom, title=chart.title,
        x_title=chart.x_title,
        colours=COLOURS,
        curves=[(curve, _points(curve, x, y)) for curve in chart.curves],
        legend=legend,
        stars=[(x(step), y(value), colour) for step, value, colour in chart.stars if low <= value <= high],
        x_ticks=[(x(tick), f"{tick:,.0f}") for tick in ticks(0, last)],
        y_ticks=[(y(tick), f"{tick:g}") for tick in ticks(low, high)],
    )  # fmt: skip


def value_range(curves: Iterable[Curve], *, whole: bool) -> tuple[float, float]:
    """The ends of the y axis: of all values, or of those after EARLY of a curve's steps, with a margin."""
    kept = [
        value
        for curve in curves
        for step, value in zip(curve.steps, curve.values, strict=True)
        if value is not None and (whole or (curve.kind != "thin" and step >= EARLY * curve.steps[-1]))
    ]
    low, high = min(kept, default=0.0), max(kept, default=1.0)
    margin = max(0.06 * (high - low), 0.005 * abs(high), 1e-9)
    return low - margin, high + margin


def ticks(low: float, high: float, *, most: int = 8) -> list[float]:
    """Round numbers between the ends.

    >>> ticks(0, 803)
    [0, 200, 400, 600, 800]
    """
    raw = (high - low) / most
    power = 10 ** math.floor(math.log10(raw))
    size = next(power * each for each in (1, 2, 5, 10) if power * each >= raw)
    first = math.ceil(low / size)
    return [round(each * size, 10) for each in range(first, math.floor(high / size) + 1)]


def _points(curve: Curve, x, y) -> list[str]:
    """The line in pieces, as a gap is left where a value is not finite."""
    pieces: list[list[str]] = [[]]
    for step, value in zip(curve.steps, curve.values, strict=True):
        if value is None:
            pieces.append([])
        else:
            pieces[-1].append(f"{x(step)},{y(value)}")
    return [" ".join(piece) for piece in pieces if piece]


def _legend(curves: Sequence[Curve]) -> list[tuple[Curve, float, float]]:
    """Each curve's place above the chart, row by row."""
    places, across, down = [], float(LEFT), 16.0
    for curve in curves:
        width = 44 + LETTER * len(curve.name)
        if across + width > WIDTH and across > LEFT:
            across, down = float(LEFT), down + LINE
        places.append((curve, across, down))
        across += width
    return places
