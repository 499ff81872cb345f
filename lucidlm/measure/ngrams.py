"""N-gram models: a stream of training ids comes in, -ln p of every token of a held-out text goes out.

The interpolated n-gram of Kneser and Ney with three discounts an order (Chen and Goodman 1999, section 3).
V vocabulary, N order, n an order from N down to 1, K n-grams of an order that were seen.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lucidlm.measure.ngram_counts import (
    CHUNK,
    Counts,
    count_ngrams,
    first_places,
    id_bits_of,
    keys_of,
    starts_of,
)
from lucidlm.runtime.progress import SILENT, Progress


@dataclass(frozen=True, slots=True)
class Order:
    """One order: p(w | context) = discounted count / total + left * p of the order below; C contexts."""

    n: int
    id_bits: int
    keys: np.ndarray  # (K,) uint64
    """Of each n-gram seen, sorted: its context's hash above, its last id below."""
    counts: np.ndarray  # (K,) uint32
    discounts: np.ndarray  # (4,)
    """What a count of 0, 1, 2, and 3 or more loses."""
    contexts: np.ndarray  # (C,) uint64
    """The hash of each context seen, sorted."""
    totals: np.ndarray  # (C,)
    left: np.ndarray  # (C,)
    """The share of a context's total that its discounts leave to the order below."""


def fit_orders(
    ids: np.ndarray,
    order: int,
    vocab_size: int,
    *,
    start_id: int | None = None,
    progress: Progress = SILENT,
) -> Iterator[Order]:
    """The orders of a model of a stream of ids, the highest first: a text is scored while they are fitted.

    The highest order counts how often an n-gram was seen, those below how many different ids were seen before
    it, the stream's beginning being one more. With `start_id`, the id before each document of the
    stream, n-grams that begin with it keep their plain counts in every order but the first, since nothing
    comes before a document. N-grams run across documents; that costs a little mass and no correctness.
    """
    assert len(ids) < 1 << 32, "places are kept in 32 bits"
    assert len(ids) == 0 or int(ids.max()) < vocab_size, "an id's bits are stored below its context's"
    order = min(order, len(ids))
    progress.stage("counting n-grams", order)
    counted = np.ones(len(ids), bool)
    for n in range(order, 0, -1):
        counts = count_ngrams(ids, n, counted, id_bits_of(vocab_size))
        counted = first_places(ids, counts, n, start_id)
        fitted = [discounted(counts, n, id_bits_of(vocab_size))]
        del counts  # no name here holds what was yielded while the next order is counted
        yield fitted.pop()
        progress.advance()


def nats_of_documents(
    orders: Iterable[Order],
    documents: Sequence[np.ndarray],
    vocab_size: int,
    *,
    prefix_id: int | None = None,
    before: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """-ln p of each id of all documents, joined, float64; each document alone, after `prefix_id` if given.

    `before` holds the ids before each document: they are context instead of the prefix, and are
    not scored. The orders come highest first, and below the lowest all V ids are equally likely.
    """
    ids, depth, scored = sequences_of(documents, before, prefix_id)
    # From the highest order down: what an order leaves is shared out by those below it.
    probabilities, left = np.zeros(len(ids)), np.ones(len(ids))
    for order in orders:
        for places, share, rest in looked_up(order, ids, depth):
            probabilities[places] += left[places] * share
            left[places] *= rest
        del order  # the next is fitted while this name would hold it in memory
    return -np.log(probabilities + left / vocab_size)[scored]


def sequences_of(
    documents: Sequence[np.ndarray], before: Sequence[np.ndarray] | None, prefix_id: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Documents in a row, each after its context: ids, the number of ids before each, which to score."""
    prefix = np.array([] if prefix_id is None else [prefix_id], np.int64)
    heads = [part if len(part) else prefix for part in before or [prefix] * len(documents)]
    parts = [part for pair in zip(heads, documents, strict=True) for part in pair]
    ids = np.concatenate([np.empty(0, np.int64), *parts]).astype(np.uint32)
    skipped = np.array([len(head) for head in heads], np.int64)
    lengths = skipped + np.array([len(document) for document in documents], np.int64)
    depth = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return ids, depth, depth >= np.repeat(skipped, lengths)


def looked_up(
    order: Order, ids: np.ndarray, depth: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Where an order has seen the context: the places, each id's share there, what is left to the rest."""
    for start in range(0, len(ids), CHUNK):
        end = min(start + CHUNK, len(ids))
        first = max(0, start - order.n + 1)
        keys = keys_of(ids[first:end], order.n, order.id_bits)
        places = np.arange(end - len(keys), end)
        inside = depth[places] >= order.n - 1
        places = places[inside]
        seen, share, rest = _shares(order, keys[inside])
        yield places[seen], share, rest


def discounted(counts: Counts, n: int, id_bits: int) -> Order:
    """Counts with what their contexts' totals and discounts come to."""
    contexts = counts.keys >> np.uint64(id_bits)
    starts = starts_of(contexts)
    contexts = contexts[starts]
    totals = np.add.reduceat(counts.counts, starts, dtype=np.float64)
    discounts = np.array([0.0, *discounts_of(counts.counts)])
    left = np.zeros(len(starts))
    for k, are in ((1, np.equal), (2, np.equal), (3, np.greater_equal)):
        left += discounts[k] * np.add.reduceat(are(counts.counts, k), starts, dtype=np.uint32)
    left /= totals
    return Order(n, id_bits, counts.keys, counts.counts, discounts, contexts, totals, left)


def discounts_of(counts: np.ndarray) -> tuple[float, float, float]:
    """What n-grams seen once, twice, and more often lose: k - (k + 1) Y n_{k+1} / n_k, Y = n1 / (n1 + 2 n2).

    n_k n-grams have count k (Chen and Goodman 1999, equation 26). Where one of these is 0, or the discount is
    under 0, k / 2 replaces it: a discount of 0 would leave unseen ids no probability.
    """
    n1, n2, n3, n4 = (int(np.count_nonzero(counts == k)) for k in (1, 2, 3, 4))
    discounts = []
    for k, here, above in ((1, n1, n2), (2, n2, n3), (3, n3, n4)):
        known = min(n1, n2, here, above) > 0
        discount = k - (k + 1) * n1 / (n1 + 2 * n2) * above / here if known else 0.0
        discounts.append(discount if discount > 0 else k / 2)
    return discounts[0], discounts[1], discounts[2]


def _shares(order: Order, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of those n-grams whose context was seen: which they are, their own share, what is left to the rest."""
    # In order the search stays in the cache: several times faster in large tables.
    seen = np.argsort(keys)
    keys = keys[seen]
    contexts, found = _find(order.contexts, keys >> np.uint64(order.id_bits))
    seen, keys, contexts = seen[found], keys[found], contexts[found]
    places, found = _find(order.keys, keys)
    counts = np.where(found, order.counts[places], 0)
    shares = (counts - order.discounts[np.minimum(counts, 3)]) / order.totals[contexts]
    return seen, shares, order.left[contexts]


def _find(keys: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The place of each wanted key among the sorted ones, and whether it is there."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return places, keys[places] == wanted
