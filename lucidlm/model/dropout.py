"""Dropout: activations in, the same with some set to 0 out; the random factors may come from a tape."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

TAPE_LENGTH = 2**22
"""Factors that a tape has at least: 8 MB in bfloat16."""
ALIGNED = 32
"""Masks begin at multiples of this many factors: 64 bytes in bfloat16, a line of the cache."""


class Tape:
    """Random factors, 0 or 1 / (1 - rate), drawn once; the mask of a call is a slice at a random place.

    To draw a mask takes twenty times as long as to multiply by it. The places are drawn afresh for each
    step, from a seed of their own, so that the masks do not depend on what else was drawn before.
    """

    def __init__(self, rate: float, *, dtype: torch.dtype, longest: int, seed: int) -> None:
        """longest: elements of the largest mask."""
        generator = torch.Generator().manual_seed(seed)
        kept = torch.rand(max(TAPE_LENGTH, 2 * longest), generator=generator) >= rate
        self.factors = kept.to(dtype) / (1 - rate)

    def places(self, seed: int) -> "Places":
        """Masks from this tape, at the places that this seed gives."""
        return Places(self, seed)


class Places:
    """The masks of one pass through a model, one after the other."""

    def __init__(self, tape: Tape, seed: int) -> None:
        self.tape, self.generator = tape, np.random.Generator(np.random.SFC64(seed))

    def mask(self, shape: torch.Size) -> Tensor:
        """The next mask, of this shape: a view of the tape."""
        size = math.prod(shape)
        start = ALIGNED * int(self.generator.integers((len(self.tape.factors) - size) // ALIGNED + 1))
        return self.tape.factors[start : start + size].view(shape)


class Dropout(nn.Module):
    """Sets each activation to 0 with probability `rate` in training and scales up the rest (Srivastava 2014).

    The scale 1 / (1 - rate) keeps the mean, so that nothing needs to change when dropout is off.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.places: Places | None = None
        """Where the masks come from; None: PyTorch draws each."""

    @property
    def is_on(self) -> bool:
        """Whether anything is dropped now."""
        return self.training and self.rate > 0

    def forward(self, x: Tensor) -> Tensor:
        """x, any shape; unchanged where dropout is off."""
        if not self.is_on:
            return x
        return F.dropout(x, self.rate) if self.places is None else x * self.places.mask(x.shape)

    def extra_repr(self) -> str:
        """The rate, for print(model)."""
        return f"{self.rate:g}"
