"""How often `compare` names a winner where there is none, and finds one where there is: runs in, a table out.

python benchmarks/comparing.py [--pairs 500] [--runs FOLDER ... --text FILE]. Simulated pairs first; then
groups of real runs of one recipe with other seeds, on pieces of a text: A/A, and with 3 % taken off B's nats.
"""

import argparse
import itertools
import math
from collections.abc import Iterator

import numpy as np

from lucidlm.measure.intervals import Design, Interval, interval_of_ratio, interval_of_recipes

MEAN = 1.9
"""Nats per byte of a small model."""
SEED = 0.005
"""Standard deviation over seeds of one recipe, as a share of the loss; real runs are measured below."""
TOGETHER = 0.03
"""What a run and a unit have of their own together, as a share."""
RUNS = 3
BETTER = 0.03
"""The true difference that is to be found."""


def units(draw: np.random.Generator, runs: int, n: int, design: Design) -> tuple[np.ndarray, np.ndarray]:
    """Nats (runs, n) of runs of one recipe on the same units, and the units' sizes."""
    counts = np.ceil(400 * np.exp(draw.standard_normal(n))) if design == "documents" else np.full(n, 256.0)
    level = 0.2 * draw.standard_normal(n)  # what all models find hard
    if design == "pages":
        for place in range(1, n):
            level[place] = 0.6 * level[place - 1] + 0.8 * level[place]
    own = SEED * draw.standard_normal((runs, 1)) + TOGETHER * draw.standard_normal((runs, n))
    return MEAN * counts * (1 + level) * (1 + own), counts


def names_a_winner(interval: Interval | None) -> bool:
    return interval is not None and not interval.low <= 0 <= interval.high


def simulated(pairs: int, n: int, design: Design, better: float, *, seed: int = 0) -> tuple[float, float]:
    """Share of pairs with a winner: of weights (about the text, with runs of one seed), and of recipes."""
    draw = np.random.default_rng([seed, n, round(1000 * better), *design.encode()])
    weights = recipes = 0
    for _ in range(pairs):
        nats, counts = units(draw, 2 * RUNS, n, design)
        nats[RUNS:] *= 1 - better
        recipes += names_a_winner(interval_of_recipes(nats[:RUNS], nats[RUNS:], counts, design=design)[0])
        # Two fixed models that are equally good in the mean over all units: only the units differ.
        own = 1 + TOGETHER * draw.standard_normal((2, n))
        difference = nats[0] * (own[0] - (1 - better) * own[1])
        weights += names_a_winner(interval_of_ratio(difference, counts, design=design)[0])
    return weights / pairs, recipes / pairs


def scored(runs: list[str], path: str, size: int, pieces: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each piece of a text: nats (runs, n) of its blocks, and their bytes."""
    from lucidlm import load
    from lucidlm.measure.evaluation import evaluate

    with open(path, encoding="utf-8") as file:
        text = file.read()
    loaded = [load(run) for run in runs]
    for number in range(pieces):
        start = number * (len(text) - size) // max(1, pieces - 1)
        found = [evaluate(*each, text[start : start + size]).units for each in loaded]
        yield np.stack([each[:, 0] for each in found]), found[0][:, 2]


def groups(runs: int, wanted: int) -> list[tuple[list[int], list[int]]]:
    """Disjoint groups of RUNS runs each, at most `wanted` pairs, spread over all there are."""
    found = [
        (list(one), list(other))
        for one in itertools.combinations(range(runs), RUNS)
        for other in itertools.combinations(sorted(set(range(runs)) - set(one)), RUNS)
        if one < other
    ]
    order = np.random.default_rng(0).permutation(len(found))[:wanted]
    return [found[place] for place in order]


def real(runs: list[str], path: str, size: int, pieces: int) -> list[str]:
    """Lines of the table: seeds of one recipe against each other, on pieces of a text."""
    counts: dict[str, list[bool]] = {}
    for nats, sizes in scored(runs, path, size, pieces):
        for one, other in groups(len(runs), 10):
            for name, factor in (("A/A of recipes", 1.0), ("recipes, B 3 % better", 1 - BETTER)):
                interval, _ = interval_of_recipes(nats[one], factor * nats[other], sizes, design="pages")
                named = interval is not None and names_a_winner(interval)
                found = named and (factor == 1 or interval.low > 0)
                counts.setdefault(name, []).append(found)
        for one, other in itertools.combinations(range(len(runs)), 2):
            interval, _ = interval_of_ratio(nats[one] - nats[other], sizes, design="pages")
            counts.setdefault("one run against one of the same recipe: about these weights", []).append(
                names_a_winner(interval)
            )
        means = nats.sum(1) / sizes.sum() / math.log(2)
        print(f"runs: {means.mean():.4f} bits per byte, sd over seeds {means.std(ddof=1):.4f}", flush=True)
    return [f"| {name}, {size:,} bytes | {sum(found)} of {len(found)} |" for name, found in counts.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument(
        "--runs", nargs="*", default=[], help="runs of one recipe, other seeds, tokenizer bytes"
    )
    parser.add_argument("--text", help="a text that none of them saw")
    parser.add_argument("--bytes", type=int, default=30_000)
    parser.add_argument("--pieces", type=int, default=4)
    arguments = parser.parse_args()
    print("| simulated | A/A, weights | A/A, recipes | 3 %, weights | 3 %, recipes |\n|---|---|---|---|---|")
    for design, n in (("documents", 30), ("documents", 100), ("pages", 100), ("pages", 300), ("strata", 20)):
        cells = [simulated(arguments.pairs, n, design, better) for better in (0.0, BETTER)]
        shown = " | ".join(f"{100 * share:.1f} %" for cell in cells for share in cell)
        print(f"| {n} {design}, {RUNS} runs of each recipe | {shown} |", flush=True)
    if arguments.runs:
        print("\n".join(real(arguments.runs, arguments.text, arguments.bytes, arguments.pieces)))


if __name__ == "__main__":
    main()
