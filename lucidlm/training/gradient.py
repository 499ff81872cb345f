"""A batch in, the gradient of its mean loss out: by the model itself, for GPUs and compiled models.

B windows of the batch, T tokens of a window. However the batch is cut, the loss is one sum of nats over one
count of tokens: never a mean of means.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lucidlm.model.gpt import GPT, Block
from lucidlm.model.loss import IGNORE_INDEX, linear_cross_entropy
from lucidlm.runs.settings import Plan
from lucidlm.runtime.device import autocast, dtype_of, seed_from, to_device
from lucidlm.runtime.progress import Progress

Batch = tuple[np.ndarray, np.ndarray]
"""Inputs and targets, each (B, T)."""


class Gradient(Protocol):
    """What adds the gradient of a batch to the weights' .grad, and how the work of a step is spread."""

    def add(self, batch: Batch, *, seed: int, step: int) -> tuple[float, int]:
        """Nats and tokens of the batch, the gradient of whose mean loss was added."""
        ...

    def run(self, tasks: Iterable[Callable[[], object]]) -> None:
        """Runs all tasks, which do not depend on each other."""
        ...


class WholeBatch:
    """The gradient by the model itself, all threads in each matmul; see Workers for another way."""

    def __init__(self, model: GPT, plan: Plan, *, hidden: Callable[[Tensor], Tensor] | None = None) -> None:
        """hidden: a compiled model.hidden (default: model.hidden)."""
        self.model, self.plan, self.hidden = model, plan, hidden or model.hidden
        for block in model.blocks:
            assert isinstance(block, Block)
            block.checkpointing = plan.checkpointing

    def add(self, batch: Batch, *, seed: int, step: int) -> tuple[float, int]:
        """See Gradient."""
        # Dropout as a function of seed and step: a resumed run needs no generator's state to draw the same.
        torch.manual_seed(seed_from(seed, "dropout", step))
        model, tokens = self.model, count_of(batch)
        # float64 where there is any: one number, and the order of the parts must not show in it.
        exact = torch.float32 if model.device.type == "mps" else torch.float64
        nats = torch.zeros((), device=model.device, dtype=exact)
        for inputs, targets in micro_batches(batch, self.plan.micro_batch):
            with autocast(model.device, dtype_of(self.plan.dtype)):
                part = nats_of(model, inputs, targets, hidden=self.hidden)
            # Divided by the tokens of the whole batch, so that the gradients add up to its mean's.
            (part / tokens).backward()
            nats += part.detach()
        return nats.item(), tokens

    def run(self, tasks: Iterable[Callable[[], object]]) -> None:
        """One task after the other."""
        for task in tasks:
            task()


def micro_batches(batch: Batch, size: int) -> Iterator[Batch]:
    """The batch in parts of at most `size` windows."""
    for first in range(0, len(batch[0]), size):
        yield batch[0][first : first + size], batch[1][first : first + size]


def count_of(batch: Batch) -> int:
    """Targets of a batch that count, at least 1."""
    return max(1, int((batch[1] != IGNORE_INDEX).sum()))


def nats_of(
    model: GPT, inputs: np.ndarray, targets: np.ndarray, *, hidden: Callable[[Tensor], Tensor]
) -> Tensor:
    """Sum of the nats of a micro-batch, inputs and targets (b, T), as a scalar to go backward from."""
    return linear_cross_entropy(
        hidden(to_device(inputs, model.device)).flatten(0, 1),  # (b T, C)
        model.head.weight,
        to_device(targets, model.device).flatten(),
    )


def compiled(model: GPT, plan: Plan, progress: Progress) -> Callable[[Tensor], Tensor]:
    """model.hidden through torch.compile; as it is, with a note, where that fails."""
    shape = plan.micro_batch, plan.model.context_length
    try:
        compiled = torch.compile(model.hidden)
        with torch.no_grad():
            compiled(torch.zeros(*shape, dtype=torch.int64, device=model.device))
        return compiled
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200]
        progress.note(f"torch.compile failed, training without it ({type(error).__name__}: {reason})")
        return model.hidden
