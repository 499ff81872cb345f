"""The two texts of the baselines: documents of token ids come in, ids and bytes for all methods go out.

Scored are the bytes that a model is scored on: not the first token of a document without a prefix.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lucidlm.errors import DataError
from lucidlm.runtime.progress import Progress
from lucidlm.runtime.wording import plural
from lucidlm.text.excerpts import Excerpt, as_excerpt
from lucidlm.text.tokenizer import Tokenizer

SEPARATOR = 256
"""Stands before each document in the n-gram of bytes; it has no byte and is never scored."""
CONTEXT_IDS = 20
"""Ids before a piece that are kept: the longest n-gram reads no more."""


@dataclass(frozen=True, slots=True)
class Text:
    """Documents as ids and as bytes."""

    ids: list[np.ndarray]
    data: list[bytes]
    skipped: np.ndarray
    """For each document, the number of first tokens that are not scored: 0 or 1."""
    first_bytes: np.ndarray
    """Bytes of those tokens."""
    before: list[np.ndarray]
    """The ids before each document that n-grams read as context, and `before_bytes` the bytes before it."""
    before_bytes: list[np.ndarray]
    tokens: int
    """Scored tokens, and `bytes` the scored bytes."""
    bytes: int
    cut: bool = False
    """Whether there was more text than the limit."""

    @property
    def scored(self) -> Iterator[bytes]:
        """The scored bytes of each document."""
        return (data[first:] for data, first in zip(self.data, self.first_bytes.tolist()))


def heldout_text(
    tokenizer: Tokenizer, heldout: Sequence[np.ndarray | Excerpt], prefix_id: int | None
) -> Text:
    """The held-out documents of which a byte is scored; DataError where there is none."""
    excerpts = [as_excerpt(document) for document in heldout]
    lacking = [int(prefix_id is None and len(excerpt.before) == 0) for excerpt in excerpts]
    kept = [(excerpt, first) for excerpt, first in zip(excerpts, lacking) if len(excerpt.ids) > first]
    documents, skipped = (
        [np.asarray(excerpt.ids) for excerpt, _ in kept],
        np.array([first for _, first in kept]),
    )
    data = [tokenizer.decode_bytes(ids) for ids in documents]
    lengths = tokenizer.token_lengths()
    first_bytes = np.array([lengths[ids[:first]].sum() for ids, (_, first) in zip(documents, kept)], np.int64)
    size = sum(map(len, data)) - int(first_bytes.sum())
    if size == 0:
        lacks = " after their first tokens" if prefix_id is None else ""
        raise DataError(
            f"{len(heldout):,} held-out documents hold no byte to score{lacks}; give a longer held-out text"
        )
    # As many bytes as the longest n-gram reads are as many tokens at most.
    before = [np.asarray(excerpt.before[-CONTEXT_IDS:]) for excerpt, _ in kept]
    return Text(
        documents,
        data,
        skipped,
        first_bytes,
        before,
        [_bytes_before(tokenizer, ids) for ids in before],
        sum(map(len, documents)) - int(skipped.sum()),
        size,
    )


def _bytes_before(tokenizer: Tokenizer, ids: np.ndarray) -> np.ndarray:
    """The bytes that these ids spell, as the n-gram of bytes has them: a separator for an end-of-text."""
    starts = np.flatnonzero(ids == tokenizer.end_of_text) if tokenizer.end_of_text is not None else ids[:0]
    if not len(starts):
        return np.frombuffer(tokenizer.decode_bytes(ids), np.uint8).astype(np.uint16)
    data = tokenizer.decode_bytes(ids[starts[-1] + 1 :])
    return np.array([SEPARATOR, *data], np.uint16)


def training_text(
    tokenizer: Tokenizer, training: Iterable[np.ndarray], limit_bytes: int, progress: Progress
) -> Text:
    """The first documents, the last of them cut where the limit is."""
    lengths = tokenizer.token_lengths()
    documents: list[np.ndarray] = []
    data: list[bytes] = []
    size, cut = 0, False
    progress.stage("reading the training text")
    for document in training:
        ends = np.cumsum(lengths[document], dtype=np.int64)
        kept = int(np.searchsorted(ends, limit_bytes - size, side="right"))
        documents.append(np.asarray(document[:kept]))
        data.append(tokenizer.decode_bytes(documents[-1]))
        size += len(data[-1])
        progress.advance(len(data[-1]))
        if cut := kept < len(document):
            break
    none = np.zeros(len(documents), np.int64)
    return Text(documents, data, none, none, [], [], sum(map(len, documents)), size, cut)


def seen_of(known: Text, last: int | None = None) -> str:
    """How much of the training text a method can use whose memory holds the `last` bytes."""
    size = f"{plural(known.bytes, 'byte')}" if known.bytes < 1_000_000 else f"{known.bytes / 1e6:,.0f} MB"
    if not known.bytes:
        return "nothing"
    if last is not None and last < known.bytes:
        return f"the last {_amount(last)}" + (f" of its first {size}" if known.cut else "")
    return f"its first {size}" if known.cut else "all"


def _amount(size: int) -> str:
    """32 KB for 32,768, as the formats' manuals name their windows."""
    for unit, name in ((1 << 20, "MB"), (1 << 10, "KB")):
        if size % unit == 0:
            return f"{size // unit:,} {name}"
    return f"{size / 1000:,.0f} KB" if size >= 10_000 else f"{plural(size, 'byte')}"
