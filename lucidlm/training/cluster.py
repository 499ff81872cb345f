"""GPUs, a size and an amount of tokens come in; memory of each GPU, time and loss of the training come out.

Nothing is measured: memory by footprint.py, speed by the rule of gpus.py, the loss by Hoffmann 2022.
"""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lucidlm.errors import ConfigError
from lucidlm.model.config import GPTConfig
from lucidlm.model.presets import PRESETS, preset
from lucidlm.runtime.ranks import Layout as Asked
from lucidlm.runtime.wording import duration, plural
from lucidlm.training.footprint import GPUMemory, memory_on_a_gpu
from lucidlm.training.gpus import GPU, GPUS, gpu_named, mfu, seconds_per_token
from lucidlm.training.spread import STATE_BYTES, STATE_SHARE

IRREDUCIBLE, BY_SIZE, SIZE_POWER, BY_TOKENS, TOKENS_POWER = 1.69, 406.4, 0.34, 410.7, 0.28
"""Loss = 1.69 + 406.4 / N^0.34 + 410.7 / D^0.28 of N weights after D new tokens (Hoffmann 2022, eq. 10)."""
SMALLEST_PREDICTED = 44_000_000
BEST_TOKENS = 20
"""Tokens for each weight where more of either would be as good (Hoffmann 2022, table 3)."""
SMALLEST = 150_000
NEAR = 0.1
"""A preset whose size differs by less is taken as it is."""
WIDE, WIDE_RATIO = 4096, 128.0
"""From this width on a model has a layer for each 128 channels (Brown 2020, table 2.1, and Llama)."""
AMOUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
LARGEST_GPUS = 2**16
MOST_GPUS = 4096
"""Of an advice: more would be a program's work that cuts matrices too (docs/scale.md)."""


def amount(flag: str, text: str) -> int:
    """A number such as 124m, 7b or 1.5T; ConfigError says what it looks like.

    >>> amount("--params", "1.5b")
    1500000000
    """
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)([kmbt]?)", text.strip().replace("_", ""), re.IGNORECASE)
    value = round(float(found[1]) * AMOUNTS[found[2].lower()]) if found else 0
    if not 1 <= value <= 10**18:
        raise ConfigError(f"{flag} {text}: give a number of at least 1, as in 124m, 7b or 140_000_000_000")
    return value


def shape_of(params: int) -> GPTConfig:
    """The shape of the modern family with about this many weights: a preset, or a shape with the same proportions.

    Heads of 64, keys and values for half of them, a tied head, GPT-2's tokens: as the large presets have it.
    Between and beyond the presets, the width is the one whose ratio to the layers suits it.

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
    """Widths that a GPU's matmuls like, the coarser the larger they are."""
    return [*range(64, 1024, 64), *range(1024, 2048, 128), *range(2048, 32_769, 512)]


def _filled(width: int, params: int, ladder: list[GPTConfig]) -> GPTConfig | None:
    """The model of this width whose number of layers comes nearest to so many weights, if there is one."""
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
    """Channels for each layer: those of the next narrower preset, then up to WIDE_RATIO at WIDE."""
    narrower = [shape for shape in ladder if shape.emb_dim <= width] or ladder[:1]
    below = narrower[-1]
    if below is not ladder[-1]:
        return _ratio(below)
    way = min(1.0, math.log(width / below.emb_dim) / math.log(WIDE / below.emb_dim))
    return _ratio(below) ** (1 - way) * WIDE_RATIO**way


@dataclass(frozen=True, slots=True)
class Layout:
    """A way to lay a training out over GPUs, and what one of them holds then."""

    replicas: int
    shards: int
    checkpointing: bool
    memory: GPUMemory
    """With one window at once."""
    windows: int
    """The most windows at once that fit; 0 where not even one does."""

    @property
    def flags(self) -> str:
        """The flags of `train` that give this layout."""
        more = " --checkpointing" if self.checkpointing else ""
        return f"--replicas {self.replicas} --shards {self.shards}{more}"

    @property
    def name(self) -> str:
        """As people call it."""
        kind = "one GPU" if self.replicas == self.shards == 1 else "DDP" if self.shards == 1 else "FSDP2"
        return kind + (", checkpointing" if self.checkpointing else "")


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """A training on many GPUs: what each holds, how long it takes, and how good the model should be."""

    model: GPTConfig
    gpu: GPU
    gpus: int
    tokens: int
    layouts: tuple[Layout, ...]
    chosen: Layout | None
    """The first that fits; None where none does."""
    mfu: float
    """Share of the peak, as asked for or by the rule of gpus.py for this trainer."""
    fused_mfu: float | None
    """The same for programs with fused kernels; None where the share was asked for."""
    way_out: str | None
    """What fits instead; None where a layout fits."""

    @property
    def seconds(self) -> float:
        """Time of the whole training."""
        return self.model.flops_per_token() * self.tokens / (self.mfu * self.gpu.flops_per_s * self.gpus)

    @property
    def gpu_hours(self) -> float:
        """Hours of all GPUs together."""
        return self.seconds * self.gpus / 3600

    @property
    def tokens_per_s(self) -> float:
        """Of one GPU."""
        return self.tokens / self.seconds / self.gpus

    @property
    def tokens_per_parameter(self) -> float:
        """About 20 are best for a model of this size; more, for one that is used a lot."""
        return self.tokens / self.model.n_parameters

    @property
    def loss_nats(self) -> float | None:
        """The loss that Hoffmann 2022 predict, of their text in their tokens; None for smaller models."""
        if self.model.n_parameters < SMALLEST_PREDICTED:
            return None
        return chinchilla_loss(self.model.n_parameters, self.tokens)


def chinchilla_loss(params: int, tokens: int) -> float:
    """Nats per token of a model of so many weights after so many tokens.

    >>> round(chinchilla_loss(70_000_000_000, 1_400_000_000_000), 2)
    1.94
    """
    return IRREDUCIBLE + BY_SIZE / params**SIZE_POWER + BY_TOKENS / tokens**TOKENS_POWER


def plan_cluster(
    *,
    gpus: int,
    gpu: str = "h100",
    params: str | None = None,
    preset_name: str | None = None,
    tokens: str | None = None,
    context_length: int | None = None,
    replicas: int | None = None,
    shards: int | None = None,
    checkpointing: bool | None = None,
    share: float | None = None,
) -> ClusterPlan:
    """The plan; ConfigError where what was asked for contradicts itself. `share`: the MFU, if it is known."""
    if not 1 <= gpus <= LARGEST_GPUS:
        raise ConfigError(f"--gpus {gpus}: give a number from 1 to {LARGEST_GPUS:,}")
    if share is not None and not 0 < share <= 1:
        raise ConfigError(f"--mfu {share:g}: it is a share of the peak; give a number above 0, at most 1")
    kind = gpu_named(gpu)
    model = _model(params, preset_name, context_length)
    count = BEST_TOKENS * model.n_parameters if tokens is None else amount("--tokens", tokens)
    usual = _usual(model, kind, gpus, replicas, shards)
    layouts = _layouts(model, kind, gpus, replicas=replicas, shards=shards, checkpointing=checkpointing)
    fitting = [layout for layout in layouts if layout.windows]
    chosen = next((each for each in fitting if (each.replicas, each.shards) == usual), None)
    chosen = chosen or next(iter(fitting), None)
    again = (chosen or layouts[-1]).checkpointing
    ruled = {
        program: mfu(model, kind, seconds_per_token(model, kind, program=program, checkpointing=again))
        for program in ("lucidlm", "fused")
    }
    return ClusterPlan(
        model=model,
        gpu=kind,
        gpus=gpus,
        tokens=count,
        layouts=layouts,
        chosen=chosen,
        mfu=ruled["lucidlm"] if share is None else share,
        fused_mfu=ruled["fused"] if share is None else None,
        way_out=None
        if chosen is not None
        else _way_out(model, kind, gpus, replicas=replicas, shards=shards, checkpointing=checkpointing),
    )


def _model(params: str | None, preset_name: str | None, context_length: int | None) -> GPTConfig:
    if (params is None) == (preset_name is None):
        raise ConfigError("--gpus needs the size of the model: give either --params, as in 7b, or --preset")
    if preset_name is not None:
        shape = preset(preset_name).shape
    else:
        assert params is not None
        shape = shape_of(amount("--params", params))
    return shape if context_length is None else shape.changed(context_length=context_length)


def _usual(
    model: GPTConfig, gpu: GPU, gpus: int, replicas: int | None, shards: int | None
) -> tuple[int, int]:
    """Replicas and shards that are asked for, or that `train` takes by itself on these GPUs."""
    for flag, value in (("--replicas", replicas), ("--shards", shards)):
        if value is not None and (value < 1 or gpus % value):
            raise ConfigError(f"{flag} {value}: it does not divide --gpus {gpus}; give {_near(value, gpus)}")
    if replicas is not None and shards is not None and replicas * shards != gpus:
        raise ConfigError(
            f"--replicas {replicas} x --shards {shards} is not --gpus {gpus}; leave one of the two out"
        )
    fits = -(-STATE_BYTES * model.n_parameters // int(STATE_SHARE * 1e9 * gpu.gigabytes))
    return Asked(replicas=replicas, shards=shards).over(gpus, fits=fits)


def _near(value: int, count: int) -> str:
    """The divisors of `count` next to a value: as in "2 or 4"."""
    divisors = [each for each in range(1, count + 1) if count % each == 0]
    below = [each for each in divisors if each < value][-1:]
    above = [each for each in divisors if each > value][:1]
    return " or ".join(map(str, below + above))


def _layouts(
    model: GPTConfig,
    gpu: GPU,
    gpus: int,
    *,
    replicas: int | None = None,
    shards: int | None = None,
    checkpointing: bool | None = None,
) -> tuple[Layout, ...]:
    """The layouts to choose from: those with what is asked for; else DDP, train's own choice and FSDP2."""
    usual = _usual(model, gpu, gpus, replicas, shards)
    fixed = replicas is not None or shards is not None
    ways = [usual] if fixed else [*dict.fromkeys(((gpus, 1), usual, (1, gpus)))]
    switches = (False, True) if checkpointing is None else (checkpointing,)
    return tuple(
        _layout(model, gpu, replicas=r, shards=s, checkpointing=again) for again in switches for r, s in ways
    )


def _layout(model: GPTConfig, gpu: GPU, *, replicas: int, shards: int, checkpointing: bool) -> Layout:
    def memory(windows: int) -> GPUMemory:
        return memory_on_a_gpu(
            model,
            "adamw",
            tokens=windows * model.context_length,
            checkpointing=checkpointing,
            shards=shards,
            several=True,
        )

    # Bytes grow with the windows, so the most is found by doubling and halving.
    windows, step = 0, 1
    while memory(windows + step).bytes <= gpu.usable_bytes:
        windows, step = windows + step, 2 * step
    while step > 1:
        step //= 2
        if memory(windows + step).bytes <= gpu.usable_bytes:
            windows += step
    return Layout(replicas, shards, checkpointing, memory(1), windows)


def _way_out(
    model: GPTConfig,
    gpu: GPU,
    gpus: int,
    *,
    replicas: int | None,
    shards: int | None,
    checkpointing: bool | None,
) -> str:
    """What fits instead: fewer flags; else, without any, more GPUs, larger ones or a shorter context."""
    given = {
        "--replicas": {"replicas": replicas} if replicas is not None else {},
        "--shards": {"shards": shards} if shards is not None else {},
        # --checkpointing itself never has to go: with it, a layout needs less.
        "--no-checkpointing": {"checkpointing": False} if checkpointing is False else {},
    }
    flags = [flag for flag, asked in given.items() if asked]
    for count in range(1, len(flags) + 1):
        for left in itertools.combinations(flags, count):
            kept: dict[str, Any] = {}
            for flag in flags:
                kept |= {} if flag in left else given[flag]
            if any(layout.windows for layout in _layouts(model, gpu, gpus, **kept)):
                return f"leave {_listed(left)} out"
    others = _other_ways(model, gpu, gpus)
    if others is None:
        return "this needs a program that cuts matrices too: docs/scale.md names one"
    return f"leave {_listed(flags)} out, and {others}" if flags else others


def _listed(flags: Sequence[str]) -> str:
    """As in "--replicas, --shards and --no-checkpointing"."""
    *first, last = flags
    return f"{', '.join(first)} and {last}" if first else last


def _other_ways(model: GPTConfig, gpu: GPU, gpus: int) -> str | None:
    """The fewest GPUs, the smallest larger GPU and the longest context with which a layout fits."""

    def fits(model: GPTConfig, kind: GPU, count: int) -> bool:
        # No layout needs less on a GPU than this one.
        return _layout(model, kind, replicas=1, shards=count, checkpointing=True).windows > 0

    ways = []
    more = (2**power for power in range(13) if gpus < 2**power <= MOST_GPUS)
    if (count := next((each for each in more if fits(model, gpu, each)), None)) is not None:
        ways.append(f"--gpus {count}")
    larger = [kind for kind in GPUS.values() if kind.gigabytes > gpu.gigabytes and fits(model, kind, gpus)]
    if larger:
        ways.append(f"--gpu {min(larger, key=lambda kind: kind.gigabytes).name}")
    context = model.context_length // 2
    while context >= 64 and not fits(model.changed(context_length=context), gpu, gpus):
        context //= 2
    if context >= 64:
        ways.append(f"--context-length {context}")
    return f"{' or '.join(ways)} fits" if ways else None


def outline(plan: ClusterPlan) -> str:
    """The plan as a person reads it."""
    model, gpu = plan.model, plan.gpu
    lines = [
        f"model: {plural(model.n_parameters, 'parameter')}: {model.family}, "
        f"{plural(model.n_layers, 'layer')}, {model.emb_dim} wide, context length {model.context_length}",
        f"tokens: {plan.tokens:,}, {plan.tokens_per_parameter:.1f} for each parameter (about {BEST_TOKENS} "
        "are best for a given time)",
        _predicted(plan),
        f"memory: GB of one GPU, of {gpu.usable_bytes / 1e9:.1f} that a training can have on {gpu.name}; "
        f"AdamW, one window of {plural(model.context_length, 'token')} at once:",
        *_table(plan),
    ]
    if (chosen := plan.chosen) is None:
        return "\n".join([*lines, f"nothing fits: {plan.way_out}"])
    lines.append(
        f"layout: {chosen.flags}, up to {plural(chosen.windows, 'window')} at once on a GPU; a step "
        f"takes at least {plural(plan.gpus * model.context_length, 'token')}"
    )
    again = " with checkpointing" if chosen.checkpointing else ""
    if plan.fused_mfu is None:
        said = "--mfu"
    elif gpu.checked:
        said = "as this trainer was measured on one H100"
    else:
        said = f"constants of {gpu.constants_of}, not checked"
    lines.append(
        f"time: {_days(plan.seconds)} on {plan.gpus} {gpu.name}{again} "
        f"({plural(round(plan.gpu_hours), 'GPU hour')}), {plan.tokens_per_s:,.0f} tokens/s a GPU, MFU "
        f"{plan.mfu:.0%} ({said})"
    )
    if plan.fused_mfu is not None:
        lines.append(
            f"      {_days(plan.seconds * plan.mfu / plan.fused_mfu)} by a program with fused kernels, MFU "
            f"{plan.fused_mfu:.0%} (docs/scale.md: the rule, and how it meets published runs)"
        )
    return "\n".join(lines)


def _predicted(plan: ClusterPlan) -> str:
    if plan.loss_nats is None:
        return f"predicted: nothing, as Hoffmann 2022 fitted models from {SMALLEST_PREDICTED:,} parameters on"
    return f"predicted: a loss of {plan.loss_nats:.2f} nats per token (Hoffmann 2022: their text and tokens)"


def _table(plan: ClusterPlan) -> list[str]:
    """The layouts, a line each."""
    head = (
        "layout",
        "weights",
        "gradients",
        "moments",
        "gathered",
        "copies",
        "activations",
        "logits",
        "in all",
    )
    rows = [
        (
            f"{layout.name} ({layout.replicas} x {layout.shards})",
            *(f"{getattr(layout.memory, part) / 1e9:.1f}" for part in head[1:-1]),
            f"{layout.memory.bytes / 1e9:.1f}",
        )
        for layout in plan.layouts
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: tuple[str, ...]) -> str:
        first, *others = cells
        return "  " + "  ".join(
            [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(others, widths[1:], strict=True))]
        )

    fit = ["", *("fits" if layout.windows else "does not fit" for layout in plan.layouts)]
    return [f"{line(cells)}  {says}".rstrip() for cells, says in zip((head, *rows), fit, strict=True)]


def _days(seconds: float) -> str:
    """A time of minutes to years, with three digits."""
    for unit, size in (("years", 365.25 * 86400), ("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.{max(0, 2 - int(math.log10(seconds / size)))}f} {unit}"
    return duration(seconds)


def to_dict(plan: ClusterPlan) -> dict[str, object]:
    """The plan as numbers; None for speed and time where nothing fits."""
    fits = plan.chosen is not None
    return {
        "model": plan.model.to_dict(),
        "parameters": plan.model.n_parameters,
        "gpu": plan.gpu.name,
        "gpus": plan.gpus,
        "usable_bytes": plan.gpu.usable_bytes,
        "tokens": plan.tokens,
        "tokens_per_parameter": plan.tokens_per_parameter,
        "loss_nats": plan.loss_nats,
        "mfu": plan.mfu if fits else None,
        "fused_mfu": plan.fused_mfu if fits else None,
        "tokens_per_s": plan.tokens_per_s if fits else None,
        "time_s": plan.seconds if fits else None,
        "layouts": [_layout_dict(layout) for layout in plan.layouts],
        "chosen": None if plan.chosen is None else _layout_dict(plan.chosen),
        "way_out": plan.way_out,
    }


def _layout_dict(layout: Layout) -> dict[str, object]:
    memory = layout.memory
    parts = ("weights", "gradients", "moments", "gathered", "copies", "activations", "logits")
    return {
        "replicas": layout.replicas,
        "shards": layout.shards,
        "checkpointing": layout.checkpointing,
        "bytes": memory.bytes,
        **{f"{part}_bytes": getattr(memory, part) for part in parts},
        "windows": layout.windows,
    }
