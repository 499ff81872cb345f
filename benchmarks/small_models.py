"""Two revisions of lucidlm come in; the speed at which each trains small models goes out.

For each shape there are two processes, one of each revision, that compute in turn, a slice of some seconds
each: first on the machine as it is, then beside busy loops.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tables import ROOT, table
from timing import Times, busy_loops, canary, interleaved

TOKENS_OF_A_STEP = 2048
QUIET, BUSY = "quiet", "beside a busy loop on each core"


@dataclass(frozen=True, slots=True)
class Shape:
    """A small model."""

    width: int
    layers: int
    tokenizer: str

    def __str__(self) -> str:
        """As in tables."""
        return f"{self.width} x {self.layers}, {self.tokenizer}"


SHAPES = (Shape(128, 4, "bytes"), Shape(192, 6, "bpe:1024"), Shape(256, 4, "bytes"))


@dataclass(frozen=True, slots=True)
class Result:
    """Seconds of a step of one shape, in one situation, for each revision."""

    shape: Shape
    situation: str
    before: Times
    now: Times
    plans: tuple[str, str]
    """dtype, workers and threads that each revision chose, on a machine as it was then."""

    @property
    def ratio(self) -> float:
        """How many times as fast the working tree is, by medians."""
        return self.before.median / self.now.median


@dataclass(slots=True)
class Side:
    """One of the two revisions: a process that trains when it is asked to."""

    process: subprocess.Popen
    plan: str = ""
    """dtype, workers and threads that it chose."""

    def seconds_per_step(self, *, seconds: float) -> float:
        """Of a slice of this length."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        answer = self._line()
        return answer["seconds"] / (answer["tokens"] / TOKENS_OF_A_STEP)

    def begin(self) -> None:
        """Waits until it has planned."""
        self.plan = self._line()["plan"]

    def _line(self) -> dict:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise SystemExit("a process that trains has ended; its last words are above")
        return json.loads(line)


@contextlib.contextmanager
def checkout(revision: str) -> Generator[Path]:
    """A folder with the package as it was at a git revision."""
    call = ["git", "-C", str(ROOT), "archive", "--format=tar", revision, "lucidlm"]
    packed = subprocess.run(call, capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(packed)) as files:
            files.extractall(folder, filter="data")
        yield Path(folder)


@contextlib.contextmanager
def training(shape: Shape, folder: Path) -> Generator[Side]:
    """A process that trains this shape with the lucidlm in `folder`."""
    program = Path(__file__).with_name("small_steps.py")
    call = [sys.executable, str(program), "--width", str(shape.width), "--layers", str(shape.layers)]
    opened = subprocess.Popen(
        [*call, "--tokenizer", shape.tokenizer],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )
    with opened as process:
        try:
            yield Side(process)
        finally:
            process.kill()


def measured(revision: str, shapes: Sequence[Shape] = SHAPES) -> list[Result]:
    """The results of each shape: on the machine as it is, and beside busy loops that begin then."""
    results = []
    with checkout(revision) as old:
        for shape in shapes:
            with training(shape, old) as before, training(shape, ROOT) as now:
                for side in (before, now):
                    side.begin()
                print(f"{shape}: {before.plan}; now {now.plan}", file=sys.stderr, flush=True)
                results.append(_result(shape, QUIET, before, now, rounds=5, seconds=1.5))
                with busy_loops(os.cpu_count() or 1):
                    results.append(_result(shape, BUSY, before, now, rounds=3, seconds=2.0))
    return results


def _result(shape: Shape, situation: str, before: Side, now: Side, *, rounds: int, seconds: float) -> Result:
    works = {
        "before": lambda: before.seconds_per_step(seconds=seconds),
        "now": lambda: now.seconds_per_step(seconds=seconds),
    }
    # Beside busy loops no moment is quiet, so that all times count.
    beside = canary if situation == QUIET else lambda: 1.0
    times = interleaved(works, rounds=rounds, warm_up=False, canary=beside)
    return Result(shape, situation, times["before"], times["now"], (before.plan, now.plan))


def records(results: Sequence[Result]) -> list[dict]:
    """The results for a JSON file."""
    return [asdict(result) | {"ratio": result.ratio} for result in results]


def tables(results: Sequence[Result], revision: str) -> str:
    """A row for each shape and situation."""
    rows = []
    for each in results:
        speeds = [
            _speed(times, plan) for times, plan in zip((each.before, each.now), each.plans, strict=True)
        ]
        rows.append([str(each.shape), each.situation, *speeds, f"{each.ratio:.2f}"])
    head = ["model", "machine", f"{revision}, tokens/s: median (least to most)", "now", "times as fast"]
    return table(head, rows)


def _speed(times: Times, plan: str) -> str:
    low, middle, high = (TOKENS_OF_A_STEP / each for each in (max(times.seconds), times.median, times.least))
    return f"{middle:,.0f} ({low:,.0f} to {high:,.0f}); {plan}{'' if times.quiet else '; noisy'}"
