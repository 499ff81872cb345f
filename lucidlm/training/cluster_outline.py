"""A plan for many GPUs comes in; the lines that a person reads, or a record for JSON, come out."""

import math

from lucidlm.runtime.wording import duration, plural
from lucidlm.training.cluster import BEST_TOKENS, SMALLEST_PREDICTED, ClusterPlan
from lucidlm.training.layouts import PlannedLayout


def outline(plan: ClusterPlan) -> str:
    """The plan in lines for a person."""
    model, gpu = plan.model, plan.gpu
    lines = [
        f"model: {plural(model.n_parameters, 'parameter')}: {model.family}, "
        f"{plural(model.n_layers, 'layer')}, {model.emb_dim} wide, context length {model.context_length}",
        f"tokens: {plan.tokens:,}, {plan.tokens_per_parameter:.1f} for each parameter (about "
        f"{BEST_TOKENS} are optimal for a given amount of compute)",
        _predicted(plan),
        f"memory of one GPU in GB: {gpu.name} has {gpu.usable_bytes / 1e9:.1f} for a training; AdamW, "
        f"micro-batch of one window of {plural(model.context_length, 'token')}:",
        *_table(plan),
    ]
    if (chosen := plan.chosen) is None:
        return "\n".join([*lines, f"nothing fits: {plan.way_out}"])
    lines.append(
        f"layout: {chosen.flags}, micro-batch of up to {plural(chosen.windows, 'window')} on a GPU; "
        f"a step has at least {plural(plan.gpus * model.context_length, 'token')}"
    )
    again = " with checkpointing" if chosen.checkpointing else ""
    if plan.fused_mfu is None:
        basis = "--mfu"
    elif gpu.checked:
        basis = "as this trainer was measured on one GPU"
    else:
        basis = f"constants of {gpu.constants_of}, not checked"
    lines.append(
        f"time: {_days(plan.seconds)} on {plan.gpus} {gpu.name}{again} "
        f"({plural(round(plan.gpu_hours), 'GPU hour')}), {plan.tokens_per_s:,.0f} tokens/s a GPU, MFU "
        f"{plan.mfu:.0%} ({basis})"
    )
    if plan.fused_mfu is not None:
        lines.append(
            f"      {_days(plan.seconds * plan.mfu / plan.fused_mfu)} with a program that has fused kernels, "
            f"MFU {plan.fused_mfu:.0%} (docs/scale.md has the rule and its error on published runs)"
        )
    return "\n".join(lines)


def _predicted(plan: ClusterPlan) -> str:
    if plan.loss_nats is None:
        return (
            f"loss: not predicted, Hoffmann 2022 fitted models of at least {SMALLEST_PREDICTED:,} parameters"
        )
    return f"loss: {plan.loss_nats:.2f} nats per token predicted (Hoffmann 2022: their text and tokenizer)"


def _table(plan: ClusterPlan) -> list[str]:
    """The table of layouts: a header, then one line for each."""
    head = (
        "layout",
        "weights",
        "gradients",
        "moments",
        "gathered",
        "copies",
        "activations",
        "logits",
        "total",
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
    """A time in the largest unit of which there are two, with three digits."""
    for unit, size in (("years", 365.25 * 86400), ("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.{max(0, 2 - int(math.log10(seconds / size)))}f} {unit}"
    return duration(seconds)


def to_dict(plan: ClusterPlan) -> dict[str, object]:
    """The plan as a record for JSON; speed and time are None where nothing fits."""
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


def _layout_dict(layout: PlannedLayout) -> dict[str, object]:
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
