"""The texts of a request in, the corpus of a new run out: prepared into its folder, or a prepared folder."""

import json
import sys
from pathlib import Path

from lucidlm.errors import ConfigError
from lucidlm.model.presets import preset
from lucidlm.runs.data import CORPUS, PREPARED
from lucidlm.runs.settings import TrainConfig
from lucidlm.runtime.device import choose_device
from lucidlm.runtime.files import write_atomically
from lucidlm.runtime.progress import Progress
from lucidlm.text.corpus import Corpus, open_corpus
from lucidlm.text.own_folders import PREPARED as PREPARED_TEXT
from lucidlm.text.own_folders import own_folder
from lucidlm.text.preparation import prepare
from lucidlm.text.reading import READING
from lucidlm.text.tokenizer import Tokenizer

CHARACTERS_PER_S = {"cpu": 25e3, "cuda": 3e6}
"""Characters that a small model is trained on in a second of a run: about what was measured on two cores."""


def corpus_for(config: TrainConfig, folder: Path, base: Tokenizer | None, progress: Progress) -> Corpus:
    """The corpus of a new run in `folder`.

    `base` is the tokenizer of the weights that the run starts from, if it does.
    """
    one = config.text[0] if len(config.text) == 1 else ""
    if one and ((Path(one) / "train.npy").exists() or own_folder(one) == PREPARED_TEXT):
        return _prepared_before(config, folder, base)
    chosen = None if config.preset is None else preset(config.preset)
    split = config.split
    if chosen is not None and chosen.split is not None and split == "auto" and not config.val:
        split = chosen.split
    usual = None if chosen is None else chosen.tokenizer
    corpus = prepare(
        config.text,
        folder / CORPUS,
        tokenizer=base or config.tokenizer or usual or f"auto:{_characters_in(config)}",
        validation=config.val or None,
        validation_fraction=config.val_fraction,
        split=split,
        reading=config.reading,
        workers=0,
        progress=progress,
    )
    for note in corpus.notes:
        progress.note(note)
    return corpus


def _prepared_before(config: TrainConfig, folder: Path, base: Tokenizer | None) -> Corpus:
    """The corpus of a folder that `lucidlm prepare` wrote; ConfigError where the request asks for another."""
    path = Path(config.text[0])
    corpus = open_corpus(path)
    if config.tokenizer not in (None, corpus.tokenizer.name):
        raise ConfigError(
            f"--tokenizer {config.tokenizer}: {path} is prepared with {corpus.tokenizer.name}; "
            "prepare the text again with the other, or leave --tokenizer out"
        )
    _check_reading(config, corpus)
    _check_split(config, corpus)
    if base is not None and corpus.tokenizer.fingerprint() != base.fingerprint():
        raise ConfigError(
            f"{path} is prepared with {corpus.tokenizer.name}, {config.from_} has another tokenizer, "
            f"{base.name}; give the text itself, or prepare it with --tokenizer {config.from_}"
        )
    (folder / CORPUS).mkdir()
    record = {"path": str(path.resolve()), "files": corpus.manifest["files"]}
    write_atomically(folder / CORPUS / PREPARED, json.dumps(record, indent=1))
    return corpus


def _check_reading(config: TrainConfig, corpus: Corpus) -> None:
    """ConfigError where a run asks for another reading of the text than a prepared folder was made with."""
    for name, asked in config.reading.to_dict().items():
        usual = getattr(READING, name)
        made = corpus.manifest["settings"].get(name, usual)
        if asked not in (usual, made):
            flag = f"--{name}" if asked is True else f"--{name} {asked}"
            raise ConfigError(
                f"{flag}: {corpus.folder} was prepared without it; prepare the text again with it, or "
                "leave it out"
            )


def _check_split(config: TrainConfig, corpus: Corpus) -> None:
    """ConfigError where a run asks for another held-out part than a prepared folder has."""
    asked = {"pieces": "strata"}.get(config.split, config.split)
    fraction = corpus.manifest["settings"]["validation_fraction"]
    if config.val:
        wrong = f"--val {' '.join(config.val)}"
    elif asked not in ("auto", corpus.design):
        wrong = f"--split {config.split}"
    elif config.val_fraction not in (TrainConfig().val_fraction, fraction):
        wrong = f"--val-fraction {config.val_fraction}"
    else:
        return
    raise ConfigError(
        f"{wrong}: the held-out part of {corpus.folder} was chosen when it was prepared; prepare the text "
        "again with this option, or leave it out"
    )


def _characters_in(config: TrainConfig) -> int:
    """About as many characters as the run has time for: it would not learn a vocabulary for more."""
    if config.seconds is None:
        return sys.maxsize
    kind = choose_device(config.device).type
    return int(config.seconds * CHARACTERS_PER_S.get(kind, CHARACTERS_PER_S["cpu"]))
