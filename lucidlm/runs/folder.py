"""The run folder: its place, checkpoints that are whole or not there, and the list of runs.

A checkpoint is a model folder plus state: every tool that opens the run opens each of them too.
"""

import contextlib
import dataclasses
import glob
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from lucidlm.errors import DataError, InUseError, LucidError, RunError
from lucidlm.runs.history import METRICS, SAMPLES, History, Validation, read_history
from lucidlm.runs.records import record_of
from lucidlm.runs.run_toml import fault_of_settings, read_settings
from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.runtime.files import replacing_folder, write_atomically
from lucidlm.runtime.leavings import name_of_temporary, sweep_folder
from lucidlm.runtime.locks import is_locked, lock
from lucidlm.runtime.manifest import check_manifest, fault_of, write_manifest
from lucidlm.runtime.places import PROBE, check_folder_place, path_text
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.runtime.signals import name_of
from lucidlm.runtime.small_files import read_small_json
from lucidlm.text.corpus import Corpus
from lucidlm.text.pipes import DASH, STDIN
from lucidlm.weights.header import WEIGHTS
from lucidlm.weights.tensor_files import write_tensors
from lucidlm.weights.whole import CHECKPOINT, SETTINGS, STATE, is_run_without_settings, whole_of

OPTIMIZER = "optimizer.safetensors"
BEGINNING = {"data", ".data.tmp", ".data.old", ".data.lock", "metrics.jsonl", "tensorboard", "env.json"}
"""Files of a run's folder that are older than its run.toml: without it, nothing was trained."""
KEPT_CHECKPOINTS = 2
"""The last one and the one before it: if the last is damaged, the run resumes from the other."""
LONGEST_STEM = 100
"""Bytes of a run's name that is made from the name of its text."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that was read from disk."""

    folder: Path
    step: int
    state: dict[str, Any]
    notes: tuple[str, ...] = ()
    """Faults of newer checkpoints, if there are any."""


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


def row_of(run: Path) -> dict[str, Any]:
    """What `lucidlm runs` says of a run: stable keys, None where it has no such number.

    A run that cannot be read has a row too: its status is "broken", and "problems" says why.
    """
    try:
        history = read_history(run)
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


def new_run_folder(
    out: str | None, texts: tuple[str, ...], *, others: tuple[str, ...] = (), overwrite: bool
) -> Path:
    """The folder of a new run, not yet made: `out`, or runs/ and the text's name, numbered if that is taken.

    A run that is there already is never touched unasked: RunError, unless with `overwrite`. PlaceError where
    no folder can be made, or where one holds a text that is to be read; `others` are read, and name nothing.
    """
    if out is None:
        folder = next(each for each in _default_folders(texts) if overwrite or not _is_taken_or_held(each))
    else:
        folder = Path(out)
    bring_back(folder)
    check_folder_place(folder if out is None else out, "--out", inputs=(*texts, *others))
    if _is_taken(folder):
        if not overwrite:
            is_run = (folder / SETTINGS).exists()
            what = "a run" if is_run else "no run"
            ways = "choose another --out, --resume or --overwrite" if is_run else "choose another --out"
            raise RunError(f"{folder} is there already and holds {what}; {ways}")
        if not (folder / SETTINGS).exists():
            raise RunError(
                f"{folder} holds no run of lucidlm, so --overwrite will not delete it; choose another --out"
            )
    return folder


@contextlib.contextmanager
def claimed_run_folder(
    out: str | None,
    texts: tuple[str, ...],
    *,
    others: tuple[str, ...] = (),
    overwrite: bool,
    progress: Progress = SILENT,
) -> Generator[Path]:
    """`new_run_folder`, held for this process until the block ends.

    Where nobody chose the name, a run that another process begins at the same moment takes the name or leaves
    it: the lock decides, and the other one goes on to the next number.
    """
    with contextlib.ExitStack() as held:
        while True:
            folder = new_run_folder(out, texts, others=others, overwrite=overwrite)
            with contextlib.ExitStack() as trying:
                try:
                    trying.enter_context(lock(folder))
                except InUseError:
                    if out is not None or overwrite:
                        raise
                    continue
                # Another process may have made its run here after the look above and before the lock.
                if out is None and not overwrite and _is_taken(folder):
                    continue
                new_run_folder(str(folder), texts, others=others, overwrite=overwrite)
                held.enter_context(trying.pop_all())
                break
        first = next(_default_folders(texts))
        if out is None and folder != first:
            progress.note(f"{first} is taken, so this run goes to {folder}")
        yield folder


def _default_folders(texts: tuple[str, ...]) -> Iterator[Path]:
    """runs/STEM, runs/STEM-2 ...: short names of letters, digits, - and _."""
    name = texts[0].rstrip("/") if texts else "story"
    name = "stdin" if name in (DASH, STDIN) else name if "://" in name else os.path.abspath(name)
    # The name of a pattern says nothing: books/*.txt is called after its folder.
    stems = (_plain_stem(part) for part in (Path(name), *Path(name).parents))
    stem = next(filter(None, stems), "run")
    yield Path("runs") / stem
    for number in itertools.count(2):
        yield Path("runs") / f"{stem}-{number}"


def _plain_stem(path: Path) -> str:
    stem = path.name.split(".")[0] or path.name.lstrip(".").split(".")[0]
    stem = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in stem).strip("-")
    return stem.encode("utf-8")[:LONGEST_STEM].decode("utf-8", "ignore")


def _is_taken_or_held(folder: Path) -> bool:
    bring_back(folder)
    return _is_taken(folder) or is_locked(folder)


def _is_taken(folder: Path) -> bool:
    """Whether the folder holds more than the leftovers of a start that was killed."""
    if not folder.exists():
        return False
    return not (folder.is_dir() and all(_is_of_a_beginning(path.name) for path in folder.iterdir()))


def _is_of_a_beginning(name: str) -> bool:
    return name in BEGINNING or name_of_temporary(name) in {*BEGINNING, SETTINGS, PROBE}


def set_aside(folder: Path) -> Path:
    """The folder, renamed: it gets its name back if its successor cannot begin."""
    number = 1
    while (former := folder.with_name(f".{folder.name}.former-{number}")).exists():
        number += 1
    return folder.rename(former)


def bring_back(folder: Path) -> None:
    """The run that --overwrite had set aside, where its successor was killed before its first checkpoint.

    Where the successor has one, what was to be overwritten is deleted at last.
    """
    aside = sorted(folder.parent.glob(f".{glob.escape(folder.name)}.former-*"))
    if not aside:
        return
    with contextlib.suppress(RunError), lock(folder):  # held: the successor is beginning now
        for former in aside:
            ours = not _is_taken(folder) or (folder / SETTINGS).exists()
            if (former / SETTINGS).exists() and ours and not checkpoint_folders(folder):
                shutil.rmtree(folder, ignore_errors=True)
                former.rename(folder)
            else:
                shutil.rmtree(former, ignore_errors=True)


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
    """Writes checkpoints/step_NNNNNN, whole or not at all, and drops all but the last two."""
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
    for leftover in (*leftovers, run / ".data.tmp", run / ".data.old"):
        shutil.rmtree(leftover, ignore_errors=True)


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
    manifest = check_manifest(folder, names=(WEIGHTS, OPTIMIZER, STATE))
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
