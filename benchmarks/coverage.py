"""How often the 95 % interval holds the truth: simulated losses whose mean is known, in blocks of tokens.

python benchmarks/coverage.py [--texts 1000]: a Markdown table for docs/numbers.md. One sigma of 1,000 draws
at 95 % is 0.7 %.
"""

import argparse

import numpy as np

from lucidlm.measure.intervals import interval_of_ratio

BLOCK_TOKENS = 256
MEAN = 2.5
BLOCKS = (10, 30, 100)
CORRELATIONS = (0.0, 0.5, 0.9)


def losses(draw: np.random.Generator, blocks: int, correlation: float) -> np.ndarray:
    """Losses (blocks, BLOCK_TOKENS) with mean MEAN, skewed as those of text: each exponentially distributed.

    Their ranks follow a Gaussian AR(1): x[t] = rho x[t - 1] + noise.
    """
    count, warm = blocks * BLOCK_TOKENS, 200
    noise = draw.standard_normal(count + warm) * np.sqrt(1 - correlation**2)
    normal = np.empty(count + warm)
    before = 0.0
    for place, each in enumerate(noise.tolist()):
        before = correlation * before + each
        normal[place] = before
    return (-MEAN * np.log1p(-_uniform(normal[warm:]))).reshape(blocks, BLOCK_TOKENS)


def _uniform(normal: np.ndarray) -> np.ndarray:
    """The normal distribution's share below each number."""
    import torch

    return (0.5 * (1 + torch.erf(torch.from_numpy(normal) / 2**0.5))).numpy().clip(0, 1 - 1e-12)


def coverage(texts: int, blocks: int, correlation: float, *, seed: int = 0) -> tuple[float, float]:
    """Share of the intervals that hold MEAN, and their mean width."""
    draw = np.random.default_rng([seed, blocks, round(100 * correlation)])
    held, width = 0, 0.0
    for _ in range(texts):
        sums = losses(draw, blocks, correlation).sum(1)
        interval, _ = interval_of_ratio(sums, np.full(blocks, BLOCK_TOKENS), design="documents")
        held += interval.low <= MEAN <= interval.high
        width += interval.high - interval.low
    return held / texts, width / texts


def table(texts: int) -> list[str]:
    """The table's lines."""
    head = "| blocks | " + " | ".join(f"AR(1), rho {rho:g}" if rho else "independent" for rho in CORRELATIONS)
    lines = [head + " |", "|---" * (1 + len(CORRELATIONS)) + "|"]
    for blocks in BLOCKS:
        cells = [coverage(texts, blocks, rho) for rho in CORRELATIONS]
        lines.append(
            f"| {blocks} | " + " | ".join(f"{held:.1%} (width {width:.2f})" for held, width in cells) + " |"
        )
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=1000)
    print("\n".join(table(parser.parse_args().texts)))
