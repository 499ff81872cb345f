"""Documents come in, hashes of their shingles and lines go out, to find text that occurs twice.

Only letters and digits count, without case and accents: other changes hide no copy, and text without spaces
is compared like any other. A shingle is W letters in a row.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from lucidlm.text.hashing import FACTOR, SpanHashes, finalized

SHINGLE = 20
"""W, letters: four or five English words. With one word of ten changed, 57 % of them are unchanged."""
IDEOGRAPH = 3
"""Letters that a Chinese character counts for, as it says about as much: a shingle has 7 of them."""
SYLLABLE = 2
"""Letters that a kana or a Hangul syllable counts for."""
LINE = 24
"""Letters of the shortest line that is compared as a whole."""
TOGETHER = 1 << 18
"""Characters that are processed at once; a longer document is cut after a line."""

_UNKNOWN = np.uint64(1)


class _Alphabet:
    """The code of each character for comparison: 64 random bits for a letter or digit, 0 for others."""

    def __init__(self) -> None:
        self._codes = np.full(0x110000, _UNKNOWN)
        self._weights = np.ones(0x110000, np.uint8)

    def codes(self, characters: np.ndarray) -> np.ndarray:
        codes = self._codes[characters]
        if (unknown := codes == _UNKNOWN).any():
            for character in np.unique(characters[unknown]).tolist():
                self._codes[character], self._weights[character] = _code_of(chr(character))
            codes = self._codes[characters]
        return codes

    def weights(self, characters: np.ndarray) -> np.ndarray:
        return self._weights[characters]


def _code_of(character: str) -> tuple[np.uint64, int]:
    """The code and the weight of a character; code 0 if it does not count."""
    if not character.isalnum() and unicodedata.category(character) != "Mc":
        return np.uint64(0), 1
    first, *marks = unicodedata.normalize("NFKD", character)
    if not all(unicodedata.category(mark) == "Mn" for mark in marks):
        first = character  # not an accented letter: a Hangul syllable has several sounds
    first = first.casefold()[:1]
    number, weight = ord(first), 1
    if 0x3040 <= number < 0x3100 or 0xAC00 <= number < 0xD7B0:
        weight = SYLLABLE
    elif unicodedata.name(first, "").startswith("CJK "):
        weight = IDEOGRAPH
    return finalized(np.array([number], np.uint64))[0] | np.uint64(2), weight  # neither 0 nor _UNKNOWN


_ALPHABET = _Alphabet()


@dataclass(frozen=True, slots=True)
class Letters:
    """Pieces of documents as one row of letters; a character of weight 3 becomes three equal letters."""

    codes: np.ndarray  # (n,)
    characters: np.ndarray
    """(n,) The character of the document that each letter comes from."""
    pieces: np.ndarray
    """(n,) The piece of each letter."""
    lines: np.ndarray
    """(n,) The line of each letter."""
    documents: np.ndarray
    """The document number of each piece."""
    first: int
    """Number of letters before these pieces."""

    def shingles(self) -> tuple[np.ndarray, np.ndarray]:
        """Place and hash of each shingle that starts at a character and lies within one piece."""
        # Hashes of 2, 4, 8 and 16 letters, each from two shorter ones: five products instead of twenty.
        two = _joined(self.codes, 1, self.codes, 1)
        four = _joined(two, 2, two, 2)
        eight = _joined(four, 4, four, 4)
        hashes = _joined(_joined(eight, 8, eight, 8), 16, four, 4)
        count = len(hashes)
        starts = self.pieces[SHINGLE - 1 :][:count] == self.pieces[:count]
        starts[1:] &= np.diff(self.characters[:count]) != 0
        places = np.flatnonzero(starts)
        return places, finalized(hashes[places])

    def whole_lines(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First letter, end and hash of each line of LINE letters or more."""
        firsts = np.flatnonzero(np.diff(self.lines, prepend=-1))
        ends = np.append(firsts[1:], len(self.codes))
        long = ends - firsts >= LINE
        firsts, ends = firsts[long], ends[long]
        return firsts, ends, finalized(SpanHashes(self.codes).keys(firsts, ends - firsts))


def _joined(left: np.ndarray, n_left: int, right: np.ndarray, n_right: int) -> np.ndarray:
    """Hashes of n_left + n_right letters: polynomials in FACTOR, highest power first."""
    count = max(0, len(right) - n_left)
    return left[:count] * np.uint64(pow(FACTOR, n_right, 1 << 64)) + right[n_left:]


def read_letters(documents: Iterable[tuple[int, Iterable[str]]]) -> Iterator[Letters]:
    """The letters of documents (a number and blocks of text each), about 256 Ki characters at a time."""
    texts: list[str] = []
    rows: list[tuple[int, int]] = []
    size = first = 0
    for document, blocks in documents:
        before = 0
        for text in _in_whole_lines(blocks):
            texts.append(text)
            rows.append((document, before))
            before += len(text)
            size += len(text)
            if size >= TOGETHER:
                letters = _letters(texts, rows, first)
                first += len(letters.codes)
                yield letters
                texts, rows, size = [], [], 0
    if texts:
        yield _letters(texts, rows, first)


def _letters(texts: list[str], rows: list[tuple[int, int]], first: int) -> Letters:
    characters = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), "<u4")
    all_codes = _ALPHABET.codes(characters)
    kept = np.flatnonzero(all_codes)
    codes, lines = all_codes[kept], np.cumsum(characters == ord("\n"))[kept]
    weights = _ALPHABET.weights(characters[kept])
    if (weights != 1).any():
        codes, lines, kept = (np.repeat(values, weights) for values in (codes, lines, kept))
    starts = np.cumsum([0, *map(len, texts)])
    pieces = np.searchsorted(starts, kept, side="right") - 1
    documents, before = np.array(rows, np.int64).T
    lines = lines + pieces  # a new piece is a new line
    return Letters(codes, kept - starts[pieces] + before[pieces], pieces, lines, documents, first)


def _in_whole_lines(blocks: Iterable[str]) -> Iterator[str]:
    """The same text in blocks of about TOGETHER characters that end with a line if possible."""
    waiting = ""
    for block in blocks:
        for start in range(0, len(block), TOGETHER):
            waiting += block[start : start + TOGETHER]
            if len(waiting) >= TOGETHER:
                cut = waiting.rfind("\n") + 1 or len(waiting)
                yield waiting[:cut]
                waiting = waiting[cut:]
    if waiting:
        yield waiting
