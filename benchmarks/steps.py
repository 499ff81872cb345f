"""Contestants come in; their speed and memory in a training step of GPT-2's smallest shape go out, as tables.

Each runs in a process of its own (benchmarks/contestants.py), all of them in turn, in several rounds.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from contestants import CONTESTANTS
from tables import table
from timing import Times, canary, counted

from lucidlm.model.presets import preset
from lucidlm.pages.charts import Chart, Curve, svg


@dataclass(frozen=True, slots=True)
class Size:
    """A batch of `windows` windows of `length` tokens: who runs it, and for how long."""

    windows: int
    length: int
    names: tuple[str, ...]
    rounds: int
    seconds: float
    """Steps begin for this long."""

    def __str__(self) -> str:
        """As in tables."""
        return f"{self.windows} x {self.length}"


SIZES = (
    Size(2, 256, tuple(CONTESTANTS), rounds=2, seconds=8),
    Size(8, 256, ("course", "transformers", "litgpt", "ours"), rounds=2, seconds=12),
    Size(4, 1024, ("course", "transformers", "litgpt", "ours"), rounds=1, seconds=20),
)


@dataclass(frozen=True, slots=True)
class Result:
    """What one contestant did at one size."""

    name: str
    size: Size
    times: Times | None
    """Of a step; None where it failed."""
    cpu_s: float
    """Least CPU time of a step: other programs hardly change it, but waiting threads count."""
    peak_mib: int
    """Memory of model, optimizer and steps."""
    version: str
    chosen: str
    """What the program chose by itself in the last round, as far as it says so."""
    failed: str = ""
    """Why, in its own last words."""

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.size.windows * self.size.length

    def of_peak(self, peak_flops_per_s: float) -> float:
        """The part of the machine's peak that the fastest step reached."""
        assert self.times is not None
        shape = preset("lecture").shape
        return shape.flops_per_token(self.size.length) * self.tokens / self.times.least / peak_flops_per_s


def peak_flops_per_s(*, seconds: float = 3.0) -> float:
    """The machine's peak in bfloat16: the fastest matmul of three sizes."""
    began, best = time.perf_counter(), 0.0
    while time.perf_counter() - began < seconds:
        best = max(best, *(canary(size=size, repeats=3) for size in (768, 1024, 1536)))
    return best


def measured(sizes: Sequence[Size], *, python: str) -> tuple[list[Result], float]:
    """The results of all contestants, and the machine's peak in FLOP/s; `python` has the peers' packages."""
    results, peak = [], peak_flops_per_s()
    for size in sizes:
        runs: dict[str, list[dict]] = {name: [] for name in size.names}
        for number in range(size.rounds):
            for name, found in runs.items():
                if not any("failed" in run for run in found):
                    print(f"{size}, round {number + 1}: {name}", file=sys.stderr, flush=True)
                    found.append(run_one(name, size, python))
        speeds = [speed for found in runs.values() for run in found for _, speed, _ in run.get("times", ())]
        best = max(speeds, default=0.0)
        peak = max(peak, best)
        results += [result_of(name, size, found, best=best) for name, found in runs.items()]
    return results, peak


def run_one(name: str, size: Size, python: str) -> dict:
    """What benchmarks/contestants.py printed; {"failed": reason} where it could not."""
    program = [sys.executable if CONTESTANTS[name].model is None else python]
    program += [str(Path(__file__).with_name("contestants.py")), name, "--windows", str(size.windows)]
    done = subprocess.run(
        [*program, "--length", str(size.length), "--seconds", str(size.seconds)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    words = done.stderr.strip().splitlines() or ["no message"]
    return {"failed": "killed: out of memory" if done.returncode == -9 else words[-1]}


def result_of(name: str, size: Size, runs: list[dict], *, best: float) -> Result:
    """One result of all rounds of a contestant; `best` is the best canary of all."""
    failed = next((run["failed"] for run in runs if "failed" in run), "")
    good = [run for run in runs if "failed" not in run]
    taken = [each for run in good for each in run["times"]]
    times = counted([(seconds, speed) for seconds, speed, _ in taken], best=best)
    return Result(
        name,
        size,
        None if failed else times,
        min((used for _, _, used in taken), default=0.0),
        max((run["peak_mib"] for run in good), default=0),
        good[0]["version"] if good else "",
        good[-1]["chosen"] if good else "",
        failed,
    )


def records(results: Sequence[Result]) -> list[dict]:
    """The results for a JSON file."""
    return [asdict(result) for result in results]


def tables(results: Sequence[Result], peak: float) -> str:
    """Speeds, then how many times as fast ours is."""
    sizes = list(dict.fromkeys(result.size for result in results))
    found = {(result.name, result.size): result for result in results}
    rows = [
        [contestant.title, *(_speed(found.get((name, size)), peak) for size in sizes)]
        for name, contestant in CONTESTANTS.items()
        if any((name, size) in found for size in sizes)
    ]
    speeds = table(["tokens/s, median (best); part of the peak; memory", *map(str, sizes)], rows)
    compared = [["ours", other] for other in CONTESTANTS if CONTESTANTS[other].model is not None]
    compared.append(["ours-float32", "course"])
    ratios = [
        [
            f"{CONTESTANTS[mine].title} against {CONTESTANTS[other].title}",
            *(_ratio(found.get((mine, size)), found.get((other, size))) for size in sizes),
        ]
        for mine, other in compared
    ]
    ratios = [row for row in ratios if any(row[1:])]
    more = table(["times as fast, median (best); by CPU time; memory", *map(str, sizes)], ratios)
    notes = [
        f"{CONTESTANTS[each.name].title}, {each.size}: {each.failed or each.chosen}."
        for each in results
        if each.failed or each.chosen
    ]
    return "\n\n".join([speeds, more, " ".join(notes)])


def _speed(result: Result | None, peak: float) -> str:
    """A cell of the first table."""
    if result is None:
        return ""
    if result.times is None:
        return "failed"
    times = result.times
    noisy = "" if times.quiet else "; noisy"
    speeds = f"{result.tokens / times.median:,.0f} ({result.tokens / times.least:,.0f})"
    return f"{speeds}; {result.of_peak(peak):.0%}; {result.peak_mib:,} MiB{noisy}"


def _ratio(mine: Result | None, other: Result | None) -> str:
    """A cell of the second table."""
    if mine is None or other is None or mine.times is None or other.times is None:
        return ""
    median, least = other.times.median / mine.times.median, other.times.least / mine.times.least
    cpu = other.cpu_s / mine.cpu_s
    return f"{median:.1f} ({least:.1f}); {cpu:.1f}; {mine.peak_mib / other.peak_mib:.2f}"


def picture(results: Sequence[Result]) -> str:
    """Tokens a second of the fastest step against the tokens of a step, as SVG."""
    curves = []
    for place, (name, contestant) in enumerate(CONTESTANTS.items()):
        points = [
            (each.tokens, each.tokens / each.times.least)
            for each in results
            if each.name == name and each.times
        ]
        if len(points) > 1:  # a single point would be named, and not seen
            curves.append(Curve(contestant.title, *map(list, zip(*sorted(points))), colour=place))
    return svg(Chart("tokens/s", curves, x_title="tokens of a step"), whole=True)
