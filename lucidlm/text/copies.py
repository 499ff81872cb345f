"""Texts come in, and other texts; the passages of the first that also occur in the others go out.

Shingles and lines that occur often belong to a template, such as that of log lines, and do not count.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from lucidlm.text.hashing import Keys
from lucidlm.text.letters import SHINGLE, Letters, read_letters
from lucidlm.text.passages import (
    BAND,
    ENTRY,
    STRETCH,
    Cover,
    chains,
    entries_of,
    letters_of,
    main_source,
    merged,
    stretches_of,
)
from lucidlm.text.sightings import COMMON, HIT, Look, Wanted, sampled

MOST_LETTERS = 32_000_000
"""Letters that are checked. Of a longer text only the beginning is checked."""
INDEXED = 2_000_000
"""Shingles that are kept. Of a long text every second, fourth, ... one is kept, chosen by hash."""
PENDING = 1_000_000
"""Found shingles that are collected before passages are formed from them."""


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
            places, hashes = sampled(*letters.shingles(), self._every)
            shingles.append(entries_of(letters, hashes, places, places + SHINGLE))
            firsts, ends, hashes = letters.whole_lines()
            lines.append(entries_of(letters, hashes, firsts, ends))
            kept += len(places)
            while kept > INDEXED:
                self._every *= 2
                shingles = [each[each["hash"] % np.uint64(self._every) == 0] for each in shingles]
                kept = sum(map(len, shingles))
        self._shingles, self._lines = _Index(shingles), _Index(lines)
        self._stretches: list[np.ndarray] = [np.empty(0, STRETCH)]
        self._looked_at = 0

    def wanted(self) -> "Wanted":
        """What a `Look` looks for, in this process or in another."""
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
        """Add what a `Look` found. The order of these calls is that of the documents."""
        self._shingles.add(found, "shingles", self._looked_at)
        self._lines.add(found, "lines", self._looked_at)
        self._looked_at += int(found["letters"])
        if self._shingles.waiting > PENDING:
            self._stretches.append(self._passages())

    def copies(self) -> Copies:
        """The result, after `look` has seen all documents."""
        self._stretches.append(self._passages())
        stretches = np.concatenate(self._stretches)
        joined = merged(stretches)
        equal, lines = self._lines.unusual_hits(), self._lines
        everything = np.concatenate((stretches, stretches_of(lines.entries[equal["hash"]], equal["source"])))
        all_lines = stretches_of(lines.entries, lines.source)[lines.times > 0]
        lengths = np.array(self._lengths, np.int64)
        shingles = self._shingles
        covered = self._covered(np.ones(len(self._shingles.entries), bool))
        scale = lengths / np.maximum(covered, 1)  # of a long text not every shingle was kept

        def scaled(chosen: np.ndarray) -> np.ndarray:
            return np.round(self._covered(chosen) * scale).astype(np.int64)

        return Copies(
            letters=lengths,
            copied=letters_of(joined, len(lengths)),
            with_lines=letters_of(merged(everything), len(lengths)),
            with_all_lines=letters_of(merged(np.concatenate((stretches, all_lines))), len(lengths)),
            source=main_source(everything, len(lengths)),
            passages=tuple(
                Passage(text, first, last, end - place, source)
                for place, end, first, last, text, source in joined.tolist()
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

    def _covered(self, chosen: np.ndarray) -> np.ndarray:
        """Letters of each text that these shingles cover."""
        cover = Cover(self._shingles.entries["place"][chosen])
        return np.diff(cover.before(np.cumsum([0, *self._lengths])))

    def _passages(self) -> np.ndarray:
        """The stretches in what was found since the last call."""
        index = self._shingles
        hits = index.unusual_hits()
        entries = index.entries[hits["hash"]]
        template = Cover(index.entries["place"][index.common])
        # A passage may cross the border of two bands, so there are two sets, shifted by half a band.
        lengths = np.array(self._lengths)
        return np.concatenate([chains(entries, hits, template, lengths, shift) for shift in (0, BAND // 2)])


class _Index:
    """The shingles or lines of the texts by hash, and where else they were found."""

    def __init__(self, entries: list[np.ndarray]) -> None:
        joined = np.concatenate([np.empty(0, ENTRY), *entries])
        entries.clear()  # of a large text these lists take as much memory as the joined array
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
        hits = np.concatenate([np.empty(0, HIT), *self._hits])
        self._hits, self.waiting = [], 0
        hits = hits[self._times[hits["hash"]] <= COMMON]
        counts = self._counts[hits["hash"]]
        firsts = np.repeat(self._firsts[hits["hash"]], counts)
        hits = np.repeat(hits, counts)
        hits["hash"] = firsts + np.arange(len(hits)) - np.repeat(np.cumsum(counts) - counts, counts)
        return hits
