"""Which windows of some texts occur nearly verbatim in a training text: by the edit distance to a span.

Case and white space do not count. Candidates are diagonals: a copy shares short seeds with its source, all at
about the same distance, however many bytes between the seeds were changed.
"""

from collections.abc import Sequence

import numpy as np

from lucidlm.measure.copies import Hashes
from lucidlm.text.hashing import Keys

WINDOW = 200
"""Bytes of a window; a text of at least half as many is one window."""
STEP = 100
SEED = 7
"""Bytes in a row that a copy shares with its source: where every eighth is changed, seven are equal."""
VOTES = 0.06
"""Seeds on one diagonal, as a share of the window's bytes, that make a span worth a comparison."""
BAND = 32
SPANS = 3
"""Spans of a chunk that a window is compared with."""
MOST_VOTES = 1 << 20
"""Most seeds of a chunk that are used, the rarest first: frequent seeds tell little and are many."""


def normalized(text: bytes) -> bytes:
    """The same text with its case folded and each white space one blank."""
    return " ".join(text.decode("utf-8", "replace").casefold().split()).encode()


def passages_of(texts: Sequence[bytes], *, most: int | None = None) -> list[bytes]:
    """Windows of normalized texts, each text's last one flush with its end; `most` of them, evenly taken."""
    windows = []
    for text in texts:
        if len(text) < WINDOW // 2:
            continue
        starts = list(range(0, max(1, len(text) - WINDOW + 1), STEP))
        if len(text) - WINDOW - starts[-1] > STEP // 2:
            starts.append(len(text) - WINDOW)
        windows += [text[start : start + WINDOW] for start in starts]
    if most is not None and len(windows) > most:
        windows = [windows[place] for place in np.linspace(0, len(windows) - 1, most).astype(int)]
    return windows


class NearCopies:
    """The fewest edits that turn each window into a span of the training text that was looked at so far."""

    def __init__(self, windows: Sequence[bytes]) -> None:
        self.windows = list(windows)
        self.edits = [len(window) for window in windows]
        self._starts = np.cumsum([0, *map(len, windows)])
        units = np.frombuffer(b"".join(windows), np.uint8)
        inside = [np.arange(start, end - SEED + 1) for start, end in zip(self._starts[:-1], self._starts[1:])]
        places = np.concatenate([np.empty(0, np.int64), *inside])
        keys = Hashes(units).keys(places, SEED)
        order = np.argsort(keys, kind="stable")
        self._places = places[order]
        self._keys = Keys(keys)
        self._ends = np.searchsorted(keys[order], self._keys.keys, side="right")
        self._counts = np.diff(self._ends, prepend=0)

    @property
    def shares(self) -> list[float]:
        """Edits as a share of each window's bytes."""
        return [edits / len(window) for edits, window in zip(self.edits, self.windows)]

    def look(self, text: bytes) -> None:
        """Compares the windows with the spans of a normalized text that share enough seeds with them."""
        if not self.windows:
            return
        for window, diagonal in self._candidates(np.frombuffer(text, np.uint8)):
            bytes_ = self.windows[window]
            if self.edits[window] == 0:
                continue
            start = max(0, diagonal - BAND)
            span = text[start : diagonal + len(bytes_) + 2 * BAND]
            self.edits[window] = min(self.edits[window], edit_distance(bytes_, span))

    def _candidates(self, units: np.ndarray) -> list[tuple[int, int]]:
        """(window, place in the text where it would begin) of the spans with the most seeds."""
        there, numbers = self._keys.find(Hashes(units).all_keys(SEED))
        hits = np.bincount(numbers, minlength=len(self._counts)) * self._counts
        order = np.argsort(hits, kind="stable")
        kept = np.zeros(len(hits), bool)
        kept[order] = np.cumsum(hits[order]) <= MOST_VOTES
        there, numbers = there[kept[numbers]], numbers[kept[numbers]]
        counts = self._counts[numbers]
        # Each hit votes for every place of the windows that has its key.
        nth = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        here = self._places[np.repeat(self._ends[numbers] - self._counts[numbers], counts) + nth]
        window = np.searchsorted(self._starts, here, side="right") - 1
        diagonal = np.repeat(there, counts) - (here - self._starts[window]) + WINDOW  # not under 0
        bands = (len(units) + WINDOW) // BAND + 1
        spans, votes = np.unique(window * bands + diagonal // BAND, return_counts=True)
        window = spans // bands
        lengths = np.diff(self._starts)
        enough = votes >= np.maximum(3, VOTES * lengths[window])
        spans, votes, window = spans[enough], votes[enough], window[enough]
        order = np.lexsort((-votes, window))
        spans, window = spans[order], window[order]
        rank = np.arange(len(window)) - np.searchsorted(window, window)
        best = rank < SPANS
        begins = spans[best] % bands * BAND - WINDOW
        return list(zip(window[best].tolist(), begins.tolist()))


def edit_distance(pattern: bytes, text: bytes) -> int:
    """The fewest insertions, deletions and changes that turn the pattern into some span of the text.

    Myers' bit vectors (J. ACM 46, 1999): a column of the table is two integers of len(pattern) bits.
    """
    if not pattern:
        return 0
    masks: dict[int, int] = {}
    for place, byte in enumerate(pattern):
        masks[byte] = masks.get(byte, 0) | 1 << place
    full, last = (1 << len(pattern)) - 1, 1 << len(pattern) - 1
    up, down, score = full, 0, len(pattern)  # where the column rises by one, where it falls, its last entry
    best = score
    for byte in text:
        equal = masks.get(byte, 0)
        diagonal = equal | down
        across = (((equal & up) + up) ^ up) | equal
        rises = down | (full & ~(across | up))
        falls = up & across
        score += bool(rises & last) - bool(falls & last)
        rises, falls = (rises << 1) & full, (falls << 1) & full  # no | 1: a span may begin anywhere
        up = falls | (full & ~(diagonal | rises))
        down = rises & diagonal
        best = min(best, score)
    return best
