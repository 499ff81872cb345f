import math
import tracemalloc
from collections import Counter, defaultdict

import numpy as np
import pytest
from models import KneserNey
from recorded import Recorded

from lucidlm.measure import ngram_counts, ngram_order, ngrams
from lucidlm.measure.ngram_counts import ngram_keys
from lucidlm.measure.ngram_order import choose_order
from lucidlm.measure.ngrams import discounts_of, fit_orders, nats_of_documents

# The textbook: dictionaries and loops, after Chen and Goodman 1999, section 3.


def textbook_counts(stream, n, order, start_id):
    """Plain counts for the highest order; below, how many different things were seen before the n-gram."""
    plain = Counter(tuple(stream[i : i + n]) for i in range(len(stream) - n + 1))
    if n == order:
        return plain
    before = defaultdict(set)
    for i in range(len(stream) - n + 1):
        before[tuple(stream[i : i + n])].add(stream[i - 1] if i else "beginning")
    counts = {gram: len(ids) for gram, ids in before.items()}
    if start_id is not None and n > 1:
        counts |= {gram: count for gram, count in plain.items() if gram[0] == start_id}
    return counts


def textbook_discounts(counts):
    n1, n2, n3, n4 = (sum(count == k for count in counts.values()) for k in (1, 2, 3, 4))
    if n1 == 0 or n2 == 0:
        return {1: 0.5, 2: 1.0, 3: 1.5}
    y = n1 / (n1 + 2 * n2)
    found = {1: 1 - 2 * y * n2 / n1, 2: 1.0, 3: 1.5}
    if n3 and 2 - 3 * y * n3 / n2 > 0:
        found[2] = 2 - 3 * y * n3 / n2
    if n3 and n4 and 3 - 4 * y * n4 / n3 > 0:
        found[3] = 3 - 4 * y * n4 / n3
    return found


class Textbook:
    def __init__(self, stream, order, vocab_size, start_id=None):
        self.vocab_size = vocab_size
        self.order = min(order, len(stream))
        self.counts = {n: textbook_counts(stream, n, self.order, start_id) for n in range(1, self.order + 1)}
        self.discounts = {n: textbook_discounts(counts) for n, counts in self.counts.items()}

    def probability(self, context, word):
        n = len(context) + 1
        below = 1 / self.vocab_size if n == 1 else self.probability(context[1:], word)
        after = {gram[-1]: count for gram, count in self.counts.get(n, {}).items() if gram[:-1] == context}
        if not after:
            return below
        discount = self.discounts[n]
        total = sum(after.values())
        own = max(after.get(word, 0) - discount[min(3, after[word])], 0) if word in after else 0.0
        left = sum(discount[min(3, count)] for count in after.values())
        return own / total + left / total * below

    def nats(self, ids, prefix_id=None):
        sequence = [*([] if prefix_id is None else [prefix_id]), *ids]
        first = len(sequence) - len(ids)
        return [
            -math.log(self.probability(tuple(sequence[max(0, i - self.order + 1) : i]), sequence[i]))
            for i in range(first, len(sequence))
        ]


def text_like(rng, length, vocab_size):
    """Ids that repeat themselves, some often and some rarely, as words do."""
    phrases = [rng.integers(0, vocab_size, rng.integers(1, 6)) for _ in range(max(2, length // 8))]
    ids: list[int] = []
    while len(ids) < length:
        ids += phrases[min(int(rng.geometric(0.2)), len(phrases)) - 1].tolist()
    return ids[:length]


CASES = [
    # seed, length, V, order
    *((seed, 40 + 25 * seed, 3 + seed, 1 + seed % 5) for seed in range(10)),
    (20, 400, 50257, 4),
    (21, 300, 2, 8),
    (22, 1, 5, 3),
    (23, 2, 5, 3),
    (24, 3, 1, 2),
]


@pytest.fixture(params=[None, 16], ids=["at once", "in chunks"])
def chunk(request, monkeypatch):
    """Texts are counted and looked up at once, or in chunks that are merged."""
    if request.param:
        for module in (ngram_counts, ngrams):
            monkeypatch.setattr(module, "CHUNK", request.param)


@pytest.mark.parametrize(("seed", "length", "vocab_size", "order"), CASES)
def test_it_is_the_textbook_model(chunk, seed, length, vocab_size, order):
    rng = np.random.default_rng(seed)
    stream, heldout = text_like(rng, length, vocab_size), text_like(rng, 40, vocab_size)
    heldout += rng.choice(stream, 5).tolist() + stream[:10] + [vocab_size - 1]
    model = KneserNey.fit(np.array(stream), order, vocab_size)
    book = Textbook(stream, order, vocab_size)
    np.testing.assert_allclose(model.nats(np.array(heldout)), book.nats(heldout), rtol=0, atol=1e-9)
    np.testing.assert_allclose(model.nats(np.array(heldout), 0), book.nats(heldout, 0), rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_n_grams_that_begin_a_document_keep_their_plain_counts(chunk, seed):
    rng = np.random.default_rng(seed)
    stream = [token for _ in range(30) for token in (9, *text_like(rng, int(rng.integers(0, 9)), 4))]
    model = KneserNey.fit(np.array(stream, np.uint16), 4, 10, start_id=9)
    book = Textbook(stream, 4, 10, start_id=9)
    for heldout in ([], [0], [3, 1, 2], text_like(rng, 20, 4)):
        for prefix in (None, 9):
            nats = model.nats(np.array(heldout, np.uint16), prefix)
            np.testing.assert_allclose(nats, book.nats(heldout, prefix), rtol=0, atol=1e-9)
    without = KneserNey.fit(np.array(stream), 4, 10).nats(np.array([0, 1]), 9)
    assert not np.allclose(without, model.nats(np.array([0, 1]), 9))


@pytest.mark.parametrize("order", [1, 2, 5])
def test_in_any_context_the_probabilities_of_all_ids_add_up_to_one(order):
    rng = np.random.default_rng(0)
    vocab_size = 300
    stream = np.array(text_like(rng, 2000, 250))
    model = KneserNey.fit(stream, order, vocab_size, start_id=7)
    contexts = [stream[i : i + 6] for i in (0, 100, 777)]
    contexts += [np.array([299, 298, 297]), np.array([299, stream[5], stream[6]]), np.array([], int)]
    for context in contexts:
        documents = [np.append(context, word) for word in range(vocab_size)]
        nats = nats_of_documents(model.orders, documents, vocab_size).reshape(vocab_size, -1)
        assert math.isclose(np.exp(-nats[:, -1]).sum(), 1, abs_tol=1e-12)


def test_a_document_is_scored_alone(chunk):
    rng = np.random.default_rng(1)
    stream = np.array([9, *text_like(rng, 300, 9)])
    model = KneserNey.fit(stream, 4, 10, start_id=9)
    documents = [np.array(text_like(rng, length, 9), int) for length in (30, 1, 0, 2, 17, 3)]
    for prefix in (None, 9):
        alone = np.concatenate([model.nats(ids, prefix) for ids in documents])
        together = nats_of_documents(model.orders, documents, 10, prefix_id=prefix)
        np.testing.assert_array_equal(together, alone)


def test_what_stands_before_a_document_is_context_in_place_of_the_prefix(chunk):
    rng = np.random.default_rng(3)
    stream = np.array([9, *text_like(rng, 300, 9)])
    model = KneserNey.fit(stream, 4, 10, start_id=9)
    whole = np.array(text_like(rng, 60, 9))
    cuts = [0, 1, 2, 3, 17, 60]
    nats = nats_of_documents(
        model.orders, [whole[cut:] for cut in cuts], 10, prefix_id=9, before=[whole[:cut] for cut in cuts]
    )
    parts = np.split(nats, np.cumsum([60 - cut for cut in cuts])[:-1])
    for cut, part in zip(cuts, parts, strict=True):
        alone = model.nats(whole) if cut else model.nats(whole, 9)
        np.testing.assert_array_equal(part, alone[cut:])


# Choosing the order.


@pytest.mark.parametrize("start_id", [None, 5])
def test_each_candidate_costs_what_its_own_model_of_the_rest_needs_for_the_pieces(monkeypatch, start_id):
    monkeypatch.setattr(ngram_order, "PIECES", 4)
    rng = np.random.default_rng(4)
    stream = text_like(rng, 400, 9)
    if start_id is not None:
        stream[::37] = [5] * len(stream[::37])
    size = int(100 * ngram_order.PIECES_SHARE)
    pieces = [range(100 * i + (100 - size) // 2, 100 * i + (100 - size) // 2 + size) for i in range(4)]
    rest = [id for place, id in enumerate(stream) if not any(place in piece for piece in pieces)]
    choice = choose_order(np.array(stream), [2, 3, 5], 10, start_id=start_id)
    assert not choice.sampled
    for order in (2, 3, 5):
        book = Textbook(rest, order, 10, start_id)
        nats = [
            -math.log(book.probability(tuple(stream[max(0, place - order + 1) : place]), stream[place]))
            for piece in pieces
            for place in piece
            if stream[place] != start_id
        ]
        assert choice.nats_per_id[order] == pytest.approx(sum(nats) / len(nats), abs=1e-9)


def test_the_lowest_order_that_is_as_good_as_the_best_is_chosen():
    rng = np.random.default_rng(5)
    noise = choose_order(rng.integers(0, 4, 20_000), [1, 2, 3], 4)
    assert noise.order == 1
    lines = rng.integers(0, 4, (6, 12))
    repeats = choose_order(lines[rng.integers(0, 6, 2_000)].ravel(), [1, 2, 3, 4, 8], 4)
    assert repeats.order >= 4
    assert min(repeats.nats_per_id, key=repeats.nats_per_id.get) >= repeats.order


def test_of_a_long_stream_the_choice_looks_at_stretches(monkeypatch):
    monkeypatch.setattr(ngram_order, "CHOOSING_IDS", 4_000)
    ids = np.random.default_rng(6).integers(0, 4, 50_000)
    seen = choose_order(ids, [2, 3], 4)
    assert seen.sampled
    stretches = np.concatenate([ids[i * 6250 : i * 6250 + 500] for i in range(8)])
    assert seen.nats_per_id == choose_order(stretches, [2, 3], 4).nats_per_id


@pytest.mark.parametrize("length", [0, 1, 50, 199])
def test_a_stream_too_short_for_pieces_takes_the_lowest_order(length):
    choice = choose_order(np.arange(length) % 7, [3, 4], 7)
    assert (choice.order, choice.nats_per_id) == (3, {})


def test_orders_can_be_scored_while_they_are_fitted():
    stream = np.array(text_like(np.random.default_rng(2), 500, 20))
    held = KneserNey.fit(stream, 5, 20).nats(stream[:50])
    np.testing.assert_array_equal(nats_of_documents(fit_orders(stream, 5, 20), [stream[:50]], 20), held)


def test_of_no_text_every_id_is_equally_likely():
    nats = KneserNey.fit(np.array([], np.uint16), 3, 50).nats(np.array([1, 2, 3]))
    np.testing.assert_allclose(nats, math.log(50), rtol=1e-15)
    assert KneserNey.fit(np.arange(5), 3, 50).nats(np.array([], int)).shape == (0,)


def test_each_order_reports_its_progress():
    seen = Recorded()
    list(fit_orders(np.arange(20), 4, 20, progress=seen))
    assert (seen.stages, seen.steps) == ([["counting n-grams", 4, 4]], 4)


def test_discounts_are_those_of_the_counts_of_counts():
    counts = np.repeat([1, 2, 3, 4, 9], [40, 20, 10, 5, 7])
    y = 40 / (40 + 2 * 20)
    expected = (1 - 2 * y * 20 / 40, 2 - 3 * y * 10 / 20, 3 - 4 * y * 5 / 10)
    assert discounts_of(counts) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([], (0.5, 1, 1.5)),
        ([5, 6, 7], (0.5, 1, 1.5)),
        ([1, 1, 3, 4], (0.5, 1, 1.5)),  # none seen twice
        ([2, 2, 3, 4], (0.5, 1, 1.5)),  # none seen once
        ([1, 1, 2, 7], (1 - 2 * 0.5 * 1 / 2, 1, 1.5)),  # none seen three times
        ([1, 1, 2, 3, 3, 3, 3, 4], (0.5, 1, 3 - 4 * 0.5 * 1 / 4)),  # 2 - 3 * 0.5 * 4 is under 0
    ],
)
def test_a_discount_that_cannot_be_told_is_half_its_count(counts, expected):
    assert discounts_of(np.array(counts, int)) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13, 16])
def test_keys_are_equal_exactly_where_the_n_grams_are(n):
    ids = np.random.default_rng(n).integers(0, 3, 3000).astype(np.uint16)
    keys = ngram_keys(ids, n)
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    assert keys.dtype == np.uint64
    assert len(keys) == len(grams)
    assert len(set(keys.tolist())) == len(set(grams)) == len(set(zip(keys.tolist(), grams)))
    np.testing.assert_array_equal(keys, ngram_keys(ids.astype(np.int64), n))
    np.testing.assert_array_equal(keys[100:110], ngram_keys(ids[100 : 110 + n - 1], n))


def test_a_million_different_n_grams_have_a_million_keys():
    places = np.arange(10**6, dtype=np.uint32)
    grams = np.stack([places // 10**4, places // 100 % 100, places % 100], axis=1)
    keys = ngram_keys(grams.ravel(), 3)[::3]
    assert len(np.unique(keys)) == 10**6
    # Spread evenly: the top bits alone tell them apart as far as chance would.
    assert np.bincount((keys >> np.uint64(60)).astype(int)).std() < 4 * math.sqrt(10**6 / 16)


def test_a_text_shorter_than_n_has_no_keys():
    assert len(ngram_keys(np.arange(3), 4)) == 0
    assert len(ngram_keys(np.array([], np.uint16), 1)) == 0


def test_memory_is_bounded_by_the_number_of_different_n_grams(monkeypatch):
    for module in (ngram_counts, ngrams):
        monkeypatch.setattr(module, "CHUNK", 1 << 14)
    ids = np.random.default_rng(0).integers(0, 50_000, 300_000).astype(np.uint16)  # nearly all different
    tracemalloc.start()
    try:
        for order in fit_orders(ids, 3, 50_000):
            del order
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 70 * len(ids)
