"""One optimizer step: a global batch in, moved weights and the batch's loss out.

B windows of the batch, T tokens of a window. However the batch is cut into micro-batches, the loss is one
sum of nats over one count of tokens: never a mean of means.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lucidlm.errors import RunError
from lucidlm.model.gpt import GPT
from lucidlm.model.loss import IGNORE_INDEX, linear_cross_entropy
from lucidlm.runs.settings import Plan
from lucidlm.runtime.device import autocast, dtype_of, seed_from, to_device
from lucidlm.training.optim import Optimizers, set_learning_rate
from lucidlm.training.schedule import learning_rate_factor

LOGITS_AT_ONCE = 2**26
"""Logits that the loss holds at a time: 256 MiB in float32, where larger chunks no longer paid."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step did."""

    nats: float
    tokens: int
    grad_norm: float

    @property
    def loss_nats(self) -> float:
        """Nats per token of the whole batch, before its weights moved."""
        return self.nats / self.tokens


def train_step(
    model: GPT,
    optimizers: Optimizers,
    batch: tuple[np.ndarray, np.ndarray],
    *,
    plan: Plan,
    seed: int,
    step: int,
    hidden: Callable[[Tensor], Tensor] | None = None,
) -> StepResult:
    """Nats and tokens of a batch, inputs and targets (B, T), after which the weights have moved once.

    They move down the gradient of the batch's mean loss, by the plan's rate at this step. hidden: a compiled
    model.hidden (default: model.hidden). RunError if the gradient is not finite; then nothing was moved.
    """
    # Dropout as a function of seed and step: a resumed run needs no generator's state to draw the same.
    torch.manual_seed(seed_from(seed, "dropout", step))
    set_learning_rate(optimizers, learning_rate_factor(plan.schedule, step))
    nats, tokens = accumulate_gradient(
        model, batch, micro_batch=plan.micro_batch, dtype=dtype_of(plan.dtype), hidden=hidden
    )
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), plan.optim.clip or float("inf"))
    if not torch.isfinite(norm):
        raise RunError(
            f"step {step}: the gradient's norm is {norm.item()}, the batch's loss {nats / tokens:.4f}; "
            "no weight was moved. Train again with a lower --optim.lr or with --dtype float32; "
            "what was saved before is intact"
        )
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return StepResult(nats, tokens, norm.item())


def accumulate_gradient(
    model: GPT,
    batch: tuple[np.ndarray, np.ndarray],
    *,
    micro_batch: int,
    dtype: torch.dtype,
    hidden: Callable[[Tensor], Tensor] | None = None,
) -> tuple[float, int]:
    """Adds the gradient of the batch's mean loss to the weights' .grad; returns its nats and tokens."""
    inputs, targets = batch
    tokens = int((targets != IGNORE_INDEX).sum())
    # float64 where there is any: one number, and the order of the parts must not show in it.
    exact = torch.float32 if model.device.type == "mps" else torch.float64
    nats = torch.zeros((), device=model.device, dtype=exact)
    for first in range(0, len(inputs), micro_batch):
        rows = slice(first, first + micro_batch)
        part = batch_nats(model, inputs[rows], targets[rows], dtype=dtype, hidden=hidden or model.hidden)
        # Each part is divided by the tokens of the whole batch, so that the gradients add up to its mean's.
        (part / max(1, tokens)).backward()
        nats += part.detach()
    return nats.item(), max(1, tokens)


def batch_nats(
    model: GPT,
    inputs: np.ndarray,
    targets: np.ndarray,
    *,
    dtype: torch.dtype,
    hidden: Callable[[Tensor], Tensor],
) -> Tensor:
    """Sum of the nats of a micro-batch, inputs and targets (b, T), as a scalar to go backward from."""
    with autocast(model.device, dtype):
        return linear_cross_entropy(
            hidden(to_device(inputs, model.device)).flatten(0, 1),  # (b T, C)
            model.head.weight,
            to_device(targets, model.device).flatten(),
            chunk=max(256, LOGITS_AT_ONCE // model.config.vocab_size),
        )
