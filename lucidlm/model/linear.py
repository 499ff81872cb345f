"""A model in, a copy of it that generates faster out: its matrices in bfloat16 or int8, for a few rows.

Each token reads every weight once, so reading them is what takes the time. M rows, K inputs, N outputs.
"""

import copy
import functools
import itertools
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lucidlm.errors import ConfigError
from lucidlm.model.gpt import GPT

TINY = torch.finfo(torch.float32).tiny
SMALL_BYTES = 64 * 2**20
"""float32 weights up to this size stay in a CPU's cache: shorter ones are not faster there."""
PARTS = 16
"""Pieces of a float32 matrix, which cores share for one row."""
CLEARLY = 1.2
"""A shorter dtype is chosen where it is faster by this factor, as it costs some accuracy."""


class ShortLinear(nn.Module):
    """A linear layer with a plain matrix in bfloat16: (..., K) -> (..., N), bfloat16."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight.detach().bfloat16()
        self.bias = None if linear.bias is None else linear.bias.detach().bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        """The layer by oneDNN, which brings the whole matrix into the order of its kernel at every call."""
        return F.linear(x.bfloat16(), self.weight, self.bias)


class NativeLinear(ShortLinear):
    """ShortLinear by PyTorch's own kernel: it reads one row's matrix at nearly the speed of the memory."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N); several rows by oneDNN, since this kernel reads the matrix for each anew."""
        if x.numel() > x.shape[-1]:
            return super().forward(x)
        torch.backends.mkldnn.enabled = False  # ty: ignore[invalid-assignment]
        try:
            return super().forward(x)
        finally:
            torch.backends.mkldnn.enabled = True  # ty: ignore[invalid-assignment]


class PackedLinear(nn.Module):
    """A linear layer with its bfloat16 matrix in the order of oneDNN's kernel: for two rows and more."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().bfloat16(), None)
        self.bias = None if linear.bias is None else linear.bias.detach().bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N), bfloat16."""
        return torch.ops.mkldnn._linear_pointwise(x.bfloat16(), self.weight, self.bias, "none", [], "")


class Int8Linear(nn.Module):
    """A linear layer with int8 weights and one scale a row; inputs are rounded to 8 bits, row by row.

    Each row has a scale of its own and sums of integers are exact, so no row changes with those beside it.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(1).clamp_min_(TINY) / 127
        whole = (weight / scale[:, None]).round_().to(torch.int8)
        zeros = torch.zeros(len(weight), dtype=torch.int64)
        with warnings.catch_warnings():  # PyTorch says that such tensors will move to another package
            warnings.simplefilter("ignore", UserWarning)
            quantized = torch._make_per_channel_quantized_tensor(whole, scale.double(), zeros, 0)
        self.weight = torch.ops.quantized.linear_prepack(quantized, None)
        self.bias = torch.zeros(len(weight)) if linear.bias is None else linear.bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N), float32."""
        x = x.float()
        largest = x.abs().amax(-1, keepdim=True).clamp_min_(TINY)
        found = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            x / largest, 1 / 127, 128, self.weight
        )
        return torch.addcmul(self.bias, found, largest)


class SplitLinear(nn.Module):
    """A linear layer with the float32 matrix that it is given, which all cores read for one row.

    For one row PyTorch may leave the whole matrix to one core, which cannot read as fast as the memory can.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight.detach()
        self.bias = None if linear.bias is None else linear.bias.detach()
        count, inputs = self.weight.shape
        self.split = count // PARTS * PARTS
        self.parts = (
            self.weight[: self.split].view(PARTS, count // PARTS, inputs).transpose(1, 2)
        )  # (PARTS, K, N / PARTS)

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N)."""
        if x.numel() > x.shape[-1]:
            return F.linear(x, self.weight, self.bias)
        row = x.reshape(1, 1, -1).expand(PARTS, 1, -1)
        found = torch.cat((torch.bmm(row, self.parts).flatten(), self.weight[self.split :] @ x.flatten()))
        return (found if self.bias is None else found.add_(self.bias)).view(*x.shape[:-1], -1)


KERNELS: dict[str, type[nn.Module]] = {"native": NativeLinear, "packed": PackedLinear, "plain": ShortLinear}
"""Forms of a linear layer in bfloat16, by name."""


@dataclass(frozen=True, slots=True)
class Form:
    """How the linear layers of a model compute while it generates."""

    dtype: str
    kernel: type[nn.Module] | None = None
    """The layer that takes the place of nn.Linear; None: the model's own layers."""

    def __str__(self) -> str:
        """bfloat16 (NativeLinear)."""
        return self.dtype if self.kernel is None else f"{self.dtype} ({self.kernel.__name__})"


def form_for(model: GPT, dtype: str, *, rows: int = 1) -> Form:
    """The form of `dtype` (auto, float32, bfloat16, int8) that is fastest here for `rows` texts at once.

    auto takes bfloat16 where the weights do not fit into a CPU's cache and it is faster by a fifth.
    ConfigError for int8 where there is no kernel for it.
    """
    here = f"--dtype int8 --device {model.device}"
    if dtype == "int8" and model.device.type != "cpu":
        raise ConfigError(f"{here}: int8 weights are for CPUs; use --dtype bfloat16")
    if dtype == "int8":
        if not _is_right(Int8Linear):
            raise ConfigError(f"{here}: PyTorch has no int8 kernel for this CPU; use --dtype bfloat16")
        return Form("int8", Int8Linear)
    large = sum(each.weight.numel() for each in _linears(model)) * 4 > SMALL_BYTES
    if model.device.type != "cpu" or (dtype == "auto" and not large):
        return Form("bfloat16" if dtype == "bfloat16" else "float32")
    form = Form("float32") if dtype == "float32" else fastest_form(dtype, rows=rows)
    split = large and rows == 1 and torch.get_num_threads() > 1 and model.head.weight.dtype == torch.float32
    return Form("float32", SplitLinear) if split and form.dtype == "float32" else form


def fastest_form(dtype: str, *, rows: int = 1) -> Form:
    """The fastest form in bfloat16 for a large model on this CPU; auto: float32 if about as fast."""
    names = ("float32",) * (dtype == "auto") + (("native", "packed") if rows == 1 else ("packed", "plain"))
    seconds = dict(seconds_by_kernel(names, rows))
    whole = seconds.pop("float32", math.inf)
    fastest = min(seconds, key=seconds.__getitem__, default="plain")
    if dtype == "auto" and seconds.get(fastest, math.inf) * CLEARLY > whole:
        return Form("float32")
    return Form("bfloat16", KERNELS[fastest])


def for_generation(model: GPT, form: Form) -> GPT:
    """A copy whose linear layers have the form; it shares all other weights, which are in float32.

    It generates and is evaluated as any model; it cannot be trained or saved. Later changes to the weights of
    the model do not reach it.

    >>> from lucidlm import load
    >>> model, tokenizer = load("modern-1m")
    >>> quick = for_generation(model, form_for(model, "bfloat16"))
    >>> quick(torch.tensor([tokenizer.encode("Once")])).dtype
    torch.bfloat16
    """
    if form.kernel is None:
        return model
    shared: dict[int, Any] = {id(each.weight): each.weight for each in _linears(model)}
    shared |= {id(each.bias): each.bias for each in _linears(model)}
    for parameter in model.parameters():
        if id(parameter) not in shared or parameter is model.token_embedding.weight:
            shared[id(parameter)] = nn.Parameter(parameter.detach().float(), requires_grad=False)
    quick = copy.deepcopy(model, shared)
    for module in list(quick.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, form.kernel(child))
    return quick.eval()


def _linears(model: GPT) -> list[nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


@functools.cache
def seconds_by_kernel(
    names: tuple[str, ...], rows: int, *, clock: Callable[[], float] = time.thread_time
) -> tuple[tuple[str, float], ...]:
    """Seconds for 8 layers of 1024 x 2048 by each of these kernels, or "float32", that works here.

    They take 32 MB in bfloat16, more than most caches hold. One thread's CPU time, the least of five, taken
    in turns: so the choice is the same while other programs run.
    """
    layers = _random_layers(8)
    x = layers[0].weight[:rows].detach().clone()
    forms = {
        name: layers if name == "float32" else [KERNELS[name](layer) for layer in layers]
        for name in names
        if name == "float32" or _is_right(KERNELS[name])
    }
    times: dict[str, list[float]] = {name: [] for name in forms}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for _, (name, made) in itertools.product(range(5), forms.items()):
                began = clock()
                for layer in made:
                    layer(x)
                times[name].append(clock() - began)
    finally:
        torch.set_num_threads(threads)
    return tuple((name, min(taken)) for name, taken in times.items())


def _random_layers(count: int) -> list[nn.Linear]:
    """Layers 1024 -> 2048 of equal weights in memory of their own; the global generator is left alone."""
    weight = torch.randn(2048, 1024, generator=torch.Generator().manual_seed(0))
    with torch.device("meta"):
        layers = [nn.Linear(1024, 2048) for _ in range(count)]
    for layer in layers:
        layer.weight, layer.bias = nn.Parameter(weight.clone()), nn.Parameter(torch.ones(2048))
    return layers


@torch.inference_mode()
def _is_right(kernel: type[nn.Module]) -> bool:
    """Whether this PyTorch has the kernel for this CPU, and it rounds as it should.

    Sums of int8 products overflow on CPUs without instructions for them.
    """
    (layer,) = _random_layers(1)
    layer.weight[0] = 1.0  # the largest sums that there are
    x = layer.weight[:3].detach().clone()
    exact = F.linear(x.double(), layer.weight.double(), layer.bias.double())
    try:
        found = kernel(layer)(x).double()
    except (AttributeError, RuntimeError):
        return False
    # Six standard deviations of the error of 8 bits for a weight, and of 8 for an input.
    return bool(((found - exact).abs() <= 0.06 * exact.std() + 0.01 * exact.abs()).all())
