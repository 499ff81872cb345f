"""Made-up ladders: bits per byte of a model and of baselines in, paired on the same made-up bytes."""

import math
from typing import Any

import numpy as np

from lucidlm.measure.baseline import ADAPTS, STATIC, Baseline, Baselines, Code
from lucidlm.report.ladder import Ladder, ladder_of

PIECES, SIZE = 40, 250
BYTES = PIECES * SIZE
DRAW = np.random.default_rng(0)
HARD = DRAW.lognormal(0, 0.3, BYTES) * np.repeat(DRAW.lognormal(0, 0.15, PIECES), SIZE)
"""How hard each byte is, page by page: what is hard for one method is hard for all."""


def row(code: Code, bits: float, kind=STATIC, *, noise=0.0, per_byte=True, seed=1) -> Baseline:
    each = bits * HARD / HARD.mean() + noise * np.random.default_rng(seed).normal(size=BYTES)
    each = each + (bits - each.mean())
    return Baseline(code, bits, kind, "all", "", each.astype(np.float32) if per_byte else None)


def table(
    *, gram=2.4, ppmd=2.3, noise=0.0, per_byte=True, inside=2.4, vocabulary=8.0, unigram=4.5
) -> Baselines:
    rows = (
        row("uniform_bytes", 8.0, per_byte=per_byte),
        row("uniform_vocabulary", vocabulary, per_byte=per_byte),
        row("unigram_tokens", unigram, per_byte=per_byte),
        row("gzip", 3.0, ADAPTS, per_byte=False),
        row("ngram_bytes", gram, noise=noise, per_byte=per_byte),
        row("ppmd", ppmd, ADAPTS, noise=noise, per_byte=per_byte, seed=2),
    )
    rows = tuple(sorted(rows, key=lambda each: -each.bits_per_byte))
    return Baselines(rows, BYTES, 90_000, inside)


def units_of(bits: float) -> np.ndarray:
    nats = (bits * HARD / HARD.mean()).reshape(PIECES, SIZE).sum(1) * math.log(2)
    return np.stack([nats, np.full(PIECES, SIZE), np.full(PIECES, SIZE)], 1)


def ladder(bits: float, units: np.ndarray | None = None, design="strata", **options: Any) -> Ladder:
    return ladder_of(bits, units_of(bits) if units is None else units, design, table(**options))


def ladder_of_few(bits: float) -> Ladder:
    """Of two units, too few for an interval."""
    return ladder(bits, units_of(bits).reshape(2, 20, 3).sum(1))
