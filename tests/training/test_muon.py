"""Muon moves each matrix as torch's own does, alone or in a stack; its step is nearly orthogonal."""

import numpy as np
import pytest
import torch

from lucidlm.training.muon import Muon, evened, orthogonalized

SHAPES = [(24, 24), (24, 72), (72, 24), (24, 24), (24, 72), (24, 24)]


def _weights(seed: int = 0) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def _moved(optimizer: torch.optim.Optimizer, weights: list[torch.nn.Parameter]) -> None:
    generator = torch.Generator().manual_seed(7)
    for _ in range(4):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_a_stack_moves_as_torchs_muon_moves_each_matrix(parts):
    ours, theirs = _weights(), _weights()
    _moved(Muon(ours, lr=0.02, weight_decay=0.1, momentum=0.95, parts=parts), ours)
    _moved(torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.95), theirs)
    for mine, other, start in zip(ours, theirs, _weights(), strict=True):
        moved = (other - start).norm()
        # Both multiply in bfloat16, whose rounding depends on the kernel: 2^-8 of each step's entries.
        assert (mine - other).norm() < 0.02 * moved


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 16, 48), (2, 48, 16)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_singular_values_come_near_1_whatever_they_were(shape, scale):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * scale
    before, after = (torch.linalg.svd(each.double()) for each in (matrices, orthogonalized(matrices)))
    assert after.S.min() > 0.3
    assert after.S.max() < 1.4
    # The directions stay: U^T (U S V^T) V is nearly diagonal.
    rotated = before.U.mT @ orthogonalized(matrices).double() @ before.Vh.mT
    least = min(shape[1:])
    diagonal = rotated[:, range(least), range(least)]
    assert (
        rotated[:, :least, :least].square().sum() - diagonal.square().sum() < 0.02 * diagonal.square().sum()
    )


def test_rows_are_evened_by_their_mean_squares_and_a_step_keeps_its_length():
    generator = torch.Generator().manual_seed(1)
    kept, squares = [torch.zeros(6, 1) for _ in range(2)], np.zeros((2, 6))
    for _ in range(5):
        steps = torch.randn(2, 6, 9, generator=generator) * torch.logspace(-2, 2, 6)[None, :, None]
        found = evened(steps, kept, beta=0.9)
        for place, step in enumerate(steps.double().numpy()):
            squares[place] = 0.9 * squares[place] + 0.1 * (step**2).mean(axis=1)
            divided = step / np.sqrt(squares[place])[:, None]
            wanted = divided * np.sqrt((step**2).sum() / (divided**2).sum())
            np.testing.assert_allclose(found[place].numpy(), wanted, rtol=1e-5)


def test_rows_that_are_evened_move_as_those_that_are_not_where_all_are_alike():
    ours, theirs = _weights(), _weights()
    _moved(Muon(ours, lr=0.02, weight_decay=0.1, momentum=0.95, row_beta=0.95), ours)
    _moved(Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.95), theirs)
    for mine, other, start in zip(ours, theirs, _weights(), strict=True):
        assert 0 < (mine - other).norm() < 0.2 * (other - start).norm()


@pytest.mark.parametrize("row_beta", [0.0, 0.95])
def test_a_gradient_of_zeros_moves_nothing(row_beta):
    weights = _weights()
    optimizer = Muon(weights, lr=0.02, weight_decay=0.0, momentum=0.95, row_beta=row_beta)
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert all(torch.equal(now, before) for now, before in zip(weights, _weights(), strict=True))


def test_a_weight_without_a_gradient_is_left_alone():
    weights = _weights()
    optimizer = Muon(weights, lr=0.02, weight_decay=0.5, momentum=0.95)
    weights[0].grad = torch.ones_like(weights[0])
    optimizer.step()
    still = [torch.equal(now, before) for now, before in zip(weights, _weights(), strict=True)]
    assert still == [False, True, True, True, True, True]
