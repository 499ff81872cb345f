"""What a shorter dtype changes in a loss: a scorer and windows in, their difference to float32 out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lucidlm.measure.scoring import Scorer
from lucidlm.measure.windows import Window


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
        error = "" if self.standard_error is None else f", standard error {self.standard_error:.5f}"
        return (
            f"{self.nats:+.5f} nats per token{error}; one token {self.of_a_token:.4f}: measured against "
            f"float32 on {self.tokens:,} tokens"
        )


def shortening_of(scorer: Scorer, windows: Sequence[Window]) -> Shortening | None:
    """The rounding on these windows; None where it computes in float32, or the weights are shorter."""
    exact = Scorer(scorer.model, scorer.tokenizer, replace(scorer.protocol, dtype="float32"))
    if not windows or scorer.counted().dtype == exact.counted().dtype:
        return None
    differences = [scorer.nats_of(window) - exact.nats_of(window) for window in windows]
    all_of_them = torch.cat(differences)
    error = None
    if len(windows) > 1:
        # Of a mean of windows with unequal numbers of tokens: the variance of a ratio (Cochran 1977, 2.11).
        centred = torch.stack([(each - all_of_them.mean()).sum() for each in differences])
        n = len(windows)
        error = math.sqrt(centred.square().sum().item() * n / (n - 1)) / len(all_of_them)
    return Shortening(
        nats=all_of_them.mean().item(),
        standard_error=error,
        of_a_token=all_of_them.square().mean().sqrt().item(),
        tokens=len(all_of_them),
        windows=len(windows),
    )
