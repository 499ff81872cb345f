"""Training and validation part: the spooled documents come in, stretches of them come out on two sides."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lucidlm.errors import DataError
from lucidlm.text.spool import BLOCK, Spool

SPLIT_BY_DOCUMENT = 20
"""From so many documents on, whole documents are held out; of fewer, the end of each."""
LARGEST_VALIDATION = 16_000_000
"""Bytes of validation text beyond which evaluating only takes longer."""


@dataclass(frozen=True, slots=True)
class Part:
    """Stretches of the spool: number of the document, first and last byte of each."""

    documents: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    characters: int

    @property
    def bytes(self) -> int:
        """Bytes of all stretches together."""
        return int((self.ends - self.starts).sum())

    def ranges(self) -> Iterator[tuple[int, int, int]]:
        """Document, first and last byte of each stretch, as whole numbers of Python."""
        for low in range(0, len(self.documents), BLOCK):
            rows = slice(low, low + BLOCK)
            yield from zip(
                self.documents[rows].tolist(), self.starts[rows].tolist(), self.ends[rows].tolist()
            )


def split(spool: Spool, fraction: float) -> tuple[Part, Part, str]:
    """Training part, validation part, and a sentence that says how they were divided."""
    index = spool.index()
    if spool.parts[1]:
        return _as_given(spool, index)
    if len(index) < SPLIT_BY_DOCUMENT:
        return _by_position(spool, index, fraction)
    return _by_content(index, fraction)


def _as_given(spool: Spool, index: np.ndarray) -> tuple[Part, Part, str]:
    held_out = np.arange(len(index)) >= spool.parts[0]
    known = np.isin(index["digest"], index["digest"][held_out]) & ~held_out
    if known.all(where=~held_out):
        raise DataError(
            f"all {spool.parts[0]:,} training documents stand in the validation text; give another one"
        )
    if known.any():
        places = np.flatnonzero(known).tolist()
        name = spool.names(places[:1])[places[0]]
        spool.notes.append(
            f"{len(places):,} training documents stand in the validation text word for word (first {name}): "
            f"taken out of training"
        )
    return _whole(index, ~held_out & ~known), _whole(index, held_out), "validation text given on its own"


def _by_content(index: np.ndarray, fraction: float) -> tuple[Part, Part, str]:
    # The hash depends on nothing but the text, so a document stays on its side whatever is added.
    hashes = np.frombuffer(index["digest"].tobytes(), ">u8")[::2]
    sizes = index["bytes"]
    held_out = hashes < int(fraction * 2**64)
    while sizes[held_out].sum() > LARGEST_VALIDATION and np.unique(hashes[held_out]).size > 1:
        fraction /= 2
        held_out = hashes < int(fraction * 2**64)
    if not held_out.any():
        held_out = hashes == hashes.min()
    elif held_out.all():
        held_out = hashes != hashes.max()
    if held_out.all() or not held_out.any():
        raise DataError(f"all {len(index):,} documents are the same text; give a validation text with --val")
    how = f"{held_out.sum():,} of {len(index):,} documents held out, chosen by a hash of their content"
    return _whole(index, ~held_out), _whole(index, held_out), how


def _by_position(spool: Spool, index: np.ndarray, fraction: float) -> tuple[Part, Part, str]:
    while fraction * int(index["bytes"].sum()) > LARGEST_VALIDATION:
        fraction /= 2
    kept = [int(characters * (1 - fraction)) for characters in index["characters"].tolist()]
    starts, ends = index["offset"], index["offset"] + index["bytes"]
    cuts = np.array(
        [_place_of(spool, *place) for place in zip(starts.tolist(), ends.tolist(), kept)], np.uint64
    )
    characters = int(index["characters"].sum())
    train = _stretches(starts, cuts, sum(kept))
    validation = _stretches(cuts, ends, characters - sum(kept))
    each = "the text" if len(index) == 1 else f"each of {len(index)} documents"
    return train, validation, f"the last {fraction * 100:.3g} % of {each} held out"


def _whole(index: np.ndarray, chosen: np.ndarray) -> Part:
    rows = index[chosen]
    characters = int(rows["characters"].sum())
    return Part(np.flatnonzero(chosen), rows["offset"], rows["offset"] + rows["bytes"], characters)


def _stretches(starts: np.ndarray, ends: np.ndarray, characters: int) -> Part:
    some = np.flatnonzero(starts < ends)
    return Part(some, starts[some], ends[some], characters)


def _place_of(spool: Spool, start: int, end: int, characters: int) -> int:
    """The byte at which the character of this number starts, counted from `start`."""
    for block in spool.blocks(start, end):
        firsts = np.flatnonzero((np.frombuffer(block, np.uint8) & 0xC0) != 0x80)  # not a continuation byte
        if characters < len(firsts):
            return start + int(firsts[characters])
        characters -= len(firsts)
        start += len(block)
    return end
