"""A batch in, the gradient of its mean loss out: by the model itself, for GPUs and compiled models.

B windows of the batch, T tokens of a window. However the batch is cut, the loss is one sum of nats over one
count of tokens: never a mean of means.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lucidlm.model.gpt import GPT, Block
from lucidlm.model.linear_loss import linear_cross_entropy
from lucidlm.runs.settings import Plan
from lucidlm.runtime.device import autocast, dtype_of, seed_from, to_device
from lucidlm.runtime.distributed import ALONE, World, is_divided
from lucidlm.runtime.progress import Progress
from lucidlm.text.windows import IGNORE_INDEX
from lucidlm.training.spread import distinct, replicated, resharded, sharded

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

    def blamed(self) -> str:
        """The processes whose part of a gradient that is not finite was not, in brackets, if any is known."""
        ...


class Nats(nn.Module):
    """A model with its loss, so that all its weights are used inside one forward pass."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Sum of the nats of a micro-batch, inputs and targets (b, T), as a scalar to go backward from."""
        hidden = self.model.hidden(inputs)  # (b, T, C)
        return linear_cross_entropy(hidden.flatten(0, 1), self.model.head.weight, targets.flatten())


class WholeBatch:
    """The gradient by the model itself, all threads in each matmul; see Workers for another way.

    In a world of several processes each has its rows of the batch. The model is then divided among them, or
    each has all of it; the weights are those of the first.
    """

    def __init__(
        self,
        model: GPT,
        plan: Plan,
        *,
        world: World = ALONE,
        device: torch.device | None = None,
    ) -> None:
        """device: where it computes (default: where the model is)."""
        self.model, self.plan, self.world = model, plan, world
        self.device = device or model.device
        for block in model.blocks:
            assert isinstance(block, Block)
            block.checkpointing = plan.checkpointing
        self.finite: list[Tensor] = []
        """Whether each part of this process's own gradient was finite in the last step."""
        self.nats: nn.Module = Nats(model)
        if world.alone:
            return
        world.same(distinct(model))
        if world.shards == 1:
            self.nats = replicated(self.nats, self.device, self.finite)
        else:
            sharded(self.nats, model.blocks, world, self.device)

    def add(self, batch: Batch, *, seed: int, step: int) -> tuple[float, int]:
        """See Gradient. In a world `batch` is this process's rows, nats and tokens are those of all."""
        # Dropout as a function of seed and step: a resumed run needs no generator's state to draw the same.
        rank = () if self.world.alone else (self.world.rank.number,)
        torch.manual_seed(seed_from(seed, "dropout", step, *rank))
        self.finite.clear()
        device = self.device
        tokens = max(1, int(self.world.total([count_of(batch)])[0]))
        # float64 where there is any: one number, and the order of the parts must not show in it.
        exact = torch.float32 if device.type == "mps" else torch.float64
        nats = torch.zeros((), device=device, dtype=exact)
        parts = list(micro_batches(batch, self.plan.micro_batch))
        for number, (inputs, targets) in enumerate(parts, start=1):
            with self._collected(last=number == len(parts)):
                with autocast(device, dtype_of(self.plan.dtype)):
                    part = self.nats(to_device(inputs, device), to_device(targets, device))
                # Divided by the tokens of the whole batch, so that the gradients add up to its mean's.
                (part / tokens).backward()
            nats += part.detach()
        self.finite.append(nats.isfinite())
        return self.world.total([nats.item()])[0], tokens

    def blamed(self) -> str:
        """See Gradient. Where the weights are divided, a process that is named had a loss that was not."""
        sound = self.world.exchanged([all(bool(each) for each in self.finite)])
        blamed = [str(number) for number, (fine,) in enumerate(sound) if not fine]
        return "" if self.world.alone or not blamed else f" (rank {', '.join(blamed)})"

    def _collected(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """Replicas add their gradients up once, after the last part of their rows; shards after each."""
        if last or not isinstance(self.nats, nn.parallel.DistributedDataParallel):
            return contextlib.nullcontext()
        return self.nats.no_sync()

    def run(self, tasks: Iterable[Callable[[], object]]) -> None:
        """One task after the other."""
        for task in tasks:
            task()


def micro_batches(batch: Batch, size: int) -> Iterator[Batch]:
    """The batch in parts of at most `size` windows."""
    for first in range(0, len(batch[0]), size):
        yield batch[0][first : first + size], batch[1][first : first + size]


def count_of(batch: Batch) -> int:
    """Targets of a batch that count."""
    return int((batch[1] != IGNORE_INDEX).sum())


def compile_blocks(gradient: WholeBatch, progress: Progress) -> None:
    """Compiles the blocks, for training; not at all, with a note, where that fails.

    Blocks are alike, so that what is compiled for the first serves all: a whole model of twelve took three
    times as long. The engines of many processes gather and divide weights between the blocks.
    """
    plan, device, training = gradient.plan, gradient.device, gradient.model.training
    blocks = [block for block in gradient.model.blocks if isinstance(block, Block)]
    try:
        for block in blocks:
            block.compiled = torch.compile(block.added)
        windows = min(plan.micro_batch, plan.batch_size // gradient.world.size)
        ids = torch.zeros(windows, plan.model.context_length, dtype=torch.int64, device=device)
        gradient.model.train()
        # The engines wait for a backward pass after each forward pass with gradients.
        divided = any(map(is_divided, gradient.model.parameters()))
        nats = gradient.nats if divided else Nats(gradient.model)
        with torch.set_grad_enabled(not divided), autocast(device, dtype_of(plan.dtype)):
            loss = nats(ids, ids)
        if divided:
            resharded(nats)
        else:  # the backward pass is compiled when it runs first
            torch.autograd.grad(loss, [weight for weight in nats.parameters() if weight.requires_grad])
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        progress.note(f"torch.compile failed, training without it ({type(error).__name__}: {reason})")
        for block in blocks:
            block.compiled = None
    finally:
        gradient.model.train(training)
