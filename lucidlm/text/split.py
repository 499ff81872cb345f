"""The staged documents come in, the stretches of the training part and the held-out part go out.

Whole documents are chosen in two passes over the index, a block at a time: memory does not grow with their
number. Pieces, or the ends of documents, need a few numbers in memory for each document.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np

from lucidlm.errors import ConfigError, DataError
from lucidlm.runtime.wording import plural
from lucidlm.text.staged_text import ROWS, StagedText

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


class Stretches(NamedTuple):
    """Stretches of the staged text: document number, first byte and end of each."""

    documents: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


class Part(Protocol):
    """A part of the staged text."""

    @property
    def bytes(self) -> int:
        """Bytes of all stretches together."""
        ...

    @property
    def characters(self) -> int:
        """Characters of all stretches together."""
        ...

    @property
    def n_documents(self) -> int:
        """Documents with at least one stretch."""
        ...

    def blocks(self) -> Iterator[Stretches]:
        """The stretches in order, some thousands at a time."""
        ...


@dataclass(frozen=True, slots=True)
class Pieces:
    """A part whose stretches are held in memory."""

    documents: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    characters: int

    @property
    def bytes(self) -> int:
        """See Part."""
        return int((self.ends - self.starts).sum())

    @property
    def n_documents(self) -> int:
        """See Part."""
        return len(np.unique(self.documents))

    def blocks(self) -> Iterator[Stretches]:
        """See Part."""
        for low in range(0, len(self.documents), ROWS):
            rows = slice(low, low + ROWS)
            yield Stretches(self.documents[rows], self.starts[rows], self.ends[rows])


Choice = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Which documents are chosen, by their numbers and index entries."""


class Documents:
    """A part of whole documents, chosen by a rule that is asked again at each pass."""

    def __init__(self, staged: StagedText, chosen: Choice) -> None:
        self._staged, self._chosen = staged, chosen
        self.bytes = self.characters = self.n_documents = 0
        for _, rows in self._rows():
            self.bytes += int(rows["bytes"].sum())
            self.characters += int(rows["characters"].sum())
            self.n_documents += len(rows)

    def blocks(self) -> Iterator[Stretches]:
        """See Part."""
        for numbers, rows in self._rows():
            yield Stretches(numbers, rows["offset"], rows["offset"] + rows["bytes"])

    def _rows(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for first, rows in self._staged.index_blocks():
            numbers = np.arange(first, first + len(rows))
            chosen = self._chosen(numbers, rows)
            if chosen.any():
                yield numbers[chosen], rows[chosen]


def ranges(part: Part) -> Iterator[tuple[int, int, int]]:
    """Document, first byte and end of each stretch of a part, as Python integers."""
    for documents, starts, ends in part.blocks():
        yield from zip(documents.tolist(), starts.tolist(), ends.tolist())


@dataclass(frozen=True, slots=True)
class Division:
    """Both parts, how the held-out one was chosen, and notes that say it."""

    train: Part
    validation: Part
    design: Design
    notes: tuple[str, ...]


def split(staged: StagedText, fraction: float, how: Split = "auto") -> Division:
    """The division of the staged documents. Given validation documents are the held-out part."""
    if how not in get_args(Split):
        raise ConfigError(f"--split {how}: not known; choose one of {', '.join(get_args(Split))}")
    if staged.parts[1]:
        if how != "auto":
            raise ConfigError(f"--split {how} contradicts --val: the validation text is given; leave one out")
        return _as_given(staged)
    if how == "auto":
        how = "pieces" if staged.documents < SPLIT_BY_DOCUMENT else "documents"
    if how == "documents":
        return _by_hash(staged, fraction)
    divide = {"pieces": _by_pieces, "end": _by_position}[how]
    return divide(staged, staged.index(), fraction)


def _as_given(staged: StagedText) -> Division:
    first = staged.parts[0]
    digests = [rows["digest"][numbers >= first] for numbers, rows in _numbered(staged)]
    held_out = np.unique(np.concatenate(digests))  # these are in memory, 16 bytes each

    def known(numbers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return (numbers < first) & np.isin(rows["digest"], held_out)

    def kept(numbers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return (numbers < first) & ~known(numbers, rows)

    train = Documents(staged, kept)
    notes = []
    if not train.n_documents:
        what = "the training text is" if first == 1 else f"all {first:,} training documents are"
        raise DataError(f"{what} also in the validation text; give another one")
    if removed := first - train.n_documents:
        places = (numbers[known(numbers, rows)] for numbers, rows in _numbered(staged))
        place = int(next(each[0] for each in places if len(each)))
        name = staged.names([place])[place]
        what = "1 training document is" if removed == 1 else f"{removed:,} training documents are"
        notes.append(
            f"{what} also in the validation text, word for word ({'' if removed == 1 else 'first: '}{name}): "
            "removed from training"
        )
    validation = Documents(staged, lambda numbers, rows: numbers >= first)
    return Division(train, validation, "given", (*notes, "held out: the validation text that was given"))


def _numbered(staged: StagedText) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers and index entries of the documents, in blocks."""
    for number, rows in staged.index_blocks():
        yield np.arange(number, number + len(rows)), rows


def _by_hash(staged: StagedText, fraction: float) -> Division:
    if staged.documents == 1:
        raise DataError("there is only one document: use --split pieces or end, or give --val")
    # The hash depends only on the text: a document stays on its side when others are added.
    limits = [int(fraction / 2**halvings * 2**64) for halvings in range(64)]
    sizes, largest = [0] * len(limits), [-1] * len(limits)  # of the documents below each limit
    lowest, highest = 2**64, -1
    for _, rows in staged.index_blocks():
        hashes = _hashes(rows)
        lowest, highest = min(lowest, int(hashes.min())), max(highest, int(hashes.max()))
        for number, limit in enumerate(limits):
            if not (below := hashes < limit).any():
                break  # nor below a lower limit
            sizes[number] += int(rows["bytes"][below].sum())
            largest[number] = max(largest[number], int(hashes[below].max()))
    number = 0
    while sizes[number] > LARGEST_VALIDATION and largest[number] > lowest:
        number += 1
    # The hashes that are held out: below the limit, but on neither side none.
    end = limits[number]
    if largest[number] < 0:
        end = lowest + 1
    elif end > highest:
        end = highest
    if lowest == highest:
        raise DataError(
            f"all {staged.documents:,} documents are the same text; give a validation text with --val"
        )
    train, validation = (
        Documents(staged, lambda numbers, rows: _hashes(rows) >= end),
        Documents(staged, lambda numbers, rows: _hashes(rows) < end),
    )
    count, total = validation.n_documents, staged.documents
    how = f"held out: {count:,} of {total:,} documents, chosen by a hash of their content"
    return Division(train, validation, "documents", (how,))


def _hashes(rows: np.ndarray) -> np.ndarray:
    """The first 64 bits of each document's digest."""
    return np.frombuffer(rows["digest"].tobytes(), ">u8")[::2]


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
    return Division(train, validation, "end", (f"held out: the last {fraction * 100:.3g} % of {each}",))


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
    return Division(train, validation, "strata", (how,))


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


def _part(staged: StagedText, stretches: list[tuple[int, int, int]]) -> Pieces:
    """Stretches with their characters counted."""
    documents, starts, ends = np.array(stretches, np.uint64).reshape(-1, 3).T
    characters = sum(len(text) for _, start, end in stretches for text in staged.text(start, end))
    return Pieces(documents.astype(np.int64), starts, ends, characters)


def _within_limit(index: np.ndarray, fraction: float) -> float:
    while fraction * int(index["bytes"].sum()) > LARGEST_VALIDATION:
        fraction /= 2
    return fraction


def _stretches(starts: np.ndarray, ends: np.ndarray, characters: int) -> Pieces:
    some = np.flatnonzero(starts < ends)
    return Pieces(some, starts[some], ends[some], characters)


def _place_of(staged: StagedText, start: int, end: int, characters: int) -> int:
    """The offset of a character, given by its number from `start`."""
    for block in staged.blocks(start, end):
        firsts = np.flatnonzero((np.frombuffer(block, np.uint8) & 0xC0) != 0x80)  # not a continuation byte
        if characters < len(firsts):
            return start + int(firsts[characters])
        characters -= len(firsts)
        start += len(block)
    return end
