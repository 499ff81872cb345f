"""Made-up logits, states and targets for the tests of losses, and how far a result is off."""

import numpy as np
import torch
from torch import Tensor

from lucidlm.text.windows import IGNORE_INDEX

HALF = [torch.float16, torch.bfloat16]
DTYPES = [*HALF, torch.float32, torch.float64]


def numbers(*shape: int, seed: int = 0, scale: float = 1.0, dtype=torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def targets_of(rows: int, vocab_size: int, *, ignored_every: int | None = None, seed: int = 0) -> Tensor:
    targets = torch.randint(vocab_size, (rows,), generator=torch.Generator().manual_seed(seed))
    if ignored_every is not None:
        targets[ignored_every - 1 :: ignored_every] = IGNORE_INDEX
    return targets


def as_numpy(x: Tensor) -> np.ndarray:
    return x.detach().double().numpy()


def off_by(found: Tensor, wanted: np.ndarray) -> float:
    """Distance as a part of the length of what was wanted."""
    return float(np.linalg.norm(as_numpy(found) - wanted) / max(np.linalg.norm(wanted), 1e-300))
