"""The folder of a run in, the run as its last whole checkpoint left it out."""

import contextlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lucidlm.errors import ConfigError, RunError, WeightsError
from lucidlm.model.gpt import GPT
from lucidlm.runs.checkpoints import Checkpoint, last_checkpoint, shards_of, sweep
from lucidlm.runs.data import corpus_of_run
from lucidlm.runs.folder import bring_back
from lucidlm.runs.history import lowest, read_history
from lucidlm.runs.metrics import forget_after
from lucidlm.runs.run_toml import fault_of_settings, read_settings
from lucidlm.runs.settings import Plan
from lucidlm.runtime.distributed import ALONE, World
from lucidlm.runtime.locks import lock
from lucidlm.runtime.places import check_file_place
from lucidlm.runtime.progress import Progress
from lucidlm.training.follow import agree_on_best, lead, take_up
from lucidlm.training.footprint import check_fits
from lucidlm.training.pace import Pace
from lucidlm.training.setup import apply, assemble, settle, with_prefix
from lucidlm.training.spread import arranged
from lucidlm.training.state import TrainingRun
from lucidlm.training.tracking import check_trackers
from lucidlm.weights.hf_config import read_config
from lucidlm.weights.huggingface import load_model, unfilled
from lucidlm.weights.tensor_files import find_tensors
from lucidlm.weights.whole import MODEL_FILES, SETTINGS, Whole, weights_of, whole_of


def resume_run(
    out: str | None, stack: contextlib.ExitStack, progress: Progress, *, world: World = ALONE
) -> TrainingRun:
    """The run in the folder `out`, whose run.toml has everything else; `stack` lets go of the folder.

    Of several processes the first calls this, the others `follow_run`.
    """
    folder = _folder_of(out)
    stack.enter_context(lock(folder))
    sweep(folder)
    whole = _whole_of_run(folder)
    config, plan = read_settings(folder)
    if plan is None:
        raise RunError(f"{folder / SETTINGS} has no plan: the run never began; train again with --overwrite")
    check_trackers(config)
    config = replace(config, out=str(folder))
    id = whole.run if whole is not None else ""
    checkpoint = last_checkpoint(folder, id=id)
    for note in (*checkpoint.notes, *read_history(folder).remarks):
        progress.note(note)
    device, _ = settle(config)
    apply(plan)
    corpus = corpus_of_run(folder)
    world.shards = arranged(world, plan.model, device)[1]
    check_fits(config, plan, device, resumed=True, shards=world.shards)
    world.rows(plan.batch_size)
    plan = with_prefix(plan, corpus)  # run.toml of former versions lacks the field
    model = _model_of(checkpoint, plan)
    lead(world, folder, checkpoint)
    run = assemble(
        config, plan, corpus, model, id=id, pace=Pace(), progress=progress, world=world, device=device
    )
    take_up(run, checkpoint)
    if fault := fault_of_settings(folder, whole):
        raise RunError(
            f"{fault}; restore it, or begin a new run with it: "
            f"lucidlm train --config {folder / SETTINGS} --out NEW"
        )
    # Nothing is written before all is known to fit together.
    forget_after(folder, checkpoint.step, validated={each.step for each in run.validations})
    run.metrics.count()
    agree_on_best(run, lambda: _best_in(run, whole, progress))
    progress.note(f"resuming {folder} at step {run.step:,} of {plan.steps:,}")
    return run


def _folder_of(out: str | None) -> Path:
    """The folder of a run that can be resumed; ConfigError or RunError where `out` is none."""
    if not out:
        raise ConfigError("--resume needs --out RUN: the folder of the run to go on with")
    folder = Path(out)
    if folder.name in ("", ".."):  # the current folder or one above it: a run has a name
        folder = folder.resolve()
    bring_back(folder)
    if not (folder / SETTINGS).exists():
        raise RunError(
            f"{folder} holds no run: {SETTINGS} is not there; lucidlm runs lists the runs below a folder"
        )
    check_file_place(folder / SETTINGS, "--out")
    return folder


def _whole_of_run(folder: Path) -> Whole | None:
    """The manifest of a run whose model's files are as they were, or WeightsError."""
    if (whole := whole_of(folder)) is not None:
        for name in MODEL_FILES:
            whole.check(name)
    return whole


def _model_of(checkpoint: Checkpoint, plan: Plan) -> GPT:
    """The weights of a checkpoint, or room for those that files divide; RunError for another shape's."""
    divided = shards_of(checkpoint.folder) is not None
    model = unfilled(read_config(checkpoint.folder)) if divided else load_model(checkpoint.folder)
    if model.config != plan.model:
        raise RunError(
            f"{checkpoint.folder}: its model is {model.config}, run.toml says {plan.model}; "
            "restore the run.toml of this run"
        )
    return model


def _best_in(run: TrainingRun, whole: Whole | None, progress: Progress) -> dict[str, Any]:
    """Whether the best weights are in the folder, whole, and their losses."""
    try:
        if whole is not None:
            weights_of(whole)
            kept = read_history(run.folder).kept
        else:
            find_tensors(run.folder)
            kept = lowest(run.validations)
    except WeightsError as error:
        progress.note(f"{error.fault}: from now on the weights of step {run.step:,} are the best")
        return {"there": False}
    return {"there": True, "losses": None if kept is None else asdict(kept)}
