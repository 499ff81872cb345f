"""A training under way in; its best weights and a checkpoint on the disk out, or the reason why not.

A save that fails costs no training: what was saved before stands, the reason is told once, and the next save
tries again.
"""

import time
from dataclasses import asdict

from torch import Tensor

from lucidlm.errors import RunError
from lucidlm.runs.checkpoints import save_checkpoint, sweep
from lucidlm.runtime.memory import is_out_of_memory
from lucidlm.runtime.run_out import with_way_out
from lucidlm.training.optim import optimizer_tensors
from lucidlm.training.state import TrainingRun
from lucidlm.weights.huggingface import save_model, save_weights

SAVING_SHARE = 0.05
"""Checkpoints take at most this share of the time."""


def checkpoint_due(run: TrainingRun) -> bool:
    """Whether the next checkpoint is due: by the clock, and by how long the last one took."""
    since = time.perf_counter() - run.saved_at
    return since >= max(run.config.checkpoint_seconds, run.pace.saving_s / SAVING_SHARE)


def save_first(run: TrainingRun) -> None:
    """Saves the run before its first step, so that it can be opened and resumed; RunError if that fails."""
    run.best_state = run.model.state_dict()
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
    try:
        sweep(run.folder)
        if run.best_state is not None:
            _save_best(run, run.best_state)
            run.best_state = None
        save_checkpoint(
            run.folder,
            run.step,
            save_model=lambda folder: save_model(run.model, run.corpus.tokenizer, folder, origin=run.origin),
            optimizer=optimizer_tensors(run.model, run.optimizers),
            state={
                "tokens": run.tokens,
                "validations": [asdict(each) for each in run.validations],
                "validation_pending": run.validation_pending,
            },
            id=run.id,
        )
        run.saved = _state_of(run)
    except (OSError, MemoryError, RuntimeError) as error:
        if not isinstance(error, OSError) and not is_out_of_memory(error):
            raise
        return with_way_out(error)
    finally:
        run.saved_at = time.perf_counter()
        run.pace.saving_s = run.saved_at - started
    return None


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
