"""What a loss means: training and held-out tokens in, the bits per byte that simple methods need out.

All rows are of the same held-out bytes: those that a model is scored on, whose first tokens are left out
where it has nothing to predict them from.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from lucidlm.measure.baseline import STATIC, Baseline, Baselines, Code, row_of
from lucidlm.measure.baseline_texts import CONTEXT_IDS, SEPARATOR, Text, heldout_text, seen_of, training_text
from lucidlm.measure.compressors import compressed_rows
from lucidlm.measure.ngram_order import choose_order
from lucidlm.measure.ngrams import fit_orders, nats_of_documents
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.runtime.wording import plural
from lucidlm.text.excerpts import Excerpt
from lucidlm.text.tokenizer import Tokenizer

LIMIT_BYTES = 100_000_000
"""Bytes of the training text that are used, from its start: ten million of them take half a minute."""
TOKEN_ORDERS = range(2, 8)
"""Orders that are tried on tokens: longer sequences of prose hardly ever repeat."""
BYTE_ORDERS = range(3, 11)
"""Orders that are tried on bytes: up to two words of prose."""
LONG_BYTE_ORDERS = (10, 12, 14, 16, CONTEXT_IDS)
"""Orders that are tried if the largest of the others is the best: code and tables repeat whole lines."""

FEWEST_BYTES = 200
"""Least bytes of scored text. A compressor writes whole bytes: in a shorter text, one byte of its output is
0.04 bits per byte or more."""


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
    text = heldout_text(tokenizer, heldout, prefix_id)
    known = training_text(tokenizer, training, limit_bytes, progress)
    each = np.full(sum(map(len, text.ids)), math.log2(tokenizer.vocab_size))
    of_tokens, note = _at_first_bytes(tokenizer, text, each), f"{plural(tokenizer.vocab_size, 'token')}"
    rows = [
        row_of("uniform_bytes", np.full(text.bytes, 8.0), STATIC, "nothing", ""),
        row_of("uniform_vocabulary", of_tokens, STATIC, "nothing", note),
    ]
    inside = None
    if known.bytes:
        counted, inside = _counted(tokenizer, known, text, prefix_id, progress)
        rows += counted
    rows += compressed_rows(known, text, progress)
    rows.sort(key=lambda row: -row.bits_per_byte)
    return Baselines(tuple(rows), text.bytes, known.bytes, inside)


def _counted(
    tokenizer: Tokenizer, known: Text, text: Text, prefix_id: int | None, progress: Progress
) -> tuple[list[Baseline], float | None]:
    """The unigram of tokens and the n-grams of tokens and bytes, and `inside_bits_per_byte`.

    Where tokens are bytes there is one n-gram for both.
    """
    end_of_text = prefix_id if prefix_id is not None else tokenizer.end_of_text
    tokens = _stream(known.ids, end_of_text, tokenizer.vocab_size)

    def of_tokens(code: Code, order: int, note: str) -> Baseline:
        orders = fit_orders(tokens, order, tokenizer.vocab_size, start_id=end_of_text, progress=progress)
        nats = nats_of_documents(
            orders, text.ids, tokenizer.vocab_size, prefix_id=prefix_id, before=text.before
        )
        bits = _at_first_bytes(tokenizer, text, nats / math.log(2))
        return row_of(code, bits, STATIC, seen_of(known), note)

    rows = [of_tokens("unigram_tokens", 1, "smoothed with uniform")]
    if tokenizer.token_lengths().max() > 1:
        order, note, _ = _chosen(tokens, TOKEN_ORDERS, tokenizer.vocab_size, end_of_text, progress)
        rows.append(of_tokens("ngram_tokens", order, note))
    row, inside = _of_bytes(known, text, prefix_id is not None, progress)
    return [*rows, row], inside


def _of_bytes(known: Text, text: Text, prefix: bool, progress: Progress) -> tuple[Baseline, float | None]:
    stream = _stream(_bytes(known), SEPARATOR, SEPARATOR + 1)
    chosen = _chosen(stream, BYTE_ORDERS, SEPARATOR + 1, SEPARATOR, progress)
    if chosen[0] == BYTE_ORDERS[-1]:
        chosen = _chosen(stream, LONG_BYTE_ORDERS, SEPARATOR + 1, SEPARATOR, progress)
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
    return row_of("ngram_bytes", bits, STATIC, seen_of(known), note), inside


def _chosen(
    stream: np.ndarray,
    candidates: Sequence[int],
    vocab_size: int,
    start_id: int | None,
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


def _bytes(text: Text) -> list[np.ndarray]:
    return [np.frombuffer(data, np.uint8) for data in text.data]


def _scored(values: np.ndarray, lengths: list[int], skipped: np.ndarray) -> np.ndarray:
    """Joined documents without the first `skipped` of each."""
    sizes = np.array(lengths, np.int64)
    places = np.arange(len(values)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return values[places >= np.repeat(skipped, sizes)]


def _at_first_bytes(tokenizer: Tokenizer, text: Text, bits: np.ndarray) -> np.ndarray:
    """The cost of each scored byte, from that of each token of all documents, which is at its first byte."""
    numbers = list(map(len, text.ids))
    lengths = _scored(tokenizer.token_lengths()[np.concatenate(text.ids)], numbers, text.skipped)
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    # A token without bytes at the very end has no byte of its own: the last one has its cost.
    return np.bincount(
        np.minimum(starts, text.bytes - 1), _scored(bits, numbers, text.skipped), minlength=text.bytes
    )
