"""What is said of simulated runs whose truth is known: true curves with noise in, a Markdown table out.

`python benchmarks/courses.py`: 4,000 runs of 11 validations in each cell.
"""

import numpy as np

from lucidlm.runs.trend import trend_of

RUNS, VALIDATIONS = 4000, 11
NOISES = (0.002, 0.003, 0.005, 0.01)


def main() -> None:
    """One row a noise."""
    steps, at = 10 * np.arange(1, VALIDATIONS + 1), np.arange(VALIDATIONS)
    flat = np.full(VALIDATIONS, 3.0)
    slow = 3.0 * (1 - 0.003 * at)
    bend = 3.0 * (1 + 0.5 * np.exp(-1.3 * at) * (at < 3) + 0.05 * np.clip((at - 3) / 7, 0, None))
    titles = ("last over best", "rose", "falls", "slow falls", "slow rose", "bend rose")
    print("| noise | " + " | ".join(titles) + " |")
    print("|---|---|---|---|---|---|---|")
    for noise in NOISES:
        draw = np.random.default_rng(0)
        of_flat, of_slow, of_bend = (
            curve * (1 + noise * draw.standard_normal((RUNS, VALIDATIONS))) for curve in (flat, slow, bend)
        )
        before = (of_flat[:, -1] > 1.005 * of_flat.min(1)).mean()
        first, second, third = (trend_of(steps, losses) for losses in (of_flat, of_slow, of_bend))
        cells = (
            before, (first.rose | first.jumped).mean(), first.falling.mean(), second.falling.mean(),
            (second.rose | second.jumped).mean(), third.rose.mean(),
        )  # fmt: skip
        print(f"| {100 * noise:.1f} % | " + " | ".join(f"{100 * cell:.1f} %" for cell in cells) + " |")


if __name__ == "__main__":
    main()
