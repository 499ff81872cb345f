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
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import pyppmd

from lucidlm.errors import DataError
from lucidlm.measure.ngram_order import choose_order
from lucidlm.measure.ngrams import fit_orders, nats_of_documents
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.runtime.wording import plural
from lucidlm.text.excerpts import Excerpt, as_excerpt
from lucidlm.text.tokenizer import Tokenizer

Kind = Literal["static", "adapts while reading"]
"""static: fixed by the training text, as a trained model is. adapts while reading: compressors also learn
from the held-out text as they go through it."""

STATIC: Kind = "static"
ADAPTS: Kind = "adapts while reading"

LIMIT_BYTES = 100_000_000
"""Of the training text at most so many bytes are used, the first ones."""
SEPARATOR = 256
"""Stands before each document in the n-gram of bytes; it has no byte and is never scored."""
TOKEN_ORDERS = range(2, 8)
BYTE_ORDERS = range(3, 11)
LONG_BYTE_ORDERS = (10, 12, 14, 16, 20)
"""Tried where the longest of the others is the best: code and tables repeat whole lines."""
GZIP_WINDOW = 1 << 15
BZIP2_LEVEL = 9
"""Blocks of 900 KB."""
XZ_DICTIONARY = 1 << 26
PPMD_ORDER = 6
PPMD_CHUNK = 4
"""Held-out bytes that are coded at a time: their cost is what the output grows by."""

PPMD_CONTEXT = 8
"""Bytes before a held-out piece that it reads: its longest context and the escapes from it. More only teaches
it twice."""
PPMD_MEMORY = 1 << 30
PPMD_BYTES_A_BYTE = 24

_FED_AT_ONCE = 1 << 16
"""A fifth of a second of xz: a signal waits for no more. The sizes do not depend on it."""

FEWEST_BYTES = 200
"""Of scored text. A compressor writes whole bytes: under so many, one of them is 0.04 bits a byte or more."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a simple method needs for the held-out text."""

    name: str
    bits_per_byte: float
    kind: Kind = "static"
    sees: str = "nothing"
    """What of the training text it can use."""
    note: str = ""
    """Its setting."""
    bits: np.ndarray | None = field(default=None, compare=False, repr=False)
    """Cost of each held-out byte (heldout_bytes,), a token's at its first byte; None where unknown."""


@dataclass(frozen=True, slots=True)
class Baselines:
    """Simple methods on one held-out text, given one training text, the worst first."""

    rows: tuple[Baseline, ...]
    heldout_bytes: int
    training_bytes: int
    """Bytes of the training text that were used."""
    inside_bits_per_byte: float | None = None
    """What the n-gram of bytes needed for pieces of the training text when fitted to the rest of it."""

    def __getitem__(self, name: str) -> Baseline:
        """The row of this name; KeyError where it was not measured."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def best(self, kind: Kind) -> Baseline:
        """The best row of a kind."""
        return min((row for row in self.rows if row.kind == kind), key=lambda row: row.bits_per_byte)

    def __str__(self) -> str:
        """An aligned table, the worst first."""
        wide = max(len(row.name) for row in self.rows)
        lines = [f"{'baseline':<{wide}}  bits/byte  {'kind':<20}  sees of the training text"]
        lines += [
            f"{row.name:<{wide}}  {row.bits_per_byte:>9.4f}  {row.kind:<20}  {joined(row.sees, row.note)}"
            for row in self.rows
        ]
        given = (
            f", given {plural(self.training_bytes, 'byte')} of training text" if self.training_bytes else ""
        )
        return "\n".join([*lines, f"on {self.heldout_bytes:,} held-out bytes{given}"])

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for JSON; without the cost of each byte."""
        rows = tuple({key: value for key, value in asdict(row).items() if key != "bits"} for row in self.rows)
        return {
            "rows": rows,
            "heldout_bytes": self.heldout_bytes,
            "training_bytes": self.training_bytes,
            "inside_bits_per_byte": self.inside_bits_per_byte,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Baselines":
        """What `to_dict` gave."""
        rows = tuple(Baseline(**row) for row in values["rows"])
        return cls(rows, values["heldout_bytes"], values["training_bytes"], values["inside_bits_per_byte"])


def joined(*notes: str) -> str:
    """The notes that say something, with commas."""
    return ", ".join(note for note in notes if note)


def measure_baselines(
    tokenizer: Tokenizer,
    training: Iterable[np.ndarray],
    heldout: Sequence[np.ndarray | Excerpt],
    *,
    prefix_id: int | None,
    limit_bytes: int = LIMIT_BYTES,
    progress: Progress = SILENT,
) -> Baselines:
    """The baselines of held-out documents given training documents, both as ids without end-of-text.

    With `prefix_id`, which a model reads before each document, every byte is scored; without, the first token
    of each held-out document is not. Of a held-out piece of a document the n-grams and PPMd read what stands
    before it as context; the other compressors are given the training documents, then the held-out ones, and
    cannot. Without training text there are the uniform rows and the compressors. Raises DataError for a
    held-out text without a byte to score.
    """
    text = _heldout(tokenizer, heldout, prefix_id)
    known = _training(tokenizer, training, limit_bytes, progress)
    each = np.full(sum(map(len, text.ids)), math.log2(tokenizer.vocab_size))
    of_tokens, note = _at_first_bytes(tokenizer, text, each), f"{plural(tokenizer.vocab_size, 'token')}"
    rows = [
        _row("uniform over bytes", np.full(text.bytes, 8.0), STATIC, "nothing", ""),
        _row("uniform over the vocabulary", of_tokens, STATIC, "nothing", note),
    ]
    inside = None
    if known.bytes:
        counted, inside = _counted(tokenizer, known, text, prefix_id, progress)
        rows += counted
    rows += _compressed(known, text, progress)
    rows.sort(key=lambda row: -row.bits_per_byte)
    return Baselines(tuple(rows), text.bytes, known.bytes, inside)


def too_few_bytes(count: int) -> str:
    """The sentence in place of a comparison with the baselines."""
    have = plural(count, "scored byte")
    return f"No comparison with baselines: {have}, at least {FEWEST_BYTES} are needed."


@dataclass(frozen=True, slots=True)
class _Text:
    """Documents as ids and as bytes."""

    ids: list[np.ndarray]
    data: list[bytes]
    skipped: np.ndarray
    """Of each document the first tokens that nobody scores, 0 or 1."""
    first_bytes: np.ndarray
    """Bytes of them."""
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


def _heldout(tokenizer: Tokenizer, heldout: Sequence[np.ndarray | Excerpt], prefix_id: int | None) -> _Text:
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
        lacks = " behind their first tokens" if prefix_id is None else ""
        raise DataError(
            f"{len(heldout):,} held-out documents hold no byte to score{lacks}; give a longer held-out text"
        )
    # As many bytes as the longest n-gram reads are as many tokens at most.
    before = [np.asarray(excerpt.before[-LONG_BYTE_ORDERS[-1] :]) for excerpt, _ in kept]
    return _Text(
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


def _training(
    tokenizer: Tokenizer, training: Iterable[np.ndarray], limit_bytes: int, progress: Progress
) -> _Text:
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
    return _Text(documents, data, none, none, [], [], sum(map(len, documents)), size, cut)


def _sees(known: _Text, last: int | None = None) -> str:
    """What a method sees of the training text, that has a memory of its `last` bytes."""
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


# Counting


def _counted(
    tokenizer: Tokenizer, known: _Text, text: _Text, prefix_id: int | None, progress: Progress
) -> tuple[list[Baseline], float | None]:
    """The unigram of tokens and the n-grams of tokens and bytes, and `inside_bits_per_byte`.

    Where tokens are bytes there is one n-gram for both.
    """
    end_of_text = prefix_id if prefix_id is not None else tokenizer.end_of_text
    tokens = _stream(known.ids, end_of_text, tokenizer.vocab_size)

    def of_tokens(name: str, order: int, note: str) -> Baseline:
        orders = fit_orders(tokens, order, tokenizer.vocab_size, start_id=end_of_text, progress=progress)
        nats = nats_of_documents(
            orders, text.ids, tokenizer.vocab_size, prefix_id=prefix_id, before=text.before
        )
        bits = _at_first_bytes(tokenizer, text, nats / math.log(2))
        return _row(name, bits, STATIC, _sees(known), note)

    rows = [of_tokens("unigram of tokens", 1, "smoothed with uniform")]
    if tokenizer.token_lengths().max() > 1:
        name = "n-gram of tokens"
        order, note, _ = _chosen(tokens, TOKEN_ORDERS, tokenizer.vocab_size, end_of_text, name, progress)
        rows.append(of_tokens(name, order, note))
    row, inside = _of_bytes(known, text, prefix_id is not None, progress)
    return [*rows, row], inside


def _of_bytes(known: _Text, text: _Text, prefix: bool, progress: Progress) -> tuple[Baseline, float | None]:
    name = "n-gram of bytes"
    stream = _stream(_bytes(known), SEPARATOR, SEPARATOR + 1)
    chosen = _chosen(stream, BYTE_ORDERS, SEPARATOR + 1, SEPARATOR, name, progress)
    if chosen[0] == BYTE_ORDERS[-1]:
        chosen = _chosen(stream, LONG_BYTE_ORDERS, SEPARATOR + 1, SEPARATOR, name, progress)
    order, note, inside = chosen
    orders = fit_orders(stream, order, SEPARATOR + 1, start_id=SEPARATOR, progress=progress)
    nats = nats_of_documents(
        orders,
        _bytes(text),
        SEPARATOR + 1,
        prefix_id=SEPARATOR if prefix else None,
        before=text.before_bytes,
    )
    bits = _scored(nats / math.log(2), list(map(len, text.data)), text.first_bytes)
    return _row(name, bits, STATIC, _sees(known), note), inside


def _chosen(
    stream: np.ndarray,
    candidates: Sequence[int],
    vocab_size: int,
    start_id: int | None,
    name: str,
    progress: Progress,
) -> tuple[int, str, float | None]:
    """The order that predicts pieces of the training text best, a note, and its bits per id there."""
    choice = choose_order(stream, candidates, vocab_size, start_id=start_id, progress=progress)
    sample = " on a sample of the training text" if choice.sampled else " on the training text"
    inside = choice.nats_per_id.get(choice.order)
    note = f"order {choice.order}" + (f", chosen{sample}" if inside is not None else "")
    return choice.order, note, None if inside is None else inside / math.log(2)


def _stream(documents: Iterable[np.ndarray], start_id: int | None, vocab_size: int) -> np.ndarray:
    """All documents in a row, `start_id` before each."""
    dtype = np.uint16 if vocab_size <= 1 << 16 else np.uint32
    before = [] if start_id is None else [np.array([start_id])]
    parts = [np.asarray(ids, dtype) for each in documents for ids in (*before, each)]
    return np.concatenate([np.empty(0, dtype), *parts])


def _bytes(text: _Text) -> list[np.ndarray]:
    return [np.frombuffer(data, np.uint8) for data in text.data]


def _scored(values: np.ndarray, lengths: list[int], skipped: np.ndarray) -> np.ndarray:
    """Joined documents without the first `skipped` of each."""
    sizes = np.array(lengths, np.int64)
    places = np.arange(len(values)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return values[places >= np.repeat(skipped, sizes)]


def _at_first_bytes(tokenizer: Tokenizer, text: _Text, bits: np.ndarray) -> np.ndarray:
    """The cost of each scored byte, from that of each token of all documents, which is at its first byte."""
    numbers = list(map(len, text.ids))
    lengths = _scored(tokenizer.token_lengths()[np.concatenate(text.ids)], numbers, text.skipped)
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    # A token without bytes at the very end has no byte of its own: the last one has its cost.
    return np.bincount(
        np.minimum(starts, text.bytes - 1), _scored(bits, numbers, text.skipped), minlength=text.bytes
    )


def _row(name: str, bits: np.ndarray, kind: Kind, sees: str, note: str) -> Baseline:
    """The row of a method whose cost of each scored byte is known."""
    return Baseline(name, float(bits.sum()) / len(bits), kind, sees, note, bits.astype(np.float32))


# Compressing


class _Compressor(Protocol):
    """What zlib, bz2 and lzma have in common."""

    def compress(self, data: bytes | memoryview, /) -> bytes: ...

    def flush(self) -> bytes: ...


def _compressed(known: _Text, text: _Text, progress: Progress) -> list[Baseline]:
    """Size of compressed(training + held-out) minus compressed(training), for each compressor.

    They let Python's lock go, so they run side by side. None of them tells documents apart.
    """
    training, heldout = b"".join(known.data), b"".join(text.scored)
    tail = _one_block(training, heldout)
    # Not 9e: on tinyshakespeare xz takes as long and gives 0.003 bits per byte more.
    jobs: list[tuple[Callable[[], _Compressor], bytes]] = [
        (lambda: zlib.compressobj(9, wbits=31), training),
        (lambda: lzma.LZMACompressor(preset=9), training),
        (lambda: bz2.BZ2Compressor(BZIP2_LEVEL), training),
    ]
    if tail is not None:
        jobs.append((lambda: bz2.BZ2Compressor(BZIP2_LEVEL), tail))
    stop = threading.Event()
    total = 2 * len(jobs) + 1
    progress.stage("compressing", total)
    with ThreadPoolExecutor(min(total, os.cpu_count() or 1)) as pool:
        try:
            ppmd = pool.submit(_ppmd_bits, training, list(zip(_contexts(text), text.scored)), stop)
            # Twice over the training text, as only zlib can copy a compressor's state.
            twice = [(make, texts) for make, first in jobs for texts in ([first], [first, heldout])]
            sizes: list[int] = []
            for size in pool.map(lambda job: _compressed_size(*job, stop), twice):
                sizes.append(size)
                progress.advance()
            bits = ppmd.result()
            progress.advance()
        finally:
            stop.set()  # an interrupt would otherwise wait minutes for xz
    costs = [8 * (both - alone) / len(heldout) for alone, both in zip(sizes[::2], sizes[1::2])]
    return [
        Baseline("gzip", costs[0], ADAPTS, _sees(known, GZIP_WINDOW), "level 9"),
        Baseline("xz", costs[1], ADAPTS, _sees(known, XZ_DICTIONARY), "preset 9"),
        _bzip2(known, tail, costs[2:]),
        _row("PPMd", bits, ADAPTS, _ppmd_sees(known), f"order {PPMD_ORDER}"),
    ]


def _bzip2(known: _Text, tail: bytes | None, costs: list[float]) -> Baseline:
    """Its row, given what is best for it: all training text, or what shares a block with this text."""
    if tail is None:
        cost, sees = costs[0], _sees(known)
    elif costs[1] < costs[0]:
        cost, sees = costs[1], f"{_sees(known, len(tail))}, one block with this text"
    else:
        cost, sees = costs[0], f"what shares its blocks of {100 * BZIP2_LEVEL} KB"
    return Baseline("bzip2", cost, ADAPTS, sees, f"level {BZIP2_LEVEL}")


def _contexts(text: _Text) -> list[bytes]:
    """The bytes before each piece that PPMd reads."""
    return [bytes(data[data < SEPARATOR][-PPMD_CONTEXT:].astype(np.uint8)) for data in text.before_bytes]


def _ppmd_sees(known: _Text) -> str:
    fits = PPMD_BYTES_A_BYTE * known.bytes <= PPMD_MEMORY
    return _sees(known) if fits else f"{_sees(known)} that fits in its memory of 1 GB"


def _compressed_size(make: Callable[[], _Compressor], texts: list[bytes], stop: threading.Event) -> int:
    compressor = make()
    size = 0
    for text in map(memoryview, texts):
        for start in range(0, len(text), _FED_AT_ONCE):
            if stop.is_set():
                return 0
            size += len(compressor.compress(text[start : start + _FED_AT_ONCE]))
    return size + len(compressor.flush())


def _one_block(training: bytes, heldout: bytes) -> bytes | None:
    """The longest end of the training text that shares a block of bzip2 with all of the held-out text.

    None where all of it does, or nothing. Blocks are filled after runs were shortened: of 4 to 255 equal
    bytes 4 are kept and one counts the rest, so that some texts grow.
    """
    room = 100_000 * BZIP2_LEVEL - 20  # a block is full at 19 under its size
    data = np.frombuffer(training[-4 * room :] + heldout, np.uint8)
    starts = np.flatnonzero(np.diff(data, prepend=-1))  # of runs
    whole, rest = np.divmod(np.diff(starts, append=len(data)), 255)
    from_here = np.cumsum((5 * whole + np.where(rest < 4, rest, 5))[::-1])[::-1]
    fitting = starts[from_here <= room]
    kept = len(data) - int(fitting[0]) - len(heldout) if len(fitting) else 0
    return training[-kept:] if 0 < kept < len(training) else None


def _ppmd_bits(training: bytes, pieces: list[tuple[bytes, bytes]], stop: threading.Event) -> np.ndarray:
    """The cost of each held-out byte; the bytes before each piece, which come first, are read for nothing.

    Nothing restarts between chunks, so a chunk costs what the output grows by. The coder holds back 6 to 9
    bytes: the sum over a piece is right to 3. Of whole documents the sum over all is made exact, 8 *
    (compressed(training + held-out) - compressed(training)), what was held back being shared out.
    """
    memory = _ppmd_memory(len(training) + sum(len(data) + PPMD_CONTEXT for _, data in pieces))
    encoder, size = _ppmd_fed(training, memory, stop)
    growth, lengths = [], []
    for before, data in pieces:
        encoder.encode(before)
        for start in range(0, len(data), PPMD_CHUNK):
            if stop.is_set():
                break
            chunk = data[start : start + PPMD_CHUNK]
            growth.append(len(encoder.encode(chunk)))
            lengths.append(len(chunk))
    bits = np.repeat(8 * np.array(growth) / lengths, lengths)
    if any(before for before, _ in pieces) or stop.is_set():
        return bits
    alone, size_alone = _ppmd_fed(training, memory, stop)
    exact = 8 * (size + sum(growth) + len(encoder.flush()) - size_alone - len(alone.flush()))
    return bits + (exact - bits.sum()) / len(bits)


def _ppmd_fed(training: bytes, memory: int, stop: threading.Event) -> tuple[pyppmd.Ppmd8Encoder, int]:
    """An encoder that has read the training text, and the bytes that it put out."""
    # Variant I (Shkarin 2002), 0.003 bits per byte better than H; out of memory, it drops old contexts.
    encoder = pyppmd.Ppmd8Encoder(PPMD_ORDER, memory, pyppmd.PPMD8_RESTORE_METHOD_CUT_OFF)
    size = 0
    for start in range(0, len(training), _FED_AT_ONCE):
        if stop.is_set():
            break
        size += len(encoder.encode(training[start : start + _FED_AT_ONCE]))
    return encoder, size


def _ppmd_memory(size: int) -> int:
    """Bytes of memory in which a text of this size fits; what is not used is never touched.

    Measured: 6 a byte for English, 18 for noise, at order 6.
    """
    return min(PPMD_MEMORY, max(1 << 24, PPMD_BYTES_A_BYTE * size))
