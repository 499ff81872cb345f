import itertools
import math

import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from lucidlm.errors import ConfigError, DataError
from lucidlm.model.loss import (
    binary_cross_entropy,
    bits,
    cross_entropy,
    linear_cross_entropy,
    log_softmax,
    perplexity,
    softmax,
)
from lucidlm.text.windows import IGNORE_INDEX

HALF = [torch.float16, torch.bfloat16]
DTYPES = [*HALF, torch.float32, torch.float64]


def numbers(*shape: int, seed: int = 0, scale: float = 1.0, dtype=torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def targets_of(rows: int, vocab_size: int, *, ignored_every: int | None = None, seed: int = 0) -> Tensor:
    targets = torch.randint(vocab_size, (rows,), generator=torch.Generator().manual_seed(seed))
    if ignored_every is not None:
        targets[ignored_every - 1 :: ignored_every] = IGNORE_INDEX
    return targets


def as_numpy(x: Tensor) -> np.ndarray:
    return x.detach().double().numpy()


def off_by(found: Tensor, wanted: np.ndarray) -> float:
    """Distance as a part of the length of what was wanted."""
    return float(np.linalg.norm(as_numpy(found) - wanted) / max(np.linalg.norm(wanted), 1e-300))


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


# The same cross entropy in little memory: reliability's fourth, fifth and seventh numeric

VOCAB, WIDTH = 257, 64
SIZES = [(rows, chunk) for rows in (1, 7, 1024) for chunk in sorted({1, 8, 64, rows})]


def lean_case(rows: int, *, scale: float, dtype=torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states after a norm, a head for logits of deviation `scale`, every fifth target ignored."""
    hidden = numbers(rows, WIDTH, seed=1, dtype=dtype).requires_grad_()
    weight = numbers(VOCAB, WIDTH, seed=2, scale=scale / math.sqrt(WIDTH), dtype=dtype).requires_grad_()
    return hidden, weight, targets_of(rows, VOCAB, ignored_every=5)


def check_lean(
    hidden: Tensor, weight: Tensor, total: Tensor, wanted: tuple, *, loss: float, slope: float
) -> None:
    total.backward()
    assert abs(total.item() - wanted[0]) <= loss * wanted[0]
    assert hidden.grad.dtype == hidden.dtype
    assert weight.grad.dtype == weight.dtype
    assert off_by(hidden.grad, wanted[1]) <= slope
    assert off_by(weight.grad, wanted[2]) <= slope


@pytest.mark.parametrize(("rows", "chunk"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lean_loss_and_gradients_equal_the_oracle(rows, chunk, dtype):
    hidden, weight, targets = lean_case(rows, scale=3, dtype=dtype)
    total = linear_cross_entropy(hidden, weight, targets, chunk=chunk)
    assert total.shape == ()
    assert total.dtype == dtype
    wanted = oracles.linear_cross_entropy(as_numpy(hidden), as_numpy(weight), targets.numpy())
    close = 1e-6 if dtype == torch.float32 else 1e-13
    check_lean(hidden, weight, total, wanted, loss=close, slope=close)


@pytest.mark.parametrize(("rows", "chunk"), SIZES)
@pytest.mark.parametrize("scale", [0.16, 3.0])  # logits at initialisation, and of a trained model
@pytest.mark.parametrize("autocast", [False, True])
def test_lean_loss_and_gradients_in_bfloat16_equal_float64_on_the_same_numbers(rows, chunk, scale, autocast):
    hidden, weight, targets = lean_case(rows, scale=scale)
    if not autocast:
        hidden, weight = (x.detach().bfloat16().requires_grad_() for x in (hidden, weight))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        total = linear_cross_entropy(hidden, weight, targets, chunk=chunk)
    assert total.dtype == torch.float32
    # Under autocast a processor without bfloat16 products multiplies the float32 numbers as they are.
    inputs = [(hidden.bfloat16(), weight.bfloat16()), (hidden, weight)]
    oracle = [oracles.linear_cross_entropy(as_numpy(h), as_numpy(w), targets.numpy()) for h, w in inputs]
    wanted = min(oracle, key=lambda each: abs(each[0] - total.item()))
    # The inputs are exact and the products come out in float32: the loss has float32's error alone. What goes
    # into a product is rounded to 8 bits, the softmax among it: 2^-9 of each number.
    check_lean(hidden, weight, total, wanted, loss=1e-6, slope=5e-3)


@pytest.mark.parametrize("chunk", [1, 8, 1024])
def test_lean_loss_of_float16_numbers_is_float32_and_equals_float64_on_them(chunk):
    hidden, weight, targets = lean_case(100, scale=3, dtype=torch.float16)
    total = linear_cross_entropy(hidden, weight, targets, chunk=chunk)
    assert total.dtype == torch.float32
    wanted = oracles.linear_cross_entropy(as_numpy(hidden), as_numpy(weight), targets.numpy())
    check_lean(hidden, weight, total, wanted, loss=1e-6, slope=2**-11)  # 11 bits


@pytest.mark.parametrize("autocast", [False, True])
def test_lean_loss_in_bfloat16_is_no_further_off_than_the_plain_one_in_bfloat16(autocast):
    hidden, weight, targets = lean_case(1024, scale=3, dtype=torch.float32 if autocast else torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        plain = cross_entropy(hidden @ weight.T, targets).sum()
        lean = linear_cross_entropy(hidden, weight, targets, chunk=64)
    # The plain logits are rounded to 8 bits: up to 2^-8 of a logit of 9, less over many rows.
    torch.testing.assert_close(lean, plain, atol=0, rtol=1e-3)
    wanted = oracles.linear_cross_entropy(
        as_numpy(hidden.bfloat16()), as_numpy(weight.bfloat16()), targets.numpy()
    )
    plain_slopes = torch.autograd.grad(plain, (hidden, weight))
    lean_slopes = torch.autograd.grad(lean, (hidden, weight))
    for plain_slope, lean_slope, slope in zip(plain_slopes, lean_slopes, wanted[1:], strict=True):
        assert off_by(lean_slope, slope) <= 1.1 * off_by(plain_slope, slope)


def test_the_heads_gradient_is_summed_in_float32_over_many_chunks_of_bfloat16():
    # 4096 equal rows: each adds less than half of bfloat16's last place to the sum of the earlier ones.
    rows = 4096
    hidden = torch.ones(rows, 8, dtype=torch.bfloat16)
    weight = torch.zeros(5, 8, dtype=torch.bfloat16, requires_grad=True)
    linear_cross_entropy(hidden, weight, torch.zeros(rows, dtype=torch.long), chunk=1).backward()
    wanted = torch.tensor([-0.8, 0.2, 0.2, 0.2, 0.2])[:, None].expand(5, 8) * rows
    torch.testing.assert_close(weight.grad.float(), wanted, rtol=5e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lean_loss_equals_the_plain_one(dtype):
    hidden, weight, targets = lean_case(100, scale=3, dtype=dtype)
    found = []
    for total in (
        cross_entropy(hidden @ weight.T, targets).sum(),
        linear_cross_entropy(hidden, weight, targets, chunk=33),
    ):
        found.append((total, *torch.autograd.grad(total, (hidden, weight))))
    for plain, lean in zip(*found, strict=True):
        assert off_by(lean, as_numpy(plain)) <= (1e-6 if dtype == torch.float32 else 1e-13)


@pytest.mark.parametrize("chunk", [1, 3, 6, 1024])
def test_gradcheck_of_the_lean_loss(chunk):
    hidden = numbers(6, 4, seed=1, dtype=torch.float64).requires_grad_()
    weight = numbers(7, 4, seed=2, dtype=torch.float64).requires_grad_()
    targets = torch.tensor([0, 6, IGNORE_INDEX, 3, 3, IGNORE_INDEX])
    assert torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy(h, w, targets, chunk=chunk) * 0.37, (hidden, weight)
    )


def test_gradcheck_of_the_plain_losses():
    logits = numbers(5, 7, dtype=torch.float64).requires_grad_()
    targets = torch.tensor([0, 6, IGNORE_INDEX, 3, 3])
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, targets), logits)
    assert torch.autograd.gradcheck(lambda x: binary_cross_entropy(x, (targets[:, None] > 2)), logits)
    assert torch.autograd.gradcheck(softmax, logits)
    assert torch.autograd.gradcheck(log_softmax, logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("chunk", [1, 5, 64, 1024])
def test_ignored_rows_change_nothing(dtype, chunk):
    hidden, weight, targets = lean_case(64, scale=3, dtype=dtype)
    kept = targets != IGNORE_INDEX
    found = []
    for rows in (torch.ones_like(kept), kept):
        total = linear_cross_entropy(hidden[rows], weight, targets[rows], chunk=chunk)
        found.append((total, *torch.autograd.grad(total, (hidden, weight))))
    for with_ignored, without in zip(*found, strict=True):
        # Rows fall into other chunks: sums have another order, and a bfloat16 gradient is rounded at the end.
        close = 4e-3 if dtype == torch.bfloat16 and with_ignored is not found[0][0] else 2e-7
        assert off_by(with_ignored, as_numpy(without)) <= close
    assert not found[0][1][~kept].any()


def test_ignored_rows_may_hold_any_numbers():
    hidden, weight, targets = lean_case(64, scale=3)
    loud = hidden.detach().clone()
    loud[targets == IGNORE_INDEX] *= 1e6
    loud.requires_grad_()
    found = []
    for rows in (hidden, loud):
        total = linear_cross_entropy(rows, weight, targets, chunk=16)
        found.append((total, *torch.autograd.grad(total, (rows, weight))))
    torch.testing.assert_close(found[0], found[1], atol=0, rtol=0)


@pytest.mark.parametrize("chunk", [1, 3, 1024])
@pytest.mark.parametrize("rows", [0, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_a_single_kept_row_loss_and_gradients_are_zero(chunk, rows, dtype):
    hidden, weight, _ = lean_case(rows, scale=3, dtype=dtype)
    total = linear_cross_entropy(hidden, weight, torch.full((rows,), IGNORE_INDEX), chunk=chunk)
    total.backward()
    assert total.item() == 0
    assert hidden.grad.shape == (rows, WIDTH)
    assert weight.grad.shape == (VOCAB, WIDTH)
    assert not hidden.grad.any()
    assert not weight.grad.any()


@pytest.mark.parametrize("wants", list(itertools.product([False, True], repeat=2)))
def test_only_the_gradients_that_are_wanted_come_back(wants):
    hidden, weight, targets = lean_case(20, scale=3)
    total = linear_cross_entropy(hidden, weight, targets, chunk=8)
    both = torch.autograd.grad(total, (hidden, weight))
    some = [x.detach().requires_grad_(wanted) for x, wanted in zip((hidden, weight), wants, strict=True)]
    again = linear_cross_entropy(*some, targets, chunk=8)
    assert again.requires_grad is any(wants)
    torch.testing.assert_close(again.detach(), total.detach(), atol=0, rtol=0)
    if any(wants):
        again.backward()
    for x, wanted, slope in zip(some, wants, both, strict=True):
        assert (x.grad is not None) is wanted
        if wanted:
            torch.testing.assert_close(x.grad, slope, atol=0, rtol=0)


def test_a_divided_total_divides_its_gradients_and_the_backward_pass_may_run_twice():
    hidden, weight, targets = lean_case(20, scale=3)
    total = linear_cross_entropy(hidden, weight, targets, chunk=8)
    whole = torch.autograd.grad(total, (hidden, weight), retain_graph=True)
    part = torch.autograd.grad(total / 16, (hidden, weight))
    for each, piece in zip(whole, part, strict=True):
        torch.testing.assert_close(piece, each / 16, atol=0, rtol=1e-6)


def test_the_lean_loss_leaves_its_inputs_as_they_were():
    hidden, weight, targets = lean_case(20, scale=3)
    before = [x.detach().clone() for x in (hidden, weight, targets)]
    linear_cross_entropy(hidden, weight, targets, chunk=8).backward()
    for x, old in zip((hidden, weight, targets), before, strict=True):
        assert torch.equal(x.detach(), old)


def test_rows_that_lie_apart_in_memory_are_taken():
    hidden, weight, targets = lean_case(20, scale=3)
    apart = hidden.detach().T.contiguous().T.requires_grad_()
    every_second = torch.stack((targets, targets), dim=1)[:, 0]
    total = linear_cross_entropy(apart, weight, every_second, chunk=8)
    torch.testing.assert_close(total, linear_cross_entropy(hidden, weight, targets, chunk=8))
    total.backward()
    hidden_slope = torch.autograd.grad(linear_cross_entropy(hidden, weight, targets, chunk=8), hidden)[0]
    torch.testing.assert_close(apart.grad, hidden_slope)


class Memory(TorchDispatchMode):
    """The most bytes that were alive at once among all that was made under it, and the largest single one."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.alive = {key: each for key, each in self.alive.items() if not each[0].expired()}
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        sizes = [size for _, size in self.alive.values()]
        self.peak, self.largest = max(self.peak, sum(sizes)), max(self.largest, *sizes, 0)
        return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_lean_loss_never_holds_all_logits(dtype):
    rows, width, vocab_size, chunk = 512, 8, 2000, 32
    hidden = numbers(rows, width, dtype=dtype).requires_grad_()
    weight = numbers(vocab_size, width, seed=1, dtype=dtype).requires_grad_()
    targets = targets_of(rows, vocab_size)
    all_logits = 4 * rows * vocab_size

    def peak(loss) -> tuple[int, int]:
        with Memory() as memory:
            loss().backward()
        return memory.peak, memory.largest

    plain_peak, plain_largest = peak(lambda: cross_entropy(hidden @ weight.T, targets).sum())
    assert plain_largest >= all_logits  # the measure sees what the plain loss holds
    assert plain_peak >= 2 * all_logits
    lean_peak, lean_largest = peak(lambda: linear_cross_entropy(hidden, weight, targets, chunk=chunk))
    assert lean_largest <= 4 * max(chunk * vocab_size, vocab_size * width, rows * width)
    # A few chunks of logits and the gradients; half of all logits is the promise.
    assert lean_peak <= 4 * (4 * chunk * vocab_size + 3 * vocab_size * width + 2 * rows * width)
    assert lean_peak < all_logits / 2


def test_what_the_lean_loss_keeps_for_the_backward_pass_is_two_gradients():
    hidden, weight, targets = lean_case(512, scale=3)
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        linear_cross_entropy(hidden, weight, targets, chunk=32)
    assert sum(kept) <= hidden.numel() + weight.numel()


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


def test_lean_loss_makes_no_gradient_where_none_is_wanted():
    hidden, weight = torch.randn(6, 4), torch.randn(9, 4, requires_grad=True)
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, weight, torch.arange(6))
    assert not loss.requires_grad


def test_lean_loss_refuses_targets_of_another_number_and_no_chunk():
    hidden, weight = torch.randn(8, 4), torch.randn(9, 4)
    for targets, chunk in ((torch.zeros(16, dtype=torch.long), 4), (torch.zeros(8, dtype=torch.long), 0)):
        with pytest.raises(ConfigError, match="flatten"):
            linear_cross_entropy(hidden, weight, targets, chunk=chunk)


def test_nan_in_an_ignored_row_reaches_no_gradient():
    hidden, weight = torch.randn(3, 4), torch.randn(5, 4, requires_grad=True)
    hidden[1] = torch.nan
    hidden.requires_grad_(True)
    linear_cross_entropy(hidden, weight, torch.tensor([1, -100, 2])).backward()
    assert torch.isfinite(weight.grad).all()
    assert hidden.grad[1].tolist() == [0.0] * 4


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
