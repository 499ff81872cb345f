"""Textbook formulas in float64 NumPy, written for the eye: numbers in, the numbers that must come out.

B texts, T tokens, C channels, H heads, G heads of keys and values, D head size, V vocabulary.
"""

import math
from collections.abc import Mapping

import numpy as np

Weights = Mapping[str, np.ndarray]


def softmax(logits: np.ndarray) -> np.ndarray:
    """e^x / sum e^x over the last dimension."""
    logits = np.asarray(logits, np.float64)
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def log_sum_exp(row: np.ndarray) -> float:
    """ln sum e^x of one row; the terms are added by fsum, which does not round in between."""
    top = float(max(row))
    return top + math.log(math.fsum(math.exp(float(x) - top) for x in row))


def cross_entropy(logits: np.ndarray, targets: np.ndarray, *, ignored: int = -100) -> np.ndarray:
    """-ln of each target's probability: (..., V), (...) -> (...); 0 where the target is ignored."""
    rows, flat = (
        np.asarray(logits, np.float64).reshape(-1, np.shape(logits)[-1]),
        np.asarray(targets).reshape(-1),
    )
    losses = [0.0 if y == ignored else log_sum_exp(row) - row[y] for row, y in zip(rows, flat, strict=True)]
    return np.array(losses).reshape(np.shape(targets))


def binary_cross_entropy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-(y ln p + (1 - y) ln(1 - p)) with p = 1 / (1 + e^-x), number by number."""
    losses = []
    for x, y in zip(np.ravel(logits).astype(float), np.ravel(targets).astype(float), strict=True):
        ln_p, ln_not_p = -log_sum_exp([0.0, -x]), -log_sum_exp([0.0, x])
        losses.append(-(y * ln_p + (1 - y) * ln_not_p))
    return np.array(losses).reshape(np.shape(logits))


def linear_cross_entropy(
    hidden: np.ndarray, weight: np.ndarray, targets: np.ndarray, *, ignored: int = -100
) -> tuple[float, np.ndarray, np.ndarray]:
    """Sum of nats and its gradients: (N, C), (V, C), (N,) -> scalar, (N, C), (V, C).

    d loss / d logits = probabilities - one_hot(target), and 0 for a row that is ignored.
    """
    hidden, weight = np.asarray(hidden, np.float64), np.asarray(weight, np.float64)
    logits = hidden @ weight.T
    slope = softmax(logits) if len(logits) else logits
    for row, target in enumerate(targets):
        if target == ignored:
            slope[row] = 0.0
        else:
            slope[row, target] -= 1.0
    loss = math.fsum(cross_entropy(logits, targets, ignored=ignored))
    return loss, slope @ weight, slope.T @ hidden


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Causal attention, one query at a time: (B, H, T, D), keys and values (B, G, T, D) -> (B, H, T, D)."""
    batch, heads, length, size = q.shape
    shared_by = heads // k.shape[1]
    mixed = np.zeros(q.shape, np.float64)
    for b in range(batch):
        for h in range(heads):
            keys, values = k[b, h // shared_by], v[b, h // shared_by]
            for t in range(length):
                weights = softmax([q[b, h, t] @ keys[s] / math.sqrt(size) for s in range(t + 1)])
                mixed[b, h, t] = sum(weight * values[s] for s, weight in enumerate(weights))
    return mixed


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, *, eps: float) -> np.ndarray:
    """(x - mean) / sqrt(variance + eps), with the variance divided by n, then weight and bias."""
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * weight + bias


def rms_norm(x: np.ndarray, weight: np.ndarray, *, eps: float) -> np.ndarray:
    """x / sqrt(mean of squares + eps), then weight."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def swiglu(x: np.ndarray, gate: np.ndarray, inner: np.ndarray, out: np.ndarray) -> np.ndarray:
    """(silu(x gate^T) * x inner^T) out^T, silu(z) = z / (1 + e^-z)."""
    opened = x @ gate.T
    return (opened / (1 + np.exp(-opened)) * (x @ inner.T)) @ out.T


def turns(length: int, size: int, *, theta: float) -> np.ndarray:
    """RoPE's unit complex numbers e^(i t theta^(-2j/D)) for position t and pair j: (T, D/2)."""
    return np.array(
        [[np.exp(1j * t * theta ** (-2 * pair / size)) for pair in range(size // 2)] for t in range(length)]
    )


def rope(x: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """x (..., T, D) with channels j and j + D/2, taken as one complex number, times their turn."""
    half = x.shape[-1] // 2
    turned = (x[..., :half] + 1j * x[..., half:]) * turns
    return np.concatenate((turned.real, turned.imag), axis=-1)


def gpt2_logits(weights: Weights, ids: np.ndarray, *, n_heads: int, eps: float = 1e-5) -> np.ndarray:
    """GPT-2 (Radford 2019) from a state dict: ids (B, T) -> logits (B, T, V)."""
    w = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    x = w["token_embedding.weight"][ids] + w["position_embedding.weight"][: ids.shape[1]]
    for block in _blocks(w):
        normed = layer_norm(x, w[f"{block}attention_norm.weight"], w[f"{block}attention_norm.bias"], eps=eps)
        qkv = normed @ w[f"{block}attention.qkv.weight"].T + w.get(f"{block}attention.qkv.bias", 0.0)
        q, k, v = (_heads(part, n_heads) for part in np.split(qkv, 3, axis=-1))
        mixed = _join(attention(q, k, v))
        x = x + mixed @ w[f"{block}attention.out.weight"].T + w[f"{block}attention.out.bias"]
        normed = layer_norm(
            x, w[f"{block}feed_forward_norm.weight"], w[f"{block}feed_forward_norm.bias"], eps=eps
        )
        inner = gelu_tanh(
            normed @ w[f"{block}feed_forward.inner.weight"].T + w[f"{block}feed_forward.inner.bias"]
        )
        x = x + inner @ w[f"{block}feed_forward.out.weight"].T + w[f"{block}feed_forward.out.bias"]
    return layer_norm(x, w["final_norm.weight"], w["final_norm.bias"], eps=eps) @ w["head.weight"].T


def qwen3_logits(
    weights: Weights, ids: np.ndarray, turns: np.ndarray, *, n_heads: int, n_kv_heads: int, eps: float = 1e-6
) -> np.ndarray:
    """Qwen3 (Yang 2025) from a state dict: ids (B, T), turns (T, D/2) -> logits (B, T, V)."""
    w = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    x = w["token_embedding.weight"][ids]
    for block in _blocks(w):
        size = len(w[f"{block}attention.q_norm.weight"])
        qkv = rms_norm(x, w[f"{block}attention_norm.weight"], eps=eps) @ w[f"{block}attention.qkv.weight"].T
        q, k, v = np.split(qkv, [n_heads * size, (n_heads + n_kv_heads) * size], axis=-1)
        q = rms_norm(_heads(q, n_heads), w[f"{block}attention.q_norm.weight"], eps=eps)
        k = rms_norm(_heads(k, n_kv_heads), w[f"{block}attention.k_norm.weight"], eps=eps)
        mixed = attention(rope(q, turns), rope(k, turns), _heads(v, n_kv_heads))
        x = x + _join(mixed) @ w[f"{block}attention.out.weight"].T
        matrices = [w[f"{block}feed_forward.{name}.weight"] for name in ("gate", "inner", "out")]
        x = x + swiglu(rms_norm(x, w[f"{block}feed_forward_norm.weight"], eps=eps), *matrices)
    return rms_norm(x, w["final_norm.weight"], eps=eps) @ w["head.weight"].T


def _blocks(weights: Weights) -> list[str]:
    """The prefixes of the blocks' names, in order."""
    numbers = {int(name.split(".")[1]) for name in weights if name.startswith("blocks.")}
    return [f"blocks.{number}." for number in sorted(numbers)]


def _heads(x: np.ndarray, count: int) -> np.ndarray:
    """(B, T, heads x D) -> (B, heads, T, D)."""
    return np.stack(np.split(x, count, axis=-1), axis=1)


def _join(mixed: np.ndarray) -> np.ndarray:
    """(B, H, T, D) -> (B, T, H x D)."""
    return np.concatenate(list(np.moveaxis(mixed, 1, 0)), axis=-1)
