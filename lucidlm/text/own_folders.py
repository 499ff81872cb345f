"""The names in a folder come in; whether it is a run, a model or a prepared text, so no text, goes out."""

import os
import re
from collections.abc import Collection
from pathlib import Path

RUN, CHECKPOINT, MODEL, PREPARED = "a run", "a checkpoint", "a model folder", "a prepared folder"

_TEMPORARY = re.compile(r"\..+\.(lock|tmp|old|former-\d+)")
_BEGINNING = {".data.tmp", ".data.old", ".data.lock"}
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".gguf")
_VOCABULARIES = ({"vocab.json", "merges.txt"}, {"encoder.json", "vocab.bpe"})


def own_kind(names: Collection[str]) -> str | None:
    """What a folder with these names in it is, in words; None for a folder of anything else.

    By names alone: a folder is asked while it is walked through, and a damaged run is no text either.
    """
    names = set(names)
    # A run has its text before its settings, and a killed one has no more.
    if "run.toml" in names or names & _BEGINNING or {"metrics.jsonl", "data"} <= names:
        return RUN
    if {"train.npy", "validation.npy"} <= names:
        return PREPARED
    weights = any(name.endswith(_WEIGHTS) or name.startswith("pytorch_model") for name in names)
    if weights and {"config.json", "state.json"} <= names:
        return CHECKPOINT
    if (weights and "config.json" in names) or ("hparams.json" in names and "checkpoint" in names):
        return MODEL
    # merges.txt would be read as a text.
    return MODEL if any(files <= names for files in _VOCABULARIES) else None


def is_temporary(name: str) -> bool:
    """Whether a name is that of a lock or of something half written: there for a moment, no text."""
    return _TEMPORARY.fullmatch(name) is not None


def own_folder(path: str | os.PathLike) -> str | None:
    """The same of a path; None where there is no folder, or none that can be listed."""
    try:
        return own_kind(os.listdir(Path(path)))
    except (OSError, ValueError):
        return None
