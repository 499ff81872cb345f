"""Causal self-attention: (B, T, C) in, (B, T, C) out; each token sees itself and the tokens before it.

B texts, T new tokens, S tokens so far (cached and new), C channels, H heads of queries, G heads of keys and
values, D head size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lucidlm.model.config import GPTConfig
from lucidlm.model.dropout import Dropout
from lucidlm.model.norm import RMSNorm


def textbook_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention written out: queries (B, H, T, D), keys and values (B, G, T, D) -> (B, H, T, D).

    softmax(q k^T / sqrt(D), later tokens masked) v (Vaswani 2017, 3.2.1). It holds all T x T weights in
    memory. The model runs PyTorch's fused kernel instead, and the tests compare the two.

    >>> q = k = v = torch.ones(1, 1, 3, 4)
    >>> textbook_attention(q, k, v).shape
    torch.Size([1, 1, 3, 4])
    """
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    # A dot product of D random numbers has a variance of D. Without the root, softmax would saturate and its
    # gradient vanish (Vaswani 2017, 3.2.1).
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, H, T, T)
    # -inf before softmax, not 0 after it: the remaining weights then add up to 1.
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(-1) @ v


LARGEST_SCORES = 2**21
"""Attention weights that a layer holds for its backward pass on a CPU; larger ones are made again there."""


def attention_by_matmuls(q: Tensor, k: Tensor, v: Tensor, *, dropout: Dropout | None = None) -> Tensor:
    """textbook_attention by two matmuls, whose backward pass is four more: for training on a CPU.

    PyTorch's fused kernel saves the memory of the (T, T) weights, but its backward pass takes several times
    as long on a CPU, and it draws dropout slowly.
    """
    count, scores = len(q), torch.Size((*q.shape[1:3], q.shape[2]))  # (H, T, T)
    at_once = max(1, LARGEST_SCORES // scores.numel())
    if at_once >= count:
        return _mixed(q, k, v, _factors(dropout, q, scores))
    # A few texts after the other, and their weights are made again in the backward pass: never held at once.
    parts = zip(q.split(at_once), k.split(at_once), v.split(at_once), strict=True)
    return torch.cat(
        [checkpoint(_mixed, *part, _factors(dropout, part[0], scores), use_reentrant=False) for part in parts]
    )


def _factors(dropout: Dropout | None, q: Tensor, scores: torch.Size) -> Tensor | None:
    """Dropout's factors (B, H, T, T) for the weights of these queries, from its tape; None if off."""
    if dropout is None or not dropout.is_on:
        return None
    assert dropout.places is not None, "attention by matmuls takes its masks from a tape"
    return dropout.places.mask(torch.Size((len(q), *scores)))


def _mixed(q: Tensor, k: Tensor, v: Tensor, factors: Tensor | None) -> Tensor:
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    count = q.shape[-2]
    later = torch.full((count, count), -torch.inf, dtype=q.dtype).triu_(1)
    # Scaled before the matmul, and masked in it: (T, D) and no extra pass over (T, T).
    flat = (q * q.shape[-1] ** -0.5).flatten(0, 1), k.flatten(0, 1).transpose(1, 2)
    weights = torch.baddbmm(later, *flat).softmax(-1)  # (B H, T, T)
    if factors is not None:
        weights = weights * factors.flatten(0, 1)
    return (weights @ v.flatten(0, 1)).view_as(q)


ROWS = 128
"""Queries whose scores attention_in_rows holds at a time: 6 MB for two texts of 1024 tokens and 12 heads."""


def attention_in_rows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """textbook_attention for a few queries after the other, each only with the keys up to the last of them.

    For reading in bfloat16 on a CPU, where PyTorch's fused kernel takes 1.6 times as long. No gradient. If
    there are fewer queries than keys, they are those of the last tokens.
    """
    groups, count, before = q.shape[1] // k.shape[1], q.shape[2], k.shape[2] - q.shape[2]
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    q = q * q.shape[-1] ** -0.5
    # Softmax sees only differences of a query's scores. Those to the score of its own key are smaller than
    # the scores, so bfloat16's 8 bits round them less; the matmul subtracts before it rounds.
    own = -(q * k[:, :, before:]).sum(-1).flatten(0, 1)[..., None]  # (B H, T, 1)
    # In the order of the matmuls once: bmm would copy each for every few queries.
    queries, keys, values = (x.contiguous().flatten(0, 1) for x in (q, k.transpose(2, 3), v))
    later = torch.full((ROWS, ROWS), -torch.inf, dtype=q.dtype).triu_(1)
    mixed = torch.empty_like(queries)
    for first in range(0, count, ROWS):
        end = min(first + ROWS, count)
        seen = before + end  # scores: (B H, rows, seen)
        scores = torch.baddbmm(
            own[:, first:end], queries[:, first:end], keys[..., :seen]
        )  # (B H, rows, seen)
        scores[..., before + first :] += later[: end - first, : end - first]
        torch.bmm(scores.softmax(-1), values[:, :seen], out=mixed[:, first:end])
    return mixed.view_as(q)


def attention_row_by_row(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    """Attention of one new token a row over its own keys: q (B, H, 1, D), k and v (B, G, S, D).

    Row b has lengths[b] tokens before the new one; a row without any is idle and gets zeros. For rows that
    must not depend on their place and neighbours: in one call for all, the last bits of a row on a CPU depend
    on S and on the thread that computes it. One call a row depends on that row alone.
    """
    mixed, grouped = torch.zeros_like(q), q.shape[1] != k.shape[1]
    for row, length in enumerate(lengths):
        if length:
            one, end = slice(row, row + 1), length + 1
            mixed[one] = F.scaled_dot_product_attention(
                q[one], k[one, :, :end], v[one, :, :end], enable_gqa=grouped
            )
    return mixed


class KVCache:
    """The keys and values of the tokens so far, one row a text; rows may have different lengths.

    A token never sees later tokens, so its keys and values do not change when the text goes on. With them, a
    new token costs a forward pass of one token, not of the whole text. The cache is written in place: use it
    in torch.no_grad or inference_mode.
    """

    row_by_row = False
    """Whether attention goes over it by `attention_row_by_row`; then one token is added at a time."""

    def __init__(
        self,
        config: GPTConfig,
        batch_size: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
        capacity: int | None = None,
    ) -> None:
        """An empty cache with room for `capacity` tokens a row (default and maximum: the context length)."""
        length = min(capacity or config.context_length, config.context_length)
        shape = (batch_size, config.n_kv_heads, length, config.head_dim)
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.n_layers)]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.n_layers)]
        self.lengths = [0] * batch_size

    @property
    def capacity(self) -> int:
        """Maximum number of tokens in a row."""
        return self.keys[0].shape[2]

    @property
    def ragged(self) -> bool:
        """Whether the rows have different lengths."""
        return len(set(self.lengths)) > 1

    def positions(self, count: int) -> Tensor:
        """Positions of the next `count` tokens of each row: (B, count)."""
        starts = torch.tensor(self.lengths, device=self.keys[0].device)
        return starts[:, None] + torch.arange(count, device=starts.device)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores new keys and values (B, G, T, D) of a layer; returns all so far, (B, G, S, D), as views."""
        assert k.shape[0] == len(self.lengths), "the cache has one row for each text"
        count, end = k.shape[2], max(self.lengths) + k.shape[2]
        keys, values = self.keys[layer], self.values[layer]
        if self.ragged:
            rows, places = torch.arange(len(self.lengths), device=k.device)[:, None], self.positions(count)
            keys[rows, :, places] = k.transpose(1, 2).to(keys.dtype)
            values[rows, :, places] = v.transpose(1, 2).to(values.dtype)
        else:
            keys[:, :, end - count : end] = k
            values[:, :, end - count : end] = v
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, count: int) -> None:
        """Adds `count` tokens to the length of every row, after all layers have stored theirs."""
        self.lengths = [length + count for length in self.lengths]

    def truncate(self, lengths: list[int]) -> None:
        """Forgets the tokens beyond these lengths, such as the padding of shorter prompts."""
        assert len(lengths) == len(self.lengths), "one length for each row"
        assert all(0 <= new <= old for new, old in zip(lengths, self.lengths)), (
            "a length can only become smaller"
        )
        self.lengths = list(lengths)

    def replace_row(self, row: int, other: "KVCache") -> None:
        """Replaces a row by the only row of another cache."""
        for mine, theirs in zip(self.keys + self.values, other.keys + other.values, strict=True):
            mine[row] = theirs[0]
        self.lengths[row] = other.lengths[0]

    def keep_rows(self, rows: list[int]) -> None:
        """Drops all rows but these."""
        assert len(rows) <= len(self.lengths), "rows are dropped, not added"
        self.lengths = [self.lengths[row] for row in rows]
        used = max(self.lengths, default=0)
        # In place, and only the used part: copying the whole capacity takes as long as several tokens.
        for tensors in (self.keys, self.values):
            for layer, held in enumerate(tensors):
                held[: len(rows), :, :used] = held[rows, :, :used]
                tensors[layer] = held[: len(rows)]

    def mask(self, count: int) -> Tensor | None:
        """Which of S keys each of the next `count` tokens may see: (B or 1, 1, count, S); None for all.

        In a ragged batch it also hides what lies between a shorter row's end and S.
        """
        if count == 1 and not self.ragged:
            return None
        positions = self.positions(count) if self.ragged else self.positions(count)[:1]
        places = torch.arange(max(self.lengths) + count, device=positions.device)
        return (places <= positions[:, :, None])[:, None]


class CausalSelfAttention(nn.Module):
    """Multi-head attention (Vaswani 2017), keys and values grouped (Ainslie 2023) if the config says so."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_heads, config.n_kv_heads, config.head_dim
        inner, inner_kv = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        modern = config.family == "modern"
        # One matrix for query, key and value: one large matmul is faster than three small ones. Without a
        # bias, it draws the same random numbers as three layers one after the other, as the course has them.
        self.qkv = nn.Linear(config.emb_dim, inner + 2 * inner_kv, bias=config.qkv_bias)
        self.out = nn.Linear(inner, config.emb_dim, bias=not modern)
        # Norms of queries and keys bound the attention scores, so that no head can saturate (Henry 2020).
        self.q_norm = RMSNorm(self.head_dim, eps=config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(self.head_dim, eps=config.norm_eps) if config.qk_norm else None
        # Dropout on attention weights is GPT-2's alone: Qwen3 and Llama train without it.
        self.dropout = Dropout(0.0 if modern else config.drop_rate)
        self.by_matmuls = False
        """Whether texts go through attention_by_matmuls; there is no cache then."""
        self.in_rows = False
        """Whether texts go through attention_in_rows; there is no cache and no gradient then."""

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, D), keys and values (B, G, T, D) of x, before any rotation."""
        heads = self.qkv(x).unflatten(-1, (-1, self.head_dim))  # (B, T, H + 2G, D)
        # Split first: the gradients of the three then meet in the order of the matmul, and are copied once.
        parts = heads.split((self.n_heads, self.n_kv_heads, self.n_kv_heads), dim=2)
        q, k, v = (part.transpose(1, 2) for part in parts)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        return q, k, v

    def forward(
        self,
        x: Tensor,
        *,
        rotation: tuple[Tensor, Tensor] | None,
        cache: KVCache | None,
        mask: Tensor | None,
        layer: int,
        first: int = 0,
    ) -> Tensor:
        """x (B, T, C) -> (B, T, C). With a cache, x has only the tokens that come after the cached ones.

        With `first`, which only attention_in_rows takes: (B, T - first, C), of the tokens from there on.
        """
        assert self.in_rows or not first
        q, k, v = self.split(x)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        # Under autocast the norms return float32, and the kernel needs one dtype.
        q, k = q.to(v.dtype), k.to(v.dtype)
        # Without cached tokens the mask is the plain triangle: the kernel then needs no mask tensor, and
        # skips the half of the scores that it hides.
        causal = cache is None or (mask is not None and max(cache.lengths) == 0)
        if cache is not None:
            k, v = cache.append(layer, k, v)
            q = q.to(k.dtype)
        if self.in_rows:
            mixed = attention_in_rows(q[:, :, first:], k, v)
        elif self.by_matmuls:
            mixed = attention_by_matmuls(q, k, v, dropout=self.dropout)
        elif cache is not None and cache.row_by_row:
            mixed = attention_row_by_row(q, k, v, cache.lengths)
        else:
            mixed = F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=None if causal else mask,
                dropout_p=self.dropout.rate if self.training else 0.0,
                is_causal=causal and x.shape[1] > 1,
                enable_gqa=self.n_kv_heads != self.n_heads,
            )
        return self.out(mixed.transpose(1, 2).flatten(2).to(x.dtype))


def rotation_table(
    config: GPTConfig, positions: Tensor, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines of the angles of positions (...), each (..., D): RoPE (Su 2021, 3.2.2).

    Pair i turns by position * theta^(-2i/D): from one radian a token to almost none. At least in float32:
    bfloat16 has 8 bits, so it cannot tell positions 256 and 257 apart. A rotation by an angle maps (x, y) to
    (x cos - y sin, y cos + x sin): the first half of the sines is negative.
    """
    dtype = torch.promote_types(dtype, torch.float32)
    pairs = torch.arange(0, config.head_dim, 2, device=positions.device, dtype=dtype)
    angles = positions[..., None].to(dtype) * config.rope_theta ** (-pairs / config.head_dim)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """x (B, heads, T, D) with each pair (i, i + D/2) turned by its position's angle, as Qwen and Llama do.

    Turning both q and k makes their dot product depend on the distance of two tokens, not on their positions.
    """
    cos, sin = rotation
    return x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin  # roll: each channel gets its partner
