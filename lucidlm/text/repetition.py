"""Documents come in, how much of their text is repeated goes out."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from lucidlm.text.letters import SHINGLE, read_letters

MOSTLY = 0.5
"""If a smaller share of the sequences is distinct, pages are not independent evidence."""
SAID = 0.8
"""A smaller share of distinct sequences is noted."""
SHORT_TOGETHER = 1 << 17
"""Characters of short documents that are processed together."""
KEPT = 2_000_000
"""Sequences that are kept: for a long text every second, fourth, ... one, chosen by hash."""


@dataclass(frozen=True, slots=True)
class Repetition:
    """How much of a text occurs more than once."""

    documents: int
    different_documents: int
    lines: int
    """Lines that are not blank."""
    different_lines: int
    different_sequences: float
    """Share of distinct sequences of 20 letters; 1 for a text without any."""
    same: np.ndarray = field(repr=False, compare=False)
    """(documents,) The number of the first equal document, for each document."""

    def same_units(self, units: int, scored: np.ndarray) -> np.ndarray:
        """A number for each unit of an interval that copies share: (units,).

        `scored` are the document numbers of the units. For a single document the units are pages: if its text
        is mostly repetition, all pages count as the same.
        """
        if len(scored) > 1:
            return self.same[scored]
        return np.zeros(units, np.int64) if self.mostly else np.arange(units)

    @property
    def mostly(self) -> bool:
        """Whether the text repeats so much that its pages are not independent evidence."""
        return self.different_sequences < MOSTLY

    @property
    def sentence(self) -> str:
        """What occurs more than once, in words; "" if that is little."""
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
        return f"{' and '.join(parts)} {are} distinct; the others in this text are copies of {them}"

    @property
    def of_sequences(self) -> str:
        """The share of distinct sequences, in words."""
        share = f"{100 * self.different_sequences:.0f}" if self.different_sequences >= 0.005 else "under 1"
        return f"the text repeats itself: only {share} % of its sequences of {SHINGLE} letters are distinct"

    def to_dict(self) -> dict[str, int | float]:
        """Stable keys, for JSON."""
        names = ("documents", "different_documents", "lines", "different_lines", "different_sequences")
        return {name: getattr(self, name) for name in names}


class RepetitionCount:
    """Counts what texts repeat; documents are added one by one."""

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
        """Count a document."""
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        self._same.append(self._digests.setdefault(digest, len(self._same)))
        lines = (line for line in map(str.strip, text.split("\n")) if line)
        self._lines.append(np.fromiter(map(hash, lines), np.int64))
        self._waiting.append(text)
        self._size += len(text)
        if self._size >= SHORT_TOGETHER:
            self._count_waiting()

    def repetition(self) -> Repetition:
        """The counts."""
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
