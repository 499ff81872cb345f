"""The names in a folder come in; whether it is a run, a model or a prepared text goes out."""

import os
import re
from collections.abc import Collection
from pathlib import Path

RUN, CHECKPOINT, MODEL, PREPARED = "a run", "a checkpoint", "a model folder", "a prepared folder"

_TEMPORARY = re.compile(r"\..+\.(lock|tmp|old|parts|former-\d+)")
_BEGINNING = {".data.tmp", ".data.old", ".data.lock", ".data.parts"}
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".gguf")
_VOCABULARIES = ({"vocab.json", "merges.txt"}, {"encoder.json", "vocab.bpe"})


def own_kind(names: Collection[str]) -> str | None:
    """The kind of folder that has these names in it, in words; None for any other folder.

    Only names count: folders are checked during a walk, and a damaged run is not a text either.
    """
    names = set(names)
    # A run gets its text before its settings, so a killed run may have only the text.
    if "run.toml" in names or names & _BEGINNING or {"metrics.jsonl", "data"} <= names:
        return RUN
    # A large text has its tokens in shards under other names.
    if {"train.npy", "validation.npy"} <= names or {
        "train_documents.npy",
        "validation_documents.npy",
    } <= names:
        return PREPARED
    weights = any(name.endswith(_WEIGHTS) or name.startswith("pytorch_model") for name in names)
    if weights and {"config.json", "state.json"} <= names:
        return CHECKPOINT
    if (weights and "config.json" in names) or ("hparams.json" in names and "checkpoint" in names):
        return MODEL
    # A tokenizer alone: its merges.txt would be read as a text.
    return MODEL if any(files <= names for files in _VOCABULARIES) else None


def is_temporary(name: str) -> bool:
    """Whether a name belongs to a lock or to a file that is being written."""
    return _TEMPORARY.fullmatch(name) is not None


def own_folder(path: str | os.PathLike) -> str | None:
    """The same for a path; None if there is no folder, or it cannot be listed."""
    try:
        return own_kind(os.listdir(Path(path)))
    except (OSError, ValueError):
        return None
