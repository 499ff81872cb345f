"""From logits to a number: softmax, cross entropy, binary cross entropy, perplexity, bits.

B texts, T tokens, V vocabulary. Every loss is in nats and in at least float32, whatever dtype the model
computes in.
"""

import math

import torch
from torch import Tensor

from lucidlm.errors import DataError
from lucidlm.runtime.process import settle_vector_math
from lucidlm.text.windows import IGNORE_INDEX


def softmax(logits: Tensor) -> Tensor:
    """Probabilities (..., V) from logits (..., V): exp(logit), divided by their sum.

    The largest logit is subtracted first, so that exp cannot overflow. It cancels out in the division.

    >>> softmax(torch.tensor([0.0, 0.0])).tolist()
    [0.5, 0.5]
    """
    logits = _at_least_float32(logits)
    exponentials = (logits - logits.amax(-1, keepdim=True)).exp()
    return exponentials / exponentials.sum(-1, keepdim=True)


def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities (..., V) in at least float32; exact where the probability itself rounds to 0."""
    logits = _at_least_float32(logits)
    shifted = logits - logits.amax(-1, keepdim=True)
    return shifted - shifted.exp().sum(-1, keepdim=True).log()


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Loss of each target in nats: logits (..., V), targets (...) -> (...), float32.

    -log softmax(logits)[target], Shannon's surprisal. Ignored targets (-100) cost 0:
    divide the sum by the number of kept targets, not by B T.

    >>> logits = torch.zeros(1, 2, 50257)  # every token equally likely
    >>> cross_entropy(logits, torch.tensor([[464, -100]]))  # ln 50257, and an ignored target
    tensor([[10.8249,  0.0000]])
    """
    kept = targets != IGNORE_INDEX
    logits = _at_least_float32(logits)
    # 0 times NaN is NaN: an ignored row with NaN or infinity would put NaN into the gradient. The copy takes
    # half as long as the loss, so it is made only if there is an ignored row and a gradient is needed.
    if torch.is_grad_enabled() and logits.requires_grad and known(kept.all()) is not True:
        logits = logits.masked_fill(~kept[..., None], 0)
    # Without the largest logit, which cancels out: differences of logits near -100 would lose digits.
    logits = logits - logits.amax(-1, keepdim=True).detach()
    of_target = logits.gather(-1, targets.where(kept, 0)[..., None])[..., 0]
    # -log(e^target / sum e^logit), without the (..., V) tensor of probabilities: one of V is needed.
    return (logits.exp().sum(-1).log() - of_target).where(kept, 0.0)


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Loss of each yes (1) or no (0) in nats: logits (...), targets (...) -> (...), float32.

    -(y ln p + (1 - y) ln(1 - p)) with p = 1 / (1 + e^-logit). ln p is computed as -ln(1 + e^-logit), which is
    exact for every logit. It equals the cross entropy of two classes with the logits (0, x). A target between
    0 and 1 is a probability of yes. Any other is a DataError, except inside vmap and torch.compile, where
    code cannot depend on data.

    >>> binary_cross_entropy(torch.tensor([0.0, 2.0]), torch.tensor([1, 1]))  # -ln 0.5, -ln 0.8808
    tensor([0.6931, 0.1269])
    """
    logits = _at_least_float32(logits)
    targets = targets.to(logits.dtype)
    inside = (targets >= 0) & (targets <= 1)  # False for NaN too
    if known(inside.all()) is False:
        raise DataError(
            f"binary_cross_entropy: target {targets[~inside][0].item():g} is not a probability; give 1 for "
            "yes, 0 for no, or a number between them"
        )
    zero = torch.zeros_like(logits)
    # A term without weight is left out, not multiplied by 0: its logarithm may be infinite.
    of_yes = torch.where(targets > 0, targets * torch.logaddexp(-logits, zero), zero)
    of_no = torch.where(targets < 1, (1 - targets) * torch.logaddexp(logits, zero), zero)
    return of_yes + of_no


def perplexity(loss_nats: float | Tensor) -> float:
    """exp(loss): the model is as uncertain as a fair choice among this many tokens.

    >>> round(perplexity(10.8249), -1)
    50260.0
    """
    try:
        return math.exp(_number(loss_nats))
    except OverflowError:
        return math.inf


def bits(nats: float | Tensor) -> float:
    """nats / ln 2: how often the probability 1 has to be halved.

    >>> bits(math.log(8))
    3.0
    """
    return _number(nats) / math.log(2)


def known(fact: Tensor) -> bool | None:
    """The value of a condition; None inside vmap and torch.compile, where one graph serves all data."""
    if torch.compiler.is_compiling():
        return None
    try:
        return bool(fact)
    except RuntimeError:  # vmap allows no branch on data, and PyTorch has no public way to ask for it before
        return None


def _at_least_float32(x: Tensor) -> Tensor:
    settle_vector_math()
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _number(value: float | Tensor) -> float:
    return value.item() if isinstance(value, Tensor) else float(value)
