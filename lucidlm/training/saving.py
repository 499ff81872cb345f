"""A training under way in; its best weights and a checkpoint on the disk out, or the reason why not.

A save that fails costs no training: what was saved before stands, the reason is told once, and the next save
tries again.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from lucidlm.errors import RunError
from lucidlm.runs.checkpoints import save_checkpoint, sweep
from lucidlm.runtime.distributed import is_divided
from lucidlm.runtime.memory import is_out_of_memory
from lucidlm.runtime.run_out import with_way_out
from lucidlm.training.optim import optimizer_tensors
from lucidlm.training.state import TrainingRun
from lucidlm.weights.huggingface import describe_model, save_model, save_weights
from lucidlm.weights.shards import SHARDS, write_shards

SAVING_SHARE = 0.05
"""Checkpoints take at most this share of the time."""


def checkpoint_due(run: TrainingRun) -> bool:
    """Whether the next checkpoint is due: by the clock, and by how long the last one took."""
    since = time.perf_counter() - run.saved_at
    return since >= max(run.config.checkpoint_seconds, run.pace.saving_s / SAVING_SHARE)


def save_first(run: TrainingRun) -> None:
    """Saves the run before its first step, so that it can be opened and resumed; RunError if that fails."""
    run.best_state = run.whole_state()
    if (reason := _try(run)) is not None:
        raise RunError(
            f"{run.folder}: the first checkpoint cannot be written ({reason}), so nothing was trained; "
            "choose another --out, or run this again then"
        )


def save(run: TrainingRun) -> tuple[str, ...]:
    """Notes for a person, after saving the best weights and a checkpoint of this step if they are not saved.

    A reason why that fails is told when it is new. `run.unsaved` has it until a save succeeds.
    """
    if run.saved == _state_of(run) and run.best_state is None:
        return ()
    before, run.unsaved = run.unsaved, _try(run)
    if run.unsaved is None:
        return () if before is None else (f"saved again, at step {run.step:,}",)
    if before is not None and _kind(before) == _kind(run.unsaved):
        return ()
    return (
        f"no checkpoint at step {run.step:,}: {run.unsaved}; training goes on, and each save tries again "
        f"(the last checkpoint is of step {run.saved[0]:,})",
    )


def _try(run: TrainingRun) -> str | None:
    """None, or the reason why a save failed, with a path. What it wrote is then deleted, now or later."""
    started = time.perf_counter()
    optimizer = optimizer_tensors(run.model, run.optimizers)
    divided = {name: tensor for name, tensor in optimizer.items() if is_divided(tensor)}
    if run.divided:
        divided |= {name: weight.detach() for name, weight in run.model.named_parameters()}
    whole = {name: each for name, each in optimizer.items() if name not in divided}
    try:
        if divided:
            _write_together(run, whole, divided)
        elif run.world.first:
            _write(run, whole)
        run.best_state = None
        run.saved = _state_of(run)
    except (OSError, MemoryError, RuntimeError) as error:
        if not isinstance(error, OSError) and not is_out_of_memory(error):
            raise
        return with_way_out(error)
    finally:
        run.saved_at = time.perf_counter()
        run.pace.saving_s = run.saved_at - started
    return None


def _write(
    run: TrainingRun, optimizer: dict[str, Tensor], parts: Callable[[Path], None] | None = None
) -> None:
    """Writes the best weights, where they are new, and a checkpoint of this step.

    Its weights are written by `parts`, where they are divided among processes.
    """
    sweep(run.folder)
    if run.best_state is not None:
        _save_best(run, run.best_state)

    def save(folder: Path) -> None:
        if parts is None:
            save_model(run.model, run.corpus.tokenizer, folder, origin=run.origin)
        else:
            describe_model(run.model.config, run.corpus.tokenizer, folder)
            parts(folder)

    save_checkpoint(
        run.folder,
        run.step,
        save_model=save,
        optimizer=optimizer,
        state={
            "tokens": run.tokens,
            "validations": [asdict(each) for each in run.validations],
            "validation_pending": run.validation_pending,
        },
        id=run.id,
    )


def _write_together(run: TrainingRun, whole: dict[str, Tensor], divided: dict[str, Tensor]) -> None:
    """Writes best weights and checkpoint, of which each process writes its part of what is divided.

    The first process says where, or why it cannot, and at the end how it went: where one process has failed,
    all raise OSError, and no checkpoint is there.
    """
    world = run.world
    if not world.first:
        told = world.told(dict)
        if told["folder"] is not None:
            with contextlib.suppress(OSError):  # the first process gets the same error, and says so
                write_shards(Path(told["folder"]) / SHARDS, divided, world)
            told = world.told(dict)
        if told["reason"] is not None:
            raise OSError(told["reason"])
        return
    outcome: dict[str, str | None] = {"folder": None, "reason": None}

    def parts(folder: Path) -> None:
        outcome["folder"] = str(folder)
        world.told(lambda: outcome)
        write_shards(folder / SHARDS, divided, world)

    try:
        _write(run, whole, parts)
    except Exception as error:
        outcome["reason"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        world.told(lambda: outcome)


def _save_best(run: TrainingRun, state: dict[str, Tensor]) -> None:
    """Writes the best weights into the run's folder, with their step and losses in their header."""
    if run.id:  # what stands beside them was written when the run began
        save_weights(run.model, run.folder, state=state, origin=run.best_origin)
        return
    save_model(run.model, run.corpus.tokenizer, run.folder, state=state, origin=run.best_origin)


def _state_of(run: TrainingRun) -> tuple[int, int]:
    """Step and number of validations: they differ between any two states of a run."""
    return run.step, len(run.validations)


def _kind(reason: str) -> str:
    """The reason without its path, which has the step in its name."""
    return reason.rpartition(": ")[2]
