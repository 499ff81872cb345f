"""A training comes in that fits in no layout; advice on what fits instead comes out."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

from lucidlm.model.config import GPTConfig
from lucidlm.training.gpus import GPU, GPUS
from lucidlm.training.layouts import LayoutFlags, layouts_for, planned_layout

MOST_GPUS = 4096
"""The advice names no more GPUs: such a training needs tensor parallelism too (docs/scale.md)."""
SHORTEST_CONTEXT = 64


def alternatives(model: GPTConfig, gpu: GPU, gpus: int, flags: LayoutFlags) -> str:
    """What fits instead: fewer flags; else, without any flag, more GPUs, larger ones or a shorter context."""
    names = {"--replicas": "replicas", "--shards": "shards"}
    given = [flag for flag, name in names.items() if getattr(flags, name) is not None]
    if flags.checkpointing is False:  # --checkpointing itself never has to go: with it, a layout needs less
        names["--no-checkpointing"] = "checkpointing"
        given.append("--no-checkpointing")
    for count in range(1, len(given) + 1):
        for left_out in itertools.combinations(given, count):
            kept = replace(flags, **{names[flag]: None for flag in left_out})
            if any(layout.windows for layout in layouts_for(model, gpu, gpus, kept)):
                return f"leave {_listed(left_out)} out"
    others = _other_hardware_or_context(model, gpu, gpus)
    if others is None:
        return "this needs a program with tensor parallelism (docs/scale.md names one)"
    return f"leave {_listed(given)} out, and {others}" if given else others


def _listed(flags: Sequence[str]) -> str:
    """As in "--replicas, --shards and --no-checkpointing"."""
    *first, last = flags
    return f"{', '.join(first)} and {last}" if first else last


def _other_hardware_or_context(model: GPTConfig, gpu: GPU, gpus: int) -> str | None:
    """The fewest GPUs, the smallest larger GPU and the longest context that fit; None where none does."""

    def fits(model: GPTConfig, kind: GPU, count: int) -> bool:
        # No layout needs less memory on a GPU than this one.
        return planned_layout(model, kind, replicas=1, shards=count, checkpointing=True).windows > 0

    ways = []
    more = (2**power for power in range(13) if gpus < 2**power <= MOST_GPUS)
    if (count := next((each for each in more if fits(model, gpu, each)), None)) is not None:
        ways.append(f"--gpus {count}")
    larger = [kind for kind in GPUS.values() if kind.gigabytes > gpu.gigabytes and fits(model, kind, gpus)]
    if larger:
        ways.append(f"--gpu {min(larger, key=lambda kind: kind.gigabytes).name}")
    context = model.context_length // 2
    while context >= SHORTEST_CONTEXT and not fits(model.changed(context_length=context), gpu, gpus):
        context //= 2
    if context >= SHORTEST_CONTEXT:
        ways.append(f"--context-length {context}")
    return f"{' or '.join(ways)} fits" if ways else None
