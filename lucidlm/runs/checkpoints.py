"""Checkpoints of a run: weights, optimizer and state in; folders that are whole or not there out, and back.

A checkpoint is a model folder plus state: every tool that opens a run opens each of its checkpoints too.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lucidlm.errors import DataError, RunError
from lucidlm.runs.history import Validation
from lucidlm.runs.records import record_of
from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.runtime.files import replacing_folder, write_atomically
from lucidlm.runtime.leavings import sweep_folder
from lucidlm.runtime.manifest import check_manifest, write_manifest
from lucidlm.runtime.small_files import read_small_json
from lucidlm.text.corpus import Corpus
from lucidlm.weights.header import WEIGHTS
from lucidlm.weights.shards import SHARDS
from lucidlm.weights.tensor_files import write_tensors
from lucidlm.weights.whole import CHECKPOINT, STATE

OPTIMIZER = "optimizer.safetensors"
KEPT_CHECKPOINTS = 2
"""The last one and the one before it: if the last is damaged, the run resumes from the other."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that was read from disk."""

    folder: Path
    step: int
    state: dict[str, Any]
    notes: tuple[str, ...] = ()
    """Faults of newer checkpoints, if there are any."""


def run_id(config: TrainConfig, plan: Plan, corpus: Corpus) -> str:
    """Id of a run: a hash of all that decides its weights at its beginning; a repetition has the same."""
    texts = {name: entry["sha256"] for name, entry in corpus.manifest["files"].items()}
    asked = [config.seed, config.from_, config.sample_prompt, corpus.tokenizer.fingerprint(), texts]
    planned = dataclasses.asdict(plan)
    del planned["model"]["document_prefix_id"]  # the tokenizer decides it, and ids of older runs lack it
    told = json.dumps([planned, asked], sort_keys=True)
    return hashlib.sha256(told.encode("ascii")).hexdigest()[:16]


def save_checkpoint(
    run: Path,
    step: int,
    *,
    save_model: Callable[[Path], None],
    optimizer: dict[str, Tensor],
    state: dict[str, Any],
    id: str = "",
) -> Path:
    """Writes checkpoints/step_NNNNNN, whole or not at all, and drops all but the last two.

    Tensors that are divided among processes are written by `save_model`, into the folder of `shards_of`.
    """
    folder = run / "checkpoints" / f"step_{step:06d}"
    with replacing_folder(folder) as temporary:
        save_model(temporary)
        write_tensors(temporary / OPTIMIZER, optimizer)
        write_atomically(temporary / STATE, json.dumps({"step": step} | state))
        write_manifest(temporary, {"kind": CHECKPOINT, "run": id, "step": step})
    for old in checkpoint_folders(run)[:-KEPT_CHECKPOINTS]:
        shutil.rmtree(old)
    return folder


def sweep(run: Path) -> None:
    """Deletes what killed saves left in a run's folder, which this process holds.

    A checkpoint that was moved aside comes back where the one that was to take its place never did.
    """
    checkpoints = run / "checkpoints"
    for folder in (run, run / "data", checkpoints, *checkpoint_folders(run)):
        sweep_folder(folder)
    for aside in checkpoints.glob(".step_*.old"):
        if not (standing := checkpoints / aside.name[1 : -len(".old")]).exists():
            aside.rename(standing)
    leftovers = [*checkpoints.glob(".step_*.tmp"), *checkpoints.glob(".step_*.old")]
    for leftover in (*leftovers, run / ".data.tmp", run / ".data.old", run / ".data.parts"):
        shutil.rmtree(leftover, ignore_errors=True)


def shards_of(checkpoint: Path) -> Path | None:
    """The folder of a checkpoint's weights and moments that several processes have written, if it has one."""
    return folder if (folder := checkpoint / SHARDS).exists() else None


def checkpoint_folders(run: Path) -> list[Path]:
    """The run's checkpoints, the oldest first."""
    found = (folder for folder in (run / "checkpoints").glob("step_*") if folder.name[5:].isdecimal())
    return sorted(found, key=lambda folder: int(folder.name[5:]))


def last_checkpoint(run: Path, *, id: str = "") -> Checkpoint:
    """The newest undamaged checkpoint, written by the run of this `id` where it has one.

    RunError if there is none.
    """
    damage: list[str] = []
    for folder in reversed(checkpoint_folders(run)):
        try:
            return Checkpoint(folder, *_state_in(folder, id), tuple(damage))
        except (DataError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            damage.append(f"{folder.name} is damaged ({error}); going one step back")
    if damage:
        raise RunError(f"{run}: no checkpoint is whole: {damage[0]}; train again with --overwrite")
    raise RunError(f"{run}: no checkpoint was written yet; train again with --overwrite")


def _state_in(folder: Path, id: str) -> tuple[int, dict[str, Any]]:
    """Step and state of a checkpoint; DataError or ValueError where it is not one of the run."""
    whole = () if shards_of(folder) is not None else (WEIGHTS,)
    manifest = check_manifest(folder, names=(*whole, OPTIMIZER, STATE))
    if id and manifest.get("run") != id:
        raise DataError(f"it is of the run {manifest.get('run')!r:.40}, not of this one ({id})")
    state = read_small_json(folder / STATE, DataError)
    for name in ("step", "tokens"):
        if type(state[name]) is not int or not 0 <= state[name] < 2**63:
            raise DataError(f"{folder / STATE}: {name} is {state[name]!r:.80}, no number of them")
    try:
        state["validations"] = [record_of(Validation, values) for values in state["validations"]]
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / STATE}: validations: {error}") from None
    return state["step"], state
