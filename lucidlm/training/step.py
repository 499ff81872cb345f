"""One optimizer step: a batch in, moved weights and the batch's loss out."""

from dataclasses import dataclass

import torch

from lucidlm.errors import RunError
from lucidlm.model.gpt import GPT
from lucidlm.runs.settings import Plan
from lucidlm.runtime.distributed import whole
from lucidlm.training.gradient import Batch, Gradient
from lucidlm.training.optim import Optimizers, set_learning_rate, tasks_of
from lucidlm.training.schedule import learning_rate_factor


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
    batch: Batch,
    *,
    gradient: Gradient,
    plan: Plan,
    seed: int,
    step: int,
) -> StepResult:
    """Nats and tokens of a batch, inputs and targets (B, T), after which the weights have moved once.

    Among several processes each gives its own rows, and gets the nats and tokens of all.

    They move down the gradient of the batch's mean loss, by the plan's rate at this step. RunError if the
    gradient is not finite; then nothing was moved.
    """
    set_learning_rate(optimizers, learning_rate_factor(plan.schedule, step))
    nats, tokens = gradient.add(batch, seed=seed, step=step)
    norm = whole(torch.nn.utils.clip_grad_norm_(model.parameters(), plan.optim.clip or float("inf")))
    if not torch.isfinite(norm):  # the norm of all processes' sum: where one has NaN, all stop
        raise RunError(
            f"step {step}: the gradient's norm is {norm.item()}{gradient.blamed()}, "
            f"the batch's loss {nats / tokens:.4f}; "
            "no weight was moved. Train again with a lower --optim.lr or with --dtype float32; "
            "what was saved before is intact"
        )
    gradient.run(tasks_of(optimizers))
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    return StepResult(nats, tokens, norm.item())
