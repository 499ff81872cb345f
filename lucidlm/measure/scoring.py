"""Which token is scored given what: documents of token ids in, the logits at every scored token out.

T inputs of a window, S stride, N scored tokens, C channels, V vocabulary. Evaluation, explanation,
comparison and compression all look at a text through these windows, so that their numbers agree.
"""

import contextlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lucidlm.errors import ConfigError
from lucidlm.model.gpt import GPT
from lucidlm.runtime.device import autocast
from lucidlm.text.excerpts import Excerpt, as_excerpt

LOGITS_BYTES = 32 * 2**20
"""The most that logits may take: the head runs over a batch's scored places in pieces."""
PIECE_BYTES = 4 * 2**20
"""They are handed on in pieces that a processor's cache holds, as they are read several times."""
BATCH_TOKENS = 2048
"""About so many tokens are read at once unless a batch size is given; more take memory and no less time."""


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of a document that the model reads at once, and which of its tokens it is judged by there."""

    document: int
    ids: np.ndarray
    """Inputs and, behind them, the last target: (T + 1,), int64; the prefix is one of them."""
    first: int
    """Index among the targets of the first that is scored; those before it are context."""
    place: int
    """Where in its document that token stands."""
    weight: float = 1.0
    """What a token counts here: 1, but for other people's ways of counting."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The logits at consecutive places of a document, and the tokens that came there."""

    document: int
    start: int
    """Place in the document of the first of these tokens."""
    position: int
    """Index in its window of the first of these tokens: it was predicted from position + 1 inputs."""
    weight: float
    logits: Tensor  # (N, V)
    targets: Tensor  # (N,)


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


def with_prefix(ids: np.ndarray, prefix_id: int | None) -> np.ndarray:
    """A document's ids as the model reads them: (N,) or (N + 1,), int64."""
    ids = np.asarray(ids).astype(np.int64)
    return ids if prefix_id is None else np.concatenate(([prefix_id], ids))


def scored_windows(
    n_inputs: int, context_length: int, stride: int, *, scored: int = 0
) -> Iterator[tuple[int, int, int]]:
    """(start, first scored, end) of each window over n_inputs places: each place is scored in exactly one.

    Windows start on the grid of the stride. The first scores all its places but the first `scored`, which are
    context; the others score those that no window before has seen; the last is short rather than slid back.
    """
    start = 0
    while scored < n_inputs:
        end = min(start + context_length, n_inputs)
        yield start, scored, end
        start, scored = start + stride, end


def windows_of(
    documents: Iterable[np.ndarray | Excerpt], *, context_length: int, stride: int, prefix_id: int | None
) -> Iterator[Window]:
    """The windows of our own protocol, document after document: each token is scored in exactly one.

    A piece of a document is read as it would be in the middle of it: its first window has T - S + 1 tokens of
    what stands before the piece, where there are so many, and no prefix.
    """
    for number, document in enumerate(documents):
        excerpt = as_excerpt(document)
        if len(excerpt.before):
            context = np.asarray(excerpt.before[-(context_length - stride + 1) :])
            sequence, given = np.concatenate((context, excerpt.ids)).astype(np.int64), len(context)
        else:
            sequence, given = with_prefix(excerpt.ids, prefix_id), int(prefix_id is not None)
        scored = max(0, given - 1)
        for start, first, end in scored_windows(len(sequence) - 1, context_length, stride, scored=scored):
            # Place in the document: with nothing before it, its first token is nobody's target.
            yield Window(number, sequence[start : end + 1], first - start, first + 1 - given)


def scored_logits(
    model: GPT,
    windows: Iterable[Window],
    *,
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Scored]:
    """The logits at every scored token, a piece at a time, so that those of a batch are never all held.

    Windows of all documents share batches, the shorter ones padded behind: no earlier place sees what is
    later.
    """
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"--batch-size {batch_size}: it must be at least 1")
    batch: list[Window] = []
    for window in windows:
        batch.append(window)
        batch_size = batch_size or max(1, BATCH_TOKENS // len(window.ids))
        if len(batch) == batch_size:
            yield from _score_batch(model, batch, dtype)
            batch = []
    if batch:
        yield from _score_batch(model, batch, dtype)


def _score_batch(model: GPT, batch: list[Window], dtype: torch.dtype) -> Iterator[Scored]:
    longest = max(len(window.ids) for window in batch) - 1
    inputs = torch.zeros(len(batch), longest, dtype=torch.int64)
    for row, window in enumerate(batch):
        inputs[row, : len(window.ids) - 1] = torch.from_numpy(window.ids[:-1])
    with evaluating(model, dtype):
        hidden = model.hidden(inputs.to(model.device))  # (B, T, C)
    row_bytes = 4 * model.config.vocab_size
    at_once, handed_on = (max(1, size // row_bytes) for size in (LOGITS_BYTES, PIECE_BYTES))
    for row, window in enumerate(batch):
        targets = torch.from_numpy(window.ids[1:]).to(model.device)
        for begin in range(window.first, len(targets), at_once):
            end = min(begin + at_once, len(targets))  # behind it is padding
            with evaluating(model, dtype):
                logits = model.head(hidden[row, begin:end])  # (N, V)
            for part, piece in enumerate(logits.split(handed_on)):
                position = begin + part * handed_on
                start = window.place + position - window.first
                expected = targets[position : position + len(piece)]
                yield Scored(window.document, start, position, window.weight, piece, expected)


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
