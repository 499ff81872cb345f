"""A folder in, the runs below it out; and of each run its status, its numbers and what is wrong with it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lucidlm.errors import LucidError, RunError
from lucidlm.runs.checkpoints import checkpoint_folders
from lucidlm.runs.history import METRICS, SAMPLES, History, read_history
from lucidlm.runs.run_toml import fault_of_settings, read_settings
from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.runtime.locks import is_locked
from lucidlm.runtime.manifest import fault_of
from lucidlm.runtime.places import path_text
from lucidlm.runtime.signals import name_of
from lucidlm.weights.whole import SETTINGS, is_run_without_settings, whole_of


@dataclass(frozen=True, slots=True)
class RunState:
    """Whether a run came to its end."""

    status: Literal["training", "interrupted", "finished", "broken"]
    step: int
    plan: Plan | None
    """None where run.toml has none that can be read."""
    signal: int = 0
    """The signal that interrupted it; 0 for none, or for one that no process can catch."""
    remarks: tuple[str, ...] = ()
    """Faults of the files in its folder."""
    asked: TrainConfig | None = None
    """None where run.toml cannot be read."""

    def sentence(self, run: Path) -> str:
        """What a reader of its numbers must know; "" for a finished run without faults."""
        return " ".join(part for part in (self._end(run), *(f"{each}." for each in self.remarks)) if part)

    def _end(self, run: Path) -> str:
        at = f"step {self.step:,}" + (f" of {self.plan.steps:,}" if self.plan else "")
        if self.status == "training":
            return f"{run} is training now, at {at}: its numbers are not final."
        if self.status == "interrupted":
            how = (
                f"by {name_of(self.signal)}"
                if self.signal
                else "without an end (killed, or the machine stopped)"
            )
            more = f"lucidlm train --resume --out {run} goes on with it"
            return f"{run} was interrupted at {at} {how}: its numbers are not final; {more}."
        return ""


def state_of(run: Path, history: History | None = None) -> RunState:
    """Whether a run is training now, was interrupted, or came to its end."""
    history = history or read_history(run)
    remarks = list(history.remarks)
    asked = plan = None
    try:
        asked, plan = read_settings(run)
        remarks += [fault] if (fault := fault_of_settings(run, whole_of(run))) else []
    except (LucidError, OSError) as error:  # a newer version's: the metrics say what there is to say
        remarks.append(str(error).rstrip("."))
    status = "training" if is_locked(run) else "finished" if history.end == 0 else "interrupted"
    if history.unsaved and status != "training":
        remarks.append(history.unsaved)
    if not (run / METRICS).is_file() and status != "training":
        remarks.append(f"{run / METRICS}: not there, so nothing is known of how the run went")
    return RunState(status, history.last_step, plan, history.end or 0, tuple(remarks), asked)


def row_of(run: Path, history: History | None = None) -> dict[str, Any]:
    """What `lucidlm runs` says of a run: stable keys, None where it has no such number.

    A run that cannot be read has a row too: its status is "broken", and "problems" says why. `history` is
    its history where that is read already.
    """
    try:
        history = history or read_history(run)
        state = state_of(run, history)
        problems = [*state.remarks, *_faults_of(run)]
    except (LucidError, OSError, ValueError, RecursionError) as error:
        history = History((), ())
        state, problems = RunState("broken", 0, None), [" ".join(str(error).split())]
    best, plan, asked = history.best, state.plan, state.asked
    return {
        "run": str(run),
        "text": list(asked.text) if asked else None,
        "parameters": plan.model.n_parameters if plan else None,
        "tokens": history.steps[-1].tokens if history.steps else None,
        "seed": asked.seed if asked else None,
        "status": state.status,
        "steps": state.step,
        "planned_steps": plan.steps if plan else None,
        "best_step": best.step if best else None,
        **_numbers_of(history),
        "dtype": plan.dtype if plan else None,
        "threads": plan.threads_at(state.step) if plan else None,
        "problems": problems,
    }


def _faults_of(run: Path) -> Iterator[str]:
    """Faults of the small files that a run's numbers depend on."""
    if (whole := whole_of(run)) is None:
        return
    for name in whole.manifest["files"]:
        if fault := fault_of(run, name, whole.manifest):
            yield fault


def _numbers_of(history: History) -> dict[str, Any]:
    """Numbers of the evaluation at the end; without one, of the best validation, which is of a sample."""
    final, best = history.final, history.best
    return {
        "validation_loss_nats": final.loss_nats if final else best.validation_loss_nats if best else None,
        "perplexity": final.perplexity if final else best.validation_perplexity if best else None,
        "bits_per_byte": final.bits_per_byte if final else best.validation_bits_per_byte if best else None,
        "bits_low": final.bits_low if final else None,
        "bits_high": final.bits_high if final else None,
        "validation_tokens": final.tokens if final else best.validation_tokens if best else None,
        "heldout_tokens": final.heldout_tokens if final else best.heldout_tokens if best else None,
    }


def list_runs(root: Path) -> Iterator[Path]:
    """The run folders in a folder and below, the newest first; also those that lost their run.toml."""
    if root.exists() and not root.is_dir():
        raise RunError(f"{path_text(root)}: a file; give the folder that has the runs in it")
    found = []
    for place, folders, files in os.walk(root):  # which passes over a folder that vanishes meanwhile
        folders[:] = [name for name in folders if name != "checkpoints"]
        if SETTINGS in files or (METRICS in files and _was_run(Path(place))):
            found.append(Path(place))
    return iter(sorted(found, key=_last_written, reverse=True))


def _was_run(folder: Path) -> bool:
    """Whether a folder without run.toml is a run by its manifest or by what was saved in it."""
    try:
        return bool(checkpoint_folders(folder)) or is_run_without_settings(folder)
    except LucidError:  # the row says what is wrong
        return True


def _last_written(run: Path) -> float:
    return max((run / name).stat().st_mtime for name in (SETTINGS, METRICS, SAMPLES) if (run / name).exists())
