"""Counts of n-grams: a stream of ids in, each different n-gram with its count and a place out, sorted.

n ids in a row are an n-gram, K of them are different.
"""

from dataclasses import dataclass

import numpy as np

from lucidlm.text.hashing import splitmix64

CHUNK = 1 << 22
"""Places that are hashed, sorted or looked up at a time: this bounds the memory beside the result."""

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


def count_ngrams(ids: np.ndarray, n: int, counted: np.ndarray, id_bits: int) -> Counts:
    """The n-grams that start at the places of the mask `counted`, in bounded memory."""
    pieces, end = [], len(ids) - n + 1
    for start in range(0, end, CHUNK):
        stop = min(start + CHUNK, end)
        places = np.flatnonzero(counted[start:stop])
        keys = keys_of(ids[start : stop + n - 1], n, id_bits)[places]
        ones = np.ones(len(places), np.uint32)
        pieces.append(_grouped(Counts(keys, ones, (places + start).astype(np.uint32))))
    return pieces[0] if len(pieces) == 1 else _merged(pieces)


def both_counts(ids: np.ndarray, n: int, counted: np.ndarray, id_bits: int) -> tuple[Counts, Counts]:
    """All n-grams with how often each was seen, and with how many of its places the mask `counted` has."""
    keys = keys_of(ids, n, id_bits)
    order = np.argsort(keys)
    keys = keys[order]
    starts = starts_of(keys)
    keys, places = keys[starts], order[starts].astype(np.uint32)
    seen = np.diff(starts, append=len(order)).astype(np.uint32)
    different = np.add.reduceat(counted[order], starts, dtype=np.uint32) if len(starts) else seen
    return Counts(keys, seen, places), Counts(keys, different, places)


def first_places(ids: np.ndarray, counts: Counts, n: int, start_id: int | None) -> np.ndarray:
    """Where the order below n counts: one place of each different n-gram, after its first id."""
    counted = np.zeros(len(ids), bool)
    if n > 1:
        counted[counts.places + 1] = True
        counted[0] = True
        if start_id is not None and n > 2:
            counted |= ids == start_id
    return counted


def id_bits_of(vocab_size: int) -> int:
    """Bits that hold every id."""
    return max(1, (vocab_size - 1).bit_length())


def keys_of(ids: np.ndarray, n: int, id_bits: int) -> np.ndarray:
    """A key of each n-gram, uint64: the hash of its context above, its last id as it is below.

    Sorted, they are in the order of their contexts. Contexts have 64 bits less the id's: with GPT-2's
    vocabulary, 20 million different contexts hold about one pair that shares its counts, with bytes 0.01.
    """
    last = ids[n - 1 :].astype(np.uint64)
    return last if n == 1 else ngram_keys(ids[:-1], n - 1) << np.uint64(id_bits) | last


def _grouped(each: Counts) -> Counts:
    """The same n-grams sorted, the counts of equal ones added."""
    order = np.argsort(each.keys)
    keys = each.keys[order]
    starts = starts_of(keys)
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


def starts_of(sorted_keys: np.ndarray) -> np.ndarray:
    """Where each different key starts."""
    return np.flatnonzero(np.concatenate(([len(sorted_keys) > 0], sorted_keys[1:] != sorted_keys[:-1])))
