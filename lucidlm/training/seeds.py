"""A request and a number of seeds in; a run for each, by one plan, and the spread of their losses out."""

import glob
import math
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lucidlm.errors import ConfigError, RunError
from lucidlm.runs.folder import new_run_folder
from lucidlm.runs.run_toml import read_settings
from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.training.finish import TrainResult
from lucidlm.training.loop import train
from lucidlm.training.tracking import Tracker
from lucidlm.weights.whole import SETTINGS

MOST_SEEDS = 100


@dataclass(frozen=True, slots=True)
class Spread:
    """Held-out losses of runs that differ in their seed alone."""

    results: tuple[TrainResult, ...]

    def values(self, name: str) -> list[float]:
        """`loss_nats` or `bits_per_byte` of each run that was evaluated."""
        return [getattr(each.evaluation, name) for each in self.results if each.evaluation is not None]

    def to_dict(self) -> dict[str, Any]:
        """Mean and standard deviation (None of fewer than two runs) of both, and their number."""
        found: dict[str, Any] = {"n": len(self.values("loss_nats"))}
        for name in ("loss_nats", "bits_per_byte"):
            values = self.values(name)
            found[f"{name}_mean"] = statistics.fmean(values) if values else None
            found[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        return found

    def __str__(self) -> str:
        """One line: bits per byte 2.1034 (sd 0.0051), loss 1.4577 nats per token (sd 0.0036), 3 seeds."""
        n = self.to_dict()["n"]
        if not n:
            return "no run was evaluated"

        def part(name: str) -> str:
            values = self.values(name)
            sd = statistics.stdev(values) if n > 1 else math.nan
            return f"{statistics.fmean(values):.4f} (sd {sd:.4f})"

        return (
            f"held-out text: bits per byte {part('bits_per_byte')}, "
            f"loss {part('loss_nats')} nats per token, n = {n}"
        )


def train_seeds(
    config: TrainConfig,
    seeds: int,
    *,
    plan: Plan | None = None,
    resume: bool = False,
    overwrite: bool = False,
    verbose: bool = False,
    progress: Progress = SILENT,
    watch: Tracker | None = None,
) -> Spread:
    """Runs of `config` in OUT-seed123, OUT-seed124 ..., one after the other, and their spread.

    The first makes the plan, the others follow it as it was at its end: they differ in the seed alone, and
    with --minutes each takes about that time. With `resume` the runs that are there go on, and the missing
    ones begin. An interrupted run ends the series.
    """
    if not 2 <= seeds <= MOST_SEEDS:
        raise ConfigError(f"--seeds {seeds}: it must be from 2 to {MOST_SEEDS}; --seed chooses the first")
    texts, others = config.text, config.val
    assert isinstance(texts, tuple)
    assert isinstance(others, tuple)
    if config.out is None and not resume:
        config = replace(config, out=str(new_run_folder(None, texts, overwrite=overwrite)))
    base = Path(config.out or "")
    if resume:
        config = replace(config, seed=_first_seed(base))
    numbers = range(config.seed, config.seed + seeds)
    folders = [base.with_name(f"{base.name}-seed{number}") for number in numbers]
    there = [resume and (folder / SETTINGS).exists() for folder in folders]
    for folder, exists in zip(folders, there, strict=True):
        if not exists:  # all are refused before the first is trained
            new_run_folder(str(folder), texts, others=others, overwrite=overwrite)
    results: list[TrainResult] = []
    for seed, folder, exists in zip(numbers, folders, there, strict=True):
        if results:
            config, plan = read_settings(folders[0])
        progress.note(f"seed {seed}, {len(results) + 1} of {seeds}: {folder}")
        result = train(
            replace(config, out=str(folder), seed=seed),
            plan=None if exists else plan,
            resume=exists,
            overwrite=overwrite and not exists,
            verbose=verbose,
            progress=progress,
            watch=watch,
        )
        results.append(result)
        if result.interrupted:
            break
    return Spread(tuple(results))


def _first_seed(base: Path) -> int:
    """The lowest seed of the runs that have this name in common."""
    start = f"{base.name}-seed"
    runs = base.parent.glob(f"{glob.escape(start)}*/{SETTINGS}")
    found = [path.parent.name.removeprefix(start) for path in runs]
    seeds = [int(number) for number in found if number.isdecimal()]
    if not base.name or not seeds:
        raise RunError(f"{base}: there is no run {start}...; give --out as in the command to go on with")
    return min(seeds)
