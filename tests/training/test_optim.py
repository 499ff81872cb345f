"""Each weight is moved by one optimizer, matrices by Muon, and what they remember can be put back."""

import copy
from dataclasses import replace

import pytest
import torch

from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.model.presets import PLAIN, Recipe
from lucidlm.training.muon import Muon
from lucidlm.training.optim import (
    load_optimizer_tensors,
    make_optimizers,
    optimizer_tensors,
    set_learning_rate,
)


def _settings(name: str, *, row_beta: float = 0.0) -> Recipe:
    return replace(PLAIN, name=name, lr=1e-3, matrix_lr=0.02, weight_decay=0.1, row_beta=row_beta)


def _move(model: GPT, optimizers: list[torch.optim.Optimizer], *, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for weight in model.parameters():
            weight.grad = torch.randn(weight.shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()


@pytest.fixture(params=[("muon", 0.0), ("muon", 0.95), ("adamw", 0.0)], ids=["muon", "evened", "adamw"])
def optim(request: pytest.FixtureRequest) -> Recipe:
    name, row_beta = request.param
    return _settings(name, row_beta=row_beta)


def test_each_weight_is_moved_by_exactly_one_group(tiny_gpt: GPT, optim: Recipe):
    optimizers = make_optimizers(tiny_gpt, optim)
    held = [id(weight) for each in optimizers for group in each.param_groups for weight in group["params"]]
    assert sorted(held) == sorted(id(weight) for weight in tiny_gpt.parameters())


def test_muon_has_the_matrices_of_the_blocks_and_nothing_else(tiny_gpt: GPT):
    muon = make_optimizers(tiny_gpt, _settings("muon"))[1]
    assert isinstance(muon, Muon)
    held = {id(weight) for group in muon.param_groups for weight in group["params"]}
    expected = {
        id(module.weight)
        for block in tiny_gpt.blocks
        for module in block.modules()
        if isinstance(module, torch.nn.Linear)
    }
    assert held == expected
    assert id(tiny_gpt.head.weight) not in held
    assert id(tiny_gpt.token_embedding.weight) not in held


def test_adamw_alone_has_all_weights(tiny_gpt: GPT):
    assert [type(each) for each in make_optimizers(tiny_gpt, _settings("adamw"))] == [torch.optim.AdamW]


def test_biases_and_norms_are_not_decayed_and_matrices_are(tiny_gpt: GPT, optim: Recipe):
    decay = {
        id(weight): group["weight_decay"]
        for each in make_optimizers(tiny_gpt, optim)
        for group in each.param_groups
        for weight in group["params"]
    }
    for name, weight in tiny_gpt.named_parameters():
        assert decay[id(weight)] == (0.1 if weight.dim() >= 2 else 0.0), name


def test_adamw_moves_as_its_paper_says(tiny_gpt: GPT):
    """Algorithm 2 of Loshchilov and Hutter 2017, in float64: decay moves the weight, not the moments."""
    settings = _settings("adamw")
    before = {name: weight.detach().double().clone() for name, weight in tiny_gpt.named_parameters()}
    _move(tiny_gpt, make_optimizers(tiny_gpt, settings), steps=3, seed=5)
    generator = torch.Generator().manual_seed(5)
    gradients = [
        {name: torch.randn(weight.shape, generator=generator).double() for name, weight in before.items()}
        for _ in range(3)
    ]
    for name, weight in tiny_gpt.named_parameters():
        expected, mean, square = before[name], torch.zeros(()), torch.zeros(())
        for step, of in enumerate(gradients, start=1):
            mean = settings.beta1 * mean + (1 - settings.beta1) * of[name]
            square = settings.beta2 * square + (1 - settings.beta2) * of[name] ** 2
            way = (mean / (1 - settings.beta1**step)) / ((square / (1 - settings.beta2**step)).sqrt() + 1e-8)
            decay = settings.weight_decay if weight.dim() >= 2 else 0.0
            expected = expected - settings.lr * (way + decay * expected)
        torch.testing.assert_close(weight.detach().double(), expected, rtol=0, atol=1e-6, msg=name)


def test_a_vector_without_gradient_signal_stays_while_a_matrix_shrinks(tiny_gpt: GPT, optim: Recipe):
    before = copy.deepcopy(tiny_gpt.state_dict())
    optimizers = make_optimizers(tiny_gpt, optim)
    for weight in tiny_gpt.parameters():
        weight.grad = torch.zeros_like(weight)
    for optimizer in optimizers:
        optimizer.step()
    for name, weight in tiny_gpt.named_parameters():
        if weight.dim() >= 2:
            assert weight.norm() < before[name].norm(), name
        else:
            assert torch.equal(weight, before[name]), name


def test_a_rate_is_its_groups_peak_times_the_factor(tiny_gpt: GPT):
    optimizers = make_optimizers(tiny_gpt, _settings("muon"))
    for factor in (0.5, 0.0, 1.0):
        set_learning_rate(optimizers, factor)
        rates = [{group["lr"] for group in each.param_groups} for each in optimizers]
        assert rates == [{1e-3 * factor}, {0.02 * factor}]


def test_a_rate_of_0_moves_nothing(tiny_gpt: GPT, optim: Recipe):
    before = copy.deepcopy(tiny_gpt.state_dict())
    optimizers = make_optimizers(tiny_gpt, optim)
    set_learning_rate(optimizers, 0.0)
    _move(tiny_gpt, optimizers, steps=2, seed=0)
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny_gpt.state_dict().items())


def test_what_optimizers_remember_is_put_back_bitwise(tiny_gpt: GPT, optim: Recipe):
    optimizers = make_optimizers(tiny_gpt, optim)
    _move(tiny_gpt, optimizers, steps=3, seed=0)
    kept = {name: tensor.clone() for name, tensor in optimizer_tensors(tiny_gpt, optimizers).items()}
    twin = copy.deepcopy(tiny_gpt)
    twins = make_optimizers(twin, optim)
    load_optimizer_tensors(twin, twins, kept)
    assert _equal(optimizer_tensors(twin, twins), kept)
    _move(tiny_gpt, optimizers, steps=3, seed=1)
    _move(twin, twins, steps=3, seed=1)
    assert _equal(twin.state_dict(), tiny_gpt.state_dict())
    assert _equal(optimizer_tensors(twin, twins), optimizer_tensors(tiny_gpt, optimizers))
    assert not _equal(optimizer_tensors(twin, twins), kept)


def test_every_weight_is_remembered_under_its_own_name(tiny_gpt: GPT, optim: Recipe):
    optimizers = make_optimizers(tiny_gpt, optim)
    _move(tiny_gpt, optimizers, steps=1, seed=0)
    remembered = {name.rsplit("/", 1)[0] for name in optimizer_tensors(tiny_gpt, optimizers)}
    assert remembered == {name for name, _ in tiny_gpt.named_parameters()}


def test_a_weight_that_is_kept_fixed_belongs_to_no_optimizer(tiny_config: GPTConfig, optim: Recipe):
    model = GPT(tiny_config)
    model.token_embedding.weight.requires_grad_(False)
    held = {
        id(weight)
        for each in make_optimizers(model, optim)
        for group in each.param_groups
        for weight in group["params"]
    }
    assert id(model.token_embedding.weight) not in held


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_share_the_weights_out_and_move_them_as_one_does(tiny_gpt: GPT, optim: Recipe, parts: int):
    twin = copy.deepcopy(tiny_gpt)
    optimizers = make_optimizers(twin, optim, parts=parts)
    held = [id(weight) for each in optimizers for group in each.param_groups for weight in group["params"]]
    assert sorted(held) == sorted(id(weight) for weight in twin.parameters())
    _move(tiny_gpt, make_optimizers(tiny_gpt, optim), steps=3, seed=0)
    _move(twin, optimizers, steps=3, seed=0)
    for name, weight in tiny_gpt.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[name], weight, rtol=0, atol=2e-4)


def test_the_largest_part_of_adamw_is_no_larger_than_it_must_be(tiny_gpt: GPT):
    optimizers = make_optimizers(tiny_gpt, _settings("adamw"), parts=2)
    sizes = [
        sum(weight.numel() for group in each.param_groups for weight in group["params"])
        for each in optimizers
    ]
    largest = max(weight.numel() for weight in tiny_gpt.parameters())
    assert max(sizes) - min(sizes) <= largest


def _equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
