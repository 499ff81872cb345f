"""Which text a run has: its folder in, the corpus that it was trained on out."""

from pathlib import Path
from typing import Any

from lucidlm.errors import DataError, RunError
from lucidlm.runtime.manifest import MANIFEST, read_manifest
from lucidlm.runtime.small_files import read_small_json
from lucidlm.text.corpus import Corpus, design_in, open_corpus
from lucidlm.weights.whole import SETTINGS, whole_of

CORPUS = "data"
PREPARED = "prepared.json"


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run which has its text, or knows where it stands."""
    return (folder / SETTINGS).exists() and (folder / CORPUS).is_dir()


def corpus_of_run(folder: Path) -> Corpus:
    """The corpus that a run was started with; RunError if it is no longer the same or there is none."""
    data = folder / CORPUS
    whole = whole_of(folder)
    for name in (f"{CORPUS}/{MANIFEST}", f"{CORPUS}/{PREPARED}"):
        if whole is not None and name in whole.manifest["files"]:
            whole.check(name)
    if not data.is_dir():
        raise RunError(f"{data}: not there, so this run has no text of its own; give a text")
    try:
        if not (data / PREPARED).exists():
            return open_corpus(data)
        path, files = _prepared(data / PREPARED)
        corpus = open_corpus(path)
    except DataError as error:
        raise RunError(f"{folder}: its text is not what it was trained on: {error}") from error
    if corpus.manifest["files"] != files:
        raise RunError(
            f"{path} was prepared again since the run began: its hashes are not those of "
            f"{data / PREPARED}; prepare the same text again, or start another run"
        )
    return corpus


def _prepared(record: Path) -> tuple[Path, dict[str, Any]]:
    """Where a run's prepared folder lies, and its hashes as they were; DataError for a damaged record."""
    try:
        values = read_small_json(record, DataError)
        path, files = values["path"], values["files"]
        if not isinstance(path, str) or not path or "\0" in path or not isinstance(files, dict):
            raise ValueError("no path and hashes in it")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{record}: it is damaged ({error}); restore it from a copy of the run") from None
    return Path(path), files


def design_of_run(folder: Path) -> str:
    """The design of a run's corpus, from its manifest alone: "given" where that cannot be read.

    Nobody knows then what the validation text was: nothing is said that needs it to be of the same source.
    """
    data = folder / CORPUS
    try:
        if (data / PREPARED).exists():
            data = _prepared(data / PREPARED)[0]
        return str(design_in(read_manifest(data)))
    except (DataError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return "given"
