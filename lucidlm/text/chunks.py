"""A part of the staged text comes in, chunks of it go out. One process works on a chunk.

The borders depend on the text alone, so the results do not depend on the number of processes.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from lucidlm.text.split import Part, Stretches

MOST_STRETCHES = 1 << 19
"""Largest number of stretches in a chunk, for short documents."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Stretches of the staged text."""

    stretches: Stretches
    begins: bool
    """False if the first stretch is the rest of one that began in the chunk before."""
    before: int
    """The document of the stretch before the first; -1 if there is none."""

    @property
    def bytes(self) -> int:
        """Bytes of all stretches together."""
        return int((self.stretches.ends - self.stretches.starts).sum())

    def digest(self) -> str:
        """A hash of the places of the text."""
        digest = hashlib.sha256(repr((self.begins, self.before)).encode())
        for values in self.stretches:
            digest.update(np.ascontiguousarray(values, "<i8").data)
        return digest.hexdigest()


def chunks(part: Part, size: int, cuts: Callable[[int, int], Iterator[int]]) -> Iterator[Chunk]:
    """The chunks of a part, of `size` bytes or a little more.

    `cuts(start, end)` gives the places at which a longer stretch may be cut, in order.
    """
    held, together, count, before = list[Stretches](), 0, 0, -1

    def taken() -> Chunk:
        nonlocal held, together, count, before
        joined = Stretches(*(np.concatenate(values) for values in zip(*held)))
        chunk = Chunk(joined, True, before)
        held, together, count, before = [], 0, 0, int(joined.documents[-1])
        return chunk

    for block in part.blocks():
        while len(block.documents):
            lengths = (block.ends - block.starts).astype(np.int64)
            long = np.flatnonzero(lengths > size)
            rows = int(np.searchsorted(np.cumsum(lengths), size - together)) + 1
            rows = min(rows, long[0] if len(long) else len(lengths))
            if rows:
                held.append(Stretches(*(values[:rows] for values in block)))
                together, count = together + int(lengths[:rows].sum()), count + rows
                if together >= size or count >= MOST_STRETCHES:
                    yield taken()
            else:
                if held:
                    yield taken()
                yield from _of_long(Stretches(*(values[:1] for values in block)), before, size, cuts)
                rows, before = 1, int(block.documents[0])
            block = Stretches(*(values[rows:] for values in block))
    if held:
        yield taken()


def _of_long(
    stretch: Stretches, before: int, size: int, cuts: Callable[[int, int], Iterator[int]]
) -> Iterator[Chunk]:
    """The chunks of a stretch that is longer than one."""
    start, end = int(stretch.starts[0]), int(stretch.ends[0])
    first = start
    for cut in (*_borders(cuts(start, end), start, end, size), end):
        piece = Stretches(stretch.documents, np.array([start], np.uint64), np.array([cut], np.uint64))
        yield Chunk(piece, start == first, before)
        start, before = cut, int(stretch.documents[0])


def _borders(cuts: Iterator[int], start: int, end: int, size: int) -> Iterator[int]:
    for cut in cuts:
        if cut - start >= size and cut < end:
            yield cut
            start = cut
