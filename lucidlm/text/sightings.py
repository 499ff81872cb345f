"""Documents come in; the places in them of wanted shingles and lines of other texts go out.

A shingle or line that occurs in many places belongs to a template, such as that of log lines: its places are
dropped, and only the number of them is kept.
"""

from dataclasses import dataclass

import numpy as np

from lucidlm.text.hashing import Keys
from lucidlm.text.letters import Letters

COMMON = 16
"""Shingles and lines that occur more often belong to a template."""
HIT = np.dtype([("hash", "<i4"), ("place", "<i8"), ("source", "<i8")])
"""Where a shingle or line was seen: its number among the wanted ones, letters before it, its document."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The hashes of shingles and lines that a `Look` looks for."""

    shingles: Keys
    lines: Keys
    every: int
    """One of this many shingles is looked at."""


class Look:
    """Looks at documents; finds where the wanted hashes occur in them."""

    def __init__(self, wanted: Wanted) -> None:
        self._every = wanted.every
        self._shingles, self._lines = _Sightings(wanted.shingles), _Sightings(wanted.lines)
        self._letters = 0

    @property
    def waiting(self) -> int:
        """The number of places that are held in memory."""
        return self._shingles.waiting

    def at(self, letters: Letters) -> None:
        """Look at the next letters."""
        places, hashes = sampled(*letters.shingles(), self._every)
        sources = letters.documents[letters.pieces]
        self._shingles.look(hashes, places + self._letters, sources[places])
        firsts, _, hashes = letters.whole_lines()
        self._lines.look(hashes, firsts + self._letters, sources[firsts])
        self._letters += len(letters.codes)

    def found(self) -> dict[str, np.ndarray]:
        """What was found, for `CopySearch.add`."""
        found = {"letters": np.array(self._letters)}
        return found | self._shingles.found("shingles") | self._lines.found("lines")


class _Sightings:
    """Where some keys were found in documents."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._times = np.zeros(len(keys.keys), np.int32)
        self._source = np.full(len(keys.keys), -1)
        self._hits: list[np.ndarray] = []
        self.waiting = 0

    def look(self, hashes: np.ndarray, places: np.ndarray, sources: np.ndarray) -> None:
        """Remember which of these hashes are among the keys."""
        where, found = self._keys.find(hashes)
        self._source[found] = sources[where]
        wanted = (self._times[found] <= COMMON) & (self._keys.counts[found] <= COMMON)
        np.add.at(self._times, found, 1)
        hits: np.ndarray = np.empty(int(wanted.sum()), HIT)
        hits["hash"], where = found[wanted], where[wanted]
        hits["place"], hits["source"] = places[where], sources[where]
        self._hits.append(hits)
        self.waiting += len(hits)

    def found(self, name: str) -> dict[str, np.ndarray]:
        """Which keys were found, how often and in which document last, and the places of the rare ones."""
        seen = np.flatnonzero(self._times)
        hits = np.concatenate([np.empty(0, HIT), *self._hits])
        return {
            f"{name}_seen": seen,
            f"{name}_times": self._times[seen],
            f"{name}_source": self._source[seen],
            f"{name}_hits": hits[self._times[hits["hash"]] <= COMMON],
        }


def sampled(places: np.ndarray, hashes: np.ndarray, every: int) -> tuple[np.ndarray, np.ndarray]:
    """The shingles that are looked at: one of `every`, by their hash."""
    if every == 1:
        return places, hashes
    taken = hashes % np.uint64(every) == 0
    return places[taken], hashes[taken]
