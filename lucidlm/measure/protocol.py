"""The ways of counting, ours and other people's: documents in, windows out, a line on what differs from ours.

T inputs of a window, S stride. Ours is `windows_of` in scoring.py; these reproduce published numbers.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from lucidlm.measure.scoring import Window, scored_windows, with_prefix

PROTOCOLS = ("lucid", "lm-eval", "hf-guide", "batch-mean")

DIFFERENCES = {
    "lm-eval": (
        "counted as the evaluation harness does: windows side by side, so that a window's first tokens have "
        "next to nothing before them, and end-of-text first whatever the model was trained with; its "
        "local-completions model has windows of two tokens less (--context-length)"
    ),
    "hf-guide": (
        "counted as the transformers guide to perplexity does: no prefix, and each later window weighs one "
        "token less than it scores: wrong for small strides (at stride 1 only the first window counts)"
    ),
    "batch-mean": (
        "counted as the course's first code does: whole windows in whole batches, the rest dropped"
    ),
}
"""What each does differently from ours."""


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
    in_pieces: bool = False
    """Whether pieces of a text were scored, each read after the text before it."""

    @property
    def difference(self) -> str:
        """What other people's way does differently from ours; "" for ours."""
        return DIFFERENCES.get(self.name, "")

    def __str__(self) -> str:
        """One line, to stand beside the number."""
        first = "first token given end-of-text" if self.prefix != "none" else "first token left out"
        if self.in_pieces:
            first = f"each piece read after the text before it (of a document, {first})"
        shape = f"context {self.context_length}, stride {self.stride}"
        line = f"protocol {self.name}: {shape}, {first}, {self.dtype} on {self.device}"
        return f"{line}\n({self.difference})" if self.difference else line


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
    only those do that have nothing to see before it: the first, and with S = T all.
    """
    for number, ids in enumerate(documents):
        sequence = with_prefix(ids, None)
        for start, scored, end in scored_windows(len(sequence), context_length, stride):
            first = max(scored, start + 1)  # a window's first token has nothing before it there
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
