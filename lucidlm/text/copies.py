"""Texts come in, and other texts; the passages of the first that also occur in the others go out.

Shingles in the same order at nearly the same distance form a passage, as in the alignment of genomes (Li
2018, "Minimap2"): changed words between them do not hide it. Shingles that occur in many places belong to a
template, such as that of log lines, and do not count. docs/measure.md explains the thresholds.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from lucidlm.text.hashing import Keys
from lucidlm.text.letters import SHINGLE, Letters, read_letters

PASSAGE = 240
"""Letters of the shortest passage of which half may be changed."""
UNCHANGED = 0.5
VERBATIM = 160
"""Letters of the shortest passage that must be nearly unchanged."""
NEARLY_ALL = 0.9
WHOLE = 0.8
"""A shorter passage counts if it is this share of its text, and the same share of it is unchanged."""
COMMON = 16
"""Shingles and lines that occur more often belong to a template."""
MOST_LETTERS = 32_000_000
"""Letters of text that are checked; of a longer text only the start is."""
INDEXED = 2_000_000
"""Shingles that are kept: for a long text every second, fourth, ... one, chosen by hash."""

EVIDENCE = 80
"""Letters of a passage that must be unchanged and outside templates."""
GAP = 6 * SHINGLE
"""Letters between two unchanged shingles of a passage, at most."""
BAND = 64
"""Letters by which the distance may vary within a passage: a changed word is longer or shorter."""
PENDING = 1_000_000
"""Found shingles that are collected before they are chained."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of a text that also occurs in another text."""

    text: int
    """The number of the text, from 0, in the given order."""
    start: int
    """Its first character in the text; `end` is the one after its last."""
    end: int
    letters: int
    source: int
    """The number that `look` got for the document in which it also occurs."""


@dataclass(frozen=True, slots=True)
class Copies:
    """How much of n texts also occurs in others, in letters (a Chinese character counts as three)."""

    letters: np.ndarray
    """(n,) letters of each text."""
    copied: np.ndarray
    """(n,) letters of each text in copied passages."""
    with_lines: np.ndarray
    """(n,) the same, with whole lines that also occur elsewhere and are not template lines."""
    with_all_lines: np.ndarray
    """(n,) the same, with template lines too."""
    source: np.ndarray
    """(n,) the document with most of them; -1 if there is none."""
    passages: tuple[Passage, ...]
    lines: int
    """Lines of at least LINE letters that also occur elsewhere."""
    lines_total: int
    known: np.ndarray
    """(n,) letters of each text whose shingles occur elsewhere, templates included."""
    template: np.ndarray
    """(n,) letters of each text whose shingles occur more than COMMON times, elsewhere or in the texts."""
    template_elsewhere: np.ndarray
    """(n,) letters whose shingles occur more than COMMON times elsewhere."""
    template_here: np.ndarray
    """(n,) letters whose shingles occur more than COMMON times in the texts themselves."""
    sources: tuple[int, ...]
    """Numbers of all documents in which something was found."""
    unchecked: int
    """Texts that were not checked, because the ones before already have MOST_LETTERS letters."""


ENTRY = np.dtype(
    [("hash", "<u8"), ("place", "<i4"), ("end", "<i4"), ("first", "<u4"), ("last", "<u4"), ("text", "<u4")]
)
"""A shingle or line of the texts: its letters (place to end), characters (first to last), text."""
STRETCH = np.dtype(
    [("place", "<i4"), ("end", "<i4"), ("first", "<u4"), ("last", "<u4"), ("text", "<u4"), ("source", "<i8")]
)
HIT = np.dtype([("hash", "<i4"), ("place", "<i8"), ("source", "<i8")])


class CopySearch:
    """Looks for passages of the given texts in others: first `look` at the others, then take `copies`."""

    def __init__(self, texts: Iterable[Iterable[str]]) -> None:
        self._lengths: list[int] = []
        self._checked = self._unchecked = 0
        self._total = 0
        """Letters of the texts, as far as they are read."""
        self._every = 1
        """One of this many shingles is kept."""
        shingles: list[np.ndarray] = []
        lines: list[np.ndarray] = []
        kept = 0
        for letters in read_letters(self._counted(texts)):
            self._add_lengths(letters)
            places, hashes = self._sampled(*letters.shingles())
            shingles.append(_entry_rows(letters, hashes, places, places + SHINGLE))
            firsts, ends, hashes = letters.whole_lines()
            lines.append(_entry_rows(letters, hashes, firsts, ends))
            kept += len(places)
            while kept > INDEXED:
                self._every *= 2
                shingles = [each[each["hash"] % np.uint64(self._every) == 0] for each in shingles]
                kept = sum(map(len, shingles))
        self._shingles, self._lines = _Index(shingles), _Index(lines)
        self._stretches: list[np.ndarray] = [_rows(0, STRETCH)]
        self._looked_at = 0

    def wanted(self) -> "Wanted":
        """What is looked for, for `Look`: in another process too."""
        return Wanted(self._shingles.keys, self._lines.keys, self._every)

    def look(self, documents: Iterable[tuple[int, Iterable[str]]]) -> None:
        """Look at documents, each a number and blocks of text."""
        look = Look(wanted := self.wanted())
        for letters in read_letters(documents):
            look.at(letters)
            if look.waiting > PENDING:
                self.add(look.found())
                look = Look(wanted)
        self.add(look.found())

    def add(self, found: dict[str, np.ndarray]) -> None:
        """Add what a `Look` found in the documents after those that were looked at."""
        self._shingles.add(found, "shingles", self._looked_at)
        self._lines.add(found, "lines", self._looked_at)
        self._looked_at += int(found["letters"])
        if self._shingles.waiting > PENDING:
            self._stretches.append(self._passages())

    def copies(self) -> Copies:
        """The result, after `look` has seen all documents."""
        self._stretches.append(self._passages())
        stretches = np.concatenate(self._stretches)
        passages = _merged(stretches)
        equal, lines = self._lines.unusual_hits(), self._lines
        everything = np.concatenate((stretches, _stretch_rows(lines.entries[equal["hash"]], equal["source"])))
        all_lines = _stretch_rows(lines.entries, lines.source)[lines.times > 0]
        lengths = np.array(self._lengths, np.int64)
        shingles = self._shingles
        covered = self._covered(np.ones(len(self._shingles.entries), bool))
        scale = lengths / np.maximum(covered, 1)  # for a long text not every shingle was kept

        def scaled(chosen: np.ndarray) -> np.ndarray:
            return np.round(self._covered(chosen) * scale).astype(np.int64)

        return Copies(
            letters=lengths,
            copied=_letters_of(passages, len(lengths)),
            with_lines=_letters_of(_merged(everything), len(lengths)),
            with_all_lines=_letters_of(_merged(np.concatenate((stretches, all_lines))), len(lengths)),
            source=_main_source(everything, len(lengths)),
            passages=tuple(
                Passage(text, first, last, end - place, source)
                for place, end, first, last, text, source in passages.tolist()
            ),
            lines=len(np.unique(equal["hash"])),
            lines_total=len(lines.entries),
            known=scaled(shingles.times > 0),
            template=scaled(shingles.common),
            template_elsewhere=scaled(shingles.common_elsewhere),
            template_here=scaled(shingles.common_here),
            sources=tuple(np.union1d(stretches["source"], all_lines["source"]).tolist()),
            unchecked=self._unchecked,
        )

    def _counted(self, texts: Iterable[Iterable[str]]) -> Iterator[tuple[int, Iterable[str]]]:
        for number, blocks in enumerate(texts):
            if self._total >= MOST_LETTERS:
                self._unchecked += 1
                continue
            self._lengths.append(0)
            yield number, blocks

    def _add_lengths(self, letters: Letters) -> None:
        counts = np.bincount(letters.documents[letters.pieces], minlength=len(self._lengths))
        self._lengths = [known + new for known, new in zip(self._lengths, counts.tolist(), strict=True)]
        self._total += len(letters.codes)

    def _sampled(self, places: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _sampled(places, hashes, self._every)

    def _covered(self, chosen: np.ndarray) -> np.ndarray:
        """Letters of each text that these shingles cover."""
        return np.diff(_Cover(self._shingles.entries["place"][chosen])(np.cumsum([0, *self._lengths])))

    def _passages(self) -> np.ndarray:
        """The stretches in what was found since the last call."""
        index = self._shingles
        hits = index.unusual_hits()
        entries = index.entries[hits["hash"]]
        template = _Cover(index.entries["place"][index.common])
        # A passage may cross a border of bands, so they are laid twice, shifted by half a band.
        lengths = np.array(self._lengths)
        return np.concatenate([_chains(entries, hits, template, lengths, shift) for shift in (0, BAND // 2)])


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
        """Shingles that were found and are held."""
        return self._shingles.waiting

    def at(self, letters: Letters) -> None:
        """Look at these letters, which come after the others."""
        places, hashes = _sampled(*letters.shingles(), self._every)
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
        hits = _rows(int(wanted.sum()), HIT)
        hits["hash"], where = found[wanted], where[wanted]
        hits["place"], hits["source"] = places[where], sources[where]
        self._hits.append(hits)
        self.waiting += len(hits)

    def found(self, name: str) -> dict[str, np.ndarray]:
        """The keys that were found with their number and last document, and the places of the rare ones."""
        seen = np.flatnonzero(self._times)
        hits = np.concatenate([_rows(0, HIT), *self._hits])
        return {
            f"{name}_seen": seen,
            f"{name}_times": self._times[seen],
            f"{name}_source": self._source[seen],
            f"{name}_hits": hits[self._times[hits["hash"]] <= COMMON],
        }


class _Index:
    """The shingles or lines of the texts by hash, and where else they were found."""

    def __init__(self, entries: list[np.ndarray]) -> None:
        joined = np.concatenate([_rows(0, ENTRY), *entries])
        entries.clear()  # for a large text these lists take as much memory as what is made of them
        self.entries = joined[np.argsort(joined["hash"], kind="stable")]
        self.keys = Keys(self.entries["hash"])
        self._firsts, self._counts = self.keys.firsts, self.keys.counts
        self._times = np.zeros(len(self._counts), np.int32)
        self._hits: list[np.ndarray] = []
        self.waiting = 0
        self._source = np.full(len(self._counts), -1)

    @property
    def times(self) -> np.ndarray:
        """How often each entry occurs elsewhere."""
        return np.repeat(self._times, self._counts)

    @property
    def source(self) -> np.ndarray:
        """The last document in which each entry was found; -1 for none."""
        return np.repeat(self._source, self._counts)

    @property
    def common(self) -> np.ndarray:
        """Whether each entry belongs to a template."""
        return self.common_elsewhere | self.common_here

    @property
    def common_elsewhere(self) -> np.ndarray:
        """Whether each entry occurs more than COMMON times elsewhere."""
        return np.repeat(self._times > COMMON, self._counts)

    @property
    def common_here(self) -> np.ndarray:
        """Whether each entry occurs more than COMMON times among the entries."""
        return np.repeat(self._counts > COMMON, self._counts)

    def add(self, found: dict[str, np.ndarray], name: str, before: int) -> None:
        """Add what was found in documents that come after `before` letters."""
        seen = found[f"{name}_seen"]
        self._times[seen] += found[f"{name}_times"]
        self._source[seen] = found[f"{name}_source"]
        hits = found[f"{name}_hits"].copy()
        hits["place"] += before
        hits = hits[self._times[hits["hash"]] <= COMMON]
        self._hits.append(hits)
        self.waiting += len(hits)

    def unusual_hits(self) -> np.ndarray:
        """What was found since the last call, without templates; "hash" is the number of the entry."""
        hits = np.concatenate([_rows(0, HIT), *self._hits])
        self._hits, self.waiting = [], 0
        hits = hits[self._times[hits["hash"]] <= COMMON]
        counts = self._counts[hits["hash"]]
        firsts = np.repeat(self._firsts[hits["hash"]], counts)
        hits = np.repeat(hits, counts)
        hits["hash"] = firsts + np.arange(len(hits)) - np.repeat(np.cumsum(counts) - counts, counts)
        return hits


def _entry_rows(letters: Letters, hashes: np.ndarray, places: np.ndarray, ends: np.ndarray) -> np.ndarray:
    entries = _rows(len(hashes), ENTRY)
    entries["hash"] = hashes
    entries["place"], entries["end"] = places + letters.first, ends + letters.first
    entries["first"], entries["last"] = letters.characters[places], letters.characters[ends - 1] + 1
    entries["text"] = letters.documents[letters.pieces[places]]
    return entries


def _stretch_rows(entries: np.ndarray, source: np.ndarray) -> np.ndarray:
    stretches = _rows(len(entries), STRETCH)
    for name in ("place", "end", "first", "last", "text"):
        stretches[name] = entries[name]
    stretches["source"] = source
    return stretches


def _sampled(places: np.ndarray, hashes: np.ndarray, every: int) -> tuple[np.ndarray, np.ndarray]:
    """The shingles that are looked at: one of `every`, by their hash."""
    if every == 1:
        return places, hashes
    taken = hashes % np.uint64(every) == 0
    return places[taken], hashes[taken]


def _rows(count: int, kind: np.dtype) -> np.ndarray:
    return np.empty(count, kind)


class _Cover:
    """The letters in shingles at some places: called with places, how many of them lie before each."""

    def __init__(self, places: np.ndarray) -> None:
        places = np.sort(places)
        new = np.diff(places, prepend=-2 * SHINGLE) > SHINGLE
        firsts = np.flatnonzero(new)
        self._starts = places[firsts]
        lasts = np.append(firsts[1:], len(places))[: len(firsts)] - 1
        self._lengths = places[lasts] + SHINGLE - self._starts
        self._before = np.cumsum(self._lengths, dtype=np.int64) - self._lengths

    def __call__(self, places: np.ndarray) -> np.ndarray:
        if not len(self._starts):
            return np.zeros(len(places), np.int64)
        stretch = np.maximum(np.searchsorted(self._starts, places, side="right") - 1, 0)
        inside = np.clip(places - self._starts[stretch], 0, self._lengths[stretch])
        return self._before[stretch] + inside


def _chains(
    entries: np.ndarray, hits: np.ndarray, template: _Cover, lengths: np.ndarray, shift: int
) -> np.ndarray:
    """The passages among the found shingles: chains in the same order, at nearly the same distance.

    `template` has the letters of templates, `lengths` the letters of each text.
    """
    if not len(hits):
        return _rows(0, STRETCH)
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
    own = reach - (template(places + reach) - template(places))  # letters outside templates
    unchanged = np.add.reduceat(own, firsts)
    start, end = places[firsts], places[lasts] + SHINGLE
    length = end - start
    all_own = length - (template(end) - template(start))
    taken = (length >= PASSAGE) & (unchanged >= UNCHANGED * all_own)
    taken |= (length >= VERBATIM) & (unchanged >= NEARLY_ALL * all_own)
    taken |= (length >= WHOLE * lengths[entries["text"][firsts]]) & (unchanged >= WHOLE * all_own)
    taken &= unchanged >= EVIDENCE
    firsts, lasts = firsts[taken], lasts[taken]
    stretches = _rows(len(firsts), STRETCH)
    stretches["place"], stretches["end"] = start[taken], end[taken]
    stretches["first"], stretches["last"] = entries["first"][firsts], entries["last"][lasts]
    stretches["text"], stretches["source"] = entries["text"][firsts], hits["source"][firsts]
    return stretches


def _merged(stretches: np.ndarray) -> np.ndarray:
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


def _letters_of(stretches: np.ndarray, texts: int) -> np.ndarray:
    """Letters of each text in stretches without overlaps."""
    lengths = (stretches["end"] - stretches["place"]).astype(np.int64)
    return np.bincount(stretches["text"], lengths, minlength=texts).astype(np.int64)


def _main_source(stretches: np.ndarray, texts: int) -> np.ndarray:
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
