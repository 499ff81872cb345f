"""The loss that never holds all logits against the oracle, the plain loss and float64."""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import oracles
import pytest
import torch
from losses import as_numpy, numbers, off_by, targets_of
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from lucidlm.errors import ConfigError
from lucidlm.model import linear_loss
from lucidlm.model.linear_loss import linear_cross_entropy
from lucidlm.model.loss import cross_entropy
from lucidlm.text.windows import IGNORE_INDEX

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
def test_lean_loss_and_gradients_equal_the_oracle(rows, chunk, dtype, record_property):
    hidden, weight, targets = lean_case(rows, scale=3, dtype=dtype)
    total = linear_cross_entropy(hidden, weight, targets, chunk=chunk)
    assert total.shape == ()
    assert total.dtype == dtype
    wanted = oracles.linear_cross_entropy(as_numpy(hidden), as_numpy(weight), targets.numpy())
    close = 1e-6 if dtype == torch.float32 else 1e-13
    check_lean(hidden, weight, total, wanted, loss=close, slope=close)
    kind = str(dtype).removeprefix("torch.")
    record_property(f"relative difference of the loss, {kind}", off_by(total, wanted[0]))
    gradients = zip((hidden.grad, weight.grad), wanted[1:], strict=True)
    record_property(f"of a gradient, {kind}", max(off_by(*each) for each in gradients))


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
    h, w = as_numpy(hidden.bfloat16()), as_numpy(weight.bfloat16())
    wanted = oracles.linear_cross_entropy(h, w, targets.numpy())
    # The softmax is rounded to 8 bits where it goes into a matmul: 2^-9 of each number.
    check_lean(hidden, weight, total, wanted, loss=rounding_of(h, w, targets) / wanted[0], slope=5e-3)


@pytest.fixture
def as_on_a_gpu(monkeypatch) -> None:
    """A CPU takes the way of a GPU: a head of 320 rows for 257 tokens, and few passes over the logits."""
    monkeypatch.setattr(linear_loss, "on_gpu", lambda x: True)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize(("rows", "chunk"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_way_of_a_gpu_equals_the_oracle(rows, chunk, dtype):
    hidden, weight, targets = lean_case(rows, scale=3, dtype=dtype)
    targets[-1] = VOCAB - 1
    total = linear_cross_entropy(hidden, weight, targets, chunk=chunk)
    wanted = oracles.linear_cross_entropy(as_numpy(hidden), as_numpy(weight), targets.numpy())
    close = 1e-6 if dtype == torch.float32 else 1e-13
    check_lean(hidden, weight, total, wanted, loss=close, slope=close)
    assert weight.grad.shape == weight.shape


@pytest.mark.usefixtures("as_on_a_gpu")
def test_the_way_of_a_gpu_keeps_the_small_rest_of_a_probability_near_one(monkeypatch):
    """In bfloat16, 0.9995 is 1. Where the target has it, its gradient is the rest to 1, not 0."""
    # A GPU's matmul returns float32.
    monkeypatch.setattr(linear_loss, "_product", lambda left, right: left.float() @ right.float())
    logits = torch.zeros(1, VOCAB, dtype=torch.bfloat16)
    logits[0, 7] = 13.125
    hidden, weight = torch.eye(1, 64).bfloat16(), torch.zeros(VOCAB, 64).bfloat16()
    weight[:, 0] = logits[0]
    weight.requires_grad_()
    linear_cross_entropy(hidden, weight, torch.tensor([7])).backward()
    exact = logits.double().softmax(-1)[0, 7] - 1
    assert weight.grad[7, 0].item() == pytest.approx(exact.item(), rel=2e-2)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_the_way_of_a_gpu_leaves_ignored_rows_out_and_needs_no_gradient():
    hidden, weight, targets = lean_case(20, scale=3)
    with torch.no_grad():
        wanted = cross_entropy(hidden @ weight.T, targets).sum()
        hidden[targets == IGNORE_INDEX] = math.nan
        torch.testing.assert_close(linear_cross_entropy(hidden, weight, targets), wanted)
    linear_cross_entropy(hidden, weight, targets).backward()
    assert (hidden.grad[targets == IGNORE_INDEX] == 0).all()
    assert weight.grad.isfinite().all()


def rounding_of(hidden: np.ndarray, weight: np.ndarray, targets: Tensor) -> float:
    """The most that the sum of nats may change if each logit, less the target's, is rounded to bfloat16.

    A logit that is off by d moves the loss by its probability times d. These roundings are independent:
    Hoeffding's bound for their sum is passed once in 1,500 times, were each as large as it may be.
    """
    logits = hidden @ weight.T
    kept = (targets != IGNORE_INDEX).numpy()
    own = np.take_along_axis(logits, targets.where(targets >= 0, 0).numpy()[:, None], axis=-1)
    # The target's own logit is rounded too where it is subtracted: to 2^-9 of itself, and that again.
    off = oracles.softmax(logits) * (2**-9 * np.abs(logits - own) + 2**-18 * np.abs(own)) * kept[:, None]
    sums = 1e-6 * oracles.cross_entropy(logits, targets.numpy()).sum()  # in float32
    return min(off.sum(), 4 * math.sqrt((off**2).sum())) + sums


def test_logits_far_from_zero_cost_no_digits_in_bfloat16():
    hidden, weight, targets = lean_case(64, scale=2)
    with torch.no_grad():  # GPT-2's own logits are near -100, where bfloat16 has steps of 0.5
        hidden[:, 0], weight[:, 0] = 8.0, -12.5
    hidden, weight = hidden.detach().bfloat16(), weight.detach().bfloat16()
    wanted = oracles.cross_entropy(as_numpy(hidden) @ as_numpy(weight).T, targets.numpy())
    by_row = zip(hidden.split(1), targets.split(1), strict=True)
    lean = torch.stack([linear_cross_entropy(row, weight, target) for row, target in by_row])
    plain = cross_entropy(hidden @ weight.T, targets)
    assert off_by(lean, wanted) <= off_by(plain, wanted) / 10


@pytest.mark.parametrize("far", [200.0, 400.0])
def test_a_target_that_is_next_to_impossible_has_its_loss_and_gradient_in_bfloat16(far):
    # e^400 is no float32, nor is the probability e^-400.
    weight = torch.tensor([[far], [0.0], [-far]], dtype=torch.bfloat16).requires_grad_()
    hidden = torch.ones(1, 1, dtype=torch.bfloat16, requires_grad=True)
    total = linear_cross_entropy(hidden, weight, torch.tensor([2]))
    assert total.item() == pytest.approx(2 * far)
    total.backward()
    assert hidden.grad.item() == 2 * far
    assert weight.grad.flatten().tolist() == [1, 0, -1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_that_compute_it_at_the_same_time_do_not_meet(dtype):
    cases = [lean_case(64, scale=each, dtype=dtype) for each in (1.0, 2.0)]

    def result_of(case) -> list[Tensor]:
        total = linear_cross_entropy(*case, chunk=16)
        return [total.detach(), *torch.autograd.grad(total, case[:2])]

    alone = [result_of(case) for case in cases]
    setting = torch.backends.mkldnn.matmul.fp32_precision
    with ThreadPoolExecutor(2) as pool:
        for found, case in zip(pool.map(result_of, cases * 20), range(40), strict=True):
            torch.testing.assert_close(found, alone[case % 2], atol=0, rtol=0)
    assert torch.backends.mkldnn.matmul.fp32_precision == setting


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
    # The plain logits are rounded to 8 bits: up to 2^-9 of a logit of 9, less over many rows.
    torch.testing.assert_close(lean, plain, atol=0, rtol=2e-4)
    wanted = oracles.linear_cross_entropy(
        as_numpy(hidden.bfloat16()), as_numpy(weight.bfloat16()), targets.numpy()
    )
    plain_slopes = torch.autograd.grad(plain, (hidden, weight))
    lean_slopes = torch.autograd.grad(lean, (hidden, weight))
    # Chunks round their parts of the head's gradient too, which is rounded once more where it is returned in
    # bfloat16: two errors of 1.7e-3 beside the softmax's 3.4e-3, where the plain loss has one, so 1.1 times.
    for plain_slope, lean_slope, slope, most in zip(
        plain_slopes, lean_slopes, wanted[1:], (1.1, 1.1 if autocast else 1.15), strict=True
    ):
        assert off_by(lean_slope, slope) <= most * off_by(plain_slope, slope)


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
