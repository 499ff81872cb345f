"""What counting sequences predicts: a stream of training ids in, -ln p of every token of a held-out text out.

The interpolated n-gram of Kneser and Ney with three discounts an order (Chen and Goodman 1999, section 3).
V vocabulary, N order, n an order from N down to 1, K n-grams of an order that were seen.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.text.hashing import splitmix64

CHUNK = 1 << 22
"""Places that are hashed, sorted or looked up at a time: it bounds the memory beside the result."""

_ODD = np.uint64(0xD6E8FEB86659FD93)


def ngram_keys(ids: np.ndarray, n: int) -> np.ndarray:
    """A hash of each n ids in a row, uint64 (len(ids) - n + 1,): equal n-grams have equal keys.

    Each doubling of the length is one mixing, and the last two halves may overlap, so that long n-grams cost
    little more than short ones. Different n-grams share a key as rarely as random numbers of 64 bits do: 10^8
    different ones hold a pair that does with a probability of 0.03 %.
    """
    if len(ids) < n:
        return np.empty(0, np.uint64)
    keys = splitmix64(np.asarray(ids).astype(np.uint64))
    length = 1
    while length < n:
        shift = min(length, n - length)
        keys = splitmix64(keys[:-shift] * _ODD + keys[shift:])
        length += shift
    return keys


@dataclass(frozen=True, slots=True)
class Counts:
    """The n-grams of one order that were seen: sorted keys, counts, and one place of each in the stream."""

    keys: np.ndarray  # (K,) uint64
    counts: np.ndarray  # (K,) uint32
    places: np.ndarray  # (K,) uint32


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


@dataclass(frozen=True, slots=True)
class KneserNey:
    """A fitted model, its highest order first."""

    orders: tuple[Order, ...]
    vocab_size: int

    @classmethod
    def fit(
        cls,
        ids: np.ndarray,
        order: int,
        vocab_size: int,
        *,
        start_id: int | None = None,
        progress: Progress = SILENT,
    ) -> "KneserNey":
        """The model of a stream of ids; see `fit_orders`."""
        orders = fit_orders(ids, order, vocab_size, start_id=start_id, progress=progress)
        return cls(tuple(orders), vocab_size)

    def nats(self, ids: np.ndarray, prefix_id: int | None = None) -> np.ndarray:
        """-ln p of each id of a document given those before it, float64 (len(ids),)."""
        return nats_of_documents(self.orders, [ids], self.vocab_size, prefix_id=prefix_id)


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
    it, the stream's beginning being one more. With `start_id`, which stands before each document of the
    stream, n-grams that begin with it keep their plain counts in every order but the first, since nothing
    comes before a document. N-grams run across documents; that costs a little mass and no correctness.
    """
    assert len(ids) < 1 << 32, "places are kept in 32 bits"
    assert len(ids) == 0 or int(ids.max()) < vocab_size, "an id's bits stand beside its context's"
    order = min(order, len(ids))
    progress.stage("counting n-grams", order)
    counted = np.ones(len(ids), bool)
    for n in range(order, 0, -1):
        counts = _count(ids, n, counted, _id_bits(vocab_size))
        counted = _first_places(ids, counts, n, start_id)
        fitted = [_discounted(counts, n, _id_bits(vocab_size))]
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
    """-ln p of each id of all documents, joined, float64; each document alone, behind `prefix_id` if given.

    `before` holds the ids that stand before each document: they are context in place of the prefix, and are
    not scored. The orders come highest first, and below the lowest all V ids are equally likely.
    """
    ids, depth, scored = _sequences(documents, before, prefix_id)
    # From the highest order down: what an order leaves is shared out by those below it.
    probabilities, left = np.zeros(len(ids)), np.ones(len(ids))
    for order in orders:
        for places, share, rest in _looked_up(order, ids, depth):
            probabilities[places] += left[places] * share
            left[places] *= rest
        del order  # the next is fitted while this name would hold it in memory
    return -np.log(probabilities + left / vocab_size)[scored]


def _sequences(
    documents: Sequence[np.ndarray], before: Sequence[np.ndarray] | None, prefix_id: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Documents in a row behind what stands before them: ids, how many stand before each, which to score."""
    prefix = np.array([] if prefix_id is None else [prefix_id], np.int64)
    heads = [part if len(part) else prefix for part in before or [prefix] * len(documents)]
    parts = [part for pair in zip(heads, documents, strict=True) for part in pair]
    ids = np.concatenate([np.empty(0, np.int64), *parts]).astype(np.uint32)
    skipped = np.array([len(head) for head in heads], np.int64)
    lengths = skipped + np.array([len(document) for document in documents], np.int64)
    depth = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return ids, depth, depth >= np.repeat(skipped, lengths)


def _looked_up(
    order: Order, ids: np.ndarray, depth: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Where an order has seen the context: the places, each id's share there, what is left to the rest."""
    for start in range(0, len(ids), CHUNK):
        end = min(start + CHUNK, len(ids))
        first = max(0, start - order.n + 1)
        keys = _keys(ids[first:end], order.n, order.id_bits)
        places = np.arange(end - len(keys), end)
        inside = depth[places] >= order.n - 1
        places = places[inside]
        seen, share, rest = _shares(order, keys[inside])
        yield places[seen], share, rest


# Choosing the order

CHOOSING_IDS = 1 << 20
"""Of a longer stream, the order is chosen on so many ids, in stretches from all over it."""
STRETCHES = 8
PIECES = 40
"""Held-out pieces, one in the middle of each of so many equal parts of the stream."""
PIECES_SHARE = 0.2
"""Of the stream: pieces of a tenth of a short text are too few to choose by."""
AS_GOOD = 0.002
"""A lower order within this share of the best loss is taken: what lies between them is chance."""


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
    sequence, depth, scored = _sequences(documents, before, None)
    if start_id is not None:
        scored &= sequence != start_id
    highest = min(candidates[-1], len(ids))
    progress.stage("choosing the order of the n-grams", highest)
    id_bits = _id_bits(vocab_size)
    # Of each model under way: what its orders so far gave each id, and what they left.
    models: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    counted = np.ones(len(ids), bool)
    for n in range(highest, 0, -1):
        counts, before_it = _both_counts(ids, n, counted, id_bits)
        below = _discounted(before_it, n, id_bits)
        for places, share, rest in _looked_up(below, sequence, depth):
            for probabilities, left in models.values():
                probabilities[places] += left[places] * share
                left[places] *= rest
        if n in candidates or (n == highest and n < candidates[0]):
            probabilities, left = np.zeros(len(sequence)), np.ones(len(sequence))
            for places, share, rest in _looked_up(_discounted(counts, n, id_bits), sequence, depth):
                probabilities[places] = share
                left[places] = rest
            models[n] = probabilities, left
        counted = _first_places(ids, counts, n, start_id)
        progress.advance()
    return {n: -np.log(p + left / vocab_size)[scored] for n, (p, left) in sorted(models.items())}


def _both_counts(ids: np.ndarray, n: int, counted: np.ndarray, id_bits: int) -> tuple[Counts, Counts]:
    """All n-grams with how often each was seen, and with how many of its places the mask `counted` has."""
    keys = _keys(ids, n, id_bits)
    order = np.argsort(keys)
    keys = keys[order]
    starts = _starts(keys)
    keys, places = keys[starts], order[starts].astype(np.uint32)
    seen = np.diff(starts, append=len(order)).astype(np.uint32)
    different = np.add.reduceat(counted[order], starts, dtype=np.uint32) if len(starts) else seen
    return Counts(keys, seen, places), Counts(keys, different, places)


def _first_places(ids: np.ndarray, counts: Counts, n: int, start_id: int | None) -> np.ndarray:
    """Where the order below n counts: one place of each different n-gram, what stands behind its first id."""
    counted = np.zeros(len(ids), bool)
    if n > 1:
        counted[counts.places + 1] = True
        counted[0] = True
        if start_id is not None and n > 2:
            counted |= ids == start_id
    return counted


def _id_bits(vocab_size: int) -> int:
    return max(1, (vocab_size - 1).bit_length())


def _keys(ids: np.ndarray, n: int, id_bits: int) -> np.ndarray:
    """A key of each n-gram, uint64: the hash of its context above, its last id as it is below.

    Sorted, they stand context by context. Contexts have 64 bits less the id's: with GPT-2's vocabulary, 20
    million different contexts hold about one pair that shares its counts, with bytes 0.01 pairs.
    """
    last = ids[n - 1 :].astype(np.uint64)
    return last if n == 1 else ngram_keys(ids[:-1], n - 1) << np.uint64(id_bits) | last


def _count(ids: np.ndarray, n: int, counted: np.ndarray, id_bits: int) -> Counts:
    """The n-grams that start at the places of the mask `counted`, in bounded memory."""
    pieces, end = [], len(ids) - n + 1
    for start in range(0, end, CHUNK):
        stop = min(start + CHUNK, end)
        places = np.flatnonzero(counted[start:stop])
        keys = _keys(ids[start : stop + n - 1], n, id_bits)[places]
        ones = np.ones(len(places), np.uint32)
        pieces.append(_grouped(Counts(keys, ones, (places + start).astype(np.uint32))))
    return pieces[0] if len(pieces) == 1 else _merged(pieces)


def _grouped(each: Counts) -> Counts:
    """The same n-grams sorted, the counts of equal ones added."""
    order = np.argsort(each.keys)
    keys = each.keys[order]
    starts = _starts(keys)
    counts = np.add.reduceat(each.counts[order], starts, dtype=np.uint32) if len(starts) else each.counts
    return Counts(keys[starts], counts, each.places[order[starts]])


def _merged(pieces: list[Counts]) -> Counts:
    """Sorted pieces as one, a range of keys at a time."""
    size = sum(len(piece.keys) for piece in pieces)
    ranges = max(1, size // CHUNK)
    bounds = np.arange(1, ranges, dtype=np.uint64) * np.uint64(((1 << 64) - 1) // ranges)
    cuts = [[0, *np.searchsorted(piece.keys, bounds).tolist(), len(piece.keys)] for piece in pieces]
    merged = Counts(*(np.empty(size, dtype) for dtype in (np.uint64, np.uint32, np.uint32)))
    end = 0
    for i in range(ranges):
        parts = [_cut(piece, cut[i], cut[i + 1]) for piece, cut in zip(pieces, cuts)]
        part = _grouped(Counts(*map(np.concatenate, zip(*map(_columns, parts)))))
        start, end = end, end + len(part.keys)
        for column, values in zip(_columns(merged), _columns(part)):
            column[start:end] = values
    return _cut(merged, 0, end)


def _columns(counts: Counts) -> tuple[np.ndarray, ...]:
    return counts.keys, counts.counts, counts.places


def _cut(counts: Counts, start: int, end: int) -> Counts:
    return Counts(*(column[start:end] for column in _columns(counts)))


def _discounted(counts: Counts, n: int, id_bits: int) -> Order:
    """Counts with what their contexts' totals and discounts come to."""
    contexts = counts.keys >> np.uint64(id_bits)
    starts = _starts(contexts)
    contexts = contexts[starts]
    totals = np.add.reduceat(counts.counts, starts, dtype=np.float64)
    discounts = np.array([0.0, *discounts_of(counts.counts)])
    left = np.zeros(len(starts))
    for k, are in ((1, np.equal), (2, np.equal), (3, np.greater_equal)):
        left += discounts[k] * np.add.reduceat(are(counts.counts, k), starts, dtype=np.uint32)
    left /= totals
    return Order(n, id_bits, counts.keys, counts.counts, discounts, contexts, totals, left)


def _starts(sorted_keys: np.ndarray) -> np.ndarray:
    """Where each different key starts."""
    return np.flatnonzero(np.concatenate(([len(sorted_keys) > 0], sorted_keys[1:] != sorted_keys[:-1])))


def discounts_of(counts: np.ndarray) -> tuple[float, float, float]:
    """What n-grams seen once, twice, and more often lose: k - (k + 1) Y n_{k+1} / n_k, Y = n1 / (n1 + 2 n2).

    n_k n-grams have count k (Chen and Goodman 1999, equation 26). Where one of these is 0, or the discount is
    under 0, k / 2 stands in: a discount of 0 would leave unseen ids no probability.
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
