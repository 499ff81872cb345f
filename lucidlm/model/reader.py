"""A model in, a reader of whole texts in bfloat16 on a CPU out: ids -> hidden states -> logits.

N rows, K inputs, C channels, V vocabulary. Autocast would cast all weights at once and hold them, and round
the logits to steps as wide as the logits are large.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from lucidlm.model.attention import CausalSelfAttention
from lucidlm.model.gpt import GPT, Block, FeedForward
from lucidlm.model.norm import RMSNorm

HEAD_TOKENS = 1024
"""Tokens whose part of the head is cast at once: 1.5 MB of GPT-2's in bfloat16, which stay in a cache.

The whole head would take 77 MB."""


class Short(nn.Module):
    """A layer whose output is cast to bfloat16: a norm, which computes in the dtype of its input."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C), bfloat16."""
        return self.layer(x).bfloat16()


class CastLinear(nn.Module):
    """A linear layer that casts its weights in each call: (..., K) -> (..., N), bfloat16.

    oneDNN's own operator is 4 % faster than F.linear, and takes the function after the layer with it.
    """

    def __init__(self, linear: nn.Linear, *, gelu: bool = False) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.after = ("gelu", [], "tanh") if gelu else ("none", [], "")

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N)."""
        bias = None if self.bias is None else self.bias.bfloat16()
        return torch.ops.mkldnn._linear_pointwise(x, self.weight.bfloat16(), bias, *self.after)


class ReadFeedForward(nn.Module):
    """GPT-2's two linear layers with a GELU between."""

    def __init__(self, layers: FeedForward) -> None:
        super().__init__()
        self.inner, self.out = CastLinear(layers.inner, gelu=True), CastLinear(layers.out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.out(self.inner(x))


class LastBlock(nn.Module):
    """The last block: of the tokens before `first`, nothing is needed after their keys and values."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        assert isinstance(block, Block)
        self.block, self.first = block, 0

    def forward(self, x: Tensor, **attention_inputs) -> Tensor:
        """(B, T, C) -> (B, T - first, C)."""
        block, first = self.block, self.first
        x = x[:, first:] + block.attention(block.attention_norm(x), first=first, **attention_inputs)
        return x + block.feed_forward(block.feed_forward_norm(x))


class Reader:
    """A copy of a model whose matmuls run in bfloat16: it shares all weights, and so all changes in place.

    The sums of its blocks stay in float32. No cache, no gradient.
    """

    def __init__(self, model: GPT) -> None:
        kept: dict[int, Any] = {id(each): each for each in (*model.parameters(), *model.buffers())}
        self.copy = copy.deepcopy(model, kept).eval()
        self.last = LastBlock(self.copy.blocks[-1])
        self.copy.blocks[-1] = self.last
        for module in list(self.copy.modules()):
            if isinstance(module, CausalSelfAttention):
                module.in_rows = True
            for name, child in module.named_children():
                setattr(module, name, _short(child))

    @torch.inference_mode()
    def hidden(self, ids: Tensor, *, first: int = 0) -> Tensor:
        """GPT.hidden(ids)[:, first:], in less time: (B, T) -> (B, T - first, C), bfloat16."""
        self.last.first = first
        return self.copy.hidden(ids)

    @torch.inference_mode()
    def logits(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Logits less that of the target: hidden (N, C), targets (N,) -> (N, V), bfloat16.

        bfloat16 has 8 bits. GPT-2's logits are near -100, where its steps are 0.5 wide; differences to the
        target's logit are smaller, and rounded after the subtraction. Nothing but such differences decides
        probabilities and ranks.
        """
        head = self.copy.head.weight
        own = torch.linalg.vecdot(hidden.float(), head[targets].bfloat16().float())
        centre = -own.bfloat16()[:, None]
        logits = hidden.new_empty(len(hidden), len(head))
        for first in range(0, len(head), HEAD_TOKENS):
            tokens = slice(first, first + HEAD_TOKENS)
            torch.addmm(centre, hidden, head[tokens].bfloat16().T, out=logits[:, tokens])
        return logits


def reader_of(model: object) -> Reader | None:
    """Its reader; None but for a plain GPT in float32 on a CPU for which oneDNN has kernels in bfloat16."""
    is_plain = (
        type(model) is GPT
        and type(model.head) is nn.Linear
        and all(each.dtype == torch.float32 and each.device.type == "cpu" for each in model.parameters())
        and torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    return Reader(model) if is_plain else None


def _short(layer: nn.Module) -> nn.Module:
    match layer:
        case FeedForward():
            return ReadFeedForward(layer)
        case nn.Linear():
            return CastLinear(layer)
        case nn.LayerNorm() | RMSNorm():
            return Short(layer)
    return layer
