"""How much of its training text a model reproduces: token ids come in, shares, runs and counts go out.

Everything is measured beside held-out text: phrases, names and templates occur in any text of a kind. n
tokens in a row are an n-gram; one that holds end-of-text or reaches into the next text does not count.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lucidlm.measure.continuation import SPAN, Continuation
from lucidlm.measure.copies import ANCHOR, BORDER, Chunk, Counted, Longest, Spans, Spelling, Text
from lucidlm.measure.memorized import NEAR, LongestRun, Memorization, NearShare, Repeated, Share
from lucidlm.measure.near_copies import NearCopies, normalized, passages_of
from lucidlm.measure.ngram_counts import ngram_keys
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.text.hashing import Keys
from lucidlm.text.token_file import Tokens
from lucidlm.text.tokenizer import Tokenizer

CONTROL_WINDOWS = 32
CHUNK = 1 << 18
"""Training tokens that are looked at together."""
_BETWEEN = -1  # separates one text from the next
SIZES = (4, 8, 16)
REPEATED_BYTES, REPEATED_TIMES = 20, 10
"""A sequence of at least this length that occurs at least this often in the training text is reported."""


def measure_memorization(
    tokenizer: Tokenizer,
    generated: Sequence[np.ndarray],
    heldout: Sequence[np.ndarray],
    training: Tokens | np.ndarray,
    *,
    continuation: Continuation | None = None,
    sizes: Sequence[int] = SIZES,
    progress: Progress = SILENT,
) -> Memorization:
    """What of the generated and the held-out texts occurs in the training tokens.

    The training text is read once, in chunks: it may be larger than memory. Shares and counts go by hashes of
    64 bits; the longest run is compared byte by byte. `continuation` is what `measure_continuation` gave.
    """
    end_of_text = _BETWEEN if tokenizer.end_of_text is None else tokenizer.end_of_text
    texts = [_text(documents, end_of_text) for documents in (generated, heldout)]
    wanted = [_Wanted(texts, n) for n in sizes]
    search = _Search(tokenizer, generated, heldout)
    progress.stage("searching for copies", len(training))
    for start in range(0, len(training), CHUNK):
        end = min(start + CHUNK, len(training))
        for these in wanted:
            these.look(training[start : end + these.n - 1])
        search.look(training, start, end)
        progress.advance(end - start)
    return Memorization(
        rows=tuple(Share(these.n, *map(these.share, texts)) for these in wanted),
        spans=Share(SPAN, *(spans.share() for spans in search.spans)),
        longest=search.longest_run(),
        near=search.near_share(),
        continuation=continuation,
        repeated=search.repeated(),
        generated_tokens=sum(map(len, generated)),
        heldout_tokens=sum(map(len, heldout)),
        generated_bytes=search.texts[0].n_bytes,
        heldout_bytes=search.texts[1].n_bytes,
    )


class _Search:
    """All that is looked for by bytes, and what was found so far."""

    def __init__(
        self, tokenizer: Tokenizer, generated: Sequence[np.ndarray], heldout: Sequence[np.ndarray]
    ) -> None:
        self._spelling = Spelling(tokenizer)
        self.texts = [Text([self._spelling.units(ids) for ids in ids_]) for ids_ in (generated, heldout)]
        self._anchors = Keys(
            np.concatenate([text.hashes.keys(text.places(ANCHOR), ANCHOR) for text in self.texts])
        )
        self.spans = [Spans(text, SPAN) for text in self.texts]
        self._longest = [Longest(text) for text in self.texts]
        self._counted = Counted(self.texts[0])
        written, control = (
            [normalized(tokenizer.decode_bytes(ids)) for ids in ids_] for ids_ in (generated, heldout)
        )
        windows = passages_of(written)
        self._written_windows = len(windows)
        self._near = NearCopies(windows + passages_of(control, most=CONTROL_WINDOWS))
        self._before = 0
        """Units of the training text that were looked at."""

    def look(self, training: Tokens | np.ndarray, start: int, end: int) -> None:
        """Looks at training[start:end], and at what spans that begin there reach into."""

        def chunk(behind: int) -> Chunk:
            # Each token is one unit at least.
            units = self._spelling.units(training[start : end + behind])
            return Chunk(units, length, self._anchors)

        length = int(self._spelling.lengths[training[start:end]].sum())
        longest = max(each.run.length for each in self._longest)
        first = chunk(max(512, 2 * longest))
        for spans in self.spans:
            spans.look(first)
        for each in self._longest:
            each.look(first, chunk)
        self._counted.look(first, self._before)
        self._before += length
        text = np.where(first.units == BORDER, ord("\n"), first.units).astype(np.uint8)
        self._near.look(normalized(text.tobytes()))

    def longest_run(self) -> LongestRun:
        run, heldout = (each.run for each in self._longest)
        if not run.length:
            return LongestRun(0, "", 0, False, heldout.length)
        times = self._counted.occurrences(run.place, run.length)
        text = self.texts[0].spelled(run.place, run.length).decode("utf-8", "replace")
        return LongestRun(run.length, text, times.count, times.at_least, heldout.length)

    def near_share(self) -> NearShare:
        shares = self._near.shares
        written, control = shares[: self._written_windows], shares[self._written_windows :]
        near, heldout_near = (sum(share <= NEAR for share in each) for each in (written, control))
        compared = [share for share in written if share < 1]
        return NearShare(len(written), near, min(compared, default=None), len(control), heldout_near)

    def repeated(self) -> Repeated | None:
        """The sequence that occurs often: one with a number or an address first, then the longest."""
        found = [
            (self.texts[0].spelled(run.place, run.length), times)
            for run, times in self._counted.repeated(REPEATED_TIMES)
            if run.length >= REPEATED_BYTES
        ]
        if not found:
            return None
        sequence, times = max(found, key=lambda each: (_personal(each[0]), len(each[0])))
        return Repeated(
            sequence.decode("utf-8", "replace"),
            len(sequence),
            times.count,
            times.at_least,
            self.texts[1].count(sequence),
        )


def _personal(sequence: bytes) -> bool:
    """Whether it may be personal: a number of six digits or more, an address."""
    return sum(byte in b"0123456789" for byte in sequence) >= 6 or b"@" in sequence


@dataclass(frozen=True, slots=True)
class _Text:
    """Texts in a row, and the number of borders before each place."""

    ids: np.ndarray
    borders: np.ndarray  # (len(ids) + 1,)

    def places(self, n: int) -> np.ndarray:
        """Where n-grams without a border in them start."""
        return np.flatnonzero(self.borders[n:] == self.borders[: max(0, len(self.borders) - n)])

    def keys(self, n: int) -> np.ndarray:
        return ngram_keys(self.ids, n)[self.places(n)]


def _text(documents: Sequence[np.ndarray], end_of_text: int) -> _Text:
    between = np.array([_BETWEEN])
    ids = np.concatenate([between, *(part for ids in documents for part in (ids, between))]).astype(np.int64)
    borders = np.cumsum((ids == _BETWEEN) | (ids == end_of_text))
    return _Text(ids, np.concatenate(([0], borders)))


class _Wanted:
    """The n-grams of some texts, and which of them were found."""

    def __init__(self, texts: list[_Text], n: int) -> None:
        self.n = n
        self._keys = Keys(np.concatenate([text.keys(n) for text in texts]))
        self._found = np.zeros(len(self._keys.keys), bool)

    def look(self, ids: np.ndarray) -> None:
        """Marks what occurs in these ids of the training text."""
        self._found[self._keys.find(ngram_keys(ids, self.n))[1]] = True

    def share(self, text: _Text) -> float | None:
        """How many of a text's n-grams were found, as a share of 1; None where it has none."""
        keys = text.keys(self.n)
        return float(self._found[np.searchsorted(self._keys.keys, keys)].mean()) if len(keys) else None
