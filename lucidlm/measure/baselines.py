"""What a loss means: training and held-out tokens in, the bits per byte that simple methods need out.

All rows are of the same held-out bytes: those that a model is scored on, whose first tokens are left out
where it has nothing to predict them from.
"""

import bz2
import lzma
import math
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from lucidlm.errors import DataError
from lucidlm.measure.ngrams import fit_orders, nats_of_documents
from lucidlm.text.tokenizer import Tokenizer

Progress = Callable[[str, int, int | None], None]

LIMIT_BYTES = 100_000_000
"""Of the training text at most so many bytes are used, the first ones."""
SEPARATOR = 256
"""Stands before each document in the n-gram of bytes; it has no byte and is never scored."""

_FED_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a simple method needs for the held-out text."""

    name: str
    bits_per_byte: float
    note: str = ""
    """Its setting, and how much of the training text it saw where that was not all."""


@dataclass(frozen=True, slots=True)
class Baselines:
    """Simple methods on one held-out text, given one training text, the worst first."""

    rows: tuple[Baseline, ...]
    heldout_bytes: int
    training_bytes: int
    """Bytes of the training text that were used."""

    def __getitem__(self, name: str) -> Baseline:
        """The row of this name; KeyError where it was not measured."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def __str__(self) -> str:
        """An aligned table, the worst first."""
        wide = max(len(row.name) for row in self.rows)
        lines = [f"{'baseline':<{wide}}  bits/byte"]
        lines += [f"{row.name:<{wide}}  {row.bits_per_byte:>9.4f}  {row.note}".rstrip() for row in self.rows]
        given = f", given {self.training_bytes:,} bytes of training text" if self.training_bytes else ""
        return "\n".join([*lines, f"on {self.heldout_bytes:,} held-out bytes{given}"])

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Baselines":
        """What `to_dict` gave."""
        rows = tuple(Baseline(**row) for row in values["rows"])
        return cls(rows, values["heldout_bytes"], values["training_bytes"])


def measure_baselines(
    tokenizer: Tokenizer,
    training: Iterable[np.ndarray],
    heldout: Sequence[np.ndarray],
    *,
    prefix_id: int | None,
    limit_bytes: int = LIMIT_BYTES,
    progress: Progress | None = None,
) -> Baselines:
    """The baselines of held-out documents given training documents, both as ids without end-of-text.

    With `prefix_id`, which a model reads before each document, every byte is scored; without, the first token
    of each held-out document is not. Without training text there are the uniform rows and the compressors.
    Raises DataError for a held-out text without a byte to score.
    """
    progress = progress or (lambda stage, done, total: None)
    text = _heldout(tokenizer, heldout, prefix_id)
    known = _training(tokenizer, training, limit_bytes, progress)
    rows = [
        Baseline("uniform over bytes", 8.0),
        Baseline(
            "uniform over the vocabulary",
            text.tokens * math.log2(tokenizer.vocab_size) / text.bytes,
            f"{tokenizer.vocab_size:,} tokens",
        ),
    ]
    if known.bytes:
        rows += _counted(tokenizer, known, text, prefix_id, progress)
    rows += _compressed(known, text, progress)
    rows.sort(key=lambda row: -row.bits_per_byte)
    return Baselines(tuple(rows), text.bytes, known.bytes)


@dataclass(frozen=True, slots=True)
class _Text:
    """Documents as ids and as bytes."""

    ids: list[np.ndarray]
    data: list[bytes]
    first_bytes: np.ndarray
    """Bytes of each document's start that nobody scores."""
    tokens: int
    """Scored tokens, and `bytes` the scored bytes."""
    bytes: int
    cut: bool = False
    """Whether there was more text than the limit."""

    @property
    def scored(self) -> Iterator[bytes]:
        """The scored bytes of each document."""
        return (data[first:] for data, first in zip(self.data, self.first_bytes.tolist()))


def _heldout(tokenizer: Tokenizer, heldout: Sequence[np.ndarray], prefix_id: int | None) -> _Text:
    skipped = int(prefix_id is None)
    documents = [np.asarray(ids) for ids in heldout if len(ids) > skipped]
    data = [tokenizer.decode_bytes(ids) for ids in documents]
    lengths = tokenizer.token_lengths()
    first = np.array([lengths[ids[:skipped]].sum() for ids in documents], np.int64)
    size = sum(map(len, data)) - int(first.sum())
    if size == 0:
        lacks = " behind their first tokens" if skipped else ""
        raise DataError(
            f"{len(heldout):,} held-out documents hold no byte to score{lacks}; give a longer held-out text"
        )
    return _Text(documents, data, first, sum(map(len, documents)) - skipped * len(documents), size)


def _training(
    tokenizer: Tokenizer, training: Iterable[np.ndarray], limit_bytes: int, progress: Progress
) -> _Text:
    """The first documents, the last of them cut where the limit is."""
    lengths = tokenizer.token_lengths()
    documents: list[np.ndarray] = []
    data: list[bytes] = []
    size, cut = 0, False
    for document in training:
        ends = np.cumsum(lengths[document], dtype=np.int64)
        kept = int(np.searchsorted(ends, limit_bytes - size, side="right"))
        documents.append(np.asarray(document[:kept]))
        data.append(tokenizer.decode_bytes(documents[-1]))
        size += len(data[-1])
        progress("read", size, None)
        if cut := kept < len(document):
            break
    return _Text(documents, data, np.zeros(len(documents), np.int64), sum(map(len, documents)), size, cut)


# Counting


def _counted(
    tokenizer: Tokenizer, known: _Text, text: _Text, prefix_id: int | None, progress: Progress
) -> Iterator[Baseline]:
    """The unigram of tokens and the n-grams of tokens and bytes; where tokens are bytes, one row for both."""
    end_of_text = prefix_id if prefix_id is not None else tokenizer.end_of_text

    def row(name: str, order: int, vocab_size: int, start_id: int | None, of_bytes: bool) -> Baseline:
        documents, held_out = (_bytes(each) if of_bytes else each.ids for each in (known, text))
        dtype = np.uint16 if vocab_size <= 1 << 16 else np.uint32
        before = [] if start_id is None else [np.array([start_id])]
        stream = np.concatenate([np.asarray(ids, dtype) for each in documents for ids in (*before, each)])
        orders = fit_orders(
            stream, order, vocab_size, start_id=start_id, progress=lambda *done: progress(name, *done)
        )
        prefix = None if prefix_id is None else start_id
        nats = nats_of_documents(orders, held_out, vocab_size, prefix_id=prefix)
        skipped = text.first_bytes if of_bytes else np.full(len(held_out), int(prefix_id is None))
        bits = _scored(nats, [len(ids) for ids in held_out], skipped).sum() / math.log(2)
        note = _joined(f"order {order}" if order > 1 else "smoothed with uniform", _first(known))
        return Baseline(name, float(bits) / text.bytes, note)

    yield row("unigram of tokens", 1, tokenizer.vocab_size, end_of_text, False)
    if tokenizer.token_lengths().max() > 1:
        order = token_order(known.tokens)
        yield row("n-gram of tokens", order, tokenizer.vocab_size, end_of_text, False)
    yield row("n-gram of bytes", byte_order(known.bytes), SEPARATOR + 1, SEPARATOR, True)


def token_order(tokens: int) -> int:
    """The order of the n-gram of tokens for so much training text: 3, and 5 from 100,000 tokens.

    Others change little: on a story of 18 KB, orders 3 to 6 lie within 0.007 bits per byte of each other, on
    1 MB of Shakespeare's plays orders 4 to 6 within 0.013, and there the 5th is at most 0.002 from the best.
    """
    return 3 if tokens < 100_000 else 5


def byte_order(size: int) -> int:
    """The order of the n-gram of bytes for so many bytes: 6, 7 from 100,000 and 8 from 10 million.

    On these two texts orders 6 and 7 are the best, and 6 to 10 lie within 0.004 and 0.009 bits per byte.
    """
    return 6 if size < 100_000 else 7 if size < 10_000_000 else 8


def _bytes(text: _Text) -> list[np.ndarray]:
    return [np.frombuffer(data, np.uint8) for data in text.data]


def _scored(nats: np.ndarray, lengths: list[int], skipped: np.ndarray) -> np.ndarray:
    """Joined documents without the first `skipped` of each."""
    sizes = np.array(lengths, np.int64)
    places = np.arange(len(nats)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return nats[places >= np.repeat(skipped, sizes)]


def _first(known: _Text) -> str:
    """How much of the training text was used, where that was not all."""
    if not known.cut:
        return ""
    size = f"{known.bytes:,} bytes" if known.bytes < 1_000_000 else f"{known.bytes / 1e6:,.0f} MB"
    return f"first {size} of the training text"


def _joined(*notes: str) -> str:
    return ", ".join(note for note in notes if note)


# Compressing


class _Compressor(Protocol):
    """What zlib, bz2 and lzma have in common."""

    def compress(self, data: bytes | memoryview, /) -> bytes: ...

    def flush(self) -> bytes: ...


_COMPRESSORS: tuple[tuple[str, str, Callable[[], _Compressor]], ...] = (
    ("gzip", "level 9", lambda: zlib.compressobj(9, wbits=31)),
    ("bzip2", "level 9", lambda: bz2.BZ2Compressor(9)),
    # Not 9e: on tinyshakespeare it takes as long and gives 0.003 bits per byte more.
    ("xz", "preset 9", lambda: lzma.LZMACompressor(preset=9)),
)


def _compressed(known: _Text, text: _Text, progress: Progress) -> list[Baseline]:
    """Size of compressed(training + held-out) minus compressed(training), for each compressor.

    They let Python's lock go, so they run side by side. None of them tells documents apart.
    """
    training, heldout = b"".join(known.data), b"".join(text.scored)
    # Twice over the training text, as only zlib can copy a compressor's state.
    jobs = [(make, texts) for _, _, make in _COMPRESSORS for texts in ([training], [training, heldout])]
    stop = threading.Event()
    sizes: list[int] = []
    with ThreadPoolExecutor(min(len(jobs), os.cpu_count() or 1)) as pool:
        try:
            for size in pool.map(lambda job: _compressed_size(*job, stop), jobs):
                sizes.append(size)
                progress("compress", len(sizes), len(jobs))
        finally:
            stop.set()  # an interrupt would otherwise wait minutes for xz
    return [
        Baseline(name, 8 * (both - alone) / len(heldout), _joined(setting, _first(known)))
        for (name, setting, _), alone, both in zip(_COMPRESSORS, sizes[::2], sizes[1::2])
    ]


def _compressed_size(make: Callable[[], _Compressor], texts: list[bytes], stop: threading.Event) -> int:
    compressor = make()
    size = 0
    for text in map(memoryview, texts):
        for start in range(0, len(text), _FED_AT_ONCE):
            if stop.is_set():
                return 0
            size += len(compressor.compress(text[start : start + _FED_AT_ONCE]))
    return size + len(compressor.flush())
