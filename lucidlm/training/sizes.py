"""A number of parameters comes in; a shape of the modern family of about that size comes out."""

import math
import re

from lucidlm.errors import ConfigError
from lucidlm.model.config import GPTConfig
from lucidlm.model.presets import PRESETS

SMALLEST = 150_000
"""Parameters of the smallest size, about: a model of two layers needs as many."""
NEAR = 0.1
"""A preset is taken as it is where its size differs by less than this share."""
WIDE, WIDE_RATIO = 4096, 128.0
"""From this width on a model has a layer for each 128 channels (Brown 2020, table 2.1, and Llama)."""
AMOUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


def amount(flag: str, text: str) -> int:
    """The number that 124m, 7b or 1.5T stands for; ConfigError shows what such a number looks like.

    >>> amount("--params", "1.5b")
    1500000000
    """
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)([kmbt]?)", text.strip().replace("_", ""), re.IGNORECASE)
    value = round(float(found[1]) * AMOUNTS[found[2].lower()]) if found else 0
    if not 1 <= value <= 10**18:
        raise ConfigError(f"{flag} {text}: give a number of at least 1, as in 124m, 7b or 140_000_000_000")
    return value


def shape_of(params: int) -> GPTConfig:
    """The shape of the modern family with about this many parameters.

    A preset of nearly this size, else a shape with the same proportions as the large presets: heads of 64
    channels, half as many heads for keys and values, a tied head, GPT-2's tokens. Its width is the one whose
    ratio to the number of layers is nearest to the usual ratio.

    >>> shape = shape_of(7_000_000_000)
    >>> shape.emb_dim, shape.n_layers
    (4096, 37)
    """
    ladder = [each.shape for name, each in PRESETS.items() if name.startswith("modern")]
    nearest = min(ladder, key=lambda shape: abs(math.log(shape.n_parameters / params)))
    if abs(nearest.n_parameters / params - 1) < NEAR:
        return nearest
    shapes = [shape for width in _widths() if (shape := _filled(width, params, ladder)) is not None]
    if not shapes:
        raise ConfigError(
            f"--params {params}: too few for two layers; give at least {SMALLEST:,}, or --preset"
        )
    return min(shapes, key=lambda shape: abs(math.log(_ratio(shape) / _usual_ratio(shape.emb_dim, ladder))))


def _widths() -> list[int]:
    """Widths to choose from: multiples of powers of two, on which a GPU's matmuls are fast."""
    return [*range(64, 1024, 64), *range(1024, 2048, 128), *range(2048, 32_769, 512)]


def _filled(width: int, params: int, ladder: list[GPTConfig]) -> GPTConfig | None:
    """The shape of this width with nearly `params` parameters; None where it would have under two layers."""
    large = next(shape for shape in reversed(ladder) if shape.emb_dim <= width or shape is ladder[0])
    heads = width // 64
    one = large.changed(
        emb_dim=width, n_heads=heads, n_kv_heads=max(1, heads // 2) if heads % 2 == 0 else heads, head_dim=64,
        n_layers=1,
    )  # fmt: skip
    block = one.changed(n_layers=2).n_parameters - one.n_parameters
    layers = round((params - one.n_parameters) / block) + 1
    return one.changed(n_layers=layers) if layers >= 2 else None


def _ratio(shape: GPTConfig) -> float:
    return shape.emb_dim / shape.n_layers


def _usual_ratio(width: int, ladder: list[GPTConfig]) -> float:
    """Channels for each layer, as in the next narrower preset; above the widest, up to WIDE_RATIO at WIDE."""
    narrower = [shape for shape in ladder if shape.emb_dim <= width] or ladder[:1]
    below = narrower[-1]
    if below is not ladder[-1]:
        return _ratio(below)
    way = min(1.0, math.log(width / below.emb_dim) / math.log(WIDE / below.emb_dim))
    return _ratio(below) ** (1 - way) * WIDE_RATIO**way
