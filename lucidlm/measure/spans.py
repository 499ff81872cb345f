"""Where one model saves most bits: atoms of documents come in, pieces of text go out."""

from dataclasses import dataclass

import numpy as np

from lucidlm.measure.atoms import Atoms

SPAN_BYTES = 80
"""Least length of a span: about a line of text, so that a reader sees what it is about."""
LONGEST_WORD = 30
"""Bytes; where no blank is nearer, a span is cut inside a word: Chinese has no blanks."""
SPANS = 5
"""Spans that are shown of each side."""
CANDIDATES = 50 * SPANS
"""Starts that are tried in each document, the best first: most of them overlap one that was taken."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a document, and what it cost each model."""

    document: int
    start: int
    """Index of its first byte; `end` is the index after its last byte."""
    end: int
    text: str
    bits_a: float
    bits_b: float

    @property
    def difference(self) -> float:
        """Bits that A paid more than B."""
        return self.bits_a - self.bits_b


def best_spans(atoms: list[Atoms], *, sign: int) -> tuple[Span, ...]:
    """The SPANS spans without overlap where sign * (bits of A - bits of B) is largest."""
    candidates: list[Span] = []
    for document, each in enumerate(atoms):
        gains = sign * (each.bits_a - each.bits_b)
        sums = np.concatenate(([0.0], np.cumsum(gains)))
        # From each atom to the first bound that makes it long enough, or to the end.
        ends = np.searchsorted(each.bounds, each.bounds[:-1] + SPAN_BYTES).clip(max=len(gains))
        starts, ends = at_words(each, ends)
        totals = np.where(starts, sums[ends] - sums[:-1], 0.0)
        taken: list[tuple[int, int]] = []
        for start in np.argsort(-totals, kind="stable")[:CANDIDATES].tolist():
            end = int(ends[start])
            if len(taken) == SPANS or totals[start] <= 0:
                break
            if all(end <= low or start >= high for low, high in taken):
                taken.append((start, end))
                candidates.append(_span(document, each, start, end))
    return tuple(sorted(candidates, key=lambda span: -sign * span.difference)[:SPANS])


def at_words(atoms: Atoms, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which atoms a span may begin with, and the ends moved on: between words, where the text has blanks."""
    places = atoms.bounds - atoms.bounds[0]
    data = np.frombuffer(atoms.text[int(atoms.bounds[0]) : int(atoms.bounds[-1])], np.uint8)
    blank = np.isin(data, np.frombuffer(b" \n\t\r", np.uint8))
    between = np.ones(len(places), bool)
    inner = places[1:-1]
    between[1:-1] = blank[inner - 1] | blank[inner]
    numbers = np.arange(len(places))
    before = np.maximum.accumulate(np.where(between, numbers, 0))
    after = np.minimum.accumulate(np.where(between, numbers, len(places) - 1)[::-1])[::-1]
    near = places[numbers] - places[before] <= LONGEST_WORD
    on = after[ends]
    return (between | ~near)[:-1], np.where(places[on] - places[ends] <= LONGEST_WORD, on, ends)


def _span(document: int, atoms: Atoms, start: int, end: int) -> Span:
    low, high = int(atoms.bounds[start]), int(atoms.bounds[end])
    return Span(
        document=document,
        start=low,
        end=high,
        text=atoms.text[low:high].decode("utf-8", errors="backslashreplace"),
        bits_a=float(atoms.bits_a[start:end].sum()),
        bits_b=float(atoms.bits_b[start:end].sum()),
    )
