"""The order of an n-gram: a stream of ids in, the order that predicts held-out pieces of it best out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lucidlm.measure.ngram_counts import both_counts, first_places, id_bits_of
from lucidlm.measure.ngrams import discounted, looked_up, sequences_of
from lucidlm.runtime.progress import SILENT, Progress

CHOOSING_IDS = 1 << 20
"""Ids on which the order of a longer stream is chosen: seconds of work, whatever the length of the text."""
STRETCHES = 8
"""Parts of a long stream, evenly spread, from which these ids come: texts change from beginning to end."""
PIECES = 40
"""Held-out pieces, one in the middle of each of 40 equal parts of the stream."""
PIECES_SHARE = 0.2
"""Share of the stream that the pieces are: with a tenth of a short text the choice was often chance."""
AS_GOOD = 0.002
"""A lower order is taken if its loss is within this share of the best: the difference is chance."""


@dataclass(frozen=True, slots=True)
class Choice:
    """An order, and what each candidate needed for held-out pieces of the training text."""

    order: int
    nats_per_id: dict[int, float]
    """By order; empty where the stream is too short to hold out pieces of it."""
    sampled: bool
    """Whether the stream was longer than what the choice looked at."""


def choose_order(
    ids: np.ndarray,
    candidates: Sequence[int],
    vocab_size: int,
    *,
    start_id: int | None = None,
    progress: Progress = SILENT,
) -> Choice:
    """The order that predicts held-out pieces of a stream best when it is fitted to the rest of it.

    The orders share the work: one sort an order gives its plain counts, for the model whose highest it is,
    and its counts of different ids before, for the models above it.
    """
    candidates = sorted(candidates)
    whole = len(ids)
    if whole > CHOOSING_IDS:
        size, step = CHOOSING_IDS // STRETCHES, whole // STRETCHES
        ids = np.concatenate([ids[i * step : i * step + size] for i in range(STRETCHES)])
    part = len(ids) // PIECES
    size = int(part * PIECES_SHARE)
    if size == 0:
        return Choice(candidates[0], {}, False)
    starts = np.arange(PIECES) * part + (part - size) // 2
    held = np.zeros(len(ids), bool)
    held[(starts[:, None] + np.arange(size)).ravel()] = True
    nats = _nats_by_order(
        ids[~held],
        [ids[start : start + size] for start in starts],
        [ids[max(0, start - candidates[-1] + 1) : start] for start in starts],
        candidates,
        vocab_size,
        start_id,
        progress,
    )
    means = {order: float(of.mean()) for order, of in nats.items()}
    enough = min(means.values()) * (1 + AS_GOOD)
    return Choice(min(order for order in means if means[order] <= enough), means, whole > len(ids))


def _nats_by_order(
    ids: np.ndarray,
    documents: Sequence[np.ndarray],
    before: Sequence[np.ndarray],
    candidates: Sequence[int],
    vocab_size: int,
    start_id: int | None,
    progress: Progress,
) -> dict[int, np.ndarray]:
    """-ln p of each id of the documents but `start_id`, by the model of each order."""
    sequence, depth, scored = sequences_of(documents, before, None)
    if start_id is not None:
        scored &= sequence != start_id
    highest = min(candidates[-1], len(ids))
    progress.stage("choosing the order of the n-grams", highest)
    id_bits = id_bits_of(vocab_size)
    # Of each model under way: what its orders so far gave each id, and what they left.
    models: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    counted = np.ones(len(ids), bool)
    for n in range(highest, 0, -1):
        counts, before_it = both_counts(ids, n, counted, id_bits)
        below = discounted(before_it, n, id_bits)
        for places, share, rest in looked_up(below, sequence, depth):
            for probabilities, left in models.values():
                probabilities[places] += left[places] * share
                left[places] *= rest
        if n in candidates or (n == highest and n < candidates[0]):
            probabilities, left = np.zeros(len(sequence)), np.ones(len(sequence))
            for places, share, rest in looked_up(discounted(counts, n, id_bits), sequence, depth):
                probabilities[places] = share
                left[places] = rest
            models[n] = probabilities, left
        counted = first_places(ids, counts, n, start_id)
        progress.advance()
    return {n: -np.log(p + left / vocab_size)[scored] for n, (p, left) in sorted(models.items())}
