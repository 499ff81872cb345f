"""What a model was trained on: its name in; the runs behind it, and how much of a text they saw, out."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from lucidlm.errors import LucidError, WeightsError
from lucidlm.measure.seen import Seen, decoded, find_seen
from lucidlm.runs.data import corpus_of_run
from lucidlm.runs.run_toml import read_settings
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.text.corpus import Corpus, validation_documents
from lucidlm.text.excerpts import ids_of
from lucidlm.weights.load import Source, resolve
from lucidlm.weights.whole import SETTINGS, run_of


@dataclass(frozen=True, slots=True)
class Lineage:
    """The runs behind a model, its own first, and where their line is lost."""

    runs: tuple[tuple[str, Corpus], ...]
    unknown: tuple[str, ...]
    """Weights that the line goes back to, or runs whose text is gone."""
    faults: tuple[str, ...] = ()
    """Why a run's text cannot be read."""


def lineage_of(model: str | Source) -> Lineage:
    """The run of a model or of a checkpoint, the run that it started from (--from), and so on."""
    runs: list[tuple[str, Corpus]] = []
    seen: set[Path] = set()
    name: str | None = model.name if isinstance(model, Source) else model
    while name is not None:
        folder = _run_of(name)
        if folder is None or folder.resolve() in seen:
            return Lineage(tuple(runs), (name,))
        seen.add(folder.resolve())
        try:
            runs.append((str(folder), corpus_of_run(folder)))
            name = read_settings(folder)[0].from_
        except LucidError as error:
            return Lineage(tuple(runs), (name,), (str(error),))
    return Lineage(tuple(runs), ())


def _run_of(name: str) -> Path | None:
    """The run of a model, or None; the run of a checkpoint also after the checkpoint was deleted."""
    try:
        return resolve(name).run
    except WeightsError:
        run = run_of(Path(name))
        return run if (run / SETTINGS).exists() else None


def seen_by(
    model: str | Source, texts: Iterable[Iterable[str]], *, progress: Progress = SILENT
) -> Seen | None:
    """How much of the texts, each in blocks, the model was trained on; None where that is not known."""
    lineage = lineage_of(model)
    if not lineage.runs:
        return None
    return find_seen(texts, lineage.runs, unknown=lineage.unknown, progress=progress)


def held_out_seen_by(model: str | Source, run: Path, *, progress: Progress = SILENT) -> Seen | None:
    """How much of a run's held-out text the model was trained on; None where that is not known.

    If no other run is behind the model, the preparation of the text has found that already. Otherwise the
    text is searched, because the other run may have been trained on it.
    """
    lineage = lineage_of(model)
    if not lineage.runs:
        return None
    corpus = corpus_of_run(run)
    own = lineage.runs[0][1].folder.resolve() == corpus.folder.resolve()
    if not own or len(lineage.runs) > 1:
        texts = decoded(corpus.tokenizer, ids_of(validation_documents(corpus)))
        seen = find_seen(texts, lineage.runs, unknown=lineage.unknown, progress=progress)
        return replace(seen, held_out=own)
    leaks = corpus.manifest.get("leaks", {})
    if "share" not in leaks:  # prepared by an older version
        return None
    return Seen(
        share=leaks["share"],
        documents=leaks["near_documents"],
        documents_total=corpus.manifest["validation"]["documents"],
        lines=leaks["lines"],
        lines_total=leaks["lines_total"],
        searched=(lineage.runs[0][0],),
        found_in=(lineage.runs[0][0],) if leaks["share"] else (),
        unknown=lineage.unknown,
        unchecked=leaks["unchecked_documents"],
        held_out=True,
    )
