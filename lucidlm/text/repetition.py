"""How much a text repeats itself: documents come in, counts of different ones and of different lines out."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from lucidlm.text.letters import SHINGLE, read_letters

MOSTLY = 0.5
"""Where a smaller share of the sequences is different, pages are no evidence of their own."""
SAID = 0.8
"""A smaller share of different sequences is said."""
TOGETHER = 1 << 17
"""Characters of short documents that are looked at together."""
KEPT = 2_000_000
"""Sequences that are kept: of a long text every second, fourth, ... one, chosen by its hash."""


@dataclass(frozen=True, slots=True)
class Repetition:
    """How much of a text is there more than once."""

    documents: int
    different_documents: int
    lines: int
    """Lines that are not blank."""
    different_lines: int
    different_sequences: float
    """Share of the sequences of 20 letters that are different from all before; 1 where there are none."""
    same: np.ndarray = field(repr=False, compare=False)
    """(documents,) of each document: the number of the first one that is equal to it."""

    def same_units(self, units: int, scored: np.ndarray) -> np.ndarray:
        """Of each unit of an interval a number that it shares with its copies: (units,).

        `scored` are the numbers of the documents that the units are. Of one document they are its pages:
        those of a text that is mostly repetition are all called the same.
        """
        if len(scored) > 1:
            return self.same[scored]
        return np.zeros(units, np.int64) if self.mostly else np.arange(units)

    @property
    def mostly(self) -> bool:
        """Whether so much is repetition that pages are no evidence of their own."""
        return self.different_sequences < MOSTLY

    @property
    def sentence(self) -> str:
        """What is there more than once; empty where that is little."""
        copies = self.documents - self.different_documents
        if not copies and self.different_sequences >= SAID:
            return ""
        if not copies and self.different_lines >= SAID * self.lines:
            return self.of_sequences
        parts = [f"{self.different_documents:,} of {self.documents:,} documents"] if copies else []
        if self.different_lines < self.lines:
            parts.append(f"{self.different_lines:,} of {self.lines:,} lines")
        one = len(parts) == 1 and (self.different_documents if copies else self.different_lines) == 1
        are, them = ("is", "it") if one else ("are", "them")
        return f"{' and '.join(parts)} {are} different, the others are copies of {them} in this text"

    @property
    def of_sequences(self) -> str:
        """How little of the text is different, lines or not."""
        share = f"{100 * self.different_sequences:.0f}" if self.different_sequences >= 0.005 else "under 1"
        return f"the text repeats itself: only {share} % of its sequences of {SHINGLE} letters are different"

    def to_dict(self) -> dict[str, int | float]:
        """Stable keys, for JSON."""
        names = ("documents", "different_documents", "lines", "different_lines", "different_sequences")
        return {name: getattr(self, name) for name in names}


class RepetitionCount:
    """Counts what texts repeat: give it one document after the other."""

    def __init__(self) -> None:
        self._digests: dict[bytes, int] = {}
        self._same: list[int] = []
        self._lines: list[np.ndarray] = []
        self._waiting: list[str] = []
        self._size = 0
        self._every = 1
        self._sequences: list[np.ndarray] = []
        self._kept = 0

    def add(self, text: str) -> None:
        """Counts a document."""
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        self._same.append(self._digests.setdefault(digest, len(self._same)))
        lines = (line for line in map(str.strip, text.split("\n")) if line)
        self._lines.append(np.fromiter(map(hash, lines), np.int64))
        self._waiting.append(text)
        self._size += len(text)
        if self._size >= TOGETHER:
            self._count_waiting()

    def repetition(self) -> Repetition:
        """What was counted."""
        self._count_waiting()
        lines = np.concatenate([np.empty(0, np.int64), *self._lines])
        sequences = np.concatenate([np.empty(0, np.uint64), *self._sequences])
        return Repetition(
            documents=len(self._same),
            different_documents=len(self._digests),
            lines=len(lines),
            different_lines=len(np.unique(lines)),
            different_sequences=len(np.unique(sequences)) / len(sequences) if len(sequences) else 1.0,
            same=np.array(self._same, np.int64),
        )

    def _count_waiting(self) -> None:
        for hashes in self._hashes():
            kept = hashes[hashes % np.uint64(self._every) == 0]
            self._sequences.append(kept)
            self._kept += len(kept)
            while self._kept > KEPT:
                self._every *= 2
                self._sequences = [each[each % np.uint64(self._every) == 0] for each in self._sequences]
                self._kept = sum(map(len, self._sequences))
        self._waiting, self._size = [], 0

    def _hashes(self) -> Iterator[np.ndarray]:
        documents = ((number, [text]) for number, text in enumerate(self._waiting))
        return (letters.shingles()[1] for letters in read_letters(documents))
