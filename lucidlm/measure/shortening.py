"""What a shorter dtype changes in a loss: losses of a sample in, their difference to float32 out."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lucidlm.measure.scoring import Scored, Scorer
from lucidlm.measure.windows import Window
from lucidlm.runtime.wording import plural

EVERY = 64
"""One of so many windows is scored in float32 too where that is not the dtype: 3 to 5 % more time."""
FEWEST_TOKENS = 64
"""Of a text with fewer windows, as large a part of the first: but not fewer tokens than these."""


@dataclass(frozen=True, slots=True)
class Shortening:
    """Loss in the dtype of an evaluation less the loss in float32, on windows that were scored in both."""

    nats: float
    """Mean over their tokens, nats per token: what the loss is off by, as far as the sample shows."""
    standard_error: float | None
    """Of that mean, from the differences between the windows; None for a single one."""
    of_a_token: float
    """Root mean square over the tokens: single losses are off by so much, up or down."""
    tokens: int
    windows: int

    def __str__(self) -> str:
        """One line, to be shown below the loss."""
        alone = self.standard_error is None
        error = "" if alone else f", standard error {self.standard_error:.5f}"
        return (
            f"{self.nats:+.5f} nats per token{error}; one token {self.of_a_token:.4f}: measured against "
            f"float32 on {'the first ' if alone else ''}{plural(self.tokens, 'token')}"
        )


class Sample:
    """The first of each EVERY windows, with the losses that an evaluation gave their tokens."""

    def __init__(self) -> None:
        self.windows = self.inputs = 0
        """Of the whole evaluation."""
        self.kept: list[tuple[Window, list[Tensor]]] = []
        self.last: Window | None = None

    def add(self, piece: Scored) -> None:
        """Takes the next piece of the evaluation."""
        is_kept = (self.windows - (piece.window is self.last)) % EVERY == 0
        if piece.window is not self.last:
            self.last = piece.window
            self.windows += 1
            self.inputs += len(piece.window.ids) - 1
            if is_kept:  # a view would hold its document
                self.kept.append((replace(piece.window, ids=piece.window.ids.copy()), []))
        if is_kept:
            self.kept[-1][1].append(piece.exact_nats)

    def chosen(self) -> list[tuple[Window, Tensor]]:
        """Windows with the losses of their scored tokens (N,): one of EVERY inputs, or few more.

        The beginning of a window is a window with the same losses, as no place depends on a later one.
        """
        kept = [(window, torch.cat(nats)) for window, nats in self.kept]
        if whole := self.windows // EVERY:
            return kept[:whole]
        inputs = self.inputs // EVERY
        return [
            (replace(window, ids=window.ids[: window.first + count + 1]), nats[:count])
            for window, nats in kept
            for count in [max(FEWEST_TOKENS, inputs - window.first)]
        ]


def shortening_of(scorer: Scorer, sample: Sample) -> Shortening | None:
    """The rounding on this sample; None where it computes in float32, or the weights are shorter."""
    exact = Scorer(scorer.model, scorer.tokenizer, replace(scorer.protocol, dtype="float32"))
    chosen = sample.chosen()
    if not chosen or scorer.counted().dtype == exact.counted().dtype:
        return None
    differences = [nats - exact.nats_of(window) for window, nats in chosen]
    all_of_them = torch.cat(differences)
    error = None
    if len(chosen) > 1:
        # Of a mean of windows with unequal numbers of tokens: the variance of a ratio (Cochran 1977, 2.11).
        centred = torch.stack([(each - all_of_them.mean()).sum() for each in differences])
        n = len(chosen)
        error = math.sqrt(centred.square().sum().item() * n / (n - 1)) / len(all_of_them)
    return Shortening(
        nats=all_of_them.mean().item(),
        standard_error=error,
        of_a_token=all_of_them.square().mean().sqrt().item(),
        tokens=len(all_of_them),
        windows=len(chosen),
    )
