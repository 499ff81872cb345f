"""Muon: the momentum of a matrix in, its nearest orthogonal matrix as the step out; equal shapes at once.

The rows of that step can be evened out.
"""

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lucidlm.runtime.distributed import divided_as, whole

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Jordan 2024: the polynomial that lifts small singular values fastest and keeps all between 0.7 and 1.2."""
ITERATIONS = 5


def orthogonalized(matrices: Tensor) -> Tensor:
    """A stack (L, m, n) with all singular values moved near 1, in bfloat16: Newton-Schulz (Jordan 2024).

    Each iteration replaces every singular value s by a s + b s^3 + c s^5: with matmuls alone, U S V^T becomes
    nearly U V^T. The momentum's small directions then move the weights as far as its large ones.

    >>> orthogonalized(torch.eye(4)[None] * 7).shape
    torch.Size([1, 4, 4])
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.bfloat16()
    if tall:  # the smaller of x x^T and x^T x
        x = x.transpose(1, 2)
    # No singular value is above the Frobenius norm, and the iteration needs them at most 1.
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = torch.bmm(x, x.transpose(1, 2))
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.transpose(1, 2) if tall else x


class Muon(Optimizer):
    """torch.optim.Muon over stacks of matrices of one shape, in parts that threads can share.

    Small matrices one by one leave a core idle: six of them in one batched matmul take half the time. With
    row_beta above 0, rows that moved further than others in the last steps move less (NorMuon, Li 2025).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
        row_beta: float = 0.0,
        parts: int = 1,
    ) -> None:
        """parts: tasks that the stack of each shape is cut into. The rounding may depend on it."""
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "row_beta": row_beta}
        super().__init__(params, defaults)
        self.parts = parts

    @property
    def remembered(self) -> set[str]:
        """Names of the state that is kept for each weight."""
        with_rows = any(group["row_beta"] for group in self.param_groups)
        return {"momentum_buffer", "row_squares"} if with_rows else {"momentum_buffer"}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Moves all weights that have a gradient. `closure` computes them and returns the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for task in self.tasks():
            task()
        return loss

    def tasks(self) -> list[Callable[[], None]]:
        """The step as tasks that may run in any order, or at once."""
        found: list[Callable[[], None]] = []
        for group in self.param_groups:
            stacks: dict[torch.Size, list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    stacks.setdefault(weight.shape, []).append(weight)
            for stack in stacks.values():
                count = len(stack)
                bounds = [count * part // self.parts for part in range(self.parts + 1)]
                for first, end in itertools.pairwise(bounds):
                    if end > first:
                        found.append(self._task(stack[first:end], group))
        return found

    def _task(self, weights: list[Tensor], group: dict) -> Callable[[], None]:
        @torch.no_grad()
        def move() -> None:
            lr, momentum = group["lr"], group["momentum"]
            ahead = []
            for weight in weights:
                gradient = weight.grad
                assert gradient is not None
                mean = self._kept(weight, "momentum_buffer", torch.zeros_like).lerp_(gradient, 1 - momentum)
                # Nesterov: the mean after another such gradient. A shard lacks its matrix's singular values.
                ahead.append(whole(gradient.lerp(mean, momentum)))
            steps = orthogonalized(torch.stack(ahead)).to(weights[0].dtype)
            if group["row_beta"]:
                squares = [self._kept(weight, "row_squares", _zero_per_row) for weight in weights]
                steps = evened(steps, squares, beta=group["row_beta"])
            rows, columns = weights[0].shape
            # An orthogonal matrix that is taller than wide moves each output less.
            scale = math.sqrt(max(1.0, rows / columns))
            for weight, step in zip(weights, steps, strict=True):
                weight.mul_(1 - lr * group["weight_decay"]).add_(divided_as(step, weight), alpha=-lr * scale)

        return move

    def _kept(self, weight: Tensor, name: str, zeros: Callable[[Tensor], Tensor]) -> Tensor:
        """A tensor of the weight's state, zeros at first."""
        state = self.state[weight]
        if name not in state:
            state[name] = zeros(weight)
        return state[name]


def _zero_per_row(weight: Tensor) -> Tensor:
    """(rows, 1), whole also where the weight is sharded."""
    return torch.zeros(len(weight), 1, dtype=weight.dtype, device=weight.device)


def evened(steps: Tensor, squares: list[Tensor], *, beta: float) -> Tensor:
    """Steps (L, m, n), each row divided by its root mean square over the last steps.

    `squares` are those means of each matrix, (m, 1), with a decay of `beta`; they are updated. Each
    matrix gets its Frobenius norm back, so that a factor which all rows share cancels out.
    """
    for mean, step in zip(squares, steps, strict=True):
        mean.lerp_(step.square().mean(1, keepdim=True), 1 - beta)
    divided = steps / torch.stack(squares).sqrt().clamp(min=1e-8)
    norms = [torch.linalg.vector_norm(each, dim=(1, 2), keepdim=True) for each in (steps, divided)]
    return divided * (norms[0] / norms[1].clamp(min=1e-8))
