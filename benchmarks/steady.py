"""A request comes in; how often its plan is the same in many tries goes out, quiet and beside busy loops.

python benchmarks/steady.py TEXT [--minutes 3] [--tries 20] [--busy 1]: plans are made, nothing is trained.
The shape should be the same in 19 of 20 tries; the steps follow what a step takes in that minute.
"""

import argparse
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from timing import busy_loops

from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.runtime.progress import SILENT
from lucidlm.training.given_text import corpus_for
from lucidlm.training.pace import Pace
from lucidlm.training.plan import make_plan
from lucidlm.training.setup import settle


def main() -> None:
    """A line without and one with other programs beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--busy", type=int, default=1)
    asked = parser.parse_args()
    print("| other programs | shapes (tries) | steps: median, least, most |\n|---|---|---|")
    for count in (0, asked.busy):
        with busy_loops(count):
            plans = list(_plans(asked.text, minutes=asked.minutes, tries=asked.tries))
        shapes = Counter(f"{plan.model.emb_dim} x {plan.model.n_layers}" for plan in plans)
        steps = sorted(plan.steps for plan in plans)
        shown = ", ".join(f"{shape} ({times})" for shape, times in shapes.most_common())
        print(
            f"| {count} | {shown} | {statistics.median(steps):.0f}, {steps[0]}, {steps[-1]} |",
            flush=True,
        )


def _plans(text: str, *, minutes: float, tries: int) -> Iterator[Plan]:
    config = TrainConfig(text=text, minutes=minutes, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        corpus = corpus_for(config, Path(folder), None, SILENT)
        for _ in range(tries):
            device, _ = settle(config)
            yield make_plan(config, corpus, device, pace=Pace(deadline_s=config.seconds)).plan


if __name__ == "__main__":
    main()
