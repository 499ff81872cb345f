"""How well a model predicts a text: a model, a tokenizer and a text in, sums of nats, tokens and bytes out.

B windows, T inputs of a window, S stride, C channels, V vocabulary. The protocol, docs/measure.md:
each token of a document is scored once, with at least T - S tokens before it where the document has them.
"""

import contextlib
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lucidlm.errors import ConfigError, DataError, WeightsError
from lucidlm.model.gpt import GPT
from lucidlm.model.loss import cross_entropy, perplexity
from lucidlm.runtime.device import autocast, dtype_name
from lucidlm.text.documents import read_documents
from lucidlm.text.tokenizer import Tokenizer

LOGITS_BYTES = 64 * 2**20
"""The most that a piece of a batch's logits may take: the head runs over the scored places in pieces."""

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class Protocol:
    """The way of counting that a number was counted by."""

    name: str
    context_length: int
    stride: int
    prefix: str
    """What stands before a document's first token: "end-of-text"; or "none", and that token is left out."""
    dtype: str
    device: str

    def __str__(self) -> str:
        """One line, to stand beside the number."""
        first = "first token given end-of-text" if self.prefix != "none" else "first token left out"
        shape = f"context {self.context_length}, stride {self.stride}"
        return f"protocol {self.name}: {shape}, {first}, {self.dtype} on {self.device}"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well a model predicts a text: sums, divided only when asked."""

    nats: float
    """Sum over the scored tokens of -ln p(token), added in float64."""
    tokens_scored: int
    tokens_total: int
    bytes_scored: int
    bytes_total: int
    words: int
    """Runs between white space in the whole text, as the evaluation harness counts them."""
    documents: int
    protocol: Protocol

    @property
    def loss_nats(self) -> float:
        """Nats per scored token: the cross entropy."""
        return self.nats / self.tokens_scored

    @property
    def perplexity(self) -> float:
        """exp(loss): as uncertain as a fair choice among this many tokens."""
        return perplexity(self.loss_nats)

    @property
    def bits_per_byte(self) -> float:
        """The only one of these numbers that compares models with different tokenizers."""
        return self.nats / self.bytes_scored / math.log(2) if self.bytes_scored else math.nan

    @property
    def word_perplexity(self) -> float:
        """exp(nats / words)."""
        return perplexity(self.nats / self.words) if self.words else math.nan

    @property
    def byte_perplexity(self) -> float:
        """exp(nats / bytes)."""
        return perplexity(self.nats / self.bytes_scored) if self.bytes_scored else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Flat and stable keys, for --json."""
        derived = ("loss_nats", "perplexity", "bits_per_byte", "word_perplexity", "byte_perplexity")
        numbers = {key: getattr(self, key) for key in derived}
        return (
            numbers
            | {key: value for key, value in asdict(self).items() if key != "protocol"}
            | {"protocol": asdict(self.protocol)}
        )

    def __str__(self) -> str:
        """The three numbers, what was counted, and how."""
        rows = [
            ("loss", f"{self.loss_nats:.4f} nats per token"),
            ("perplexity", f"{self.perplexity:,.2f}"),
            ("bits per byte", f"{self.bits_per_byte:.4f}"),
            ("scored", f"{self.tokens_scored:,} of {self.tokens_total:,} tokens, {self.bytes_scored:,} of "
                       f"{self.bytes_total:,} bytes, {_plural(self.documents, 'document')}"),
        ]  # fmt: skip
        return "\n".join(f"{name:<14} {value}" for name, value in rows) + f"\n{self.protocol}"


@dataclass(frozen=True, slots=True)
class Scored:
    """The logits at consecutive places of a document, and the tokens that came there."""

    document: int
    start: int
    """Place in the document of the first of these tokens."""
    logits: Tensor  # (N, V)
    targets: Tensor  # (N,)


def evaluate(
    model: GPT,
    tokenizer: Tokenizer,
    text: str | None = None,
    *,
    path: str | None = None,
    protocol: Literal["lucid", "batch-mean"] = "lucid",
    context_length: int | None = None,
    stride: int | None = None,
    prefix: Literal["auto", "none"] = "auto",
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    encoding: str = "utf-8",
    progress: Progress | None = None,
) -> Evaluation:
    """How well the model predicts a text, or the documents at a path (a file, a folder, a pattern, a URL).

    Each document is scored alone, every token once: see docs/measure.md. `batch-mean` counts as the course's
    first code does: whole windows side by side, whole batches (of 2 unless said), the rest dropped.
    Raises DataError for a text without a token to score, ConfigError for a stride or context that cannot be.
    """
    if text is not None and path is None:
        texts: Iterable[str] = [text]
    elif path is not None and text is None:
        texts = (document.text() for document in read_documents([path], encoding=encoding))
    else:
        raise ConfigError("evaluate takes either text=... or path=..., one of the two")
    return evaluate_documents(
        model,
        tokenizer,
        (np.asarray(tokenizer.encode(text)) for text in texts),
        protocol=protocol,
        context_length=context_length,
        stride=stride,
        prefix=prefix,
        batch_size=batch_size,
        dtype=dtype,
        progress=progress,
    )


def evaluate_documents(
    model: GPT,
    tokenizer: Tokenizer,
    documents: Iterable[np.ndarray],
    *,
    protocol: str = "lucid",
    context_length: int | None = None,
    stride: int | None = None,
    prefix: str = "auto",
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> Evaluation:
    """`evaluate` for documents that are token ids already: arrays (N,), without end-of-text."""
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"--batch-size {batch_size}: it must be at least 1")
    counts = _Counts(tokenizer, model.config.vocab_size, progress or (lambda done, total: None))
    if protocol == "lucid":
        context_length, stride = checked_window(model, context_length, stride)
        prefix_id = prefix_of(model, prefix)
        scored = scored_logits(
            model,
            counts.watch(documents),
            context_length=context_length,
            stride=stride,
            prefix_id=prefix_id,
            batch_size=batch_size or 8,
            dtype=dtype,
        )
    elif protocol == "batch-mean":
        if stride is not None:
            raise ConfigError(
                f"--stride {stride}: batch-mean sets its windows side by side; leave --stride out"
            )
        context_length, stride = checked_window(
            model, context_length, context_length or model.config.context_length
        )
        prefix_id = None
        scored = _whole_batches(
            model,
            counts.watch(documents),
            context_length=context_length,
            batch_size=batch_size or 2,
            dtype=dtype,
        )
    else:
        raise ConfigError(f"--protocol {protocol}: not known; there are lucid and batch-mean")
    nats = 0.0
    for piece in scored:
        nats += cross_entropy(piece.logits, piece.targets).double().sum().item()
        counts.score(piece.targets)
    name = "none" if prefix_id is None else "end-of-text"
    number_type = dtype_name(dtype if dtype != torch.float32 else model.head.weight.dtype)
    return counts.evaluation(
        nats, Protocol(protocol, context_length, stride, name, number_type, model.device.type)
    )


def _whole_batches(
    model: GPT, documents: Iterable[np.ndarray], *, context_length: int, batch_size: int, dtype: torch.dtype
) -> Iterator[Scored]:
    """The course's first way: windows of T side by side, incomplete windows and batches dropped.

    Its number is the mean of the batches' means; as all its batches are of one size, that is the sum over the
    count. What it drops is in `tokens_total`.
    """
    for number, ids in enumerate(documents):
        starts = range(0, len(ids) - context_length, context_length)
        windows = [ids[start : start + context_length + 1].astype(np.int64) for start in starts]
        for first in range(0, len(windows) - batch_size + 1, batch_size):
            for window in range(first, first + batch_size):
                place = (number, windows[window], 0, starts[window] + 1)
                yield from _score_batch(model, [place], dtype)


def checked_window(model: GPT, context_length: int | None, stride: int | None) -> tuple[int, int]:
    """Context and stride, with their defaults (the model's context, half of it), or a ConfigError."""
    limit = model.config.context_length
    context = limit if context_length is None else context_length
    if not 1 <= context <= limit:
        raise ConfigError(f"--context-length {context}: this model takes from 1 to {limit}")
    stride = max(1, context // 2) if stride is None else stride
    if not 1 <= stride <= context:
        raise ConfigError(f"--stride {stride}: it must be from 1 to the context length {context}")
    return context, stride


def prefix_of(model: GPT, prefix: str) -> int | None:
    """The id that stands before each document: the model's own with "auto", nothing with "none"."""
    if prefix not in ("auto", "none"):
        raise ConfigError(f"--prefix {prefix}: not known; there are auto and none")
    return model.document_prefix_id if prefix == "auto" else None


def scored_windows(n_inputs: int, context_length: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(start, first scored, end) of each window over n_inputs places: each place is scored in exactly one.

    Windows start on the grid of the stride. The first scores all its places, the others those that no window
    before has seen, and the last is short rather than slid back.
    """
    start = scored = 0
    while scored < n_inputs:
        end = min(start + context_length, n_inputs)
        yield start, scored, end
        start, scored = start + stride, end


def scored_logits(
    model: GPT,
    documents: Iterable[np.ndarray],
    *,
    context_length: int,
    stride: int,
    prefix_id: int | None,
    batch_size: int,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Scored]:
    """The logits at every scored token, a piece at a time, so that those of a batch are never all held.

    Windows of all documents share batches, the shorter ones padded behind: no earlier place sees what is
    later.
    """
    batch: list[tuple[int, np.ndarray, int, int]] = []
    for number, ids in enumerate(documents):
        sequence = np.concatenate(([prefix_id], ids)) if prefix_id is not None else np.asarray(ids)
        sequence = sequence.astype(np.int64)
        for start, first, end in scored_windows(len(sequence) - 1, context_length, stride):
            # Counted in the document: without a prefix its first token is nobody's target.
            place = first + (prefix_id is None)
            batch.append((number, sequence[start : end + 1], first - start, place))
            if len(batch) == batch_size:
                yield from _score_batch(model, batch, dtype)
                batch = []
    if batch:
        yield from _score_batch(model, batch, dtype)


def _score_batch(
    model: GPT, batch: list[tuple[int, np.ndarray, int, int]], dtype: torch.dtype
) -> Iterator[Scored]:
    longest = max(len(window) for _, window, _, _ in batch) - 1
    inputs = torch.zeros(len(batch), longest, dtype=torch.int64)
    for row, (_, window, _, _) in enumerate(batch):
        inputs[row, : len(window) - 1] = torch.from_numpy(window[:-1])
    with evaluating(model, dtype):
        hidden = model.hidden(inputs.to(model.device))  # (B, T, C)
    rows_at_once = max(1, LOGITS_BYTES // (4 * model.config.vocab_size))
    for row, (document, window, first, place) in enumerate(batch):
        targets = torch.from_numpy(window[1:]).to(model.device)
        for begin in range(first, len(targets), rows_at_once):
            places = slice(begin, min(begin + rows_at_once, len(targets)))
            with evaluating(model, dtype):
                logits = model.head(hidden[row, places])  # (N, V)
            yield Scored(document, place + begin - first, logits, targets[places])


@contextlib.contextmanager
def evaluating(model: GPT, dtype: torch.dtype) -> Generator[None]:
    """Dropout off, no gradients, products in dtype; then the model is as it was. Draws no random number."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), autocast(model.device, dtype):
            yield
    finally:
        model.train(was_training)


class _Counts:
    """Tokens, bytes and words of the documents that go by, and of those of their tokens that were scored."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, progress: Progress) -> None:
        self.tokenizer, self.vocab_size, self.progress = tokenizer, vocab_size, progress
        self.lengths = torch.from_numpy(tokenizer.token_lengths().astype(np.int64))
        self.tokens_total = self.bytes_total = self.words = self.documents = 0
        self.tokens_scored = self.bytes_scored = 0

    def watch(self, documents: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for ids in documents:
            if len(ids) and int(ids.max()) >= self.vocab_size:
                raise WeightsError(
                    f"the text has token id {int(ids.max())}, the model a vocabulary of {self.vocab_size:,}: "
                    f"tokenizer {self.tokenizer.name} is another model's"
                )
            self.documents += 1
            self.tokens_total += len(ids)
            self.bytes_total += int(self.lengths[torch.from_numpy(ids.astype(np.int64))].sum())
            self.words += len(self.tokenizer.decode(ids).split())
            yield ids

    def score(self, targets: Tensor) -> None:
        self.tokens_scored += targets.numel()
        self.bytes_scored += int(self.lengths[targets.cpu()].sum())
        self.progress(self.tokens_scored, None)

    def evaluation(self, nats: float, protocol: Protocol) -> Evaluation:
        if not math.isfinite(nats):
            raise WeightsError(
                f"the model's loss is {nats}: its weights or logits hold NaN or infinity; "
                "take another checkpoint"
            )
        if self.tokens_scored == 0:
            # Two tokens without a prefix, one with: under that there is nothing to predict.
            rest = "the prefix is none" if protocol.prefix == "none" else "the text is empty"
            raise DataError(
                f"no token can be scored: {_plural(self.tokens_total, 'token')} in "
                f"{_plural(self.documents, 'document')} and {rest}; give a longer text"
                + (" or a shorter context" if protocol.name == "batch-mean" else "")
            )
        return Evaluation(
            nats=nats,
            tokens_scored=self.tokens_scored,
            tokens_total=self.tokens_total,
            bytes_scored=self.bytes_scored,
            bytes_total=self.bytes_total,
            words=self.words,
            documents=self.documents,
            protocol=protocol,
        )


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
