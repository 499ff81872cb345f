"""GPT: token ids (B, T) in, logits (B, T, V) out, always. The config chooses blocks of GPT-2 or modern ones.

B texts, T tokens, C channels, D head size, V vocabulary. The model knows no loss, optimizer or file.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from lucidlm.errors import ConfigError
from lucidlm.model.attention import CausalSelfAttention, KVCache, rotation_table
from lucidlm.model.config import GPTConfig
from lucidlm.model.dropout import Dropout
from lucidlm.model.norm import RMSNorm
from lucidlm.runtime.process import settle_vector_math


class FeedForward(nn.Module):
    """Two linear layers with a GELU between, for each token alone: (B, T, C) -> (B, T, C), as in GPT-2."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.inner = nn.Linear(config.emb_dim, config.hidden_dim)
        self.out = nn.Linear(config.hidden_dim, config.emb_dim)

    def forward(self, x: Tensor) -> Tensor:
        """GELU by its tanh approximation (Hendrycks 2016), with which GPT-2 was trained."""
        return self.out(F.gelu(self.inner(x), approximate="tanh"))


class GatedFeedForward(nn.Module):
    """SwiGLU (Shazeer 2020): a gate, made from the token itself, scales each inner channel.

    Three matrices instead of two, so hidden_dim is 8/3 of emb_dim instead of 4: the same number of weights.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.emb_dim, config.hidden_dim, bias=False)
        self.inner = nn.Linear(config.emb_dim, config.hidden_dim, bias=False)
        self.out = nn.Linear(config.hidden_dim, config.emb_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.out(F.silu(self.gate(x)) * self.inner(x))


class Block(nn.Module):
    """Attention, then feed-forward; each reads a normed copy of the residual stream and adds to it.

    The norm comes before (GPT-2; Xiong 2020): the stream itself is never normed, so gradients reach every
    layer directly, and deep models train without a long warm-up.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention_norm = _norm(config)
        self.attention = CausalSelfAttention(config)
        self.feed_forward_norm = _norm(config)
        self.feed_forward = GatedFeedForward(config) if config.family == "modern" else FeedForward(config)
        self.dropout = Dropout(config.drop_rate)
        self.checkpointing = False
        """Whether the backward pass computes the block again, from its input alone, in training."""
        self.compiled: Callable[..., Tensor] | None = None
        """A compiled `added`, for training alone: texts of other lengths would be compiled again."""

    def forward(self, x: Tensor, **attention_inputs) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        if not self.training:
            return self.added(x, **attention_inputs)
        added = self.compiled or self.added
        if not (self.checkpointing and torch.is_grad_enabled()):
            return added(x, **attention_inputs)
        # PyTorch's generator is set back for the second pass, so that it drops the same; a tape is not.
        assert self.dropout.places is None, "a tape gives other masks the second time"
        return checkpoint(
            added,
            x,
            use_reentrant=False,
            preserve_rng_state=self.dropout.is_on,
            **attention_inputs,
        )

    def added(self, x: Tensor, **attention_inputs) -> Tensor:
        """forward, all of it kept for the backward pass."""
        x = x + self.dropout(self.attention(self.attention_norm(x), **attention_inputs))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class GPT(nn.Module):
    """A GPT of the given shape.

    Its modules are made in the course's order, so that a seed gives the course's weights. `hidden` and `head`
    are separate so that a loss can apply the head in pieces; `forward` is both.

    >>> model = GPT(GPTConfig(vocab_size=257, context_length=16, emb_dim=32, n_layers=2, n_heads=2))
    >>> model(torch.zeros(1, 5, dtype=torch.int64)).shape
    torch.Size([1, 5, 257])
    """

    def __init__(self, config: GPTConfig) -> None:
        """Random weights, drawn from PyTorch's global generator: call torch.manual_seed before."""
        super().__init__()
        settle_vector_math()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.emb_dim)
        learned = config.family == "gpt2"
        self.position_embedding = nn.Embedding(config.context_length, config.emb_dim) if learned else None
        self.dropout = Dropout(config.drop_rate)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.final_norm = _norm(config)
        self.head = nn.Linear(config.emb_dim, config.vocab_size, bias=False)
        if config.tied_head:  # one matrix in both places (Press 2017): fewer weights, better small models
            self.head.weight = self.token_embedding.weight
        if config.init == "scaled":
            _draw_scaled_weights(self)

    @classmethod
    def empty(cls, config: GPTConfig) -> "GPT":
        """The model on PyTorch's device "meta", without memory for its weights, which are to be read."""
        with torch.device("meta"), _NothingDrawn():
            return cls(config)

    @property
    def vocab_size(self) -> int:
        """V, the number of logits."""
        return self.config.vocab_size

    @property
    def context_length(self) -> int:
        """The most tokens that are read at once."""
        return self.config.context_length

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""
        return self.token_embedding.weight.device

    @property
    def document_prefix_id(self) -> int | None:
        """The id before each document in training, as the config says."""
        return self.config.document_prefix_id

    @property
    def n_parameters(self) -> int:
        """Number of weights; a tied head counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits of the next token at each position: ids (B, T) -> (B, T, V)."""
        return self.head(self.hidden(ids, cache))

    def hidden(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """The final hidden states, from which the head makes logits: ids (B, T) -> (B, T, C).

        With a cache, ids are the tokens after the cached ones; their keys and values are added to it.
        """
        count, seen = ids.shape[1], 0 if cache is None else max(cache.lengths)
        if seen + count > self.config.context_length:
            raise ConfigError(
                f"{seen + count} tokens are more than the model's context of {self.config.context_length}; "
                "pass fewer, or use a model with a longer context"
            )
        positions = torch.arange(count, device=ids.device)[None] if cache is None else cache.positions(count)
        x = self.token_embedding(ids)  # (B, T, C)
        rotation = None
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        else:
            cos, sin = rotation_table(self.config, positions, self.token_embedding.weight.dtype)
            # (B or 1, 1, T, D): the same for every head.
            rotation = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
        x = self.dropout(x)
        mask = None if cache is None else cache.mask(count)
        for layer, block in enumerate(self.blocks):
            x = block(x, rotation=rotation, cache=cache, mask=mask, layer=layer)
        if cache is not None:
            cache.advance(count)
        return self.final_norm(x)

    def new_cache(self, batch_size: int, capacity: int | None = None) -> KVCache:
        """An empty cache for this model's keys and values, of at most `capacity` tokens a row.

        On a CPU in at least float32: for one token, attention in bfloat16 takes three times as long there.
        """
        dtype = self.token_embedding.weight.dtype
        if self.device.type == "cpu":
            dtype = torch.promote_types(dtype, torch.float32)
        return KVCache(self.config, batch_size, device=self.device, dtype=dtype, capacity=capacity)


class _NothingDrawn(TorchFunctionMode):
    """Skips the functions of nn.init: on "meta" they draw nothing, but take a second to import."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _norm(config: GPTConfig) -> nn.Module:
    kind = RMSNorm if config.family == "modern" else nn.LayerNorm
    return kind(config.emb_dim, eps=config.norm_eps)


@torch.no_grad()
def _draw_scaled_weights(model: GPT) -> None:
    """Normal numbers of standard deviation 0.02 for matrices and embeddings, zeros for biases (GPT-2)."""
    # Each block adds to the residual stream twice. 1/sqrt(2 n_layers) keeps the stream's variance independent
    # of the depth (Radford 2019, 2.3).
    damped = 0.02 / math.sqrt(2 * model.config.n_layers)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() == 2:
            residual = name.endswith(("attention.out.weight", "feed_forward.out.weight"))
            nn.init.normal_(parameter, std=damped if residual else 0.02)
