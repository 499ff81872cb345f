"""Shingles of texts that were also seen in documents come in; the passages that they form go out.

Shingles in the same order at nearly the same distance form a passage, as in the alignment of genomes (Li
2018, "Minimap2"): changed words between them do not hide it. docs/measure.md explains the thresholds.
"""

import numpy as np

from lucidlm.text.letters import SHINGLE, Letters

PASSAGE = 240
"""Letters of the shortest passage of which half may be changed."""
UNCHANGED = 0.5
VERBATIM = 160
"""Letters of the shortest passage that must be nearly unchanged."""
NEARLY_ALL = 0.9
WHOLE = 0.8
"""A shorter passage counts if it is this share of its text, and the same share of it is unchanged."""
EVIDENCE = 80
"""Letters of a passage that must be unchanged and outside templates."""
GAP = 6 * SHINGLE
"""Letters between two unchanged shingles of a passage, at most."""
BAND = 64
"""Letters by which the distance may vary within a passage: a changed word is longer or shorter."""

ENTRY = np.dtype(
    [("hash", "<u8"), ("place", "<i4"), ("end", "<i4"), ("first", "<u4"), ("last", "<u4"), ("text", "<u4")]
)
"""A shingle or line of the texts: its letters (place to end), characters (first to last), text."""
STRETCH = np.dtype(
    [("place", "<i4"), ("end", "<i4"), ("first", "<u4"), ("last", "<u4"), ("text", "<u4"), ("source", "<i8")]
)
"""A stretch of a text that also occurs in the document `source`; the rest is as in an entry."""


def entries_of(letters: Letters, hashes: np.ndarray, places: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The entries of shingles or lines: their hashes, and the first letter and the end of each."""
    entries: np.ndarray = np.empty(len(hashes), ENTRY)
    entries["hash"] = hashes
    entries["place"], entries["end"] = places + letters.first, ends + letters.first
    entries["first"], entries["last"] = letters.characters[places], letters.characters[ends - 1] + 1
    entries["text"] = letters.documents[letters.pieces[places]]
    return entries


def stretches_of(entries: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Entries as stretches, with the documents in which they occur."""
    stretches: np.ndarray = np.empty(len(entries), STRETCH)
    for name in ("place", "end", "first", "last", "text"):
        stretches[name] = entries[name]
    stretches["source"] = source
    return stretches


class Cover:
    """The letters that are in shingles at some places."""

    def __init__(self, places: np.ndarray) -> None:
        places = np.sort(places)
        new = np.diff(places, prepend=-2 * SHINGLE) > SHINGLE
        firsts = np.flatnonzero(new)
        self._starts = places[firsts]
        lasts = np.append(firsts[1:], len(places))[: len(firsts)] - 1
        self._lengths = places[lasts] + SHINGLE - self._starts
        self._before = np.cumsum(self._lengths, dtype=np.int64) - self._lengths

    def before(self, places: np.ndarray) -> np.ndarray:
        """How many of these letters lie before each place."""
        if not len(self._starts):
            return np.zeros(len(places), np.int64)
        stretch = np.maximum(np.searchsorted(self._starts, places, side="right") - 1, 0)
        inside = np.clip(places - self._starts[stretch], 0, self._lengths[stretch])
        return self._before[stretch] + inside


def chains(
    entries: np.ndarray, hits: np.ndarray, template: Cover, lengths: np.ndarray, shift: int
) -> np.ndarray:
    """The passages among the found shingles: chains in the same order, at nearly the same distance.

    `template` has the letters of templates, `lengths` the letters of each text.
    """
    if not len(hits):
        return np.empty(0, STRETCH)
    bands = (hits["place"] - entries["place"] + shift) // BAND
    order = np.lexsort((entries["place"], bands))
    entries, hits, bands = entries[order], hits[order], bands[order]
    places = entries["place"]
    breaks = (np.diff(bands) != 0) | (np.diff(places) > GAP) | (np.diff(hits["source"]) != 0)
    breaks |= np.diff(entries["text"].astype(np.int64)) != 0
    firsts = np.flatnonzero(np.concatenate(([True], breaks)))
    lasts = np.append(firsts[1:], len(places)) - 1
    reach = np.full(len(places), SHINGLE)
    reach[:-1] = np.where(breaks, SHINGLE, np.minimum(np.diff(places), SHINGLE))
    own = reach - (template.before(places + reach) - template.before(places))  # letters outside templates
    unchanged = np.add.reduceat(own, firsts)
    start, end = places[firsts], places[lasts] + SHINGLE
    length = end - start
    all_own = length - (template.before(end) - template.before(start))
    taken = (length >= PASSAGE) & (unchanged >= UNCHANGED * all_own)
    taken |= (length >= VERBATIM) & (unchanged >= NEARLY_ALL * all_own)
    taken |= (length >= WHOLE * lengths[entries["text"][firsts]]) & (unchanged >= WHOLE * all_own)
    taken &= unchanged >= EVIDENCE
    firsts, lasts = firsts[taken], lasts[taken]
    stretches: np.ndarray = np.empty(len(firsts), STRETCH)
    stretches["place"], stretches["end"] = start[taken], end[taken]
    stretches["first"], stretches["last"] = entries["first"][firsts], entries["last"][lasts]
    stretches["text"], stretches["source"] = entries["text"][firsts], hits["source"][firsts]
    return stretches


def merged(stretches: np.ndarray) -> np.ndarray:
    """The same without overlaps: overlapping stretches become one, with the source of the first."""
    if not len(stretches):
        return stretches
    stretches = stretches[np.lexsort((-stretches["end"], stretches["place"]))]
    reached = np.maximum.accumulate(stretches["end"])
    new = np.concatenate(([True], stretches["place"][1:] >= reached[:-1]))
    firsts = np.flatnonzero(new)
    merged = stretches[firsts]
    merged["end"] = np.maximum.reduceat(stretches["end"], firsts)
    merged["last"] = np.maximum.reduceat(stretches["last"], firsts)
    return merged


def letters_of(stretches: np.ndarray, texts: int) -> np.ndarray:
    """Letters of each text in stretches without overlaps."""
    lengths = (stretches["end"] - stretches["place"]).astype(np.int64)
    return np.bincount(stretches["text"], lengths, minlength=texts).astype(np.int64)


def main_source(stretches: np.ndarray, texts: int) -> np.ndarray:
    """The source with most letters of each text; -1 if there is none."""
    main = np.full(texts, -1)
    order = np.lexsort((stretches["source"], stretches["text"]))
    stretches = stretches[order]
    if not len(stretches):
        return main
    new = (np.diff(stretches["text"].astype(np.int64)) != 0) | (np.diff(stretches["source"]) != 0)
    firsts = np.flatnonzero(np.concatenate(([True], new)))
    letters = np.add.reduceat((stretches["end"] - stretches["place"]).astype(np.int64), firsts)
    rising = np.argsort(letters, kind="stable")  # the last one written has the most letters
    main[stretches["text"][firsts][rising]] = stretches["source"][firsts][rising]
    return main
