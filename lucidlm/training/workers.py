"""A batch in, the gradient of its mean loss out: in shares, one for each thread and its copy of the model."""

import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lucidlm.model.attention import LARGEST_SCORES, CausalSelfAttention
from lucidlm.model.dropout import Dropout, Tape
from lucidlm.model.gpt import GPT
from lucidlm.model.norm import RMSNorm
from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.runtime.device import seed_from
from lucidlm.runtime.distributed import ALONE, World
from lucidlm.runtime.process import available_processors
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.training.gradient import (
    Batch,
    Gradient,
    Nats,
    WholeBatch,
    compile_blocks,
    count_of,
    micro_batches,
)

PIECE, AT_ONCE = 2**18, 2**24
"""Numbers of gradients: of a piece, whose sum stays in a core's cache while the copies' are added; and of the
weights whose gradients are added before those of their copies are freed: of a small model, all.
"""


def gradient_of(
    model: GPT,
    plan: Plan,
    *,
    config: TrainConfig,
    progress: Progress = SILENT,
    world: World = ALONE,
    device: torch.device | None = None,
) -> Gradient:
    """What computes the gradients of this plan: where there are other processes, no threads of its own."""
    if plan.workers and world.alone:
        return Workers(model, plan, seed=config.seed, threads=config.threads)
    gradient = WholeBatch(model, plan, world=world, device=device)
    if plan.compile:
        compile_blocks(gradient, progress)
    return gradient


def cores_of(plan: Plan, threads: int) -> int:
    """Cores that compute a step by this plan, of which `threads` may be used (0: all that there are)."""
    return min(plan.workers, threads or available_processors()) or plan.threads


class Workers:
    """The gradient by `plan.workers` copies of the model, each with a fixed share of every batch.

    Each share is computed by one thread. Such threads meet a few times a step, where threads that share each
    matmul meet thousands of times and wait there for every core that another program uses. The shares, and
    so the sums, are the same on one core and on many. In bfloat16 the copies hold weights of that dtype, cast
    once a step; else they use the model's own.
    """

    def __init__(self, model: GPT, plan: Plan, *, seed: int, threads: int = 0) -> None:
        """threads: the most that run at once (0: one for each core); it changes no number."""
        self.plan = plan
        self.weights = list(model.parameters())
        self.casts = plan.dtype == "bfloat16"
        self.dtype = torch.bfloat16 if self.casts else self.weights[0].dtype
        self.cast = [
            torch.empty_like(weight, dtype=self.dtype) if self.casts else weight.detach()
            for weight in self.weights
        ]
        self.copies = [_copy_with(model, self.cast) for _ in range(plan.workers)]
        self.nats = [Nats(copy) for copy in self.copies]
        self.tape = _tape(plan, dtype=self.dtype, seed=seed)
        # A thread's number of OpenMP threads is its own setting.
        self.pool = ThreadPoolExecutor(
            cores_of(plan, threads), initializer=torch.set_num_threads, initargs=(1,)
        )

    def add(self, batch: Batch, *, seed: int, step: int) -> tuple[float, int]:
        """See Gradient."""
        tokens, nats = max(1, count_of(batch)), 0.0
        if self.casts:
            for cast, weight in zip(self.cast, self.weights, strict=True):
                cast.copy_(weight.detach())
        shares = [list(micro_batches(share, self.plan.micro_batch)) for share in self._shares(batch)]
        for number in range(max(map(len, shares))):

            def work(worker: int, number: int = number) -> float:
                if number >= len(shares[worker]):
                    return 0.0
                places = seed_from(seed, "dropout", step, worker, number)
                return self._pass(self.nats[worker], shares[worker][number], tokens=tokens, places=places)

            nats += sum(self.pool.map(work, range(len(shares))))
            self._collect()
        return nats, tokens

    def run(self, tasks: Iterable[Callable[[], object]]) -> None:
        """All tasks, by the threads of the workers."""
        for _ in self.pool.map(lambda task: task(), tasks):
            pass

    def blamed(self) -> str:
        """See Gradient: there is one process."""
        return ""

    def _shares(self, batch: Batch) -> list[Batch]:
        """The batch in contiguous parts, which differ by at most one window."""
        count, workers = len(batch[0]), len(self.copies)
        bounds = [count * worker // workers for worker in range(workers + 1)]
        return [(batch[0][a:b], batch[1][a:b]) for a, b in itertools.pairwise(bounds) if b > a]

    def _pass(self, nats: Nats, batch: Batch, *, tokens: int, places: int) -> float:
        """Nats of a micro-batch; its part of the gradient is in the .grad of the copy then."""
        if self.tape is not None:
            masks = self.tape.places(places)
            for module in nats.modules():
                if isinstance(module, Dropout):
                    module.places = masks
        part: Tensor = nats(*map(torch.from_numpy, batch))
        (part / tokens).backward()
        return part.item()

    def _collect(self) -> None:
        """Adds the gradients of the copies, in their order and in float32, to those of the weights."""
        sums: list[Sum] = []
        numbers = 0
        for weight, *copied in zip(self.weights, *(copy.parameters() for copy in self.copies), strict=True):
            parts = [each.grad for each in copied if each.grad is not None]
            for each in copied:
                each.grad = None
            if not parts:
                continue
            begins = weight.grad is None
            if weight.grad is None:
                weight.grad = self._memory_for(weight) if self.casts else parts.pop(0)
            split = [each.view(-1).split(PIECE) for each in (weight.grad, *parts)]
            sums += [Sum(total, more, begins and self.casts) for total, *more in zip(*split, strict=True)]
            numbers += weight.numel()
            if numbers > AT_ONCE:  # so that the gradients of the copies are freed on the way
                self._add(sums)
                sums, numbers = [], 0
        self._add(sums)

    def _memory_for(self, weight: Tensor) -> Tensor:
        """Memory for a gradient: of a large weight from a worker's thread, whose heap the copies' are in.

        The main thread's heap could not use again what the copies' gradients leave: 300 to 500 MB of GPT-2's.
        """
        if weight.numel() <= PIECE:
            return torch.empty_like(weight)
        return self.pool.submit(torch.empty_like, weight).result()

    def _add(self, sums: list["Sum"]) -> None:
        count = len(self.copies)
        self.run([lambda first=first: [each.add() for each in sums[first::count]] for first in range(count)])


class Sum(NamedTuple):
    """A piece of the gradient of a weight, and the same piece of those of its copies."""

    total: Tensor
    parts: list[Tensor]
    begins: bool
    """Whether the total is not initialized yet."""

    def add(self) -> None:
        """Adds the parts, one after the other."""
        if self.begins:
            self.total.copy_(self.parts[0])
        for part in self.parts[1:] if self.begins else self.parts:
            self.total.add_(part)


def _copy_with(model: GPT, weights: list[Tensor]) -> GPT:
    """A model of the same shape in training mode, whose parameters are these tensors themselves."""
    copy = GPT.empty(model.config).train()
    names = [name for name, _ in model.named_parameters()]
    for name, weight, own in zip(names, weights, model.parameters(), strict=True):
        owner, _, leaf = name.rpartition(".")
        setattr(copy.get_submodule(owner), leaf, nn.Parameter(weight, requires_grad=own.requires_grad))
    if model.config.tied_head:
        copy.head.weight = copy.token_embedding.weight
    for module in copy.modules():
        if isinstance(module, CausalSelfAttention):
            module.by_matmuls = True
        elif isinstance(module, RMSNorm):
            module.by_hand = True
    return copy


def _tape(plan: Plan, *, dtype: torch.dtype, seed: int) -> Tape | None:
    """The tape of dropout's factors for copies of the plan's model; None without dropout."""
    config = plan.model
    if not config.drop_rate:
        return None
    windows, length = min(plan.micro_batch, plan.batch_size), config.context_length
    longest = windows * length * config.emb_dim
    if config.family == "gpt2":
        longest = max(
            longest, min(windows * config.n_heads * length**2, LARGEST_SCORES), config.n_heads * length**2
        )
    return Tape(config.drop_rate, dtype=dtype, longest=longest, seed=seed_from(seed, "dropout tape"))
