"""What a shorter dtype changes in a loss: losses of a sample in, their difference to float32 out."""

import math
from collections.abc import Iterable, Mapping
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
        self.kept: list[tuple[int, Window, list[Tensor]]] = []
        """Number of the window in the evaluation, the window, its losses."""
        self.last: Window | None = None

    def add(self, piece: Scored) -> None:
        """Takes the next piece of the evaluation."""
        number = self.windows - (piece.window is self.last)
        if piece.window is not self.last:
            self.last = piece.window
            self._count(piece.window)
            if number % EVERY == 0:
                self._keep(number, piece.window)
        if number % EVERY == 0:
            self.kept[-1][2].append(piece.exact_nats)

    def passed(self, batch: Iterable[Window], known: Mapping[int, Tensor]) -> None:
        """Counts the next windows of the evaluation, scored elsewhere; keeps those with `known` losses."""
        for window in batch:
            if self.windows in known:
                self._keep(self.windows, window)
                self.kept[-1][2].append(known[self.windows])
            self._count(window)

    def _count(self, window: Window) -> None:
        self.windows += 1
        self.inputs += len(window.ids) - 1

    def _keep(self, number: int, window: Window) -> None:
        # A view would hold its document.
        self.kept.append((number, replace(window, ids=window.ids.copy()), []))

    def chosen(self) -> list[tuple[int, Window, Tensor]]:
        """Windows with their number and the losses of their scored tokens (N,): one of EVERY inputs, or few
        more.

        The beginning of a window is a window with the same losses, as no place depends on a later one.
        """
        kept = [(number, window, torch.cat(nats)) for number, window, nats in self.kept]
        if whole := self.windows // EVERY:
            return [each for each in kept if each[0] // EVERY < whole]
        inputs = self.inputs // EVERY
        return [
            (number, replace(window, ids=window.ids[: window.first + count + 1]), nats[:count])
            for number, window, nats in kept
            for count in [max(FEWEST_TOKENS, inputs - window.first)]
        ]


def differences_of(scorer: Scorer, sample: Sample) -> dict[int, Tensor]:
    """Losses less those in float32, of each window of the sample by its number (N,).

    Empty where the evaluation computes in float32, or the weights are shorter.
    """
    exact = Scorer(scorer.model, scorer.tokenizer, replace(scorer.protocol, dtype="float32"))
    if scorer.counted().dtype == exact.counted().dtype:
        return {}
    return {number: nats - exact.nats_of(window) for number, window, nats in sample.chosen()}


def shortening_of(by_window: Mapping[int, Tensor]) -> Shortening | None:
    """The rounding that these differences of the sample's windows show; None without any."""
    if not by_window:
        return None
    differences = [by_window[number] for number in sorted(by_window)]
    all_of_them = torch.cat(differences)
    error = None
    if len(differences) > 1:
        # Of a mean of windows with unequal numbers of tokens: the variance of a ratio (Cochran 1977, 2.11).
        centred = torch.stack([(each - all_of_them.mean()).sum() for each in differences])
        n = len(differences)
        error = math.sqrt(centred.square().sum().item() * n / (n - 1)) / len(all_of_them)
    return Shortening(
        nats=all_of_them.mean().item(),
        standard_error=error,
        of_a_token=all_of_them.square().mean().sqrt().item(),
        tokens=len(all_of_them),
        windows=len(differences),
    )
