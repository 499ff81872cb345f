"""A model and a recipe in, optimizers out: Muon for block matrices, AdamW for the rest, or AdamW alone."""

import torch
from torch import Tensor, nn

from lucidlm.errors import RunError
from lucidlm.model.presets import Recipe

Optimizers = list[torch.optim.Optimizer]

REMEMBERED: dict[type[torch.optim.Optimizer], set[str]] = {
    torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.Muon: {"momentum_buffer"},
}
"""Names of the state that each optimizer keeps for a weight."""


def make_optimizers(model: nn.Module, optim: Recipe) -> Optimizers:
    """One or two optimizers over all weights of the model, each once; set_learning_rate moves their rates.

    Muon (Jordan 2024) makes each matrix's momentum orthogonal, so that no direction of it is left behind.
    Embeddings and the head are looked up or matched row by row, vectors are no matrices: AdamW has these.
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
    optimizers: Optimizers = [torch.optim.AdamW(groups, lr=optim.lr, betas=betas, fused=True)]
    if hidden:
        optimizers.append(
            torch.optim.Muon(
                hidden, lr=optim.matrix_lr, weight_decay=optim.weight_decay, momentum=optim.momentum
            )
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


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
        wanted = REMEMBERED[type(owner[id(weights[weight_name])])]
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
