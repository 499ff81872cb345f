"""Runs become models of the server while it runs: the id of a run in, its weights under a name out."""

import threading
from dataclasses import dataclass
from pathlib import Path

from lucidlm.errors import ServerError
from lucidlm.measure.protocol import Dtype
from lucidlm.runs.checkpoints import checkpoint_folders
from lucidlm.serve.engine import Engine
from lucidlm.serve.jobs import Served
from lucidlm.serve.runs_folder import Runs
from lucidlm.weights.header import WEIGHTS
from lucidlm.weights.load import load, resolve


@dataclass(frozen=True, slots=True)
class Loading:
    """Where and how such models compute: as those that were given on the command line."""

    device: str = "cpu"
    dtype: Dtype = "float32"


class RunModels:
    """The runs that pages have asked for; weights are read again where training has written better ones."""

    def __init__(self, engine: Engine, runs: Runs, loading: Loading) -> None:
        self.engine, self.runs, self.loading = engine, runs, loading
        self._lock = threading.Lock()
        self._read: dict[str, tuple[int, int]] = {}
        """By name, in the order of use: time and size of the weights that were read."""

    def serve(self, id: str, step: int | None = None) -> Served:
        """The best weights of a run, or those of a checkpoint.

        To be called from a thread, as it may read a file of gigabytes.
        """
        run = self.runs.find(id)
        folder = run if step is None else checkpoint_of(run, step)
        # With the folder of runs before it: a model that was given has the name of its folder alone.
        name = f"{self.runs.folder.name}/{run.relative_to(self.runs.folder).as_posix()}"
        name = name if step is None else f"{name} at step {step}"
        with self._lock:
            stamp = _stamp_of(folder)
            served = self.engine.served.get(name)
            if served is None or self._read.get(name) != stamp:
                source = resolve(folder)
                loaded = load(source, device=self.loading.device)
                served = Served.of(
                    loaded, name=name, kind=source.kind, dtype=self.loading.dtype, source=str(folder)
                )
            self._read.pop(name, None)
            self._read[name] = stamp
            kept = list(self._read)[-self.engine.limits.run_models :]
            dropped = self._read.keys() - set(kept)
            self._read = {each: self._read[each] for each in kept}
            others = {key: each for key, each in self.engine.served.items() if key not in dropped}
            self.engine.replace(others | {name: served})
        return served


def checkpoint_of(run: Path, step: int) -> Path:
    """The folder of a checkpoint; ServerError where the run has none at this step."""
    found = {int(each.name[5:]): each for each in checkpoint_folders(run)}
    if step not in found:
        steps = ", ".join(map(str, found)) or "none"
        raise ServerError(
            f"{run.name} has no checkpoint of step {step}", f"it has {steps}", status=404, param="step"
        )
    return found[step]


def _stamp_of(folder: Path) -> tuple[int, int]:
    try:
        status = (folder / WEIGHTS).stat()
    except OSError:
        raise ServerError(
            f"{folder.name} has no weights yet", "wait for its first checkpoint", status=409
        ) from None
    return status.st_mtime_ns, status.st_size
