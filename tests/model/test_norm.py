"""RMSNorm is its formula, in value and gradient, in every dtype."""

import numpy as np
import oracles
import pytest
import torch

from lucidlm.model.norm import RMSNorm


@pytest.mark.parametrize("by_hand", [True, False])
@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_rms_norm_is_its_formula_and_the_fused_one_with_gradients(eps, by_hand):
    torch.manual_seed(0)
    norm = RMSNorm(32, eps=eps)
    norm.by_hand = by_hand
    with torch.no_grad():
        norm.weight.normal_()
    x = (3 * torch.randn(4, 5, 32)).requires_grad_()
    y = norm(x)
    wanted = oracles.rms_norm(x.detach().double().numpy(), norm.weight.detach().double().numpy(), eps=eps)
    np.testing.assert_allclose(y.detach(), wanted, rtol=0, atol=2e-6)
    y.square().sum().backward()
    by_hand = x.detach().clone().requires_grad_()
    weight = norm.weight.detach().clone().requires_grad_()
    (by_hand / (by_hand.square().mean(-1, keepdim=True) + eps).sqrt() * weight).square().sum().backward()
    torch.testing.assert_close(x.grad, by_hand.grad, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(norm.weight.grad, weight.grad, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("by_hand", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_rms_norm_gives_the_type_that_it_gets(dtype, by_hand):
    x = torch.randn(3, 64, dtype=dtype) * 200  # squares of 200 add up past float16's 65504
    norm = RMSNorm(64, eps=1e-6)
    norm.by_hand = by_hand
    y = norm(x)
    assert y.dtype == dtype
    wanted = oracles.rms_norm(x.double().numpy(), np.ones(64), eps=1e-6)
    # One rounding into the type: half of its last place. By hand there is another one, of the scale.
    places = 2 if by_hand else 1
    np.testing.assert_allclose(y.detach().double(), wanted, rtol=places * torch.finfo(dtype).eps, atol=1e-6)


def test_rms_norms_gradients_by_hand_are_those_of_finite_differences():
    norm = RMSNorm(6, eps=1e-3).double()
    norm.by_hand = True
    x = torch.randn(3, 2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.linspace(-1, 2, 6, dtype=torch.float64).requires_grad_()

    def normed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(norm, {"weight": weight}, (x,))

    assert torch.autograd.gradcheck(normed, (x, weight))
