"""Cross entropy from hidden states in little memory: the logits are made for some rows at a time.

N rows, C channels, V vocabulary. The sum is in nats and in at least float32, whatever dtype the matmuls take.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lucidlm.errors import ConfigError
from lucidlm.model.loss import known
from lucidlm.text.windows import IGNORE_INDEX

LOGITS_BYTES = 2**28
"""Logits that linear_cross_entropy holds at a time, 2,670 rows of GPT-2's in bfloat16.

Each chunk reads and writes all V x C numbers of the head's gradient, as many bytes as the logits of 800 rows.
Larger chunks save little of that, and would hold more than the head and its gradient.
"""
GPU_LOGITS_BYTES = 2**29
"""The same on a GPU, which has more memory: 2,668 rows of GPT-2's in float32, twice."""
HEAD_TOKENS = 4096
"""Tokens whose part of the head's gradient a CPU adds at once: 6 MB in bfloat16, while they are in a cache.

All tokens of GPT-2 at once take 1.4 times as long there, and a copy of the whole gradient in float32.
"""
PIECE_BYTES = 2**23
"""Softmax goes over pieces of this size, several times: they fit into a CPU's cache, 41 rows of GPT-2's."""
ALIGNED = 64
"""Rows that a head on a GPU is a multiple of: its fast matmuls take 50,304, not GPT-2's 50,257."""


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, chunk: int | None = None
) -> Tensor:
    """Sum of nats over the kept targets: hidden (N, C), head weight (V, C), targets (N,) -> scalar, float32.

    The same number as cross_entropy(hidden @ weight.T, targets).sum(), without all N x V logits in memory:
    with GPT-2's vocabulary they take 200 KB a token. They are made `chunk` rows at a time (default: as many
    as fit into LOGITS_BYTES, on a GPU GPU_LOGITS_BYTES), with their gradients in the same forward pass.
    Matmuls use autocast's dtype; losses and the gradient of the weight are summed in float32.
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
        if on_gpu(head):
            head = _aligned(head)
        width = 2 if head.device.type == "cpu" and multiply == torch.bfloat16 else 4
        chunk = chunk or rows_at_once(len(head), gpu=on_gpu(head), width=width)
        total = torch.zeros((), dtype=exact, device=hidden.device)
        needs_hidden, needs_weight = needs
        tokens_at_once = HEAD_TOKENS if hidden.device.type == "cpu" else len(head)
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_head = torch.zeros_like(head, dtype=exact) if needs_weight else None
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            ignored = targets[part] == IGNORE_INDEX
            # An ignored row must not count, even if it holds NaN. A row of zeros has finite logits, and adds
            # nothing to the gradient of the weight.
            h = _without(ignored, _operand(hidden[part], multiply))
            target = targets[part].masked_fill(ignored, 0)
            nats, grad = _nats(h, head, target, vocab_size=len(weight), graded=any(needs))
            total += nats.masked_fill(ignored, 0).sum()
            if grad_hidden is not None:
                grad_hidden[part] = _without(ignored, _product(grad, head))
            if grad_head is not None:
                for first in range(0, len(head), tokens_at_once):
                    tokens = slice(first, first + tokens_at_once)
                    _add_product(grad_head[tokens], grad[:, tokens].T, h)
            del grad  # before the logits of the next chunk are made
        grad_weight = None if grad_head is None else grad_head[: len(weight)]
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


def on_gpu(x: Tensor) -> bool:
    """Whether the way of a GPU is taken; tests take it on a CPU."""
    return x.is_cuda


def rows_at_once(vocab_size: int, *, gpu: bool, width: int) -> int:
    """Rows whose logits are held at a time, in numbers of `width` bytes."""
    return max(256, (GPU_LOGITS_BYTES if gpu else LOGITS_BYTES) // (width * vocab_size))


def _aligned(head: Tensor) -> Tensor:
    """A head (V, C), followed by rows of zeros up to a multiple of ALIGNED."""
    missing = -len(head) % ALIGNED
    return torch.cat((head, head.new_zeros(missing, head.shape[1]))) if missing else head


def _nats(h: Tensor, head: Tensor, target: Tensor, *, vocab_size: int, graded: bool) -> tuple[Tensor, Tensor]:
    """Nats (n,) of hidden states (n, C) and, if `graded`, their gradient by the logits, (n, len(head))."""
    if on_gpu(h):
        return _fused(h, head, target, vocab_size=vocab_size, graded=graded)
    if h.device.type == "cpu" and h.dtype == torch.bfloat16:
        return _centred(h, head, target, graded=graded)
    return _in_full(h, head, target, graded=graded)


def _in_full(h: Tensor, head: Tensor, target: Tensor, *, graded: bool) -> tuple[Tensor, Tensor]:
    """`_nats` from logits in float32 or float64."""
    logits = _product(h, head.T)
    normaliser = logits.logsumexp(-1)
    nats = normaliser - logits.gather(1, target[:, None])[:, 0]
    if not graded:
        return nats, logits
    grad = logits.sub_(normaliser[:, None]).exp_()  # softmax, in the memory of the logits
    return nats, _less_one(grad, target).to(h.dtype)


def _fused(
    h: Tensor, head: Tensor, target: Tensor, *, vocab_size: int, graded: bool
) -> tuple[Tensor, Tensor]:
    """`_nats` for a GPU, whose memory is slow beside its matmuls: few passes over the logits.

    The head is `_aligned`: its rows of zeros are no tokens. Their logits become -inf, so that they have no
    probability.
    """
    logits = _product(h, head.T)
    logits[:, vocab_size:] = -torch.inf
    logs = logits.log_softmax(-1)  # one kernel
    del logits
    nats = -logs.gather(1, target[:, None])[:, 0]
    if not graded:
        return nats, logs
    grad = torch.exp(logs, out=logs if logs.dtype == h.dtype else torch.empty_like(logs, dtype=h.dtype))
    # probability - 1 from the nats: a probability near 1, rounded to bfloat16, has lost the difference.
    return nats, grad.scatter_(1, target[:, None], torch.expm1(-nats).to(h.dtype)[:, None])


def _centred(h: Tensor, head: Tensor, target: Tensor, *, graded: bool) -> tuple[Tensor, Tensor]:
    """`_nats` for bfloat16 on a CPU, whose matmuls return nothing longer: relative to the target's logit.

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
    if rows.device.type == "cpu" and known(ignored.any()) is False:  # a GPU would have to wait for the answer
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


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, for a total in the dtype that _product sums in."""
    if left.is_cuda and left.dtype in (torch.float16, torch.bfloat16):
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
    else:
        total += left @ right
