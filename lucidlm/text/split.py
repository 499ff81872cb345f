"""The staged documents come in, the stretches of the training part and the held-out part go out."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from lucidlm.errors import ConfigError, DataError
from lucidlm.runtime.wording import plural
from lucidlm.text.staged_text import BLOCK, StagedText

Split = Literal["auto", "pieces", "documents", "end"]
"""How text is held out; auto: whole documents if there are 20 or more, else pieces of the whole text."""
Design = Literal["strata", "documents", "end", "given"]
"""How the held-out part was chosen: see docs/measure.md."""

SPLIT_BY_DOCUMENT = 20
"""With at least this many documents, whole documents are held out; with fewer, pieces of each."""
LARGEST_VALIDATION = 16_000_000
"""Bytes of held-out text: with more, evaluation only takes longer."""
MOST_PIECES = 40
"""More pieces do not narrow the interval further, and each one interrupts the training text."""
LEAST_PIECE = 250
"""Bytes: in shorter pieces the first words, which follow training text, would count too much."""
WORD_BYTES = 64
"""Bytes by which a piece's border may move to the end of a word, so that no token is cut in two."""


@dataclass(frozen=True, slots=True)
class Part:
    """Stretches of the staged text: document number, first byte and end of each."""

    documents: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    characters: int

    @property
    def bytes(self) -> int:
        """Bytes of all stretches together."""
        return int((self.ends - self.starts).sum())

    @property
    def n_documents(self) -> int:
        """Documents with at least one stretch."""
        return len(np.unique(self.documents))

    def ranges(self) -> Iterator[tuple[int, int, int]]:
        """Document, first byte and end of each stretch, as Python integers."""
        for low in range(0, len(self.documents), BLOCK):
            rows = slice(low, low + BLOCK)
            yield from zip(
                self.documents[rows].tolist(), self.starts[rows].tolist(), self.ends[rows].tolist()
            )


@dataclass(frozen=True, slots=True)
class Division:
    """Both parts, how the held-out one was chosen, and a note that says it."""

    train: Part
    validation: Part
    design: Design
    sentence: str


def split(staged: StagedText, fraction: float, how: Split = "auto") -> Division:
    """The division of the staged documents. Given validation documents are the held-out part."""
    if how not in get_args(Split):
        raise ConfigError(f"--split {how}: not known; choose one of {', '.join(get_args(Split))}")
    index = staged.index()
    if staged.parts[1]:
        if how != "auto":
            raise ConfigError(f"--split {how} contradicts --val: the validation text is given; leave one out")
        return _as_given(staged, index)
    if how == "auto":
        how = "pieces" if len(index) < SPLIT_BY_DOCUMENT else "documents"
    divide = {"pieces": _by_pieces, "documents": _by_hash, "end": _by_position}[how]
    return divide(staged, index, fraction)


def _as_given(staged: StagedText, index: np.ndarray) -> Division:
    held_out = np.arange(len(index)) >= staged.parts[0]
    known = np.isin(index["digest"], index["digest"][held_out]) & ~held_out
    if known.all(where=~held_out):
        one = staged.parts[0] == 1
        what = "the training text is" if one else f"all {staged.parts[0]:,} training documents are"
        raise DataError(f"{what} also in the validation text; give another one")
    if known.any():
        places = np.flatnonzero(known).tolist()
        name = staged.names(places[:1])[places[0]]
        one = len(places) == 1
        what = "1 training document is" if one else f"{len(places):,} training documents are"
        staged.notes.append(
            f"{what} also in the validation text, word for word ({'' if one else 'first: '}{name}): "
            "removed from training"
        )
    train, validation = _whole_documents(index, ~held_out & ~known), _whole_documents(index, held_out)
    return Division(train, validation, "given", "held out: the validation text that was given")


def _by_hash(staged: StagedText, index: np.ndarray, fraction: float) -> Division:
    if len(index) == 1:
        raise DataError("there is only one document: use --split pieces or end, or give --val")
    # The hash depends only on the text: a document stays on its side when others are added.
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
    how = f"held out: {held_out.sum():,} of {len(index):,} documents, chosen by a hash of their content"
    return Division(_whole_documents(index, ~held_out), _whole_documents(index, held_out), "documents", how)


def _by_position(staged: StagedText, index: np.ndarray, fraction: float) -> Division:
    fraction = _within_limit(index, fraction)
    kept = [int(characters * (1 - fraction)) for characters in index["characters"].tolist()]
    starts, ends = index["offset"], index["offset"] + index["bytes"]
    cuts = np.array(
        [_place_of(staged, *place) for place in zip(starts.tolist(), ends.tolist(), kept)], np.uint64
    )
    characters = int(index["characters"].sum())
    train = _stretches(starts, cuts, sum(kept))
    validation = _stretches(cuts, ends, characters - sum(kept))
    each = "the text" if len(index) == 1 else f"each of {len(index)} documents"
    return Division(train, validation, "end", f"held out: the last {fraction * 100:.3g} % of {each}")


def _by_pieces(staged: StagedText, index: np.ndarray, fraction: float) -> Division:
    """A stratified sample of the text: equal strata, one piece at a random place in each.

    The places come from a hash of text and fraction, so they are the same in every run. The same share of
    each document is held out, so sums over pieces represent the whole text without weights.
    """
    fraction = _within_limit(index, fraction)
    held_out = fraction * int(index["bytes"].sum())
    wanted = min(MOST_PIECES, max(1, int(held_out / LEAST_PIECE)))
    key = hashlib.sha256(index["digest"].tobytes() + repr(float(fraction)).encode())
    pieces: list[tuple[int, int, int]] = []
    for document, (start, size) in enumerate(zip(index["offset"].tolist(), index["bytes"].tolist())):
        strata = max(1, round(wanted * fraction * size / held_out))
        found: list[tuple[int, int, int]] = []
        for place, length in _piece_places(
            size, strata, fraction, key.digest() + document.to_bytes(8, "big")
        ):
            words = length >= 2 * WORD_BYTES  # a shorter piece could vanish between two words
            low, high = (
                _border(staged, start, start + size, start + at, words=words)
                for at in (place, place + length)
            )
            low = max(low, found[-1][2]) if found else low
            if low == high:
                high = _border(staged, start, start + size, low + 1, words=False)
            if low < high:
                found.append((document, low, high))
        if sum(high - low for _, low, high in found) == size:
            found.pop()  # each document needs training text: it is the context of its pieces
        pieces += found
    validation = _part(staged, pieces)
    train = _part(staged, list(_between(index, pieces)))
    each = "the text" if len(index) == 1 else f"{len(index)} documents"
    how = f"held out: {fraction * 100:.3g} % of {each}, {_pieces_held_out(len(pieces), validation.bytes)}"
    return Division(train, validation, "strata", how)


def _pieces_held_out(count: int, size: int) -> str:
    """Number and size of the pieces in words, and why they are few or short."""
    each = size // max(1, count)
    said = (
        f"1 piece of {plural(each, 'byte')} at a random place"
        if count == 1
        else f"{count:,} pieces of about {plural(each, 'byte')} at random places"
    )
    # Borders move to the end of a word, so a full piece may be a little shorter.
    if each < LEAST_PIECE - WORD_BYTES:
        less = "a piece" if count == 1 else "pieces"
        tell = "tells" if count == 1 else "tell"
        return f"{said} ({less} under {LEAST_PIECE} bytes {tell} little: give more text)"
    few = count < MOST_PIECES // 2
    return f"{said} (not more: pieces under {LEAST_PIECE} bytes tell little)" if few else said


def _piece_places(size: int, strata: int, fraction: float, key: bytes) -> Iterator[tuple[int, int]]:
    """Start and length of the piece in each stratum of a document with `size` bytes."""
    stratum = size / strata
    length = fraction * stratum
    for number in range(strata):
        drawn = hashlib.sha256(key + number.to_bytes(8, "big")).digest()
        share = int.from_bytes(drawn[:8], "big") / 2**64
        start = round(number * stratum + share * (stratum - length))
        yield start, max(1, round(length))


def _border(staged: StagedText, first: int, end: int, place: int, *, words: bool) -> int:
    """The next end of a word after a place; of a character if there is none nearby, or `words` is False.

    All tokenizers that split at words cut before the white space after a word, so the tokens on both sides
    are those of the whole text.
    """
    if place <= first or place >= end:
        return min(max(place, first), end)
    data = next(staged.blocks(place - 1, min(end, place + WORD_BYTES)))
    letters = np.frombuffer(data, np.uint8)
    blank = np.isin(letters, np.frombuffer(b" \n\t\r", np.uint8))
    word_ends = np.flatnonzero(blank[1:] & ~blank[:-1])
    if words and word_ends.size:
        return place + int(word_ends[0])
    firsts = np.flatnonzero((letters[1:] & 0xC0) != 0x80)  # not a continuation byte
    return place + int(firsts[0]) if firsts.size else end


def _between(index: np.ndarray, pieces: list[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    """The stretches between the pieces of each document."""
    left = iter([*pieces, (len(index), 0, 0)])
    document, low, high = next(left)
    for number, (start, size) in enumerate(zip(index["offset"].tolist(), index["bytes"].tolist())):
        end = start + size
        while document == number:
            if start < low:
                yield number, start, low
            start = high
            document, low, high = next(left)
        if start < end:
            yield number, start, end


def _part(staged: StagedText, stretches: list[tuple[int, int, int]]) -> Part:
    """Stretches with their characters counted."""
    documents, starts, ends = np.array(stretches, np.uint64).reshape(-1, 3).T
    characters = sum(len(text) for _, start, end in stretches for text in staged.text(start, end))
    return Part(documents.astype(np.int64), starts, ends, characters)


def _within_limit(index: np.ndarray, fraction: float) -> float:
    while fraction * int(index["bytes"].sum()) > LARGEST_VALIDATION:
        fraction /= 2
    return fraction


def _whole_documents(index: np.ndarray, chosen: np.ndarray) -> Part:
    rows = index[chosen]
    characters = int(rows["characters"].sum())
    return Part(np.flatnonzero(chosen), rows["offset"], rows["offset"] + rows["bytes"], characters)


def _stretches(starts: np.ndarray, ends: np.ndarray, characters: int) -> Part:
    some = np.flatnonzero(starts < ends)
    return Part(some, starts[some], ends[some], characters)


def _place_of(staged: StagedText, start: int, end: int, characters: int) -> int:
    """The offset of a character, given by its number from `start`."""
    for block in staged.blocks(start, end):
        firsts = np.flatnonzero((np.frombuffer(block, np.uint8) & 0xC0) != 0x80)  # not a continuation byte
        if characters < len(firsts):
            return start + int(firsts[characters])
        characters -= len(firsts)
        start += len(block)
    return end
