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
from lucidlm.training.snapshot import Snapshot, Writing
from lucidlm.training.state import TrainingRun
from lucidlm.weights.huggingface import describe_model, save_model, save_weights
from lucidlm.weights.shards import SHARDS, write_shards

SAVING_SHARE = 0.05
"""Checkpoints take at most this share of the time."""


def in_background(run: TrainingRun) -> bool:
    """Whether a save of this run is written while training goes on.

    On a CPU the writing would take time from the steps all the same; what is divided is written by all.
    """
    return run.world.first and run.device.type != "cpu" and not run.divided


def checkpoint_due(run: TrainingRun) -> bool:
    """Whether the next checkpoint is due: by the clock, and by how long the last one held training up."""
    if run.writing is not None:
        return False
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


def save(run: TrainingRun, *, now: bool = False) -> tuple[str, ...]:
    """Notes for a person, after saving the best weights and a checkpoint of this step if they are not saved.

    Perhaps they are only copied then, and written while training goes on (see `written`); with `now` they are
    on the disk. A reason why that fails is told when it is new. `run.unsaved` has it until a save succeeds.
    """
    notes = written(run, wait=True)
    if run.saved == _state_of(run) and run.best_state is None:
        return notes
    if in_background(run) and not now:
        started = time.perf_counter()
        snapshot = _snapshot(run, copied=True)
        run.writing = Writing(snapshot, lambda: _write(run, snapshot))
        run.best_state = None
        run.saved_at = time.perf_counter()
        run.pace.saving_s = run.saved_at - started
        return notes
    return (*notes, *_told(run, _try(run)))


def written(run: TrainingRun, *, wait: bool = False) -> tuple[str, ...]:
    """Notes for a person on a save in the background that has ended; `wait`: after its end."""
    writing = run.writing
    if writing is None or (writing.thread.is_alive() and not wait):
        return ()
    writing.thread.join()
    run.writing = None
    if writing.error is None:
        run.saved = writing.snapshot.saved
        return _told(run, None)
    if run.best_state is None:
        run.best_state = writing.snapshot.best
    return _told(run, _reason(writing.error))


def _told(run: TrainingRun, reason: str | None) -> tuple[str, ...]:
    """What a person is told of a save that has ended."""
    before, run.unsaved = run.unsaved, reason
    if run.unsaved is None:
        return () if before is None else (f"saved again, at step {run.saved[0]:,}",)
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
        snapshot = _snapshot(run, copied=False)
        divided = {name: tensor for name, tensor in snapshot.optimizer.items() if is_divided(tensor)}
        if run.divided:
            divided |= {name: weight.detach() for name, weight in run.model.named_parameters()}
        if divided:
            _write_together(run, snapshot, divided)
        elif run.world.first:
            _write(run, snapshot)
        run.best_state = None
        run.saved = snapshot.saved
    except (OSError, MemoryError, RuntimeError) as error:
        return _reason(error)
    finally:
        run.saved_at = time.perf_counter()
        run.pace.saving_s = run.saved_at - started
    return None


def _reason(error: BaseException) -> str:
    """Why a save failed, with the way out; another error than those of disk and memory is raised."""
    if isinstance(error, OSError | MemoryError | RuntimeError) and (
        isinstance(error, OSError) or is_out_of_memory(error)
    ):
        return with_way_out(error)
    raise error


def _snapshot(run: TrainingRun, *, copied: bool) -> Snapshot:
    """The state of a run; `copied`: so that the next step does not change it, in the memory of the CPU."""

    def kept(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if not copied:
            return tensors
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}

    return Snapshot(
        step=run.step,
        saved=_state_of(run),
        weights=kept(run.model.state_dict()),
        origin=run.origin,
        optimizer=kept(optimizer_tensors(run.model, run.optimizers)),
        state={
            "tokens": run.tokens,
            "validations": [asdict(each) for each in run.validations],
            "validation_pending": run.validation_pending,
        },
        best=run.best_state,
        best_origin=run.best_origin,
    )


def _write(run: TrainingRun, snapshot: Snapshot, parts: Callable[[Path], None] | None = None) -> None:
    """Writes the best weights, where they are new, and a checkpoint.

    Its weights are written by `parts`, where they are divided among processes.
    """
    sweep(run.folder)
    if snapshot.best is not None:
        _save_best(run, snapshot)

    def save(folder: Path) -> None:
        if parts is None:
            save_model(
                run.model, run.corpus.tokenizer, folder, state=snapshot.weights, origin=snapshot.origin
            )
        else:
            describe_model(run.model.config, run.corpus.tokenizer, folder)
            parts(folder)

    optimizer = {name: tensor for name, tensor in snapshot.optimizer.items() if not is_divided(tensor)}
    save_checkpoint(
        run.folder, snapshot.step, save_model=save, optimizer=optimizer, state=snapshot.state, id=run.id
    )


def _write_together(run: TrainingRun, snapshot: Snapshot, divided: dict[str, Tensor]) -> None:
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
        _write(run, snapshot, parts)
    except Exception as error:
        outcome["reason"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        world.told(lambda: outcome)


def _save_best(run: TrainingRun, snapshot: Snapshot) -> None:
    """Writes the best weights into the run's folder, with their step and losses in their header."""
    assert snapshot.best is not None
    best, origin = snapshot.best, snapshot.best_origin
    if run.id:  # what stands beside them was written when the run began
        save_weights(run.model, run.folder, state=best, origin=origin)
        return
    save_model(run.model, run.corpus.tokenizer, run.folder, state=best, origin=origin)


def _state_of(run: TrainingRun) -> tuple[int, int]:
    """Step and number of validations: they differ between any two states of a run."""
    return run.step, len(run.validations)


def _kind(reason: str) -> str:
    """The reason without its path, which has the step in its name."""
    return reason.rpartition(": ")[2]
