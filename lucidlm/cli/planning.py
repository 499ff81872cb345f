"""The verb plan: the plan of a training on this machine or on many GPUs; nothing is trained."""

import tempfile
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from lucidlm.cli.inputs import check_reading, refuse_models
from lucidlm.cli.options import DEFAULTS, app
from lucidlm.errors import LucidError
from lucidlm.runs.settings import TrainConfig
from lucidlm.runtime.console import show, show_json

ON_GPUS = ("preset", "context_length", "checkpointing")
"""Settings of a training that a plan for many GPUs uses."""


Unused = Parameter(parse=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest(TrainConfig):
    """A request for a training, without the settings that do not change its plan."""

    out: Annotated[str | None, Unused] = None
    sample_prompt: Annotated[str | None, Unused] = None
    checkpoint_seconds: Annotated[float, Unused] = DEFAULTS.checkpoint_seconds
    seed: Annotated[int, Unused] = DEFAULTS.seed
    tensorboard: Annotated[bool, Unused] = False
    track: Annotated[Literal["wandb", "trackio"] | None, Unused] = None


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """GPUs to plan a training for; this machine needs none."""

    gpus: int | None = None
    """Number of GPUs to plan a training for: memory, time and loss are computed (docs/scale.md)."""
    gpu: str | None = None
    """Type of the GPUs: h100, h200, a100-80g, a100-40g, b200, l40s, rtx4090 or rtx3090 (default: h100)."""
    params: str | None = None
    """Number of parameters of the model, as in 124m or 7b; or give --preset."""
    tokens: str | None = None
    """Number of tokens to train on, as in 140b (default: 20 for each parameter)."""
    replicas: int | None = None
    """Number of copies of the model, each on its own GPUs (default: as train chooses)."""
    shards: int | None = None
    """Number of GPUs that share the weights of one copy (default: as train chooses)."""
    mfu: float | None = None
    """Model FLOPs utilization, a share of the GPUs' peak (default: by the rule of docs/scale.md)."""


REQUEST, CLUSTER = PlanRequest(), Cluster()


@app.command
def plan(
    *texts: str,
    settings: Annotated[PlanRequest, Parameter(name="*", negative_iterable=())] = REQUEST,
    cluster: Cluster = CLUSTER,
    verbose: Annotated[bool, Parameter(name=["--verbose", "-v"], negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Show the plan of a training on this machine or, with --gpus, on many GPUs; nothing is trained.

    Parameters
    ----------
    texts
        Files, folders, patterns, URLs, - for standard input, or one prepared folder; none: the story.
    verbose
        Show every line of the plan: tokenizer, shape, optimizer, speed, memory.
    json
        Print the plan as JSON. Its key "plan" has the same content as [plan] in the run.toml of a run.
    """
    if cluster.gpus is not None:
        _refuse(texts, settings, verbose=verbose)
        _plan_gpus(cluster.gpus, cluster, settings, json=json)
        return
    if alone := _given(cluster, CLUSTER):
        raise LucidError(f"{alone[0]}: only a plan with --gpus uses it; give --gpus N too, or leave it out")
    _plan_here(texts, settings, verbose=verbose, json=json)


def _plan_here(texts: tuple[str, ...], settings: TrainConfig, *, verbose: bool, json: bool) -> None:
    from lucidlm.display import Display
    from lucidlm.training.preview import lines, preview, to_dict

    if texts:
        if settings.text:
            raise LucidError(f"--text {settings.text[0]}: the texts are given without it; leave it out")
        settings = replace(settings, text=texts)
        refuse_models(
            texts,
            "to plan a training from its weights: lucidlm plan TEXT --from {0}",
            prepared=len(texts) == 1,
        )
    check_reading(settings.reading, (*settings.text, *settings.val))
    with Display() as progress, tempfile.TemporaryDirectory(prefix="lucidlm-plan-") as folder:
        shown = preview(settings, Path(folder), progress)
        show_json(to_dict(shown)) if json else show("\n".join(lines(shown, settings, verbose=verbose)))


def _plan_gpus(gpus: int, cluster: Cluster, settings: TrainConfig, *, json: bool) -> None:
    from lucidlm.training.cluster import plan_cluster
    from lucidlm.training.cluster_outline import outline, to_dict

    planned = plan_cluster(
        gpus=gpus,
        gpu=cluster.gpu or "h100",
        params=cluster.params,
        preset_name=settings.preset,
        tokens=cluster.tokens,
        context_length=settings.context_length,
        replicas=cluster.replicas,
        shards=cluster.shards,
        checkpointing=settings.checkpointing,
        share=cluster.mfu,
    )
    show_json(to_dict(planned)) if json else show(outline(planned))


def _refuse(texts: tuple[str, ...], settings: TrainConfig, *, verbose: bool) -> None:
    """LucidError for a text or flag that a plan for many GPUs does not use."""
    given = [flag for flag in _given(settings, REQUEST) if flag not in map(_flag, ON_GPUS)]
    given += ["--verbose"] if verbose else []
    if texts or given:
        what = texts[0] if texts else given[0]
        raise LucidError(f"{what}: a plan with --gpus does not use it; leave it out")


def _given(values: TrainConfig | Cluster, defaults: TrainConfig | Cluster) -> list[str]:
    """The flags whose values differ from the defaults."""
    return [
        _flag(each.name)
        for each in fields(values)
        if getattr(values, each.name) != getattr(defaults, each.name)
    ]


def _flag(name: str) -> str:
    return "--" + name.strip("_").replace("_", "-")
