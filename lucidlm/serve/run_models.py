"""Runs become models of the server while it runs: the id of a run in, its best weights under a name out."""

import threading
from dataclasses import dataclass
from pathlib import Path

from lucidlm.errors import ServerError
from lucidlm.measure.protocol import Dtype
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

    def serve(self, id: str) -> Served:
        """The model of a run; to be called from a thread, as it may read a file of gigabytes."""
        folder = self.runs.find(id)
        # With the folder of runs before it: a model that was given has the name of its folder alone.
        name = f"{self.runs.folder.name}/{folder.relative_to(self.runs.folder).as_posix()}"
        with self._lock:
            stamp = _stamp_of(folder)
            served = self.engine.served.get(name)
            if served is None or self._read.get(name) != stamp:
                loaded = load(resolve(folder), device=self.loading.device)
                served = Served.of(
                    loaded, name=name, kind="run", dtype=self.loading.dtype, source=str(folder)
                )
            self._read.pop(name, None)
            self._read[name] = stamp
            kept = list(self._read)[-self.engine.limits.run_models :]
            dropped = self._read.keys() - set(kept)
            self._read = {each: self._read[each] for each in kept}
            others = {key: each for key, each in self.engine.served.items() if key not in dropped}
            self.engine.replace(others | {name: served})
        return served


def _stamp_of(folder: Path) -> tuple[int, int]:
    try:
        status = (folder / WEIGHTS).stat()
    except OSError:
        raise ServerError(
            f"{folder.name} has no weights yet", "wait for its first checkpoint", status=409
        ) from None
    return status.st_mtime_ns, status.st_size
