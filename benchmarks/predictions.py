"""Texts come in; what the plan predicts, bits per byte and memory, and what a run then needs come out.

python benchmarks/predictions.py [TEXT ...] [--steps 80 | --minutes 0.75] [--bytes N]: a row for each text,
by default the bundled story, a table, a log and code. python benchmarks/predictions.py --fit: the constants
fitted to the runs in predictions.csv, and how often the interval holds on each kind of text when that kind is
left out of the fit.
"""

import argparse
import csv
import json
import math
import random
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lucidlm.model.config import GPTConfig
from lucidlm.model.presets import MUON
from lucidlm.runs.settings import Plan
from lucidlm.training import prediction
from lucidlm.training.prediction import Compressibility, Prediction, predict
from lucidlm.training.schedule import trapezoid

RUNS = Path(__file__).with_suffix(".csv")
FITTED = ("TO_ORDER_2", "TO_ORDER_6", "STEEP", "WIDER", "DIGITS_FASTER")
START = (35.0, 150.0, 1.3, 0.0, 0.0)
"""Where the fit starts, and what it is held to, weakly."""
HELD = (0.03, 0.3, 0.3, 0.6, 0.6)
LEAST_STEPS = 20
"""Shorter runs are shown, not fitted to."""


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: what was at hand before it, and how good it became."""

    kind: str
    text: Compressibility
    plan: Plan
    bits: float


def main() -> None:
    """Prints the table that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", nargs="*", type=Path)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--bytes", type=int, default=0, help="use only this many bytes of each text")
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.fit:
        print_fit(read_runs())
    elif asked.one:
        print(json.dumps(measure(asked.one, asked.steps, asked.minutes)))
    else:
        print_runs(asked.texts, asked)


def print_runs(texts: Sequence[Path], asked: argparse.Namespace) -> None:
    """A row for each text, as soon as its run is done."""
    print("| text | predicted | measured | holds | memory predicted, peak (GiB) | off |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for path in texts or made_up(Path(folder)):
            text = Path(folder) / f"cut-{path.name}"
            text.write_bytes(path.read_bytes()[: asked.bytes or None])
            command = [sys.executable, __file__, "--one", str(text), "--steps", str(asked.steps)]
            command += ["--minutes", str(asked.minutes)] if asked.minutes else []
            # A process each: the peak of memory is of the whole process.
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(row(path.name, text.stat().st_size, json.loads(done.stdout.splitlines()[-1])), flush=True)


def measure(text: Path, steps: int, minutes: float | None) -> dict:
    """One training run: the predictions that its plan said, and what came."""
    import torch

    from lucidlm.runs.settings import TrainConfig
    from lucidlm.runtime.memory import peak_memory_bytes
    from lucidlm.training.loop import train

    said: list[str] = []

    class Notes:
        """Keeps the lines of the plan."""

        def stage(self, name: str, total: int | None = None) -> None: ...

        def advance(self, n: int = 1) -> None: ...

        def note(self, line: str) -> None:
            said.append(line)

    with tempfile.TemporaryDirectory() as folder:
        # A renewed prediction, of a run from which the clock took steps, comes as a note.
        result = train(
            TrainConfig(
                text=(str(text),), out=f"{folder}/run", minutes=minutes, steps=None if minutes else steps
            ),
            verbose=True,
            progress=Notes(),
            watch=lambda report: said.extend(report.notes),
        )
    lines = "\n".join(said)
    low, high = re.findall(r"predicted(?: now)?: ([\d.]+) to ([\d.]+) bits", lines)[-1]
    memory = re.findall(r"memory: about ([\d.]+) GiB", lines)[0]
    assert result.evaluation is not None
    peak = peak_memory_bytes(torch.device("cpu")) / 2**30
    return {
        "low": float(low),
        "high": float(high),
        "bits": result.evaluation.bits_per_byte,
        "memory": float(memory),
        "peak": peak,
    }


def row(name: str, size: int, found: dict) -> str:
    """A line of the table."""
    holds = "yes" if found["low"] <= found["bits"] <= found["high"] else "no"
    off = found["memory"] / found["peak"] - 1
    interval = f"{found['low']:.1f} to {found['high']:.1f}"
    return (
        f"| {name}, {size:,} bytes | {interval} | {found['bits']:.3f} | {holds} "
        f"| {found['memory']:.2f}, {found['peak']:.2f} | {off:+.0%} |"
    )


def made_up(folder: Path) -> Iterator[Path]:
    """The bundled story, a table, a log, and code of the standard library."""
    import lucidlm.text

    draw = random.Random(0)
    names = ["Anna", "Ben", "Carla", "David", "Emma", "Felix", "Greta", "Hugo"]
    table = "".join(
        f"{number},{draw.choice(names)},{draw.lognormvariate(4, 1):.2f},2024-{draw.randrange(1, 13):02d}\n"
        for number in range(2_000)
    )
    log = "".join(
        f"2025-01-06 08:{second // 60 % 60:02d}:{second % 60:02d} {draw.choice(['INFO', 'WARNING'])} "
        f"[{draw.choice(names)}] query took {draw.randrange(10_000)} ms\n"
        for second in range(1_000)
    )
    code = (Path(sysconfig.get_path("stdlib")) / "argparse.py").read_text(encoding="utf-8")
    yield Path(lucidlm.text.__file__).parent / "assets" / "story.txt"
    for name, text in (("table.csv", table), ("log.txt", log), ("code.txt", code)):
        (folder / name).write_text(text, encoding="utf-8")
        yield folder / name


# The fit


def read_runs() -> list[Run]:
    """The runs in predictions.csv."""
    with RUNS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [_run(row) for row in rows]


def _run(row: dict[str, str]) -> Run:
    measured = ("ppmd_2", "ppmd_6", "unigram", "digits", "nats")
    steps, width = int(row["steps"]), int(row["width"])
    plan = Plan(
        model=GPTConfig(vocab_size=int(row["vocab"]), emb_dim=width, n_heads=width // 64, n_layers=1),
        optim=MUON,
        batch_size=8,
        micro_batch=8,
        steps=steps,
        schedule=trapezoid(steps, warmup_steps=MUON.warmup_steps, decay_fraction=MUON.decay_fraction),
        validate_every=1,
        validation_tokens=1,
        dtype="float32",
        threads=1,
        early_stop=True,
    )
    text = Compressibility(
        **{name: float(row[name]) for name in measured},
        ppmd_16=float(row.get("ppmd_16") or row["ppmd_6"]),  # not measured for the older runs
    )
    return Run(row["kind"], text, plan, float(row["bits"]))


def print_fit(runs: Sequence[Run]) -> None:
    """The constants, and the table of kinds that were left out."""
    used = [getattr(prediction, name) for name in FITTED]
    print("| kind left out | runs | hold | mean of ln(measured / predicted) | root mean square |")
    print("|---|---|---|---|---|")
    held = 0
    for kind in sorted({run.kind for run in runs}):
        _set(fit([run for run in runs if run.kind != kind]))
        out = [(run, _predict(run)) for run in runs if run.kind == kind]
        errors = np.array([math.log(run.bits / each.middle) for run, each in out])
        inside = sum(each.low <= run.bits <= each.high for run, each in out)
        held += inside
        print(
            f"| {kind} | {len(out)} | {inside} | {errors.mean():+.2f} | {math.sqrt((errors**2).mean()):.2f} |"
        )
    print(f"| all | {len(runs)} | {held} | | |")
    constants = fit(runs)
    _set(used)
    for name, found, value in zip(FITTED, constants, used):
        print(f"{name}: fitted {found:.3g}, in use {value:.3g}")


def fit(runs: Sequence[Run]) -> np.ndarray:
    """The constants with the least squares, large errors counted as distances (Huber): Gauss-Newton."""
    runs = [run for run in runs if run.plan.steps >= LEAST_STEPS]
    start = np.array(START)
    constants, held = start.copy(), np.diag(HELD)
    scale = np.where(start > 2, start, 1.0)  # steps move by their size, powers by themselves
    for _ in range(40):
        now = _errors(runs, constants)
        slopes = np.stack(
            [(_errors(runs, constants + 1e-4 * unit) - now) / 1e-4 for unit in np.diag(scale)], axis=1
        )
        weights = 1 / np.maximum(1, abs(now) / 1.5)
        pull = held @ ((constants - start) / scale)
        system = slopes.T @ (weights[:, None] * slopes) + held
        move = np.linalg.solve(system, -slopes.T @ (weights * now) - pull)
        constants = constants + scale * np.clip(move, -0.3, 0.3)
        constants[:3] = np.maximum(constants[:3], (1.0, 5.0, 0.3))
    return constants


def _errors(runs: Sequence[Run], constants: np.ndarray) -> np.ndarray:
    """ln(measured / predicted) in units of the width of a text's way, which is the error's too."""
    _set(constants)
    ways = [0.05 + 0.2 * max(0.05, math.log(run.text.unigram / run.text.ppmd_6)) for run in runs]
    return np.array([math.log(run.bits / _predict(run).middle) / way for run, way in zip(runs, ways)])


def _set(constants: Sequence[float] | np.ndarray) -> None:
    for name, value in zip(FITTED, constants):
        setattr(prediction, name, float(value))


def _predict(run: Run) -> Prediction:
    predicted = predict(run.text, run.plan)
    assert predicted is not None
    return predicted


if __name__ == "__main__":
    main()
