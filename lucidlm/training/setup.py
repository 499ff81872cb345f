"""A plan, a corpus and a model in, a run that can train out: what new and resumed runs have in common."""

import json
import os
import platform
from dataclasses import replace
from pathlib import Path

import torch

from lucidlm.model.gpt import GPT
from lucidlm.runs.metrics import Metrics
from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.runtime.device import choose_device, dtype_of
from lucidlm.runtime.distributed import World
from lucidlm.runtime.files import write_atomically
from lucidlm.runtime.probes import probe_matmul
from lucidlm.runtime.process import keep_freed_memory, set_float32, set_threads
from lucidlm.runtime.progress import Progress
from lucidlm.runtime.wording import plural
from lucidlm.text.corpus import Corpus
from lucidlm.text.windows import Windows
from lucidlm.training.optim import make_optimizers
from lucidlm.training.pace import Pace
from lucidlm.training.state import TrainingRun
from lucidlm.training.validation import choose_samples
from lucidlm.training.workers import cores_of, gradient_of

ENVIRONMENT = "env.json"


def settle(config: TrainConfig) -> tuple[torch.device, list[str]]:
    """The device; and what was chosen for this process, with the reason."""
    device = choose_device(config.device)
    threads = set_threads(config.threads)
    return device, [f"device: {device}", f"threads: {threads}", keep_freed_memory()]


def apply(plan: Plan) -> None:
    """Sets what a plan fixes for the whole process: other threads or kernels round sums differently."""
    set_threads(plan.threads, recorded=True)
    set_float32(plan.float32)


def layout_line(world: World) -> list[str]:
    """How the processes share the model, as a line for a person; none where there is one process."""
    if world.alone:
        return []
    replicas = world.size // world.shards
    return [
        f"processes: {world.size}, which share every batch; "
        + (f"{plural(replicas, 'replica')} of the model" if replicas > 1 else "one model")
        + (f", divided among {world.shards} shards" if world.shards > 1 else "")
    ]


def with_prefix(plan: Plan, corpus: Corpus) -> Plan:
    """The plan for a model that is trained with end-of-text before each document."""
    return replace(plan, model=plan.model.changed(document_prefix_id=corpus.tokenizer.end_of_text))


def assemble(
    config: TrainConfig,
    plan: Plan,
    corpus: Corpus,
    model: GPT,
    *,
    id: str,
    pace: Pace,
    progress: Progress,
    world: World,
    device: torch.device,
) -> TrainingRun:
    """The run in the folder config.out, before its first step, on all processes that train it.

    Their weights are those of the first one then; only there has `model` to have any.
    """
    assert config.out is not None
    if world.shards == 1:  # else each process moves its part alone
        model = model.to(device)
    model.train()
    gradient = gradient_of(model, plan, config=config, progress=progress, world=world, device=device)
    return TrainingRun(
        folder=Path(config.out),
        config=config,
        plan=plan,
        corpus=corpus,
        windows=Windows(corpus.train, plan.model.context_length, moving=plan.moving_windows),
        samples=choose_samples(corpus, tokens=plan.validation_tokens, prompt=config.sample_prompt),
        model=model,
        optimizers=make_optimizers(model, plan.optim, parts=max(1, plan.workers)),
        gradient=gradient,
        peak_flops_per_s=world.size * _peak(plan, device, threads=config.threads),
        metrics=Metrics(Path(config.out), progress=progress, muted=not world.first),
        pace=pace,
        id=id,
        world=world,
        device=device,
    )


def _peak(plan: Plan, device: torch.device, *, threads: int) -> float:
    """Operations a second of a matmul on the cores that compute a step: the peak in the formula of MFU."""
    before = torch.get_num_threads()
    set_threads(cores_of(plan, threads), recorded=True)
    try:
        return probe_matmul(device, dtype_of(plan.dtype)).flops_per_s
    finally:
        set_threads(before, recorded=True)


def write_environment(folder: Path, config: TrainConfig, corpus: Corpus, notes: list[str]) -> None:
    """Writes env.json: where and with what the run was made."""
    from lucidlm import __version__

    environment = {
        "lucidlm": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "processors": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "choices": notes,
        "seed": config.seed,
        "text_sha256": {name: entry["sha256"] for name, entry in corpus.manifest["files"].items()},
        "tokenizer_sha256": corpus.tokenizer.fingerprint(),
    }
    write_atomically(folder / ENVIRONMENT, json.dumps(environment, indent=1) + "\n")
