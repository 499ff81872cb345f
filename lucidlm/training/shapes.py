"""Bytes of text and seconds in, the shape of a model of the modern family that suits both out."""

import math
from collections.abc import Iterable
from typing import Literal

import torch

from lucidlm.model.config import GPTConfig

SHAPES = (
    (64, 3),
    (128, 4),
    (192, 6),
    (256, 8),
    (384, 8),
    (512, 10),
    (768, 12),
    (1024, 16),
    (1536, 24),
    (2048, 30),
)
"""Widths and layers that a plan chooses from. Heads have 64 channels: vLLM and llama.cpp take such runs."""
TEXT_POWER, TIME_POWER = 0.45, 0.42
"""Block weights grow with the bytes of text and with the operations to these powers.

Fitted to the best of several runs of three minutes on two cores (docs/plan.md) and, at the other end, to
Chinchilla's models (Hoffmann 2022, table A3).
"""
WEIGHTS_AT_1_MB, FLOPS_AT_1_MB = 2.6e6, 8e13
"""The point through which both lines go: the best model for 1 MB of text, and the operations that it needs.

With a quarter of them, the next smaller shape is far better (docs/plan.md).
"""
TOLERANCE = 1.15
"""The next larger shape is taken where it is this close: the best size is a flat minimum."""
FLOPS_OF_A_CORE = (("amx_bf16", 4.5e11), ("avx512_bf16", 3e11), ("avx512_f", 1.2e11))
"""Operations a second of small matmuls on one core, in the faster dtype, by the best instructions it has."""
FLOPS_OF_ANOTHER_CORE = 6e10
CORES_POWER = 0.75
"""More cores gain less each: a small model's layers are too short to be shared by many."""
CPU_SHARE, GPU_SHARE = 0.3, 0.35
"""Of the speed of a lone matmul, what a small model's training reaches.

On two cores with AVX-512 and bfloat16, steps of 128 x 4 reached 0.25 of FLOPS_OF_A_CORE and those of 192 x 6
0.29 (docs/numbers.md). On a GPU half of a step is spent outside of matmuls, and the rest is the first steps,
validations and the end.
"""


def modern_shape(width: int, layers: int, vocab_size: int) -> GPTConfig:
    """One of SHAPES as a model of the modern family."""
    large = width >= 512
    return GPTConfig(
        family="modern",
        vocab_size=vocab_size,
        context_length=256 if width <= 256 else 512 if width < 768 else 1024,
        emb_dim=width,
        n_layers=layers,
        n_heads=width // 64,
        n_kv_heads=width // (128 if large else 64),
        head_dim=64,
        tied_head=large and vocab_size > 8 * width,
    )


def shape_for(
    train_bytes: int, vocab_size: int, *, flops: float | None
) -> tuple[GPTConfig, Literal["text", "time"]]:
    """The largest of SHAPES for this much text and this many operations, and which of them limits its size.

    `flops` are the operations that there is time for; None: any number.

    >>> shape, limit = shape_for(1_000_000, 257, flops=None)
    >>> shape.emb_dim, shape.n_layers, limit
    (192, 6, 'text')
    """
    by_text = WEIGHTS_AT_1_MB * (train_bytes / 1e6) ** TEXT_POWER
    by_time = math.inf if flops is None else WEIGHTS_AT_1_MB * (flops / FLOPS_AT_1_MB) ** TIME_POWER
    most = TOLERANCE * min(by_text, by_time)
    shapes = [modern_shape(width, layers, vocab_size) for width, layers in SHAPES]
    fitting = [shape for shape in shapes if block_weights(shape) <= most]
    return (fitting or shapes)[-1 if fitting else 0], "text" if by_text <= by_time else "time"


def block_weights(shape: GPTConfig) -> int:
    """Weights of the blocks' matrices: without embeddings and head, whose size the vocabulary decides."""
    return shape.matmul_parameters - shape.vocab_size * shape.emb_dim


def trainable_flops(kind: str, flops_per_s: float, seconds: float) -> float:
    """Operations of a training in this time on a "cpu" or a GPU with this speed of a lone matmul."""
    return (CPU_SHARE if kind == "cpu" else GPU_SHARE) * flops_per_s * seconds


def cpu_flops_per_s(cores: int, instructions: Iterable[str] | None = None) -> float:
    """Operations a second of small matmuls on this many cores, from their instructions: nothing is timed.

    The same text and time must get the same shape on one machine. A matmul that was timed was up to four
    times as fast in one minute as in the next, as other programs, or other machines on the same processor,
    ran beside it; two shapes are only a factor of three apart. `instructions`: by default those of this CPU.

    >>> cpu_flops_per_s(1, {"avx2", "avx512_f"})
    120000000000.0
    """
    if instructions is None:
        instructions = {name for name, has in torch.cpu.get_capabilities().items() if has is True}
    known = set(instructions)
    each = next((flops for name, flops in FLOPS_OF_A_CORE if name in known), FLOPS_OF_ANOTHER_CORE)
    return each * cores**CORES_POWER
