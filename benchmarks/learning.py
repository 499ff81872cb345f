"""A text comes in; the seconds that `train --minutes 3` needs to some bits per byte of its end go out.

The last 10 % of the bytes are cut off first; of the rest, training holds out its own part, as always. Weights
are copied every few seconds of the run, and evaluated after it.
"""

import contextlib
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyppmd
import torch
from budget import cut_files
from tables import table

import lucidlm as lm
from lucidlm.pages.charts import Chart, Curve, svg
from lucidlm.runtime.progress import SILENT
from lucidlm.training.finish import finish
from lucidlm.training.loop import train_steps
from lucidlm.training.start import start_run

GOALS = (2.20, 2.10)
"""Bits per byte."""
EVERY_S = 5.0
"""Between two copies of the weights."""
COARSE = 6
"""Every so many copies one is evaluated; then those between which a goal lies."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a run reached, and when."""

    text: str
    minutes: float
    model: str
    steps: int
    final: float
    """Bits per byte of the test part, by the run's chosen weights."""
    final_s: float
    """Seconds until they were saved."""
    reached_s: dict[str, float | None]
    """For each goal, seconds until the first weights that are known to be that good; None: never."""
    points: tuple[tuple[float, float], ...]
    """Seconds and bits per byte of the copies that were evaluated."""
    ppmd: float


def measured(text: Path, *, minutes: float) -> Result:
    """One run."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        train, test = cut_files(text, folder)
        config = lm.TrainConfig(text=str(train), out=str(folder / "run"), minutes=minutes)
        run = start_run(config, stack, SILENT)
        copies: list[tuple[float, dict[str, torch.Tensor]]] = []
        for _ in train_steps(run):
            if not copies or run.pace.elapsed_s - copies[-1][0] >= EVERY_S:
                state = {key: each.detach().clone() for key, each in run.model.state_dict().items()}
                copies.append((run.pace.elapsed_s, state))
        finished = finish(run)
        print(f"{run.step} steps, evaluating copies of the weights", file=sys.stderr, flush=True)

        def bits_of(place: int) -> float:
            run.model.load_state_dict(copies[place][1])
            return lm.evaluate(run.model, run.corpus.tokenizer, path=str(test)).bits_per_byte

        found = evaluated(len(copies), bits_of)
        model, tokenizer = lm.load(finished.run)
        final = lm.evaluate(model, tokenizer, path=str(test)).bits_per_byte
        points = [(copies[place][0], bits) for place, bits in sorted(found.items())]
        points.append((finished.time_s, final))
        shape = run.model.config
        return Result(
            text=text.name,
            minutes=minutes,
            model=f"{shape.emb_dim} x {shape.n_layers}, {run.corpus.tokenizer.name}",
            steps=run.step,
            final=final,
            final_s=finished.time_s,
            reached_s={
                f"{goal:.2f}": next((round(at, 1) for at, bits in points if bits <= goal), None)
                for goal in GOALS
            },
            points=tuple(points),
            ppmd=ppmd_of(train.read_bytes(), test.read_bytes()),
        )


def evaluated(copies: int, bits_of: Callable[[int], float]) -> dict[int, float]:
    """Bits per byte of some of the copies: some that are spread evenly, then ever closer to each goal."""
    found = {place: bits_of(place) for place in {*range(0, copies, COARSE), copies - 1}}
    for goal in GOALS:
        while True:
            after = min((place for place, bits in found.items() if bits <= goal), default=copies)
            before = max((place for place in found if place < after), default=after)
            middle = (before + after) // 2
            if after == copies or middle in found:
                break
            found[middle] = bits_of(middle)
    return found


def ppmd_of(training: bytes, test: bytes) -> float:
    """Bits per byte of the test part by PPMd, variant I, order 6, that has read the training part."""
    sizes = [
        len(pyppmd.compress(data, max_order=6, mem_size=1 << 28, variant="I"))
        for data in (training, training + test)
    ]
    return 8 * (sizes[1] - sizes[0]) / len(test)


def records(result: Result) -> dict:
    """The result for a JSON file."""
    return asdict(result)


def tables(result: Result) -> str:
    """One row."""
    reached = [
        f"{each:.0f} s" if (each := result.reached_s[f"{goal:.2f}"]) else "not reached" for goal in GOALS
    ]
    head = [
        "text",
        "model",
        "steps",
        *(f"to {goal:.2f} bits per byte" for goal in GOALS),
        "at the end",
        "PPMd",
    ]
    end = f"{result.final:.4f} after {result.final_s:.0f} s"
    return table(
        head, [[result.text, result.model, f"{result.steps:,}", *reached, end, f"{result.ppmd:.4f}"]]
    )


def picture(result: Result) -> str:
    """Bits per byte of the test part against seconds, as SVG."""
    seconds, bits = (list(each) for each in zip(*result.points))
    curves = [
        Curve(f"{result.model}: bits per byte of the last tenth", seconds, bits),
        Curve("PPMd", [0, seconds[-1]], [result.ppmd] * 2, colour=1, kind="dashed"),
    ]
    return svg(Chart("bits per byte", curves, x_title="seconds"))
