"""Which tokens are scored given which: documents of token ids come in, the windows of a protocol go out.

T inputs of a window, S stride. The first protocol is ours; the others reproduce published numbers.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from lucidlm.text.excerpts import Excerpt


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a document that the model reads at once, and which of its tokens are scored there."""

    document: int
    ids: np.ndarray
    """Inputs and, after them, the last target: (T + 1,), int64; the prefix is one of them."""
    first: int
    """Index among the targets of the first one that is scored; those before it are context."""
    place: int
    """Index in its document of that token."""
    weight: float = 1.0
    """How much each token counts: 1, except in the windows of the guide's protocol."""


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

    >>> list(scored_windows(10, 4, 2))
    [(0, 0, 4), (2, 4, 6), (4, 6, 8), (6, 8, 10)]
    """
    start = 0
    while scored < n_inputs:
        end = min(start + context_length, n_inputs)
        yield start, scored, end
        start, scored = start + stride, end


def lucid_windows(
    documents: Iterable[Excerpt], *, context_length: int, stride: int, prefix_id: int | None
) -> Iterator[Window]:
    """The windows of our own protocol, document after document: each token is scored in exactly one.

    A piece of a document is read as in the middle of it: its first window has up to T - S + 1 tokens of the
    text before the piece, and no prefix.
    """
    for number, excerpt in enumerate(documents):
        if len(excerpt.before):
            context = np.asarray(excerpt.before[-(context_length - stride + 1) :])
            sequence, given = np.concatenate((context, excerpt.ids)).astype(np.int64), len(context)
        else:
            sequence, given = with_prefix(excerpt.ids, prefix_id), int(prefix_id is not None)
        scored = max(0, given - 1)
        for start, first, end in scored_windows(len(sequence) - 1, context_length, stride, scored=scored):
            # Place in the document: without a prefix, its first token is the target of no input.
            yield Window(number, sequence[start : end + 1], first - start, first + 1 - given)


def harness_windows(
    documents: Iterable[np.ndarray], *, context_length: int, prefix_id: int
) -> Iterator[Window]:
    """lm-eval's rolling windows: T new tokens each, the one before them as their only context.

    The last window has fewer new ones: it is slid back, so that earlier tokens fill it up.
    """
    for number, ids in enumerate(documents):
        sequence = with_prefix(ids, prefix_id)
        for first in range(0, len(sequence) - 1, context_length):
            end = min(first + context_length, len(sequence) - 1)
            start = max(0, end - context_length)
            yield Window(number, sequence[start : end + 1], first - start, first)


def guide_windows(documents: Iterable[np.ndarray], *, context_length: int, stride: int) -> Iterator[Window]:
    """The guide's windows: T tokens on the grid of S, of which the last is no input.

    The mean loss of a window's t new tokens weighs t - 1, as if each window lost a token to the shift; but
    only those windows lose one that have nothing before it: the first, and with S = T all.
    """
    for number, ids in enumerate(documents):
        sequence = with_prefix(ids, None)
        for start, scored, end in scored_windows(len(sequence), context_length, stride):
            first = max(scored, start + 1)  # a window's first token has nothing before it
            weight = (end - scored - 1) / max(1, end - first)
            if weight:
                yield Window(number, sequence[start:end], first - start - 1, first, weight)


def course_windows(
    documents: Iterable[np.ndarray], *, context_length: int, batch_size: int
) -> Iterator[Window]:
    """The course's first way: windows of T side by side, incomplete windows and batches dropped.

    Its number is the mean of the batches' means; as all its batches are of one size, that is the sum over the
    count. What it drops is in `tokens_total`.
    """
    for number, ids in enumerate(documents):
        sequence = with_prefix(ids, None)
        starts = range(0, len(sequence) - context_length, context_length)
        for start in starts[: len(starts) // batch_size * batch_size]:
            yield Window(number, sequence[start : start + context_length + 1], 0, start + 1)
