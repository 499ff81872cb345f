"""Which bytes of some texts occur verbatim in a training text: chunks of it in, spans, runs and counts out.

A unit is a byte, or `BORDER` for a control token: no span contains one. The keys of ANCHOR units in a
row find the places in the training text that can matter; longer spans are looked for at those alone.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lucidlm.text.hashing import Keys, SpanHashes
from lucidlm.text.tokenizer import Tokenizer

ANCHOR = 16
"""Bytes of the shortest run that is found."""
BORDER = 256
MOST_PLACES = 500
"""Places in the training text that are kept for each anchor: a sequence is counted up to that."""


class Spelling:
    """Token ids to units."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        spelled = [tokenizer.token_bytes(id) for id in range(tokenizer.vocab_size)]
        # A token that spells nothing is one unit, a border.
        self.lengths = np.array([max(1, len(each)) for each in spelled], np.int64)
        self._starts = np.concatenate(([0], np.cumsum(self.lengths)[:-1]))
        self._table = np.concatenate(
            [np.frombuffer(each, np.uint8) if each else np.array([BORDER]) for each in spelled]
        ).astype(np.uint16)

    def units(self, ids: np.ndarray) -> np.ndarray:
        """(N,) uint16, at least one unit for each id."""
        ids = np.asarray(ids, np.int64)
        lengths = self.lengths[ids]
        before = np.cumsum(lengths) - lengths
        return self._table[np.repeat(self._starts[ids] - before, lengths) + np.arange(int(lengths.sum()))]


class Hashes(SpanHashes):
    """Keys of any spans of some units."""

    def __init__(self, units: np.ndarray) -> None:
        super().__init__(_weights()[units])


@functools.cache
def _weights() -> np.ndarray:
    return np.random.default_rng(0).integers(1 << 64, size=BORDER + 1, dtype=np.uint64)


class Text:
    """Texts in a row as units, with a border around each."""

    def __init__(self, texts: Sequence[np.ndarray]) -> None:
        border = np.array([BORDER], np.uint16)
        self.units = np.concatenate([border, *(part for text in texts for part in (text, border))])
        self._borders = np.concatenate(([0], np.cumsum(self.units == BORDER)))
        self.hashes = Hashes(self.units)

    @property
    def n_bytes(self) -> int:
        """Borders not counted."""
        return int((self.units != BORDER).sum())

    def places(self, n: int) -> np.ndarray:
        """Where n bytes without a border in them start."""
        return np.flatnonzero(self._borders[n:] == self._borders[: max(0, len(self._borders) - n)])

    def spelled(self, place: int, n: int) -> bytes:
        """The n bytes from a place on."""
        return self.units[place : place + n].astype(np.uint8).tobytes()

    def count(self, sequence: bytes) -> int:
        """How often a sequence of bytes occurs, overlapping ones too."""
        places = self.places(len(sequence))
        same = np.ones(len(places), bool)
        for offset, byte in enumerate(sequence):
            same &= self.units[places + offset] == byte
        return int(same.sum())


@dataclass(frozen=True, slots=True)
class Run:
    """Bytes of a text from a place on that occur verbatim in the training text."""

    length: int
    place: int


@dataclass(frozen=True, slots=True)
class Occurrences:
    """How often a sequence occurs in the training text."""

    count: int
    at_least: bool
    """Whether it occurs more often: places were kept up to a limit."""


class Spans:
    """How many of a text's spans of n bytes occur in the training text that was looked at so far."""

    def __init__(self, text: Text, n: int) -> None:
        self.n, self._text = n, text
        self._keys = Keys(text.hashes.keys(text.places(n), n))
        self._found = np.zeros(len(self._keys.keys), bool)

    def look(self, chunk: "Chunk") -> None:
        """Marks what occurs in a chunk."""
        self._found[self._keys.find(chunk.keys(self.n))[1]] = True

    def share(self) -> float | None:
        """As a share of 1; None where the text has no such span."""
        keys = self._text.hashes.keys(self._text.places(self.n), self.n)
        return float(self._found[np.searchsorted(self._keys.keys, keys)].mean()) if len(keys) else None


class Chunk:
    """Units of the training text, and the places in them where an anchor of the texts looked for occurs.

    Spans start among the first `length` units; those behind are what they reach into.
    """

    def __init__(self, units: np.ndarray, length: int, anchors: Keys) -> None:
        self.units = units
        self.hashes = Hashes(units)
        where, self.numbers = anchors.find(self.hashes.all_keys(ANCHOR))
        self.anchored = where
        self._length = length
        self.behind = len(units) - length
        hit = np.zeros(len(units) + 1, bool)
        hit[where] = True
        # How many anchors follow each other from each anchored place on: n bytes need n - ANCHOR + 1 of them.
        ends = np.flatnonzero(~hit)
        self._following = ends[np.searchsorted(ends, where)] - where

    def starts(self, n: int) -> np.ndarray:
        """Where n bytes may start that occur in the texts looked for."""
        enough = (self._following >= n - ANCHOR + 1) & (self.anchored < self._length)
        places = self.anchored[enough]
        return places[places + n <= len(self.units)]

    def keys(self, n: int) -> np.ndarray:
        """Their keys."""
        return self.hashes.keys(self.starts(n), n)


class Longest:
    """The longest run of a text in the training text that was looked at so far."""

    def __init__(self, text: Text) -> None:
        self.run = Run(0, 0)
        self._text = text
        self._wanted: tuple[int, np.ndarray, Keys] | None = None

    def look(self, chunk: Chunk, more: Callable[[int], Chunk]) -> None:
        """Keeps a longer run where one starts in the chunk; more(n) is the chunk with n units behind it."""
        while True:
            n = max(ANCHOR, self.run.length + 1)
            if chunk.behind < n:
                chunk = more(2 * n)
            found = self._one_of(n, chunk)
            if found is None:
                return
            self.run = found

    def _one_of(self, n: int, chunk: Chunk) -> Run | None:
        """A run of n bytes or more that starts in the chunk."""
        if self._wanted is None or self._wanted[0] != n:
            places = self._text.places(n)
            self._wanted = n, places, Keys(self._text.hashes.keys(places, n))
        _, places, keys = self._wanted
        starts = chunk.starts(n)
        where, numbers = keys.find(chunk.hashes.keys(starts, n))
        for there, number in zip(starts[where], numbers):
            here = int(places[keys.firsts[number]])
            # Two different spans might have one key.
            length = _equal(self._text.units[here:], chunk.units[there:])
            if length >= n:
                return Run(length, here)
        return None


def _equal(left: np.ndarray, right: np.ndarray) -> int:
    """How many units from the start on are equal and no border."""
    length = min(len(left), len(right))
    differ = (left[:length] != right[:length]) | (left[:length] == BORDER)
    return int(differ.argmax()) if differ.any() else length


class Counted:
    """The places in the training text of each anchor of a text, by which sequences are counted."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self.places = text.places(ANCHOR)
        self._keys = Keys(text.hashes.keys(self.places, ANCHOR))
        self.numbers = np.searchsorted(self._keys.keys, text.hashes.keys(self.places, ANCHOR))
        self.counts = np.zeros(len(self._keys.keys), np.int64)
        self._kept: list[list[np.ndarray]] = [[] for _ in self.counts]
        self._number_at = dict(zip(self.places.tolist(), self.numbers.tolist()))

    def look(self, chunk: Chunk, before: int) -> None:
        """Counts the anchors of a chunk; `before` is the number of units of the training text before it."""
        starts = chunk.starts(ANCHOR)
        where, numbers = self._keys.find(chunk.hashes.keys(starts, ANCHOR))
        order = np.argsort(numbers, kind="stable")
        different, firsts = np.unique(numbers[order], return_index=True)
        for number, found in zip(different, np.split(starts[where][order], firsts[1:])):
            if self.counts[number] < MOST_PLACES:
                self._kept[number].append(found + before)
            self.counts[number] += len(found)

    def occurrences(self, place: int, n: int) -> Occurrences:
        """How often the n bytes of the text from a place on occur; n is ANCHOR at least."""
        found = self._starts(place)
        for offset in (*range(ANCHOR, n - ANCHOR, ANCHOR), n - ANCHOR):
            found = self._common(found, place + offset, offset)
        return Occurrences(len(found[0]), found[1])

    def repeated(self, times: int) -> list[tuple[Run, Occurrences]]:
        """The longest sequences of the text that occur `times` times or more in the training text."""
        often = self.places[self.counts[self.numbers] >= times]
        runs: list[tuple[Run, Occurrences]] = []
        end = -1  # of the last sequence: what lies inside it is part of it
        for place in often.tolist():
            if place + ANCHOR <= end:
                continue
            found, length = self._starts(place), ANCHOR
            while place + length + 1 - ANCHOR in self._number_at:
                longer = self._common(found, place + length + 1 - ANCHOR, length + 1 - ANCHOR)
                if len(longer[0]) < times:
                    break
                found, length = longer, length + 1
            runs.append((Run(length, place), Occurrences(len(found[0]), found[1])))
            end = place + length
        return runs

    def _starts(self, place: int) -> tuple[np.ndarray, bool]:
        """Where the anchor at a place of the text was found, and whether that is not everywhere."""
        number = self._number_at[place]
        kept = np.concatenate([np.empty(0, np.int64), *self._kept[number]])
        return kept, bool(len(kept) < self.counts[number])

    def _common(self, found: tuple[np.ndarray, bool], place: int, offset: int) -> tuple[np.ndarray, bool]:
        """Those of the starts found that have the anchor of that place `offset` units after them."""
        kept, cut = self._starts(place)
        return np.intersect1d(found[0], kept - offset, assume_unique=True), found[1] or cut
