"""A model and a recipe in, optimizers out: Muon for block matrices, AdamW for the rest, or AdamW alone."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lucidlm.errors import RunError
from lucidlm.model.presets import Recipe
from lucidlm.training.muon import Muon

Optimizers = list[torch.optim.Optimizer]

REMEMBERED_BY_ADAMW = {"step", "exp_avg", "exp_avg_sq"}
"""Names of the state that AdamW keeps for a weight."""


def make_optimizers(model: nn.Module, optim: Recipe, *, parts: int = 1) -> Optimizers:
    """One or two optimizers over all weights of the model, each once; set_learning_rate moves their rates.

    Muon (Jordan 2024) makes each matrix's momentum orthogonal, so that no direction of it is left behind.
    Embeddings and the head are looked up or matched row by row, vectors are no matrices: AdamW has these.
    parts: see Muon.
    """
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    hidden = [
        weight for name, weight in named if optim.name == "muon" and weight.dim() == 2 and "blocks." in name
    ]
    taken = {id(weight) for weight in hidden}
    rest = [weight for _, weight in named if id(weight) not in taken]
    groups = [
        {"params": [weight for weight in rest if weight.dim() >= 2], "weight_decay": optim.weight_decay},
        # A bias or a norm's scale is no direction that decay could keep small: it would only be held back.
        {"params": [weight for weight in rest if weight.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (optim.beta1, optim.beta2)
    optimizers: Optimizers = [
        torch.optim.AdamW(part, lr=optim.lr, betas=betas, fused=True) for part in _parts(groups, parts)
    ]
    if hidden:
        optimizers.append(
            Muon(
                hidden,
                lr=optim.matrix_lr,
                weight_decay=optim.weight_decay,
                momentum=optim.momentum,
                row_beta=optim.row_beta,
                parts=parts,
            )
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def _parts(groups: list[dict], count: int) -> list[list[dict]]:
    """The weights of these groups in at most `count` parts of nearly equal size, for as many threads."""
    parts = [[{**group, "params": []} for group in groups] for _ in range(count)]
    sizes = [0] * count
    weights = [(weight, place) for place, group in enumerate(groups) for weight in group["params"]]
    for weight, place in sorted(weights, key=lambda each: -each[0].numel()):  # the largest first
        smallest = sizes.index(min(sizes))
        parts[smallest][place]["params"].append(weight)
        sizes[smallest] += weight.numel()
    return [part for part, size in zip(parts, sizes) if size]


def tasks_of(optimizers: Optimizers) -> list[Callable[[], object]]:
    """One step of all of them, as tasks that may run at once."""
    tasks: list[Callable[[], object]] = []
    for optimizer in optimizers:
        tasks += optimizer.tasks() if isinstance(optimizer, Muon) else [optimizer.step]
    return tasks


def set_learning_rate(optimizers: Optimizers, factor: float) -> None:
    """Sets the learning rate of each group to its peak times the factor."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor


def optimizer_tensors(model: nn.Module, optimizers: Optimizers) -> dict[str, Tensor]:
    """State of the optimizers, by the name of the weight: {"head.weight/exp_avg": ...}, sorted by it.

    A resumed optimizer has its weights in another order; sorted, both write the same file.
    """
    names = {id(weight): name for name, weight in model.named_parameters()}
    found = {
        f"{names[id(weight)]}/{key}": value.detach()
        for optimizer in optimizers
        for weight, state in optimizer.state.items()
        for key, value in state.items()
    }
    return dict(sorted(found.items()))


def load_optimizer_tensors(model: nn.Module, optimizers: Optimizers, tensors: dict[str, Tensor]) -> None:
    """Restores the state that optimizer_tensors returned."""
    weights = dict(model.named_parameters())
    owner = {
        id(weight): optimizer
        for optimizer in optimizers
        for group in optimizer.param_groups
        for weight in group["params"]
    }
    found: dict[str, set[str]] = {}
    for name in tensors:
        weight_name, key = name.rsplit("/", 1)
        found.setdefault(weight_name, set()).add(key)
    for weight_name, keys in found.items():
        optimizer = owner[id(weights[weight_name])]
        wanted = optimizer.remembered if isinstance(optimizer, Muon) else REMEMBERED_BY_ADAMW
        if keys != wanted:
            raise RunError(
                f"the checkpoint remembers {sorted(keys)} of {weight_name}, the optimizer of run.toml needs "
                f"{sorted(wanted)}; restore the run.toml that the run was made with"
            )
    for name, value in tensors.items():
        weight_name, key = name.rsplit("/", 1)
        weight = weights[weight_name]
        state = owner[id(weight)].state[weight]
        # AdamW counts its steps in a tensor that lives on the CPU unless the kernel is a GPU's.
        state[key] = value.to(weight.device) if value.dim() or weight.is_cuda else value.clone()
