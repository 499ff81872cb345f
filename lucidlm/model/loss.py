"""From logits to a number: softmax, cross entropy, perplexity, bits; and cross entropy in little memory.

B texts, T tokens, N = B T rows, C channels, V vocabulary. Every loss is in nats and in float32 or better,
whatever the model computed in.
"""

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lucidlm.errors import ConfigError, DataError
from lucidlm.runtime.process import float32_precision, settle_vector_math
from lucidlm.text.windows import IGNORE_INDEX


def softmax(logits: Tensor) -> Tensor:
    """Probabilities (..., V) from logits (..., V): exp(logit), shared out so that they add up to 1.

    The largest logit is taken off first, so that exp cannot overflow: it cancels out.
    """
    logits = _at_least_float32(logits)
    exponentials = (logits - logits.amax(-1, keepdim=True)).exp()
    return exponentials / exponentials.sum(-1, keepdim=True)


def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities (..., V), at least float32; exact where the probability is too small to hold."""
    logits = _at_least_float32(logits)
    shifted = logits - logits.amax(-1, keepdim=True)
    return shifted - shifted.exp().sum(-1, keepdim=True).log()


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Loss of each target in nats: logits (..., V), targets (...) -> (...), float32.

    -log softmax(logits)[target], Shannon's surprisal. Ignored targets (-100) cost 0:
    divide the sum by the number of kept targets, not by B T.
    """
    kept = targets != IGNORE_INDEX
    logits = _at_least_float32(logits)
    # 0 times NaN is NaN: an ignored row of NaN or infinity would hand it to the gradient. The copy costs half
    # as much again as the loss, so it is made only where there is such a row and a gradient is wanted.
    if torch.is_grad_enabled() and logits.requires_grad and _known(kept.all()) is not True:
        logits = logits.masked_fill(~kept[..., None], 0)
    # The largest off first: it cancels out, and logits near -100 would leave their differences fewer digits.
    logits = logits - logits.amax(-1, keepdim=True).detach()
    of_target = logits.gather(-1, targets.where(kept, 0)[..., None])[..., 0]
    # -log(e^target / sum e^logit): without the (..., V) tensor of probabilities that one number is wanted of.
    return (logits.exp().sum(-1).log() - of_target).where(kept, 0.0)


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Loss of each yes (1) or no (0) in nats: logits (...), targets (...) -> (...), float32.

    -(y ln p + (1 - y) ln(1 - p)) with p = 1 / (1 + e^-logit), so that ln p = -ln(1 + e^-logit): no logit is
    too large for that. With two classes it is the cross entropy of the logits (0, x). A target between 0 and
    1 is a probability of yes. Any other is a DataError, but not inside vmap and torch.compile, which allow no
    look at the data.
    """
    logits = _at_least_float32(logits)
    targets = targets.to(logits.dtype)
    inside = (targets >= 0) & (targets <= 1)  # False for NaN too
    if _known(inside.all()) is False:
        raise DataError(
            f"binary_cross_entropy: target {targets[~inside][0].item():g} is not a probability; give 1 for "
            "yes, 0 for no, or a number between them"
        )
    zero = torch.zeros_like(logits)
    # What has no weight is left out, not multiplied by 0: its logarithm may be infinite.
    of_yes = torch.where(targets > 0, targets * torch.logaddexp(-logits, zero), zero)
    of_no = torch.where(targets < 1, (1 - targets) * torch.logaddexp(logits, zero), zero)
    return of_yes + of_no


def perplexity(loss_nats: float | Tensor) -> float:
    """exp(loss): as uncertain as a fair choice among this many tokens."""
    try:
        return math.exp(_number(loss_nats))
    except OverflowError:
        return math.inf


def bits(nats: float | Tensor) -> float:
    """The same surprise counted in halvings: nats / ln 2."""
    return _number(nats) / math.log(2)


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, *, chunk: int = 1024) -> Tensor:
    """Sum of nats over the kept targets: hidden (N, C), head weight (V, C), targets (N,) -> scalar, float32.

    The same number as cross_entropy(hidden @ weight.T, targets).sum(), but the N x V logits are never all
    held: they are made `chunk` rows at a time, and their gradients at once, in the forward pass. The products
    multiply in the type that autocast asks for and come out in float32, the weight's gradient adds up there.
    """
    if hidden.dim() != 2 or targets.shape != hidden.shape[:1] or chunk < 1:
        raise ConfigError(
            f"linear_cross_entropy takes hidden (N, C), targets (N,) and a chunk of at least 1, not "
            f"{tuple(hidden.shape)}, {tuple(targets.shape)} and {chunk}; flatten texts and tokens into rows"
        )
    multiply = torch.promote_types(hidden.dtype, weight.dtype)
    if torch.is_autocast_enabled(hidden.device.type) and multiply != torch.float64:
        multiply = torch.get_autocast_dtype(hidden.device.type)
    # Inside the Function all tensors look as if they wanted a gradient, under no_grad too.
    wants = (
        torch.is_grad_enabled() and hidden.requires_grad,
        torch.is_grad_enabled() and weight.requires_grad,
    )
    with torch.autocast(hidden.device.type, enabled=False):
        return _LinearCrossEntropy.apply(hidden, weight, targets, chunk, multiply, wants)


class _LinearCrossEntropy(torch.autograd.Function):
    """The logits' gradient, softmax - one_hot(target), is known as soon as they are: nothing need be kept."""

    @staticmethod
    def forward(
        ctx,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        chunk: int,
        multiply: torch.dtype,
        wants: tuple[bool, bool],
    ) -> Tensor:
        exact = torch.float64 if multiply == torch.float64 else torch.float32
        head = _operand(weight, multiply)
        total = torch.zeros((), dtype=exact, device=hidden.device)
        wants_hidden, wants_weight = wants
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=exact) if wants_weight else None
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            target = targets[part]
            kept = target != IGNORE_INDEX
            # What stands in a row that does not count must not count, be it NaN.
            h = _operand(hidden[part].masked_fill(~kept[:, None], 0), multiply)
            logits = _product(h, head.T, multiply)  # (chunk, V)
            normaliser = logits.logsumexp(-1)
            index = target.where(kept, 0)[:, None]
            total += (normaliser - logits.gather(1, index)[:, 0]).where(kept, 0.0).sum()
            if not (wants_hidden or wants_weight):
                continue
            grad = logits.sub_(normaliser[:, None]).exp_()  # softmax, in the place of the logits
            grad.scatter_add_(1, index, torch.full_like(index, -1, dtype=exact))
            grad = _operand(grad.masked_fill_(~kept[:, None], 0), multiply)
            if grad_hidden is not None:
                grad_hidden[part] = _product(grad, head, multiply)
            if grad_weight is not None:
                grad_weight += _product(grad.T, h, multiply)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_total: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        if grad_hidden is not None:
            grad_hidden = grad_hidden * grad_total.to(grad_hidden.dtype)
        if grad_weight is not None:
            grad_weight = (grad_weight * grad_total).to(ctx.weight_dtype)
        return grad_hidden, grad_weight, None, None, None, None


def _operand(x: Tensor, multiply: torch.dtype) -> Tensor:
    """x as _product wants it: a GPU reads the short type, a CPU float32, which it shortens on the way."""
    return x.to(multiply if x.is_cuda or multiply == torch.float64 else torch.float32)


def _product(left: Tensor, right: Tensor, multiply: torch.dtype) -> Tensor:
    """left @ right, multiplied in that type, added up and returned in float32 (or float64).

    A bfloat16 result would keep 8 bits of each logit: an error of 0.01 nats in a token's loss.
    """
    if multiply in (torch.float32, torch.float64):
        return left @ right
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    with float32_precision("bf16" if multiply == torch.bfloat16 else "ieee"):
        return left @ right


def _known(fact: Tensor) -> bool | None:
    """A fact that decides what is computed; None inside vmap and torch.compile: one graph serves any data."""
    if torch.compiler.is_compiling():
        return None
    try:
        return bool(fact)
    except RuntimeError:  # vmap: no branch on data; PyTorch has no public way to ask beforehand
        return None


def _at_least_float32(x: Tensor) -> Tensor:
    settle_vector_math()
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _number(value: float | Tensor) -> float:
    return value.item() if isinstance(value, Tensor) else float(value)
