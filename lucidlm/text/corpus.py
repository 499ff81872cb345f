"""A prepared folder comes in, checked; its tokens, documents and description go out."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lucidlm.errors import DataError
from lucidlm.runtime.manifest import MANIFEST, check_manifest
from lucidlm.text.described import check_described
from lucidlm.text.excerpts import Excerpt
from lucidlm.text.split import Design
from lucidlm.text.token_file import Tokens, open_tokens
from lucidlm.text.tokenizer import Tokenizer

FEW_TOKENS = 1000
"""A held-out text with fewer tokens gets a warning."""
PLACES = "validation_places.npy"
"""Places of each held-out piece in the training tokens: the start of its document, and the cut."""
KIND, VERSION, SHARDED = "lucidlm corpus", 1, 2
"""What the manifest of a prepared folder is marked with. Version 2 has shards."""
_AT_ONCE = 1 << 16


@dataclass(frozen=True, slots=True)
class Corpus:
    """A prepared folder: the tokens of two parts, their tokenizer, and the manifest that describes them.

    End-of-text comes before each document, in both parts.
    """

    folder: Path
    tokenizer: Tokenizer
    train: Tokens
    validation: Tokens
    manifest: dict
    status: str = "reused"
    """What `prepare` did: "new", "reused", or "redone: " and why."""

    @property
    def characters(self) -> int:
        """Characters of both parts, after cleaning."""
        return self.manifest["train"]["characters"] + self.manifest["validation"]["characters"]

    @property
    def train_tokens(self) -> int:
        """Tokens of the training part, end-of-text included."""
        return len(self.train)

    @property
    def validation_tokens(self) -> int:
        """Tokens of the validation part, end-of-text included."""
        return len(self.validation)

    @property
    def heldout_tokens(self) -> int:
        """Tokens of the validation part that can be scored: all but end-of-text."""
        starts = np.load(self.folder / "validation_documents.npy", mmap_mode="r")
        return len(self.validation) - (0 if self.tokenizer.end_of_text is None else len(starts))

    @property
    def train_bytes(self) -> int:
        """Bytes of UTF-8 of the training part."""
        return self.manifest["train"]["bytes"]

    @property
    def validation_bytes(self) -> int:
        """Bytes of UTF-8 of the validation part."""
        return self.manifest["validation"]["bytes"]

    @property
    def design(self) -> Design:
        """How the held-out part was chosen."""
        return design_in(self.manifest)

    @property
    def notes(self) -> list[str]:
        """Notes for the user: what was removed, how the text was split, what is in both parts."""
        return self.manifest["notes"]


def open_corpus(folder: str | os.PathLike) -> Corpus:
    """A prepared folder, checked against its manifest; DataError if a file is missing or changed."""
    folder = Path(folder)
    manifest = check_manifest(folder, way_out="prepare the text again")
    if manifest.get("kind") != KIND or manifest.get("version") not in (VERSION, SHARDED):
        raise DataError(
            f"{folder}: {MANIFEST} has kind {manifest.get('kind')!r}, version {manifest.get('version')!r}, "
            f"not {KIND!r}, {VERSION} or {SHARDED}; prepare the text again"
        )
    files = {part: _token_files(folder, part, manifest) for part in ("train", "validation")}
    needed = {name for part, names in files.items() for name in (*names, f"{part}_documents.npy")}
    if missing := (needed | _places_of(manifest)) - {*manifest["files"]}:
        raise DataError(f"{folder}: {MANIFEST} does not list {min(missing)}; prepare the text again")
    check_described(folder, manifest)
    tokenizer = Tokenizer.load(folder)
    if tokenizer.fingerprint() != manifest["tokenizer"]["fingerprint"]:
        raise DataError(
            f"{folder}: tokenizer.json is not the tokenizer of these tokens; prepare the text again"
        )
    train, validation = (
        open_tokens([folder / name for name in names], tokenizer.vocab_size) for names in files.values()
    )
    return Corpus(folder, tokenizer, train, validation, manifest)


def _token_files(folder: Path, part: str, manifest: dict) -> list[str]:
    """The names of a part's token files, in order."""
    described = manifest.get(part)
    shards = described.get("shards") if isinstance(described, dict) else None
    if shards is None:
        return [f"{part}.npy"]
    right = isinstance(shards, list) and shards and all(isinstance(name, str) for name in shards)
    if not right or manifest["version"] != SHARDED:
        raise DataError(f"{folder / MANIFEST}: {part}.shards is damaged; prepare the text again")
    return shards


def _places_of(manifest: dict) -> set[str]:
    split = manifest.get("split")
    return {PLACES} if isinstance(split, dict) and split.get("design") == "strata" else set()


def design_in(manifest: dict) -> Design:
    """How the held-out part was chosen, by the manifest of a prepared folder."""
    if split := manifest.get("split"):
        return split["design"]
    # Earlier versions do not say it: they held out the ends of a few documents, or whole ones.
    if manifest["validation_sources"]:
        return "given"
    both = (entry["train_bytes"] and entry["validation_bytes"] for entry in manifest["documents"])
    return "end" if any(both) else "documents"


def train_documents(corpus: Corpus) -> Iterator[np.ndarray]:
    """The ids of each document of the training part, without end-of-text."""
    return _documents(corpus, "train", corpus.train)


def validation_documents(corpus: Corpus) -> Iterator[Excerpt]:
    """Each document or piece of the validation part, without end-of-text.

    A piece comes with the training text before it as context, from the previous piece or the start of the
    document: a view of the file, read only where it is used.
    """
    documents = _documents(corpus, "validation", corpus.validation)
    if corpus.design != "strata":
        yield from map(Excerpt, documents)
        return
    path, former = corpus.folder / PLACES, 0
    places = np.load(path)
    if places.ndim != 2 or places.shape[1] != 2:
        raise DataError(
            f"{path}: {places.shape} numbers instead of two for each piece (of an unreleased "
            "version); prepare the text again, or repeat the run by its run.toml"
        )
    for ids, (begin, place) in zip(documents, places.tolist(), strict=True):
        yield Excerpt(ids, corpus.train[max(begin, former) : place])
        former = place


def held_out_names(corpus: Corpus, count: int) -> list[str]:
    """Names of the `count` texts of the validation part: their sources, or numbers."""
    if corpus.design == "strata":
        return [f"piece {number:,} of {count:,}" for number in range(1, count + 1)]
    # The manifest lists the first thousand documents.
    listed = [entry["source"] for entry in corpus.manifest["documents"] if entry["validation_bytes"]]
    return listed + [f"held-out document {number:,}" for number in range(len(listed) + 1, count + 1)]


def _documents(corpus: Corpus, part: str, tokens: Tokens) -> Iterator[np.ndarray]:
    starts = np.load(corpus.folder / f"{part}_documents.npy", mmap_mode="r")
    skipped = 0 if corpus.tokenizer.end_of_text is None else 1
    for low in range(0, len(starts), _AT_ONCE):  # a corpus may have millions of documents
        here = starts[low : low + _AT_ONCE + 1].tolist()
        ends = here[1:] if len(here) > _AT_ONCE else [*here[1:], len(tokens)]
        for start, end in zip(here, ends):
            yield tokens[start + skipped : end]
