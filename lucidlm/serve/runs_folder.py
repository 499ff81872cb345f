"""A folder of runs comes in; its runs under ids that are no paths go out, and trainings start in it."""

import asyncio
import hashlib
import itertools
import os
from pathlib import Path
from typing import Any

from lucidlm.errors import ServerError
from lucidlm.report.curves import curves_of
from lucidlm.runs.checkpoints import checkpoint_folders
from lucidlm.runs.history import History
from lucidlm.runs.listing import list_runs
from lucidlm.runtime.locks import is_locked
from lucidlm.serve.documents import Documents
from lucidlm.serve.run_forms import STORY, TrainForm, config_of, flags_of
from lucidlm.serve.run_processes import NOT_OURS, Training, Trainings
from lucidlm.serve.run_view import RunView, RunViews
from lucidlm.weights.whole import SETTINGS

TEXTS = ".texts"
"""The folder below the folder of runs that keeps the uploaded texts that runs were trained on."""
LIVE = ("starting", "training", "stopping")
"""What the status of a run is while its process lives."""
EMPTY_ROW = dict.fromkeys(
    ("text", "parameters", "tokens", "seed", "planned_steps", "best_step", "validation_loss_nats",
     "perplexity", "bits_per_byte", "bits_low", "bits_high", "validation_tokens", "heldout_tokens", "dtype",
     "threads")
)  # fmt: skip
"""What a row of `runs.listing.row_of` has of a run that has no folder yet, beside run, status and steps."""
EMPTY_HEAD: dict[str, Any] = {
    "time_s": 0.0, "tokens_per_s": None, "time_left_s": None, "vocab_size": None, "lines": [],
}  # fmt: skip


def id_of(folder: Path, root: Path) -> str:
    """The id of a run: 12 hexadecimal digits of a hash of its path below the folder of runs.

    >>> id_of(Path("runs/book"), Path("runs"))
    '92719fe0cf8c'
    """
    return hashlib.sha256(os.fsencode(folder.relative_to(root).as_posix())).hexdigest()[:12]


class Runs:
    """The runs below a folder. Its methods read the disk: they are called from threads."""

    def __init__(self, folder: Path, documents: Documents) -> None:
        self.folder, self.documents = folder, documents
        self.trainings = Trainings()
        self._views = RunViews()
        self._found: dict[str, Path] = {}
        self.closing = asyncio.Event()
        """Set when the server begins to stop: nobody follows a run any more."""

    def rows(self) -> list[dict[str, Any]]:
        """A row for each run, the latest first; before them trainings that have no folder, or not yet."""
        runs = self._look()
        begun = [each for each in self.trainings.folders if each not in runs]
        rows = zip((*begun, *runs), (*map(_row_before, begun), *self._views.rows(runs)), strict=True)
        return [self._shown(folder, row) for folder, row in rows]

    def _look(self) -> list[Path]:
        runs = list(list_runs(self.folder))
        self._found = {id_of(each, self.folder): each for each in (*self.trainings.folders, *runs)}
        return runs

    def find(self, id: str) -> Path:
        """The folder of the run with this id, a key and never a path; ServerError where there is none."""
        known = self._found.get(id)
        if known is None or not (known.is_dir() or self.trainings.of(known)):
            self._look()
        if id not in self._found:
            raise ServerError(f"no run has the id {id[:40]!r}", "GET /api/runs lists them", status=404)
        return self._found[id]

    def view(self, id: str) -> tuple[RunView | None, dict[str, Any]]:
        """A run, None where it has no folder yet; and what changes of it from step to step."""
        folder = self.find(id)
        if not (folder / SETTINGS).exists() and self.trainings.of(folder) is not None:
            return None, self._shown(folder, _row_before(folder) | EMPTY_HEAD)
        view = self._views.view(folder)
        return view, self._shown(folder, view.head())

    def state(self, id: str) -> dict[str, Any]:
        """All that the view Train shows of a run."""
        return whole(*self.view(id))

    def _shown(self, folder: Path, row: dict[str, Any]) -> dict[str, Any]:
        """The row with the run's id, name and checkpoints, and what is known of its process."""
        training = self.trainings.of(folder)
        more = NOT_OURS if training is None else training.to_dict()
        shown = {
            "id": id_of(folder, self.folder),
            "name": folder.relative_to(self.folder).as_posix(),
            "checkpoints": [int(each.name[5:]) for each in checkpoint_folders(folder)],
        }
        return row | more | shown | _changed(row, training, ended=more["exit_code"] is not None)

    def start(self, form: TrainForm) -> dict[str, Any]:
        """Starts a training; ConfigError or ServerError where it cannot begin."""
        config_of(form)  # refuses what lucidlm would refuse
        document = None if form.text == STORY else self.documents.find(form.text)
        name = form.name or (STORY if document is None else document.stem)
        folder = self._place(name, numbered=form.name is None)
        self.trainings.check_free()
        # A copy that stays: run.toml names the text, and repeats the run when the server is long gone.
        kept = None if document is None else document.kept_in(self.folder / TEXTS)
        text, names = ([], {}) if document is None else ([str(kept)], {str(kept): document.name})
        training = self.trainings.start(folder, [*text, f"--out={folder}", *flags_of(form)], names)
        return self._started(training)

    def _place(self, name: str, *, numbered: bool) -> Path:
        """The folder of a new run; ServerError where a given name is taken."""
        others = (f"{name}-{number}" for number in itertools.count(2)) if numbered else ()
        for each in itertools.chain([name], others):
            folder = self.folder / each
            # The lock of a run that begins is there before its folder.
            if not os.path.lexists(folder) and not is_locked(folder):
                return folder
        raise ServerError(f"{name} is there already", "choose another name", status=409, param="name")

    def resume(self, id: str) -> dict[str, Any]:
        """Goes on with an interrupted run; ServerError where there is nothing to go on with."""
        folder = self.find(id)
        _, head = self.view(id)
        if head["status"] != "interrupted":
            advice = "start a new one" if head["status"] not in LIVE else "follow it"
            raise ServerError(f"{head['name']} is {head['status']}, not interrupted", advice, status=409)
        return self._started(self.trainings.start(folder, ["--resume", f"--out={folder}"]))

    def _started(self, training: Training) -> dict[str, Any]:
        id = id_of(training.folder, self.folder)
        self._found[id] = training.folder
        return self._shown(training.folder, _row_before(training.folder))

    def stop(self, id: str) -> dict[str, Any]:
        """Asks a training that this server started to save and end; ServerError for any other run."""
        folder = self.find(id)
        training = self.trainings.of(folder)
        if training is None or not training.alive:
            _, head = self.view(id)
            if head["status"] in LIVE:
                raise ServerError(
                    f"{head['name']} was not started here",
                    "stop it where it was started, with Ctrl-C",
                    status=409,
                )
            raise ServerError(
                f"{head['name']} is {head['status']}: there is nothing to stop",
                "start a training",
                status=409,
            )
        training.stop()
        return self._shown(folder, _row_before(folder))

    def begin_to_close(self) -> None:
        """Asks the training that runs to save and end, and ends the streams of events; on the event loop."""
        self.trainings.begin_to_close()
        self.closing.set()

    def close(self) -> None:
        """Waits for the end of the training that runs."""
        self.trainings.close()


def _row_before(folder: Path) -> dict[str, Any]:
    """The row of a training that has no run yet."""
    return {"run": str(folder), "status": "starting", "steps": 0, "problems": []} | EMPTY_ROW


def whole(view: RunView | None, head: dict[str, Any]) -> dict[str, Any]:
    """All that the view Train shows of a run, from the two parts of `Runs.view`."""
    if view is not None:
        return view.to_dict() | head
    curves = curves_of(History((), ()), head["name"]).to_dict()
    return {"curves": curves, "validations": [], "samples": []} | head


def _changed(row: dict[str, Any], training: Training | None, *, ended: bool) -> dict[str, Any]:
    """Status and texts of a row by what is known of its process."""
    if training is None:
        return {}
    text = row["text"] and [training.names.get(each, each) for each in row["text"]]
    if ended:  # as its exit code says, which stands in the same row: it may end at any moment
        return {"text": text, "status": "failed" if row["status"] == "starting" else row["status"]}
    status = "starting" if row["status"] == "starting" else "training"
    return {"text": text, "status": "stopping" if training.stopping else status}
