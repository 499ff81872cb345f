"""One step is the same however its batch is cut, whatever is masked, and whatever was drawn before."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lucidlm.errors import RunError
from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.model.presets import PLAIN
from lucidlm.runs.settings import Plan
from lucidlm.text.windows import IGNORE_INDEX
from lucidlm.training import workers as workers_module
from lucidlm.training.gradient import Gradient, WholeBatch
from lucidlm.training.optim import make_optimizers, optimizer_tensors
from lucidlm.training.step import StepResult, train_step
from lucidlm.training.workers import Workers

ADAMW = replace(PLAIN, name="adamw", lr=1e-3, matrix_lr=1e-3, weight_decay=0.1)


def _batch(*, rows: int = 8, length: int = 24, ragged: bool = True, seed: int = 0):
    """Random ids; ragged: row r keeps its first 3 r targets only, so that row 0 has none at all."""
    draw = np.random.default_rng(seed)
    inputs, targets = draw.integers(0, 257, (2, rows, length))
    if ragged:
        for row in range(rows):
            targets[row, 3 * row :] = IGNORE_INDEX
    return inputs, targets


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients are added up in pieces and in several rounds, as those of a large model are."""
    monkeypatch.setattr(workers_module, "PIECE", 100)
    monkeypatch.setattr(workers_module, "AT_ONCE", 3000)


@pytest.fixture(params=[0, 3])
def workers(request: pytest.FixtureRequest) -> int:
    """0: the whole batch by the model itself."""
    return request.param


def _plan(model: GPT, batch, **changes) -> Plan:
    settings = {"micro_batch": 4, "factor": 1.0, "clip": 1.0, "dtype": "float32", "workers": 0} | changes
    return Plan(
        model=model.config, optim=replace(ADAMW, clip=settings["clip"]), batch_size=len(batch[0]),
        micro_batch=settings["micro_batch"], steps=1, schedule=((0, settings["factor"]),), validate_every=1,
        validation_tokens=1, dtype=settings["dtype"], threads=1, early_stop=False,
        workers=settings["workers"],
    )  # fmt: skip


def _way(model: GPT, plan: Plan, *, seed: int = 123, threads: int = 0) -> Gradient:
    return Workers(model, plan, seed=seed, threads=threads) if plan.workers else WholeBatch(model, plan)


def _gradients(model: GPT, batch, micro_batch: int, workers: int = 0):
    model.zero_grad(set_to_none=True)
    way = _way(model, _plan(model, batch, micro_batch=micro_batch, workers=workers))
    nats, tokens = way.add(batch, seed=123, step=0)
    return nats, tokens, {name: weight.grad.clone() for name, weight in model.named_parameters()}


def _step(model: GPT, optimizers, batch, *, seed: int = 123, step: int = 0, **changes) -> StepResult:
    plan = _plan(model, batch, **changes)
    way = _way(model, plan, seed=seed)
    return train_step(model, optimizers, batch, gradient=way, plan=plan, seed=seed, step=step)


def _by_the_book(model: GPT, batch):
    """Loss and gradients of the whole batch at once by torch's own cross entropy."""
    model.zero_grad(set_to_none=True)
    inputs, targets = (torch.from_numpy(part) for part in batch)
    loss = nn.functional.cross_entropy(
        model(inputs).flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX
    )
    loss.backward()
    return loss.item(), {name: weight.grad.clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("ragged", [True, False])
@pytest.mark.parametrize("micro_batch", [8, 2, 3, 100])
def test_loss_and_gradients_are_the_whole_batchs_however_it_is_cut(
    lively_gpt, micro_batch, ragged, workers, record_property
):
    batch = _batch(ragged=ragged)
    loss, expected = _by_the_book(lively_gpt, batch)
    nats, tokens, found = _gradients(lively_gpt, batch, micro_batch, workers)
    assert tokens == (batch[1] != IGNORE_INDEX).sum()
    assert nats / tokens == pytest.approx(loss, abs=1e-6 * max(1.0, loss))
    record_property("difference of the loss, nats", abs(nats / tokens - loss))
    off = [
        ((found[name] - each).norm() / each.norm()).item()
        for name, each in expected.items()
        if each.norm() > 1e-6
    ]
    record_property("relative difference of a gradient, float32", max(off))
    for name, gradient in expected.items():
        # Relative to the tensor's norm: single entries near 0 carry the rounding of their neighbours.
        assert (found[name] - gradient).norm() <= 5e-6 * gradient.norm() + 1e-9, name


@pytest.mark.parametrize("micro_batch", [4, 2, 1])
def test_in_float64_the_cut_leaves_only_float64s_own_rounding(
    lively_gpt, micro_batch, workers, record_property
):
    model, batch = lively_gpt.double(), _batch()
    whole_nats, _, whole = _gradients(model, batch, 8)
    nats, _, parts = _gradients(model, batch, micro_batch, workers)
    # The printed sum of nats is kept in float32; the gradients never leave float64.
    assert nats == pytest.approx(whole_nats, rel=1e-6)
    off = [
        ((parts[name] - each).norm() / each.norm()).item()
        for name, each in whole.items()
        if each.norm() > 1e-6
    ]
    record_property("relative difference of a gradient, float64", max(off))
    for name, gradient in whole.items():
        assert (parts[name] - gradient).norm() <= 1e-12 * gradient.norm() + 1e-15, name


def test_rows_that_are_ignored_change_nothing(lively_gpt, workers):
    inputs, targets = _batch(rows=4, ragged=False)
    noise, _ = _batch(rows=4, seed=9)
    nats, tokens, kept = _gradients(lively_gpt, (inputs, targets), 4, workers)
    padded = np.concatenate([inputs, noise]), np.concatenate([targets, np.full_like(targets, IGNORE_INDEX)])
    more_nats, more_tokens, found = _gradients(lively_gpt, padded, 4, workers)
    assert more_tokens == tokens
    assert more_nats == pytest.approx(nats, abs=1e-7 * nats)
    for name, gradient in kept.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-7)


@pytest.mark.parametrize("micro_batch", [8, 1])
def test_a_batch_of_only_ignored_rows_costs_0_and_is_never_nan(tiny_gpt, micro_batch, workers):
    inputs, targets = _batch()
    batch = inputs, np.full_like(targets, IGNORE_INDEX)
    result = _step(
        tiny_gpt, make_optimizers(tiny_gpt, ADAMW), batch, micro_batch=micro_batch, workers=workers
    )
    assert (result.nats, result.loss_nats, result.grad_norm) == (0.0, 0.0, 0.0)
    assert all(weight.isfinite().all() for weight in tiny_gpt.parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["gpt2", "modern"])
def test_blocks_that_are_computed_again_change_no_bit_of_loss_and_gradients(family, dtype):
    torch.manual_seed(0)
    model = GPT(GPTConfig(
        family=family, vocab_size=257, context_length=24, emb_dim=32, n_layers=3, n_heads=4, drop_rate=0.2
    )).train()  # fmt: skip
    passes = []
    for block in model.blocks:
        block.feed_forward.register_forward_hook(lambda *_: passes.append(1))
    found = {}
    for checkpointing in (True, False):
        model.zero_grad(set_to_none=True)
        passes.clear()
        plan = replace(_plan(model, _batch(), micro_batch=3, dtype=dtype), checkpointing=checkpointing)
        nats, _ = WholeBatch(model, plan).add(_batch(), seed=1, step=7)
        found[checkpointing] = nats, [weight.grad for weight in model.parameters()]
        assert len(passes) == 3 * 3 * (2 if checkpointing else 1)  # 3 micro-batches, 3 blocks
    assert found[True][0] == found[False][0]
    assert all(map(torch.equal, found[True][1], found[False][1]))


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_moves_nothing_and_names_its_step(tiny_gpt, name, value):
    optimizers = make_optimizers(
        tiny_gpt, replace(PLAIN, name=name, lr=1e-3, matrix_lr=0.02, weight_decay=0.1)
    )
    _step(tiny_gpt, optimizers, _batch())
    weights = copy.deepcopy(tiny_gpt.state_dict())
    state = {key: tensor.clone() for key, tensor in optimizer_tensors(tiny_gpt, optimizers).items()}
    poison = tiny_gpt.blocks[1].register_full_backward_hook(lambda module, gone, come: (gone[0] * value,))
    with pytest.raises(RunError, match=r"step 41: .*no weight was moved") as caught:
        _step(tiny_gpt, optimizers, _batch(), step=41)
    poison.remove()
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, weights[key]) for key, tensor in tiny_gpt.state_dict().items())
    after = optimizer_tensors(tiny_gpt, optimizers)
    assert all(torch.equal(tensor, after[key]) for key, tensor in state.items())


def test_dropout_is_a_function_of_seed_and_step_alone(tiny_config, workers):
    torch.manual_seed(0)
    model = GPT(tiny_config.changed(drop_rate=0.2)).train()

    def loss(*, seed: int, step: int, drawn_before: int) -> float:
        torch.manual_seed(drawn_before)
        torch.rand(drawn_before)
        twin = copy.deepcopy(model)
        optimizers = make_optimizers(twin, ADAMW)
        return _step(twin, optimizers, _batch(), seed=seed, step=step, workers=workers).nats

    first = loss(seed=1, step=5, drawn_before=0)
    assert loss(seed=1, step=5, drawn_before=17) == first
    assert loss(seed=1, step=6, drawn_before=0) != first
    assert loss(seed=2, step=5, drawn_before=0) != first


def test_the_reported_norm_is_the_one_before_clipping_and_0_means_no_limit(tiny_gpt):
    batch = _batch()
    _, gradients = _by_the_book(tiny_gpt, batch)
    norm = math.sqrt(sum(gradient.double().square().sum().item() for gradient in gradients.values()))
    moved = []
    for clip in (1e-3, 0.0, 1e9):
        twin = copy.deepcopy(tiny_gpt)
        # Plain descent shows the gradient that was used: Adam would hide its length.
        descent = torch.optim.SGD(twin.parameters(), lr=1.0)
        descent.param_groups[0]["peak_lr"] = 1.0
        result = _step(twin, [descent], batch, clip=clip)
        assert result.grad_norm == pytest.approx(norm, rel=1e-5)
        before = dict(tiny_gpt.named_parameters())
        way = [(weight - before[name]).detach().flatten() for name, weight in twin.named_parameters()]
        moved.append(torch.cat(way).norm().item())
    assert moved == pytest.approx([1e-3, norm, norm], rel=1e-3)


@pytest.mark.parametrize("step", [0, 3, 9])
def test_a_step_moves_by_the_rate_of_its_own_place_in_the_schedule(tiny_gpt, step):
    batch, twin = _batch(), copy.deepcopy(tiny_gpt)
    descent = torch.optim.SGD(twin.parameters(), lr=1.0)
    descent.param_groups[0]["peak_lr"] = 1.0
    plan = replace(_plan(twin, batch, clip=0.0), schedule=((-1, 0.0), (4, 1.0), (10, 0.0)))
    result = train_step(
        twin, [descent], batch, gradient=WholeBatch(twin, plan), plan=plan, seed=123, step=step
    )
    before = dict(tiny_gpt.named_parameters())
    way = [(weight - before[name]).detach().flatten() for name, weight in twin.named_parameters()]
    factor = {0: 1 / 5, 3: 4 / 5, 9: 1 / 6}[step]
    assert torch.cat(way).norm().item() == pytest.approx(factor * result.grad_norm, rel=1e-4)


def test_a_step_leaves_no_gradient_for_the_next(tiny_gpt, workers):
    optimizers = make_optimizers(tiny_gpt, ADAMW)
    _step(tiny_gpt, optimizers, _batch(), workers=workers)
    assert all(weight.grad is None for weight in tiny_gpt.parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_batch_is_learnt_by_heart(tiny_config, workers, dtype, record_property):
    torch.manual_seed(0)
    model = GPT(tiny_config).train()
    optimizers = make_optimizers(
        model, replace(PLAIN, name="muon", lr=4e-3, matrix_lr=0.02, weight_decay=0.0)
    )
    batch = _batch(rows=2, length=16, ragged=False)
    plan = _plan(model, batch, workers=workers, dtype=dtype)
    way = _way(model, plan)
    losses = []
    for step in range(80):
        report = train_step(model, optimizers, batch, gradient=way, plan=plan, seed=123, step=step)
        losses.append(report.loss_nats)
        if losses[-1] < 0.01:
            break
    assert losses[0] == pytest.approx(math.log(257), abs=0.1)
    assert losses[-1] < 0.01
    record_property("steps until one batch costs under 0.01", len(losses) - 1)


@pytest.mark.parametrize("steps", [20, pytest.param(60, marks=pytest.mark.torture)])
def test_adamw_trains_alike_whether_a_batch_is_cut_or_not(tiny_config, steps, record_property):
    losses = []
    for micro_batch in (8, 1):
        torch.manual_seed(0)
        model = GPT(tiny_config).train()
        optimizers = make_optimizers(model, ADAMW)
        losses.append(
            [
                _step(
                    model, optimizers, _batch(length=8, seed=step), micro_batch=micro_batch, step=step
                ).loss_nats
                for step in range(steps)
            ]
        )
    # A sum of 400 nats in float32 is right to 3e-5: 4e-7 a token, on each side. AdamW divides by the root of
    # squares, which makes more of it where gradients are small: 3.5e-6 after 20 steps on one CPU.
    off = max(abs(whole - cut) / whole for whole, cut in zip(*losses))
    record_property(f"relative difference of a step's loss, {steps} steps", off)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def _trained(config: GPTConfig, *, threads: int, dtype: str) -> list[float]:
    """Losses and norms of some steps with dropout, by three workers on this many threads."""
    torch.manual_seed(0)
    model, batch = GPT(config.changed(drop_rate=0.2)).train(), _batch()
    optimizers = make_optimizers(
        model,
        replace(PLAIN, name="muon", lr=4e-3, matrix_lr=0.02, weight_decay=0.1, row_beta=0.95),
        parts=3,
    )
    plan = _plan(model, batch, workers=3, micro_batch=2, dtype=dtype)
    way = _way(model, plan, threads=threads)
    results = [
        train_step(model, optimizers, batch, gradient=way, plan=plan, seed=1, step=step) for step in range(5)
    ]
    return [number for result in results for number in (result.nats, result.grad_norm)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_workers_give_the_same_bits_on_one_core_and_on_three(tiny_config, dtype):
    assert _trained(tiny_config, threads=1, dtype=dtype) == _trained(tiny_config, threads=3, dtype=dtype)


@pytest.mark.parametrize("family", ["gpt2", "modern"])
def test_gradients_in_bfloat16_point_where_those_of_float32_do(family):
    torch.manual_seed(0)
    model = GPT(GPTConfig(family=family, vocab_size=257, context_length=32, emb_dim=64, n_heads=4)).train()
    batch = _batch(length=32, ragged=False)
    _, exact = _by_the_book(model, batch)
    model.zero_grad(set_to_none=True)
    way = _way(model, _plan(model, batch, workers=2, dtype="bfloat16"))
    nats, tokens = way.add(batch, seed=123, step=0)
    assert nats / tokens == pytest.approx(math.log(257), abs=0.05)
    for name, weight in model.named_parameters():
        same = nn.functional.cosine_similarity(weight.grad.flatten(), exact[name].flatten(), dim=0)
        assert weight.grad.dtype == torch.float32
        assert same > 0.99, name


@pytest.mark.parametrize("tied", [True, False])
def test_the_copies_hold_the_models_own_weights_in_float32(tied):
    model = GPT(
        GPTConfig(vocab_size=257, context_length=16, emb_dim=32, n_layers=2, n_heads=4, tied_head=tied)
    )
    batch = _batch(length=16)
    way = _way(model, _plan(model, batch, workers=2))
    assert isinstance(way, Workers)
    for copied in way.copies:
        places = {name: weight.data_ptr() for name, weight in copied.named_parameters()}
        assert places == {name: weight.data_ptr() for name, weight in model.named_parameters()}
        assert (copied.head.weight is copied.token_embedding.weight) is tied
