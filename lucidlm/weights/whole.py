"""Whether a run or checkpoint is complete: its folder in; nothing out, or an error that names the wrong file.

A run's manifest is written once, when the run begins, and lists the files that never change. Weights have
their own hash and the run's id in their header, and a checkpoint has a manifest of all its files. So no two
files have to be written together, and a kill between two writes cannot make a sound run look broken. Folders
of older versions and of other programs have no manifest and are not checked.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lucidlm.errors import DataError, WeightsError
from lucidlm.runtime.manifest import MANIFEST, fault_of, read_manifest, sha256_of, write_manifest
from lucidlm.weights.header import WEIGHTS, Origin, check_seal, origin_of
from lucidlm.weights.hf_config import CONFIG
from lucidlm.weights.shards import SHARDS

RUN, CHECKPOINT = "lucidlm run", "lucidlm checkpoint"
"""What a manifest describes."""
SETTINGS, STATE = "run.toml", "state.json"
MODEL_FILES = (CONFIG, "tokenizer.json", "tokenizer_config.json")
"""The files beside the weights that change a model's numbers."""


@dataclass(frozen=True, slots=True)
class Whole:
    """The manifest of a run or of a checkpoint of it."""

    folder: Path
    kind: str
    run: str
    """The run's id."""
    manifest: dict[str, Any]

    def check(self, name: str) -> None:
        """WeightsError if a file of the folder changed since the manifest was written."""
        if fault := fault_of(self.folder, name, self.manifest):
            raise WeightsError(f"{fault}; {self._way_out(name)}")

    def _way_out(self, name: str) -> str:
        if self.kind == RUN:
            expected = self.manifest["files"].get(name, {}).get("sha256")
            for folder in checkpoints_in(self.folder):
                copy = folder / name
                if copy.is_file() and sha256_of(copy) == expected:
                    return f"copy it from {copy}, which is as it was"
        return way_out(self.folder)


def way_out(folder: Path) -> str:
    """What to do about a file of a folder that changed."""
    run = run_of(folder)
    return f"restore it from a copy; lucidlm train --config {run / SETTINGS} --out NEW repeats the run"


def run_of(folder: Path) -> Path:
    """The run's folder if this is a checkpoint in one; else the folder itself."""
    return folder.parent.parent if folder.parent.name == "checkpoints" else folder


def checkpoints_in(run: Path) -> list[Path]:
    """The run's checkpoints, the newest first, by their names."""
    numbers = {folder: folder.name.removeprefix("step_") for folder in (run / "checkpoints").glob("step_*")}
    found = [folder for folder, number in numbers.items() if number.isascii() and number.isdecimal()]
    return sorted(found, key=lambda folder: int(numbers[folder]), reverse=True)


def begin_whole(folder: Path, run: str, names: list[str]) -> None:
    """Writes the manifest of a new run: the files that never change."""
    write_manifest(folder, {"kind": RUN, "version": 1, "run": run}, names=names)


def whole_of(folder: Path) -> Whole | None:
    """The manifest of a run or a checkpoint; None if there is none; WeightsError if it is damaged."""
    if not (folder / MANIFEST).exists():
        if _had_manifest(folder):
            raise WeightsError(f"{folder / MANIFEST}: not there, and this run had one; {way_out(folder)}")
        return None
    try:
        manifest = read_manifest(folder, way_out=way_out(folder))
    except DataError as error:
        if not _is_ours(folder):
            return None  # another program's file of that name
        raise WeightsError(str(error)) from None
    kind, run = manifest.get("kind"), manifest.get("run", "")
    if kind is None and "step" in manifest and (folder / STATE).exists():
        kind = CHECKPOINT  # of an older version
    if kind not in (RUN, CHECKPOINT):
        return None
    if not isinstance(run, str):
        raise WeightsError(f"{folder / MANIFEST}: run {run!r:.80} is no name; {way_out(folder)}")
    return Whole(folder, kind, run, manifest)


def check_model(folder: Path) -> None:
    """WeightsError if the weights of a run or checkpoint, or the files beside them, have changed.

    The seal of the weights themselves is checked where they are read.
    """
    whole = whole_of(folder)
    if whole is None:
        return
    for name in MODEL_FILES:
        if whole.run or name in whole.manifest["files"]:
            whole.check(name)
    if whole.kind == CHECKPOINT:
        divided = [name for name in whole.manifest["files"] if name.startswith(f"{SHARDS}/")]
        for name in divided or [WEIGHTS]:
            whole.check(name)
        _check_of_run(whole)
        if divided:  # their only hash is the manifest's
            return
    if whole.run:
        weights_of(whole)


def is_run_without_settings(folder: Path) -> bool:
    """Whether a folder has the manifest of a run and no run.toml."""
    whole = whole_of(folder)
    return whole is not None and whole.kind == RUN and not (folder / SETTINGS).exists()


def weights_of(whole: Whole) -> Origin:
    """The origin of the weights; WeightsError if they are damaged or from another run."""
    path = whole.folder / WEIGHTS
    try:
        check_seal(path)
        origin = origin_of(path)
    except WeightsError as error:
        raise WeightsError(error.fault, _other_weights(whole)) from None
    if origin is None or origin.run != whole.run:
        whose = "of no run" if origin is None or not origin.run else f"of the run {origin.run[:40]}"
        raise WeightsError(
            f"{path}: these weights are {whose}, not of this one ({whole.run})", _other_weights(whole)
        )
    return origin


def _other_weights(whole: Whole) -> str:
    found = [folder for folder in checkpoints_in(whole.folder) if (folder / WEIGHTS).is_file()]
    if whole.kind == RUN and found:
        return f"restore them from a copy of the run, or take its last weights: {found[0]}"
    return way_out(whole.folder)


def _check_of_run(whole: Whole) -> None:
    """WeightsError if a checkpoint is in the folder of another run than the one that wrote it."""
    run = run_of(whole.folder)
    if run == whole.folder or not (run / SETTINGS).exists():
        return  # a copy of a checkpoint belongs to no run
    of = whole_of(run)
    if of is not None and of.run != whole.run:
        raise WeightsError(
            f"{whole.folder}: this checkpoint is of the run {whole.run or '(a former version)'}, not of "
            f"{run} ({of.run}); put it back where it was"
        )


def _is_ours(folder: Path) -> bool:
    return (folder / SETTINGS).exists() or (folder / STATE).exists()


def _had_manifest(folder: Path) -> bool:
    """Whether the weights name a run, so that there must have been a manifest."""
    if not _is_ours(folder) or not (folder / WEIGHTS).is_file():
        return False
    origin = origin_of(folder / WEIGHTS)
    return origin is not None and bool(origin.run)
