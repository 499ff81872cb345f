"""Softmax, cross entropies, perplexity and bits against the formulas and PyTorch's own."""

import math

import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F
from losses import DTYPES, as_numpy, numbers, targets_of

from lucidlm.errors import DataError
from lucidlm.model.linear_loss import linear_cross_entropy
from lucidlm.model.loss import (
    binary_cross_entropy,
    bits,
    cross_entropy,
    log_softmax,
    perplexity,
    softmax,
)
from lucidlm.text.windows import IGNORE_INDEX

# Softmax and its logarithm


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_and_its_logarithm_equal_the_formula_in_float32_or_better(dtype):
    logits = numbers(3, 5, 50, scale=5, dtype=dtype)
    probabilities, logs = softmax(logits), log_softmax(logits)
    better = torch.float64 if dtype == torch.float64 else torch.float32
    assert probabilities.dtype == logs.dtype == better
    wanted = oracles.softmax(as_numpy(logits))
    tolerance = 1e-13 if dtype == torch.float64 else 1e-5  # a logarithm near -30 is 2e-6 off in float32
    np.testing.assert_allclose(logs, np.log(wanted), rtol=0, atol=tolerance)
    np.testing.assert_allclose(probabilities, wanted, rtol=tolerance / 5, atol=0)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=0, atol=tolerance / 10)


def test_softmax_and_its_logarithm_have_torchs_gradients():
    upstream = numbers(4, 20, seed=1, dtype=torch.float64)
    for mine, theirs in ((softmax, F.softmax), (log_softmax, F.log_softmax)):
        mine_in, theirs_in = (numbers(4, 20, scale=3, dtype=torch.float64).requires_grad_() for _ in range(2))
        mine(mine_in).backward(upstream)
        theirs(theirs_in, dim=-1).backward(upstream)
        torch.testing.assert_close(mine_in.grad, theirs_in.grad, atol=1e-12, rtol=1e-12)


def test_huge_logits_do_not_overflow_and_a_forbidden_one_has_probability_zero():
    logits = torch.tensor([[1e4, 1e4, -1e4], [-1e4, -1e4, -math.inf], [-math.inf, 5.0, -math.inf]])
    torch.testing.assert_close(softmax(logits), torch.tensor([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 1, 0]]))
    logs = log_softmax(logits)
    assert logs[0, 2] == -2e4 - math.log(2)  # exact where e^-20000 is no number any more
    assert logs[2].tolist() == [-math.inf, 0, -math.inf]
    assert not logs.isnan().any()


def test_a_probability_too_small_to_hold_still_has_its_logarithm():
    logits = torch.tensor([0.0, -200.0])
    assert softmax(logits)[1] == 0
    assert log_softmax(logits)[1] == -200


def test_float16_logits_at_the_edge_of_their_range_are_no_infinities():
    logits = torch.tensor([[65504.0, -65504.0, 65504.0]], dtype=torch.float16)
    # One step of float32 at 65504 is 0.004.
    assert cross_entropy(logits, torch.tensor([0])).item() == pytest.approx(math.log(2), abs=0.008)
    assert log_softmax(logits)[0, 1].item() == pytest.approx(-131008 - math.log(2))


# Cross entropy


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [0.1, 3.0, 1e4])
def test_cross_entropy_equals_the_oracle_and_torch_in_value_and_gradient(dtype, scale):
    logits = numbers(2, 9, 31, scale=scale, dtype=dtype).requires_grad_()
    targets = targets_of(18, 31, ignored_every=5).view(2, 9)
    losses = cross_entropy(logits, targets)
    better = torch.float64 if dtype == torch.float64 else torch.float32
    assert losses.shape == targets.shape
    assert losses.dtype == better
    eps = torch.finfo(better).eps
    wanted = oracles.cross_entropy(as_numpy(logits), targets.numpy())
    np.testing.assert_allclose(losses.detach(), wanted, rtol=4 * eps, atol=4 * eps * max(4 * scale, 10))
    losses.sum().backward()
    by_torch = logits.detach().to(better).requires_grad_()
    F.cross_entropy(
        by_torch.flatten(0, 1), targets.flatten(), reduction="sum", ignore_index=IGNORE_INDEX
    ).backward()
    assert logits.grad.dtype == dtype
    # One rounding into the type of the logits, and exp of a difference of two large float32 numbers.
    torch.testing.assert_close(
        logits.grad.to(better), by_torch.grad, atol=40 * eps * max(scale, 1), rtol=torch.finfo(dtype).eps
    )


def test_ignored_targets_cost_nothing_and_have_no_gradient():
    logits = numbers(6, 11).requires_grad_()
    targets = torch.tensor([3, IGNORE_INDEX, 0, IGNORE_INDEX, 10, IGNORE_INDEX])
    losses = cross_entropy(logits, targets)
    assert losses[1::2].tolist() == [0, 0, 0]
    losses.sum().backward()
    assert not logits.grad[1::2].any()
    kept = logits.detach()[::2].requires_grad_()
    cross_entropy(kept, targets[::2]).sum().backward()
    torch.testing.assert_close(logits.grad[::2], kept.grad, atol=1e-7, rtol=0)


def test_only_ignored_targets_sum_to_zero_and_not_nan():
    logits = numbers(4, 11).requires_grad_()
    total = cross_entropy(logits, torch.full((4,), IGNORE_INDEX)).sum()
    total.backward()
    assert total.item() == 0
    assert not logits.grad.any()


def test_a_forbidden_token_costs_infinitely_much_and_forbidden_others_cost_nothing():
    logits = torch.tensor([[0.0, -math.inf, 0.0], [0.0, -math.inf, 0.0]], requires_grad=True)
    losses = cross_entropy(logits, torch.tensor([1, 2]))
    assert losses[0] == math.inf
    assert losses[1].item() == pytest.approx(math.log(2))
    losses[1].backward()
    assert logits.grad.tolist() == [[0, 0, 0], [0.5, 0, -0.5]]


@pytest.mark.parametrize("target", [31, -1])
def test_a_target_outside_the_vocabulary_is_refused(target):
    with pytest.raises((IndexError, RuntimeError)):
        cross_entropy(numbers(1, 31), torch.tensor([target]))
    with pytest.raises((IndexError, RuntimeError)):
        linear_cross_entropy(numbers(1, 4), numbers(31, 4), torch.tensor([target]))
    with pytest.raises((IndexError, RuntimeError)), torch.autocast("cpu", torch.bfloat16):
        linear_cross_entropy(numbers(1, 4), numbers(31, 4), torch.tensor([target]))


def test_the_loss_of_equal_logits_is_the_logarithm_of_the_vocabulary():
    losses = cross_entropy(torch.full((5, 50257), 7.0, dtype=torch.float64), torch.arange(5))
    torch.testing.assert_close(
        losses, torch.full((5,), math.log(50257), dtype=torch.float64), atol=1e-12, rtol=0
    )


# Binary cross entropy


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [0.1, 3.0, 1e4])
def test_binary_cross_entropy_equals_the_oracle_and_torch_in_value_and_gradient(dtype, scale):
    logits = numbers(4, 10, scale=scale, dtype=dtype).requires_grad_()
    targets = torch.randint(2, (4, 10), generator=torch.Generator().manual_seed(1))
    losses = binary_cross_entropy(logits, targets)
    better = torch.float64 if dtype == torch.float64 else torch.float32
    assert losses.dtype == better
    eps = torch.finfo(better).eps
    wanted = oracles.binary_cross_entropy(as_numpy(logits), targets.numpy())
    np.testing.assert_allclose(losses.detach(), wanted, rtol=8 * eps, atol=8 * eps)
    losses.sum().backward()
    by_torch = logits.detach().to(better).requires_grad_()
    F.binary_cross_entropy_with_logits(by_torch, targets.to(better), reduction="sum").backward()
    torch.testing.assert_close(
        logits.grad.to(better), by_torch.grad, atol=8 * eps, rtol=torch.finfo(dtype).eps
    )


def test_binary_cross_entropy_is_the_categorical_one_of_two_classes_with_gradients():
    logits = numbers(30, scale=4, dtype=torch.float64).requires_grad_()
    targets = torch.randint(2, (30,), generator=torch.Generator().manual_seed(1))
    binary = binary_cross_entropy(logits, targets)
    (binary_slope,) = torch.autograd.grad(binary.sum(), logits)
    categorical = cross_entropy(torch.stack((torch.zeros_like(logits), logits), dim=-1), targets)
    (categorical_slope,) = torch.autograd.grad(categorical.sum(), logits)
    torch.testing.assert_close(binary, categorical, atol=1e-13, rtol=0)
    torch.testing.assert_close(binary_slope, categorical_slope, atol=1e-13, rtol=0)


def test_binary_cross_entropy_takes_targets_between_no_and_yes():
    targets = torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0], dtype=torch.float64)
    logits = numbers(5, scale=2, dtype=torch.float64)
    wanted = oracles.binary_cross_entropy(logits.numpy(), targets.numpy())
    np.testing.assert_allclose(binary_cross_entropy(logits, targets), wanted, rtol=0, atol=1e-13)
    assert binary_cross_entropy(torch.zeros(3), torch.ones(3, dtype=torch.bool)).tolist() == pytest.approx(
        [math.log(2)] * 3
    )


# Perplexity and bits


def test_perplexity_is_e_to_the_loss_and_infinite_where_no_float_holds_it():
    assert perplexity(0.0) == 1
    assert perplexity(math.log(50257)) == pytest.approx(50257, rel=1e-12)
    assert perplexity(torch.tensor(math.log(8))) == pytest.approx(8, rel=1e-6)
    assert type(perplexity(torch.tensor(2.0))) is float
    assert perplexity(1000.0) == perplexity(math.inf) == perplexity(torch.tensor(1e4)) == math.inf
    assert math.isnan(perplexity(math.nan))


def test_bits_are_nats_over_ln_2():
    assert bits(math.log(2)) == 1
    assert bits(math.log(256)) == pytest.approx(8, rel=1e-15)
    assert bits(torch.tensor(math.log(1024), dtype=torch.float64)) == pytest.approx(10, rel=1e-15)


# Gradients, ignored rows, odd inputs


def test_gradcheck_of_the_plain_losses():
    logits = numbers(5, 7, dtype=torch.float64).requires_grad_()
    targets = torch.tensor([0, 6, IGNORE_INDEX, 3, 3])
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, targets), logits)
    assert torch.autograd.gradcheck(lambda x: binary_cross_entropy(x, (targets[:, None] > 2)), logits)
    assert torch.autograd.gradcheck(softmax, logits)
    assert torch.autograd.gradcheck(log_softmax, logits)


def test_binary_cross_entropy_has_half_a_gradient_at_zero_and_survives_infinity():
    logits = torch.zeros(2, requires_grad=True)
    binary_cross_entropy(logits, torch.tensor([0, 1])).sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([0.5, -0.5]))
    infinite = torch.tensor([torch.inf, -torch.inf, torch.inf])
    assert binary_cross_entropy(infinite, torch.tensor([1, 0, 0])).tolist() == [0.0, 0.0, torch.inf]


def test_cross_entropy_far_from_zero_keeps_its_digits():
    logits = torch.randn(50, 300, generator=torch.Generator().manual_seed(1)) * 3 - 1000
    targets = torch.arange(50)
    expected = torch.nn.functional.cross_entropy(logits.double(), targets, reduction="none")
    torch.testing.assert_close(cross_entropy(logits, targets).double(), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_ignored_row_has_gradient_zero_whatever_it_holds(poison, dtype):
    logits = numbers(6, 11, dtype=dtype)
    logits[1, 3], logits[4] = poison, poison
    logits.requires_grad_()
    targets = torch.tensor([3, IGNORE_INDEX, 0, 10, IGNORE_INDEX, 5])
    losses = cross_entropy(logits, targets)
    losses.sum().backward()
    assert losses[[1, 4]].tolist() == [0, 0]
    assert not logits.grad[[1, 4]].any()
    # As if the rows were not there: by torch in float64.
    rows = [0, 2, 3, 5]
    kept = logits.detach()[rows].double().requires_grad_()
    F.cross_entropy(kept, targets[rows], reduction="sum").backward()
    eps = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    torch.testing.assert_close(logits.grad[rows].double(), kept.grad, atol=eps, rtol=eps)


def test_no_copy_of_the_logits_is_made_where_no_row_is_ignored_or_no_gradient_wanted(monkeypatch):
    copies = []
    fill = torch.Tensor.masked_fill
    monkeypatch.setattr(torch.Tensor, "masked_fill", lambda x, *a: copies.append(x.shape) or fill(x, *a))
    targets = targets_of(6, 11)
    cross_entropy(numbers(6, 11).requires_grad_(), targets)
    targets[2] = IGNORE_INDEX
    cross_entropy(numbers(6, 11), targets)
    with torch.no_grad():
        cross_entropy(numbers(6, 11).requires_grad_(), targets)
    assert copies == []
    cross_entropy(numbers(6, 11).requires_grad_(), targets)
    assert copies == [(6, 11)]


def test_the_plain_losses_can_be_mapped_over_a_batch_with_their_gradients():
    logits, targets = numbers(4, 3, 11), targets_of(12, 11, ignored_every=5).view(4, 3)
    logits[1, 1] = math.nan  # row 4 of 12 is ignored
    mapped = torch.func.vmap(torch.func.grad(lambda x, t: cross_entropy(x, t).sum()))(logits, targets)
    logits.requires_grad_()
    cross_entropy(logits, targets).sum().backward()
    torch.testing.assert_close(mapped, logits.grad, atol=1e-7, rtol=0)
    yes = torch.tensor([[0.0, 0.5], [1.0, 1.0]])
    mapped = torch.func.vmap(binary_cross_entropy)(logits.detach()[:2, 0, :2], yes)
    torch.testing.assert_close(mapped, binary_cross_entropy(logits.detach()[:2, 0, :2], yes))


@pytest.mark.parametrize("target", [-1e-6, 1.0001, -1, 2, math.nan, math.inf, -math.inf])
def test_a_yes_or_no_that_is_no_probability_is_refused(target):
    targets = torch.tensor([0, 1, target])
    with pytest.raises(
        DataError, match=rf"target {targets[2].item():g} is not a probability; give 1 for yes"
    ):
        binary_cross_entropy(torch.zeros(3), targets)
    with pytest.raises(RuntimeError):  # so does torch, but for NaN and on some devices
        F.binary_cross_entropy(torch.full((3,), 0.5), targets if target == target else torch.full((3,), 2.0))


@pytest.mark.parametrize("targets", [[False, True], [0, 1], [0.0, 1.0], [0.25, 1.0]])
def test_targets_of_any_type_between_no_and_yes_are_taken(targets):
    targets = torch.tensor(targets)
    found = binary_cross_entropy(torch.tensor([2.0, -3.0]), targets)
    wanted = F.binary_cross_entropy_with_logits(
        torch.tensor([2.0, -3.0]).double(), targets.double(), reduction="none"
    )
    torch.testing.assert_close(found.double(), wanted, atol=1e-6, rtol=1e-6)


def test_perplexity_of_a_loss_with_a_graph_is_a_number_without_a_warning():
    loss = cross_entropy(torch.zeros(1, 7, requires_grad=True), torch.tensor([3])).mean()
    assert perplexity(loss) == pytest.approx(7)
