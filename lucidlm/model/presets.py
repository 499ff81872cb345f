"""Presets: a name in, the shape of a model and how it is trained out. All data: nothing depends on a name."""

import dataclasses
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from lucidlm.errors import ConfigError
from lucidlm.model.config import GPTConfig
from lucidlm.runtime.ranges import Range, check_ranges

if TYPE_CHECKING:  # the plan's own recipe is complete: whoever reads one need not ask for None
    from typing import Any, TypeAlias

    Optimizer: TypeAlias = Literal["muon", "adamw"]
    Number: TypeAlias = float
    Whole: TypeAlias = int
    OPEN: Any = None
else:  # what the command line checks a value by
    Optimizer, Number, Whole = Literal["muon", "adamw"] | None, float | None, int | None
    OPEN = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How weights are moved. What is None is chosen by the plan, whose own recipe is complete."""

    name: Optimizer = OPEN
    """muon: Muon for the matrices of the blocks, AdamW for the rest. adamw: AdamW for all."""
    lr: Number = OPEN
    """Peak learning rate of AdamW."""
    matrix_lr: Number = OPEN
    """Peak learning rate of Muon."""
    weight_decay: Number = OPEN
    """Weight decay of all matrices and embeddings; biases and norms have none."""
    beta1: Number = OPEN
    """Decay of AdamW's mean of gradients."""
    beta2: Number = OPEN
    """Decay of AdamW's mean of squared gradients."""
    momentum: Number = OPEN
    """Decay of Muon's mean of gradients."""
    row_beta: Number = OPEN
    """Decay of the mean square by which Muon divides each row of its steps; 0: rows stay as they are."""
    warmup_steps: Whole = OPEN
    """Steps of warm-up: the learning rate rises from 0 to its peak."""
    decay_fraction: Number = OPEN
    """Part of the run, at its end, in which the learning rate falls to 0."""
    clip: Number = OPEN
    """Largest norm of all gradients together; 0: no limit."""

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES, table="optim.")

    def filled(self, defaults: "Recipe") -> "Recipe":
        """This recipe with the values of another one where its own are None.

        >>> Recipe(lr=0.01).filled(PLAIN).beta1
        0.9
        """
        return replace(defaults, **{name: getattr(self, name) for name in _NAMES if name not in self.missing})

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the fields that are None."""
        return tuple(name for name in _NAMES if getattr(self, name) is None)


_NAMES = tuple(field.name for field in dataclasses.fields(Recipe))
_RATE = Range(0, 1e6)
_RANGES = dict.fromkeys(("lr", "matrix_lr", "weight_decay"), _RATE) | {
    # Adam's correction for its first steps divides by 1 - beta.
    **{name: Range(0, 1, without_most=True) for name in ("beta1", "beta2", "momentum", "row_beta")},
    "warmup_steps": Range(0, 10**9),
    "decay_fraction": Range(0, 1),
    "clip": Range(0, 1e9),
}

PLAIN = Recipe(
    beta1=0.9, beta2=0.95, momentum=0.95, row_beta=0.0, warmup_steps=0, decay_fraction=0.0, clip=0.0
)  # fmt: skip
"""The usual betas (GPT-3: Brown 2020, appendix B), a constant learning rate, no clipping."""
COURSE = replace(PLAIN, name="adamw", lr=5e-4, matrix_lr=5e-4, weight_decay=0.1, beta2=0.999)
"""The course's training function: PyTorch's beta2, a constant learning rate, no clipping."""
GPT2 = replace(
    PLAIN, name="adamw", lr=6e-4, matrix_lr=6e-4, weight_decay=0.1,
    warmup_steps=100, decay_fraction=0.6, clip=1.0,
)  # fmt: skip
"""Learning rate of the smallest GPT-3 (Brown 2020, table 2.1), with a linear decay."""
MUON = replace(
    PLAIN, name="muon", lr=8e-3, matrix_lr=0.014, weight_decay=0.05, row_beta=0.95,
    warmup_steps=20, decay_fraction=0.6, clip=1.0,
)  # fmt: skip
"""For the modern family. Rates and decay: the runs in docs/plan.md, of 64 to 192 channels only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A model of known shape, and what a training of it uses unless the request says otherwise."""

    shape: GPTConfig
    recipe: Recipe
    tokenizer: Literal["gpt2", "bytes"] | None = None
    """None: a training chooses it by the amount of text; random weights have bytes."""
    batch_size: int | None = None
    """Windows of one step (None: by the size of the model)."""
    moving_windows: bool = True
    """Whether the borders of the windows move from epoch to epoch."""
    split: Literal["end"] | None = None
    """What is held out (None: as for a model without a preset)."""
    for_study: bool = False
    """The course's model: never suggested in place of one that does not fit into memory."""


def _gpt2(emb_dim: int, n_layers: int, n_heads: int) -> Preset:
    """One of the four published GPT-2 shapes (Radford 2019, table 2)."""
    shape = GPTConfig(
        context_length=1024,
        emb_dim=emb_dim,
        n_layers=n_layers,
        n_heads=n_heads,
        drop_rate=0.1,
        qkv_bias=True,
        tied_head=True,
    )
    return Preset(shape=shape, recipe=GPT2, tokenizer="gpt2")


def _modern(emb_dim: int, n_layers: int, *, n_kv_heads: int, large: bool) -> Preset:
    """One rung of the modern ladder: heads of 64; small ones have bytes, large ones GPT-2's tokens."""
    shape = GPTConfig(
        family="modern",
        vocab_size=50257 if large else 257,
        context_length=1024 if large else 256,
        emb_dim=emb_dim,
        n_layers=n_layers,
        n_heads=emb_dim // 64,
        n_kv_heads=n_kv_heads,
        head_dim=64,
        tied_head=large,
    )
    return Preset(shape=shape, recipe=MUON, tokenizer="gpt2" if large else None)


PRESETS: dict[str, Preset] = {
    "lecture": Preset(
        shape=GPTConfig(drop_rate=0.1, init="torch"),
        recipe=COURSE,
        tokenizer="gpt2",
        batch_size=2,
        moving_windows=False,
        split="end",
        for_study=True,
    ),
    "gpt2-124m": _gpt2(768, 12, 12),
    "gpt2-355m": _gpt2(1024, 24, 16),
    "gpt2-774m": _gpt2(1280, 36, 20),
    "gpt2-1558m": _gpt2(1600, 48, 25),
    "modern-1m": _modern(128, 4, n_kv_heads=2, large=False),
    "modern-3m": _modern(192, 6, n_kv_heads=3, large=False),
    "modern-10m": _modern(320, 8, n_kv_heads=5, large=False),
    "modern-50m": _modern(512, 8, n_kv_heads=4, large=True),
    "modern-120m": _modern(768, 12, n_kv_heads=6, large=True),
    "modern-350m": _modern(1024, 26, n_kv_heads=8, large=True),
    "modern-760m": _modern(1536, 26, n_kv_heads=12, large=True),
    "modern-1.5b": _modern(2048, 30, n_kv_heads=16, large=True),
}


def preset(name: str) -> Preset:
    """The preset of that name; ConfigError lists the names where there is none.

    >>> preset("gpt2-124m").shape.emb_dim
    768
    """
    if name not in PRESETS:
        raise ConfigError(f"--preset {name}: unknown; there are {', '.join(PRESETS)}")
    return PRESETS[name]
