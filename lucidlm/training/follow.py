"""The run of the first process comes in; the same run on the other processes of torchrun comes out."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lucidlm.runs.checkpoints import OPTIMIZER, Checkpoint, shards_of
from lucidlm.runs.data import corpus_of_run
from lucidlm.runs.history import Validation
from lucidlm.runs.records import record_of
from lucidlm.runs.run_toml import read_settings
from lucidlm.runtime.distributed import World, divided_as, is_divided
from lucidlm.runtime.progress import Progress
from lucidlm.training.optim import load_optimizer_tensors
from lucidlm.training.pace import Pace
from lucidlm.training.saving import save_first
from lucidlm.training.setup import apply, assemble, settle, with_prefix
from lucidlm.training.state import TrainingRun
from lucidlm.weights.huggingface import unfilled
from lucidlm.weights.shards import read_shards, shapes_in
from lucidlm.weights.tensor_files import read_tensors


def lead(world: World, folder: Path, checkpoint: Checkpoint | None = None) -> None:
    """Sends folder and checkpoint of a run to the other processes; run.toml must be written already."""
    if world.alone:
        return
    state = None
    if checkpoint is not None:
        validations = [asdict(each) for each in checkpoint.state["validations"]]
        state = {**checkpoint.state, "validations": validations}
    world.told(
        lambda: {
            "folder": str(folder),
            "shards": world.shards,
            "checkpoint": None if checkpoint is None else str(checkpoint.folder),
            "state": state,
        }
    )


def follow_run(world: World, progress: Progress) -> TrainingRun:
    """The run that the first process has started or resumed; waits for its message (`lead`)."""
    told = world.told(lambda: None)
    world.shards = told["shards"]
    folder = Path(told["folder"])
    config, plan = read_settings(folder)
    assert plan is not None, "the first process has written it"
    device, _ = settle(config)
    apply(plan)
    corpus = corpus_of_run(folder)
    plan = with_prefix(plan, corpus)
    run = assemble(
        config,
        plan,
        corpus,
        unfilled(plan.model, torch.device("cpu") if world.shards > 1 else device),
        id="",
        pace=Pace(),
        progress=progress,
        world=world,
        device=device,
    )
    if told["checkpoint"] is not None:
        state = told["state"]
        state["validations"] = [record_of(Validation, each) for each in state["validations"]]
        take_up(run, Checkpoint(Path(told["checkpoint"]), state["step"], state))
        agree_on_best(run, dict)
    else:
        save_first(run)
    return run


def take_up(run: TrainingRun, checkpoint: Checkpoint) -> None:
    """Loads the state of the optimizers, and sharded weights, of a checkpoint into a run.

    Each process loads its own part, whatever layout wrote the checkpoint. All processes must call this.
    """
    weights = dict(run.model.named_parameters())
    stored = read_tensors(checkpoint.folder / OPTIMIZER)
    for name, tensor in stored.items():
        weight = weights[name.rpartition("/")[0]]
        if tensor.shape == weight.shape and is_divided(weight):
            stored[name] = divided_as(tensor.to(run.device), weight)
    if (folder := shards_of(checkpoint.folder)) is not None:
        targets = {}
        for name, shape in shapes_in(folder).items():
            weight = weights[name.rpartition("/")[0] or name]
            assert shape == tuple(weight.shape)
            targets[name] = weight.detach() if name in weights else torch.empty_like(weight.detach())
        read_shards(folder, targets, run.world)
        stored |= {name: tensor for name, tensor in targets.items() if name not in weights}
    load_optimizer_tensors(run.model, run.optimizers, stored)
    run.validations = checkpoint.state["validations"]
    run.step, run.tokens = checkpoint.step, checkpoint.state["tokens"]
    run.validation_pending = checkpoint.state.get("validation_pending", False)
    run.saved = run.step, len(run.validations)


def agree_on_best(run: TrainingRun, find: Callable[[], dict[str, Any]]) -> None:
    """Sets the best weights: those that the first process finds in the folder, else the checkpoint's."""
    found = run.world.told(find)
    if found["there"]:
        losses = found["losses"]
        run.kept = None if losses is None else record_of(Validation, losses)
    else:
        run.keep_weights(next((each for each in run.validations if each.step == run.step), None))
    run.stopped_early = run.has_passed_its_best
