"""Short weights for generation against matmuls in float64, and the choice among their kernels."""

import pytest
import torch
from models import BYTES, lively, shape
from torch import nn

from lucidlm.errors import ConfigError
from lucidlm.model import linear
from lucidlm.model.decoding import Decoding
from lucidlm.model.generation import generate, generate_batch
from lucidlm.model.linear import (
    Form,
    Int8Linear,
    NativeLinear,
    PackedLinear,
    ShortLinear,
    SplitLinear,
    for_generation,
    form_for,
)

SHORT = [ShortLinear, NativeLinear, PackedLinear]


def a_layer(bias: bool = True, seed: int = 0) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(96, 80, bias=bias)


def rows_of(count: int) -> torch.Tensor:
    return torch.randn(count, 1, 96, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kernel", SHORT)
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_in_bfloat16_is_the_matmul_of_rounded_weights_and_inputs(kernel, count, bias):
    layer, x = a_layer(bias), rows_of(count)
    weight, short = layer.weight.bfloat16().double(), x.bfloat16().double()
    wanted = short @ weight.T + (layer.bias.bfloat16().double() if bias else 0)
    with torch.inference_mode():
        found = kernel(layer)(x)
    assert found.dtype == torch.bfloat16
    # Half a step of bfloat16 where the sum is rounded, another where the bias is added.
    torch.testing.assert_close(found.double(), wanted, rtol=2**-7, atol=2**-8)
    assert torch.backends.mkldnn.enabled


@pytest.mark.parametrize("outputs", [80, 95, 7])  # a multiple of its parts, and not
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_in_parts_is_the_matmul_and_holds_no_weights_of_its_own(outputs, count, bias):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.Linear(96, outputs, bias=bias)
    made, x = SplitLinear(layer), rows_of(count)
    wanted = x.double() @ layer.weight.double().T + (layer.bias.double() if bias else 0)
    with torch.inference_mode():
        found = made(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-6)
    assert made.parts.untyped_storage().data_ptr() == layer.weight.untyped_storage().data_ptr()


@pytest.mark.parametrize("bias", [True, False])
def test_an_int8_layer_is_the_matmul_of_whole_numbers_times_their_scales(bias):
    layer, x = a_layer(bias), rows_of(4)
    x[1] *= 1000.0
    x[2] = 0.0
    weight = layer.weight.detach().double()
    scale = weight.abs().amax(1, keepdim=True) / 127
    largest = x.double().abs().amax(-1, keepdim=True).clamp_min(1e-300)
    whole_x, whole_weight = (x.double() / largest * 127).round(), (weight / scale).round()
    wanted = whole_x @ whole_weight.T * largest / 127 * scale[:, 0] + (layer.bias.double() if bias else 0)
    with torch.inference_mode():
        found = Int8Linear(layer)(x)
    # A quotient within rounding of a half may go up in one and down in the other: one step of one input.
    step = (largest / 127 * weight.abs().amax()).expand_as(wanted)
    assert found.dtype == torch.float32
    assert ((found.double() - wanted).abs() <= 1.5 * step + 1e-5).all()
    assert (found[2] == (layer.bias if bias else 0)).all()


def test_a_row_of_an_int8_layer_does_not_change_with_the_rows_beside_it():
    made, x = Int8Linear(a_layer()), rows_of(8)
    with torch.inference_mode():
        assert torch.equal(made(x), torch.cat([made(row[None]) for row in x]))


@pytest.mark.parametrize("family", ["gpt2", "modern"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kernel", [*SHORT, Int8Linear])
def test_a_copy_for_generation_predicts_as_the_model_does_and_leaves_it_alone(family, tied, kernel):
    model = lively(shape(family=family, emb_dim=64, n_layers=2, tied_head=tied), seed=3, noise=0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quick = for_generation(model, Form("any", kernel))
    assert not any(isinstance(module, nn.Linear) for module in quick.modules())
    ids = torch.randint(0, 257, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted, found = model(ids).softmax(-1), quick(ids).float().softmax(-1)
    assert 0 < (found - wanted).abs().max() < 0.05
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_copy_of_a_bfloat16_model_computes_between_its_layers_in_float32():
    model = lively(shape(emb_dim=64, tied_head=True), seed=3, noise=0.1).bfloat16()
    quick = for_generation(model, Form("bfloat16", ShortLinear))
    assert {parameter.dtype for parameter in quick.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_in_int8_each_prompt_of_a_list_gives_what_it_gives_alone():
    model = lively(shape(emb_dim=64, n_layers=2, context_length=64), seed=3, noise=0.25)
    quick, decoding = for_generation(model, Form("int8", Int8Linear)), Decoding(max_new_tokens=30)
    prompts = ["a", "the quick brown fox", ""]
    alone = [generate(quick, BYTES, prompt, decoding, seed=7).text for prompt in prompts]
    assert [each.text for each in generate_batch(quick, BYTES, prompts, decoding, seed=7)] == alone


def a_choice(monkeypatch, seconds: dict[str, float], dtype: str, **how) -> Form:
    monkeypatch.setattr(linear, "SMALL_BYTES", 0)
    taken = lambda names, rows: tuple((name, seconds[name]) for name in names if name in seconds)  # noqa: E731
    monkeypatch.setattr(linear, "seconds_by_kernel", taken)
    return form_for(lively(shape(), seed=0, noise=0.1), dtype, **how)


def test_auto_is_the_fastest_kernel_where_it_is_faster_by_a_fifth(monkeypatch):
    seconds = {"float32": 1.2, "native": 0.99, "packed": 1.1, "plain": 1.3}
    assert a_choice(monkeypatch, seconds, "auto") == Form("bfloat16", NativeLinear)
    assert a_choice(monkeypatch, seconds, "auto", rows=2) == Form("float32")
    assert a_choice(monkeypatch, seconds, "bfloat16", rows=2) == Form("bfloat16", PackedLinear)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert a_choice(monkeypatch, seconds, "float32") == Form("float32")
    assert a_choice(monkeypatch, {"float32": 1.0}, "auto") == Form("float32")  # no kernel works here
    assert a_choice(monkeypatch, {}, "bfloat16") == Form("bfloat16", ShortLinear)


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_a_large_model_in_float32_is_read_by_all_threads_for_one_text(monkeypatch, dtype):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert a_choice(monkeypatch, {"float32": 1.0}, dtype) == Form("float32", SplitLinear)
    assert a_choice(monkeypatch, {"float32": 1.0}, dtype, rows=2) == Form("float32")
    short = lively(shape(), seed=0, noise=0.1).bfloat16()
    assert form_for(short, "float32") == Form("float32")  # computes with the weights that it has


def test_a_small_model_stays_in_float32_and_is_not_copied():
    model = lively(shape(), seed=0, noise=0.1)
    assert form_for(model, "auto") == Form("float32")
    assert for_generation(model, Form("float32")) is model


def test_the_kernels_of_this_machine_are_timed_in_turns():
    ticks = iter(range(1000))
    found = dict(linear.seconds_by_kernel(("float32", "plain"), 1, clock=lambda: next(ticks)))
    assert found == {"float32": 1, "plain": 1}


def test_int8_is_refused_where_it_cannot_be(monkeypatch):
    model = lively(shape(), seed=0, noise=0.1)
    monkeypatch.setattr(linear, "_is_right", lambda kernel: False)
    with pytest.raises(ConfigError, match="use --dtype bfloat16"):
        form_for(model, "int8")
    with pytest.raises(ConfigError, match="int8 weights are for CPUs"):
        form_for(model.to("meta"), "int8")


class Overflowing(ShortLinear):
    """A kernel whose sums stop at a limit."""

    def forward(self, x):
        return super().forward(x).clamp(-100, 100)


class Missing(ShortLinear):
    """A kernel that this PyTorch does not have."""

    def forward(self, x):
        return torch.ops.aten.no_such_kernel(x)


def test_a_kernel_that_is_wrong_or_missing_is_not_right():
    assert linear._is_right(ShortLinear)
    assert not linear._is_right(Overflowing)
    assert not linear._is_right(Missing)
