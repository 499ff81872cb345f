"""What cannot fit is refused before it is allocated, and the advice that is given is followed and fits."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lucidlm.errors import ConfigError
from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT, Block
from lucidlm.model.norm import RMSNorm
from lucidlm.model.presets import GPT2, MUON, PRESETS, preset
from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.runtime.device import autocast
from lucidlm.training import footprint
from lucidlm.training.footprint import check_fits, check_preset, memory_on_a_gpu, training_bytes

CPU = torch.device("cpu")


@pytest.fixture
def free(monkeypatch):
    """free(gigabytes): so much is left."""

    def left(gigabytes):
        monkeypatch.setattr(
            footprint, "free_on", lambda device: footprint.Free(int(gigabytes * 1e9), "a limit")
        )

    return left


def check(config, shape, *, micro_batch=8, optim=GPT2, checkpointing=False, **others):
    plan = Plan(
        model=shape, optim=optim, batch_size=16, micro_batch=micro_batch, steps=1, schedule=((0, 1.0),),
        validate_every=1, validation_tokens=1, dtype="float32", threads=1, early_stop=False,
        checkpointing=checkpointing,
    )  # fmt: skip
    check_fits(config, plan, CPU, **others)


def refusal(*arguments, **named):
    with pytest.raises(ConfigError, match=r"needs at least .* are free \(a limit\)") as caught:
        check(*arguments, **named)
    return str(caught.value).rpartition("; ")[2]


def test_weights_gradients_moments_and_the_best_copy_are_the_least_that_a_model_takes():
    shape, small = PRESETS["gpt2-124m"].shape, PRESETS["modern-10m"].shape

    def least(shape, optim, device="cpu"):
        return training_bytes(shape, optim, micro_batch=0, batch_size=0, device=device, dtype="float32")

    assert least(shape, "adamw") == 20 * shape.n_parameters
    assert 16 < least(small, "muon") / small.n_parameters < 17
    assert least(shape, "adamw", "cuda") == 16 * shape.n_parameters


def test_gradients_stand_beside_activations_only_where_micro_batches_are_added_up():
    shape = PRESETS["modern-50m"].shape

    def step(batch_size):
        return training_bytes(
            shape, "muon", micro_batch=4, batch_size=batch_size, device="cpu", dtype="float32"
        )

    assert step(8) - step(4) == 4 * shape.n_parameters
    assert step(64) == step(8)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of what operations return, for as long as something holds it."""

    def __init__(self):
        super().__init__()
        self.held = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.held:
                    self.held[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self.held.pop, storage._cdata, None)
        return result


def kept_for_backward(shape, *, checkpointing):
    """Bytes that are held after a forward pass under autocast."""
    model = GPT(shape).train()
    for part in model.modules():
        if isinstance(part, RMSNorm):
            part.by_hand = True  # one operation, as on a GPU
        elif isinstance(part, Block):
            part.checkpointing = checkpointing
    ids = torch.zeros(4, shape.context_length, dtype=torch.int64)
    with LiveBytes() as live, autocast(torch.device("cpu"), torch.bfloat16):
        hidden = model.hidden(ids)
        assert hidden.requires_grad
        return sum(live.held.values())


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("family", ["gpt2", "modern"])
def test_what_blocks_keep_for_the_backward_pass_on_a_gpu_is_what_is_counted(family, checkpointing):
    shape = GPTConfig(
        family=family, vocab_size=257, context_length=256, emb_dim=128, n_layers=1, n_heads=2
    )  # fmt: skip

    def estimated(shape):
        memory = memory_on_a_gpu(shape, "adamw", tokens=4 * shape.context_length, checkpointing=checkpointing)
        return memory.copies + memory.activations

    more = shape.changed(n_layers=5)
    counted = [kept_for_backward(each, checkpointing=checkpointing) for each in (shape, more)]
    assert estimated(more) - estimated(shape) == pytest.approx(counted[1] - counted[0], rel=0.05)


@pytest.mark.parametrize(
    ("name", "windows", "batch_size", "gib"),
    [("gpt2-124m", 22, 128, 10.9), ("gpt2-355m", 8, 64, 14.4), ("gpt2-1558m", 2, 32, 33.4)],
)
def test_the_memory_that_was_measured_on_an_h100_is_met(name, windows, batch_size, gib):
    # python benchmarks/gpu.py: docs/numbers.md, "On a GPU".
    need = training_bytes(
        PRESETS[name].shape.changed(drop_rate=0.0),
        "adamw",
        micro_batch=windows,
        batch_size=batch_size,
        device="cuda",
        dtype="bfloat16",
    )
    assert need / 2**30 == pytest.approx(gib, rel=0.05)


def test_each_shard_holds_its_part_and_the_whole_of_a_few_blocks():
    shape = PRESETS["modern-1.5b"].shape
    one = memory_on_a_gpu(shape, "adamw", tokens=0, several=True)
    assert (one.bytes, one.gathered) == (16 * shape.n_parameters, 0)
    eight = memory_on_a_gpu(shape, "adamw", tokens=0, shards=8)
    assert eight.bytes - eight.gathered == pytest.approx(one.bytes / 8, rel=1e-6)
    assert eight.gathered < 4 * shape.n_parameters / 4


def test_windows_that_do_not_fit_at_once_are_refused_and_the_number_that_is_advised_fits(free):
    shape = PRESETS["gpt2-124m"].shape
    config = TrainConfig(preset="gpt2-124m")
    free(6)
    flag, windows, fits = refusal(config, shape, micro_batch=64).split()
    assert (flag, fits) == ("--micro-batch", "fits")
    check(config, shape, micro_batch=int(windows))
    refusal(config, shape, micro_batch=int(windows) + 1)


def test_where_not_one_window_fits_blocks_are_computed_again_and_the_advice_fits(free):
    shape = preset("gpt2-124m").shape.changed(context_length=8192)
    config = TrainConfig(preset="gpt2-124m")
    free(6)
    flag, micro_batch, windows, fits = refusal(config, shape, micro_batch=4).split()
    assert (flag, micro_batch, fits) == ("--checkpointing", "--micro-batch", "fits")
    check(config, shape, micro_batch=int(windows), checkpointing=True)
    assert "--micro-batch" in refusal(config, shape, micro_batch=int(windows) + 1, checkpointing=True)
    assert "--context-length" in refusal(TrainConfig(preset="gpt2-124m", checkpointing=False), shape)


def test_a_context_that_is_too_long_is_halved_until_it_fits(free):
    shape = preset("gpt2-124m").shape.changed(context_length=65_536)
    config = TrainConfig(preset="gpt2-124m")
    free(6)
    advice = refusal(config, shape, micro_batch=1).split()
    assert advice[0] == "--context-length"
    check(config, shape.changed(context_length=int(advice[1])), micro_batch=int(advice[3]))


@pytest.mark.parametrize("gigabytes", [0.2, 1, 5, 14])
def test_the_preset_that_is_advised_is_the_largest_that_fits_and_passes_both_checks(free, gigabytes):
    free(gigabytes)
    config = TrainConfig(preset="gpt2-1558m")
    with pytest.raises(ConfigError, match="--preset gpt2-1558m") as caught:
        check_preset(config, CPU)
    advised = str(caught.value).rpartition("; ")[2].split()
    assert advised == refusal(config, PRESETS["gpt2-1558m"].shape).split()
    assert advised[:1] + advised[2:] == ["--preset", "--micro-batch", "1", "fits"]
    check_preset(TrainConfig(preset=advised[1]), CPU)
    optim = GPT2 if advised[1].startswith("gpt2") else MUON
    check(TrainConfig(preset=advised[1]), PRESETS[advised[1]].shape, micro_batch=1, optim=optim)
    assert advised[1] == {0.2: "modern-3m", 1: "modern-10m", 5: "gpt2-124m", 14: "gpt2-355m"}[gigabytes]


def test_where_nothing_fits_and_where_nothing_may_change_the_advice_says_so(free):
    free(0.01)
    assert "make memory free" in refusal(TrainConfig(preset="gpt2-124m"), PRESETS["gpt2-124m"].shape)
    assert "smaller model" in refusal(TrainConfig(from_="gpt2"), PRESETS["gpt2-124m"].shape)
    free(6)
    assert "keeps its plan" in refusal(
        TrainConfig(), PRESETS["gpt2-124m"].shape, micro_batch=64, resumed=True
    )


def test_what_comes_after_training_counts_too_and_what_fits_is_not_refused(free):
    shape = PRESETS["modern-1m"].shape
    need = training_bytes(shape, "muon", micro_batch=0, batch_size=0, device="cpu", dtype="float32")
    free((need + 200_000_000) / 1e9)
    check(TrainConfig(), shape, micro_batch=1, optim=MUON, later=200_000_000)
    refusal(TrainConfig(), shape, micro_batch=1, optim=MUON, later=200_000_001)
    check_preset(TrainConfig(), CPU)
