"""From logits to a number: softmax, cross entropy, perplexity, bits; and cross entropy in little memory.

B texts, T tokens, N = B T rows, C channels, V vocabulary. Every loss is in nats and in at least float32,
whatever dtype the model computes in.
"""

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lucidlm.errors import ConfigError, DataError
from lucidlm.runtime.process import settle_vector_math
from lucidlm.text.windows import IGNORE_INDEX

LOGITS_BYTES = 2**28
"""Logits that linear_cross_entropy holds at a time, 2,670 rows of GPT-2's in bfloat16.

Each chunk reads and writes all V x C numbers of the head's gradient, as many bytes as the logits of 800 rows.
Larger chunks save little of that, and would hold more than the head and its gradient.
"""
HEAD_TOKENS = 4096
"""Tokens whose part of the head's gradient a CPU adds at once: 6 MB in bfloat16, while they are in a cache.

All tokens of GPT-2 at once take 1.4 times as long there, and a copy of the whole gradient in float32.
"""
PIECE_BYTES = 2**23
"""Softmax goes over pieces of this size, several times: they fit into a CPU's cache, 41 rows of GPT-2's."""


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
    if torch.is_grad_enabled() and logits.requires_grad and _known(kept.all()) is not True:
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
    if _known(inside.all()) is False:
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


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, chunk: int | None = None
) -> Tensor:
    """Sum of nats over the kept targets: hidden (N, C), head weight (V, C), targets (N,) -> scalar, float32.

    The same number as cross_entropy(hidden @ weight.T, targets).sum(), without all N x V logits in memory:
    with GPT-2's vocabulary they take 200 KB a token. They are made `chunk` rows at a time (default: as many
    as fit into LOGITS_BYTES), with their gradients in the same forward pass. Matmuls use autocast's dtype;
    losses and the gradient of the weight are summed in float32.
    """
    if hidden.dim() != 2 or targets.shape != hidden.shape[:1] or (chunk is not None and chunk < 1):
        raise ConfigError(
            f"linear_cross_entropy takes hidden (N, C), targets (N,) and a chunk of at least 1, not "
            f"{tuple(hidden.shape)}, {tuple(targets.shape)} and {chunk}; flatten texts and tokens into rows"
        )
    multiply = torch.promote_types(hidden.dtype, weight.dtype)
    if torch.is_autocast_enabled(hidden.device.type) and multiply != torch.float64:
        multiply = torch.get_autocast_dtype(hidden.device.type)
    # Looked up here, because inside the Function every tensor has requires_grad, under no_grad too.
    needs = (
        torch.is_grad_enabled() and hidden.requires_grad,
        torch.is_grad_enabled() and weight.requires_grad,
    )
    with torch.autocast(hidden.device.type, enabled=False):
        return _LinearCrossEntropy.apply(hidden, weight, targets, chunk, multiply, needs)


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradient of the logits is softmax - one_hot(target): known with them, so no logits are kept."""

    @staticmethod
    def forward(
        ctx,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        chunk: int | None,
        multiply: torch.dtype,
        needs: tuple[bool, bool],
    ) -> Tensor:
        exact = torch.float64 if multiply == torch.float64 else torch.float32
        head = _operand(weight, multiply)
        centred = hidden.device.type == "cpu" and multiply == torch.bfloat16
        chunk = chunk or max(256, LOGITS_BYTES // (len(head) * (2 if centred else 4)))
        total = torch.zeros((), dtype=exact, device=hidden.device)
        needs_hidden, needs_weight = needs
        at_once = HEAD_TOKENS if hidden.device.type == "cpu" else len(head)
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=exact) if needs_weight else None
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            ignored = targets[part] == IGNORE_INDEX
            # An ignored row must not count, even if it holds NaN. A row of zeros has finite logits, and adds
            # nothing to the gradient of the weight.
            h = _without(ignored, _operand(hidden[part], multiply))
            target = targets[part].masked_fill(ignored, 0)
            nats, grad = (_centred if centred else _in_full)(h, head, target, any(needs))
            total += nats.masked_fill(ignored, 0).sum()
            if grad_hidden is not None:
                grad_hidden[part] = _without(ignored, _product(grad, head))
            if grad_weight is not None:
                for tokens in (slice(i, i + at_once) for i in range(0, len(head), at_once)):
                    grad_weight[tokens] += _product(grad[:, tokens].T, h)
            del grad  # before the logits of the next chunk are made
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


def _in_full(h: Tensor, head: Tensor, target: Tensor, graded: bool) -> tuple[Tensor, Tensor]:
    """Nats (n,) and, if `graded`, their gradient by the logits (n, V): from logits in float32 or float64."""
    logits = _product(h, head.T)
    normaliser = logits.logsumexp(-1)
    nats = normaliser - logits.gather(1, target[:, None])[:, 0]
    if not graded:
        return nats, logits
    grad = logits.sub_(normaliser[:, None]).exp_()  # softmax, in the memory of the logits
    return nats, _less_one(grad, target).to(h.dtype)


def _centred(h: Tensor, head: Tensor, target: Tensor, graded: bool) -> tuple[Tensor, Tensor]:
    """`_in_full` for bfloat16 on a CPU, whose matmuls return nothing longer: relative to the target's logit.

    bfloat16 has 8 bits. GPT-2's logits are near -100, where its steps are 0.5 wide. Differences to the
    target's logit are smaller: if the target costs x nats, none is above x, and tokens far below it have
    little probability. Each is off by up to 2^-9 of itself, at random, and counts with its probability: the
    loss is off by about 2^-9 of itself at most. The matmul subtracts before it rounds.
    """
    own = torch.linalg.vecdot(h.float(), head.index_select(0, target).float())  # the target's logit
    centre = own.bfloat16()
    own -= centre  # what the centre lost by its own rounding
    logits = torch.addmm(-centre[:, None], h, head.T)
    nats = torch.empty_like(own)
    at_once = max(1, PIECE_BYTES // (4 * len(head)))
    for first in range(0, len(h), at_once):
        rows = slice(first, first + at_once)
        exact = logits[rows].float()
        largest = exact.amax(-1)
        probabilities = exact.softmax(-1)  # one fused kernel, where logsumexp, sub and exp are six passes
        # The largest probability is 1 / sum e^(logit - largest), so its logarithm is that of the sum.
        nats[rows] = largest - probabilities.amax(-1).log() - own[rows]
        if graded:
            logits[rows] = _less_one(probabilities, target[rows])
    return nats, logits


def _less_one(probabilities: Tensor, target: Tensor) -> Tensor:
    """probabilities (n, V) - one_hot(target), in place."""
    rows, vocab_size = probabilities.shape
    # One index into the flat tensor: thirty times as fast as scatter_add_ along the rows.
    places = torch.arange(rows, device=target.device) * vocab_size + target
    probabilities.view(-1).index_add_(0, places, probabilities.new_full((rows,), -1.0))
    return probabilities


def _without(ignored: Tensor, rows: Tensor) -> Tensor:
    """rows (n, C) with zeros in the ignored ones."""
    if (
        rows.device.type == "cpu" and _known(ignored.any()) is False
    ):  # a GPU would have to wait for the answer
        return rows
    return rows.masked_fill(ignored[:, None], 0)


def _operand(x: Tensor, multiply: torch.dtype) -> Tensor:
    """x in the dtype that _product reads: `multiply`, but float32 for float16 on a CPU, slow there."""
    return x.float() if multiply == torch.float16 and not x.is_cuda else x.to(multiply)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right, summed in float32 (float64: in that); returned in it, but for bfloat16 on a CPU."""
    if left.is_cuda and left.dtype in (torch.float16, torch.bfloat16):
        return torch.mm(left, right, out_dtype=torch.float32)
    return left @ right


def _known(fact: Tensor) -> bool | None:
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
