"""A text becomes a prepared folder: documents come in, token files of training and validation go out.

The documents are spooled into one temporary file, split, checked for text that stands in both parts, and
encoded in parallel, all in bounded memory. The folder appears at once when everything in it is written.
"""

import contextlib
import hashlib
import importlib.resources
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lucidlm.errors import ConfigError, DataError, RunError
from lucidlm.runtime.files import MANIFEST, check_manifest, lock, replacing_folder, sha256_of, write_manifest
from lucidlm.runtime.places import check_folder_place
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.runtime.small_files import read_small_json
from lucidlm.runtime.wording import plural
from lucidlm.text.account import Account
from lucidlm.text.described import check_described
from lucidlm.text.excerpts import Excerpt
from lucidlm.text.formats.decoding import File, cannot_read
from lucidlm.text.leaks import LISTED, find_leaks
from lucidlm.text.pipes import refuse_stdin_twice
from lucidlm.text.reading import READING, Reading
from lucidlm.text.sources import find_files
from lucidlm.text.split import Design, Part, Split, split
from lucidlm.text.staged_text import Spool
from lucidlm.text.token_file import TokenFile, write_array, write_tokens
from lucidlm.text.tokenizer import Tokenizer, bpe_size, in_threads, suggest

Sources = str | Path | Sequence[str | Path]

TRAINING_SAMPLE = 50_000_000
"""Bytes of text from which a vocabulary is learnt."""
FEW_TOKENS = 1000
"""A validation part under this gets a warning."""
PLACES = "validation_places.npy"
"""Of each held-out piece: where in the training tokens its document begins, and where it was taken out."""

_KIND, _VERSION = "lucidlm corpus", 1


@dataclass(frozen=True, slots=True)
class Corpus:
    """A prepared folder: two token files, their tokenizer, and what the manifest says about them.

    End-of-text stands before each document, in both parts.
    """

    folder: Path
    tokenizer: Tokenizer
    train: TokenFile
    validation: TokenFile
    manifest: dict
    status: str = "reused"
    """What `prepare` did: "new", "reused", or "redone: " and why."""

    @property
    def characters(self) -> int:
        """Characters of both parts, after cleaning."""
        return self.manifest["train"]["characters"] + self.manifest["validation"]["characters"]

    @property
    def train_characters(self) -> int:
        """Characters of the training part."""
        return self.manifest["train"]["characters"]

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
        """Tokens of the validation part that can be scored: all but its end-of-texts."""
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
        """What the held-out part is a sample of."""
        return design_in(self.manifest)

    @property
    def notes(self) -> list[str]:
        """What a reader should know: what was removed, how the text was split, what stands in both parts."""
        return self.manifest["notes"]


def prepare(
    sources: Sources,
    out: str | os.PathLike,
    *,
    tokenizer: str | Tokenizer = "auto",
    validation: Sources | None = None,
    validation_fraction: float = 0.1,
    split: Split = "auto",
    reading: Reading = READING,
    progress: Progress = SILENT,
) -> Corpus:
    """The prepared folder `out` of these sources, made unless it stands there already, from the same text.

    The tokenizer "auto" suits the amount of text, "auto:N" a training that has time for N characters of it.
    No sources: the bundled story. `validation` names sources of their own for the validation part; without it
    the text is split as `split` says: "documents" holds out whole ones by a hash of their content, "pieces" a
    stratified sample of pieces of the whole text, "end" the last part of each document; "auto" is documents
    where there are 20 or more, else pieces. A validation document that stands in the training sources too is
    taken out of training, and said.
    """
    if not 0 < validation_fraction < 1:
        raise ConfigError(f"validation fraction {validation_fraction} is not between 0 and 1; try 0.1")
    automatic = isinstance(tokenizer, str) and tokenizer.partition(":")[0] == "auto"
    if isinstance(tokenizer, str) and not automatic and tokenizer != "bytes" and bpe_size(tokenizer) is None:
        tokenizer = Tokenizer.from_spec(tokenizer)  # a wrong spec is an error before the text is read
    refuse_stdin_twice([*_as_list(sources), *_as_list(validation)])
    check_folder_place(out, "--out", inputs=[*_as_list(sources), *_as_list(validation)])
    out, aliases = Path(out), {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock(out))
        if not (texts := _as_list(sources)):
            texts += [stack.enter_context(_bundled_story())]
            aliases[str(texts[0])] = "the bundled story"
        order = _Order(texts, _as_list(validation), tokenizer, validation_fraction, split, reading, aliases)
        account = Account()
        parts = [_contents(_found(sources, account, progress)) for sources in (order.texts, order.held_out)]
        standing, status = _standing(out, order.settings, parts)
        if standing:
            return standing
        with replacing_folder(out) as folder:
            described, read = _write_parts(folder, order, parts, account, progress)
            _check_unchanged(content for part in parts for content in part if content.file.path in read)
            made_from = _sources(parts, order.settings, read, aliases)
            write_manifest(folder, {"kind": _KIND, "version": _VERSION, **made_from, **described})
    return replace(open_corpus(out), status=status)


@dataclass(frozen=True, slots=True)
class _Order:
    """What `prepare` was asked for."""

    texts: list[str | Path]
    held_out: list[str | Path]
    tokenizer: str | Tokenizer
    fraction: float
    split: Split
    reading: Reading
    aliases: dict[str, str]
    """What to call a source whose path says nothing to a reader."""

    @property
    def settings(self) -> dict:
        spec = self.tokenizer if isinstance(self.tokenizer, str) else self.tokenizer.fingerprint()
        how = {"validation_fraction": self.fraction, "split": self.split}
        return {**self.reading.to_dict(), "tokenizer": spec, **how}


def open_corpus(folder: str | os.PathLike) -> Corpus:
    """A prepared folder, checked against its manifest; DataError where a file is missing or changed."""
    folder = Path(folder)
    manifest = check_manifest(folder, way_out="prepare the text again")
    if manifest.get("kind") != _KIND or manifest.get("version") != _VERSION:
        raise DataError(
            f"{folder}: its {MANIFEST} is of {manifest.get('kind')!r} version {manifest.get('version')!r}, "
            f"not {_KIND!r} version {_VERSION}; prepare the text again"
        )
    needed = {f"{part}{kind}.npy" for part in ("train", "validation") for kind in ("", "_documents")}
    if missing := (needed | _places_of(manifest)) - {*manifest["files"]}:
        raise DataError(f"{folder}: {MANIFEST} does not list {min(missing)}; prepare the text again")
    check_described(folder, manifest)
    tokenizer = Tokenizer.load(folder)
    if tokenizer.fingerprint() != manifest["tokenizer"]["fingerprint"]:
        raise DataError(
            f"{folder}: tokenizer.json is not the one the text was encoded with; prepare the text again"
        )
    train, validation = (
        TokenFile(folder / f"{part}.npy", tokenizer.vocab_size) for part in ("train", "validation")
    )
    return Corpus(folder, tokenizer, train, validation, manifest)


def _places_of(manifest: dict) -> set[str]:
    split = manifest.get("split")
    return {PLACES} if isinstance(split, dict) and split.get("design") == "strata" else set()


def design_in(manifest: dict) -> Design:
    """What the held-out part of a prepared folder is a sample of, by its manifest."""
    if split := manifest.get("split"):
        return split["design"]
    # Folders of earlier versions: the ends of a few documents, or whole ones.
    if manifest["validation_sources"]:
        return "given"
    both = (entry["train_bytes"] and entry["validation_bytes"] for entry in manifest["documents"])
    return "end" if any(both) else "documents"


def train_documents(corpus: Corpus) -> Iterator[np.ndarray]:
    """The ids of each document of the training part, without end-of-text."""
    return _documents(corpus, "train", corpus.train)


def validation_documents(corpus: Corpus) -> Iterator[Excerpt]:
    """Each document of the validation part, without end-of-text; of a text in pieces, each piece.

    Before a piece stand the ids of the training text up to it, from the former piece or the document's
    end-of-text on: views of the file, read only where they are used.
    """
    documents = _documents(corpus, "validation", corpus.validation)
    if corpus.design != "strata":
        yield from map(Excerpt, documents)
        return
    path, former = corpus.folder / PLACES, 0
    places = np.load(path)
    if places.ndim != 2 or places.shape[1] != 2:
        raise DataError(
            f"{path}: {places.shape} numbers where each piece has two, as of a version that was not "
            "released; prepare the text again, or repeat the run by its run.toml"
        )
    for ids, (begin, place) in zip(documents, places.tolist(), strict=True):
        yield Excerpt(ids, corpus.train[max(begin, former) : place])
        former = place


def held_out_names(corpus: Corpus, count: int) -> list[str]:
    """What to call the `count` texts of the validation part: their sources, or their numbers."""
    if corpus.design == "strata":
        return [f"piece {number:,} of {count:,}" for number in range(1, count + 1)]
    # The manifest lists the first thousand documents.
    listed = [entry["source"] for entry in corpus.manifest["documents"] if entry["validation_bytes"]]
    return listed + [f"held-out document {number:,}" for number in range(len(listed) + 1, count + 1)]


def _documents(corpus: Corpus, part: str, tokens: TokenFile) -> Iterator[np.ndarray]:
    starts = np.load(corpus.folder / f"{part}_documents.npy")
    skipped = 0 if corpus.tokenizer.end_of_text is None else 1
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(tokens)]):
        yield tokens[start + skipped : end]


# What has been prepared already


def _as_list(sources: Sources | None) -> list[str | Path]:
    if sources is None:
        return []
    return [sources] if isinstance(sources, str | Path) else list(sources)


def _found(sources: list[str | Path], account: Account, progress: Progress) -> list[File]:
    return find_files(sources, account, progress=progress)


def _bundled_story() -> contextlib.AbstractContextManager[Path]:
    return importlib.resources.as_file(importlib.resources.files("lucidlm.text") / "assets" / "story.txt")


@dataclass(frozen=True, slots=True)
class _Content:
    """A file of the sources, and what was in it before it was read."""

    file: File
    size: int
    time: int
    sha256: str | None
    """None for a file of a folder that cannot be read, and will be passed over."""

    @property
    def key(self) -> list[str | None]:
        """The suffix says how a file is read; where it lies does not matter."""
        return [Path(self.file.name).name, self.sha256]


def _contents(files: list[File]) -> list[_Content]:
    found = []
    for file in files:
        try:
            status = file.path.stat()
            found.append(_Content(file, status.st_size, status.st_mtime_ns, sha256_of(file.path)))
        except OSError as problem:
            if not file.source:
                raise cannot_read(file.name, problem) from problem
            found.append(_Content(file, 0, 0, None))
    return found


def _check_unchanged(contents: Iterable[_Content]) -> None:
    for content in contents:
        try:
            status = os.stat(content.file.path)
        except OSError as problem:
            raise cannot_read(content.file.name, problem) from problem
        if (status.st_size, status.st_mtime_ns) != (content.size, content.time):
            raise DataError(
                f"{content.file.name}: changed while it was being read; run again when it is complete"
            )


def _sources(parts: list[list[_Content]], settings: dict, read: set[Path], aliases: dict[str, str]) -> dict:
    """What the manifest says of the files: the key and the lists are of those that were read, alone."""
    taken = [[content for content in part if content.file.path in read] for part in parts]
    listed = [
        [
            {
                "path": aliases.get(content.file.name, content.file.name),
                "size": content.size,
                "sha256": content.sha256,
            }
            for content in part
        ]
        for part in taken
    ]
    refused = [content.key for part in parts for content in part if content.file.path not in read]
    return {
        "key": _key(settings, taken),
        "settings": settings,
        "sources": listed[0],
        "validation_sources": listed[1],
        "refused": refused,
    }


def _key(settings: dict, parts: list[list[_Content]]) -> str:
    """One hash of all that the folder is made from."""
    contents = [[content.key for content in part] for part in parts]
    return hashlib.sha256(json.dumps([_VERSION, settings, contents], sort_keys=True).encode()).hexdigest()


def _standing(out: Path, settings: dict, parts: list[list[_Content]]) -> tuple[Corpus | None, str]:
    """The corpus in `out` if it is that of these files, and otherwise what is to be done there."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None, "new"
    try:
        manifest = read_small_json(out / MANIFEST, DataError)
        ours = manifest["kind"] == _KIND
        foreign = {path.name for path in out.iterdir()} - {*manifest["files"], MANIFEST}
    except (OSError, DataError, ValueError, KeyError, TypeError):
        ours, manifest, foreign = False, {}, set()
    if not ours or foreign:
        reason = f"holds {min(foreign)}, which is not of it" if foreign else "is no prepared folder"
        raise RunError(
            f"{out} exists and {reason}; it is not overwritten: choose another --out or move it away"
        )
    # A file that did not fit before does not fit now, as long as it is the same.
    refused = manifest.get("refused")
    refused = refused if isinstance(refused, list) else []
    fitting = [[content for content in part if content.key not in refused] for part in parts]
    if manifest.get("key") != _key(settings, fitting):
        return None, "redone: the text or a setting has changed"
    try:
        return open_corpus(out), "reused"
    except DataError as error:
        return None, f"redone: {error}"


# Tokens


def _write_parts(
    folder: Path, order: _Order, parts: list[list[_Content]], account: Account, progress: Progress
) -> tuple[dict, set[Path]]:
    """Read, split, check, encode and write both parts; what the manifest says about them, and what was read.

    `account` knows what the walk through the sources has passed over.
    """
    with contextlib.closing(Spool(folder / "spool", progress, order.aliases)) as spool:
        spool.account.add(account)
        progress.stage("reading text")
        for part in parts:
            spool.fill([content.file for content in part], order.reading)
        spool.notes += spool.account.lines()
        return _write_spooled(folder, order, spool), spool.read


def _write_spooled(folder: Path, order: _Order, spool: Spool) -> dict:
    divided = split(spool, order.fraction, order.split)
    train, validation = divided.train, divided.validation
    for name, part in (("training", train), ("validation", validation)):
        if not part.bytes:
            total = train.characters + validation.characters
            size = plural(total, "character")
            raise DataError(f"a text of {size} leaves no {name} text; add text or give --val")
    spool.notes.append(divided.sentence)
    leaks = find_leaks(spool, train, validation)
    tokenizer, reason = _tokenizer_for(spool, train, order.tokenizer)
    tokenizer.save(folder)
    counts, starts = {}, {}
    for name, part in (("train", train), ("validation", validation)):
        in_pieces = divided.design == "strata" and name == "validation"
        tokens, starts[name] = _encode(folder, name, spool, part, tokenizer, in_pieces=in_pieces)
        counts[name] = {
            "documents": part.n_documents,
            "characters": part.characters,
            "bytes": part.bytes,
            "tokens": tokens,
        }
    if divided.design == "strata":
        write_array(
            folder / PLACES, _places(train, validation, [*starts["train"], counts["train"]["tokens"]])
        )
    marks = len(starts["validation"]) if tokenizer.end_of_text is not None else 0
    if (tokens := counts["validation"]["tokens"] - marks) < FEW_TOKENS:
        spool.notes.append(f"the held-out text is only {plural(tokens, 'token')}: its loss is uncertain")
    described = {"name": tokenizer.name, "vocab_size": tokenizer.vocab_size, "reason": reason}
    return {
        "tokenizer": {**described, "fingerprint": tokenizer.fingerprint()},
        **counts,
        "split": {"design": divided.design, "stretches": len(validation.documents)},
        "documents": _listed(spool, train, validation),
        "read": spool.account.to_dict(),
        "leaks": leaks,
        "notes": spool.notes,
    }


def _listed(spool: Spool, train: Part, validation: Part) -> list[dict]:
    """Where each document went, for the first thousand."""
    bytes_of: list[dict[int, int]] = [{}, {}]
    for of_part, part in zip(bytes_of, (train, validation)):
        for document, start, end in part.ranges():
            if document < LISTED:
                of_part[document] = of_part.get(document, 0) + end - start
    return [
        {
            "source": name,
            "train_bytes": bytes_of[0].get(number, 0),
            "validation_bytes": bytes_of[1].get(number, 0),
        }
        for number, name in spool.names(range(min(LISTED, sum(spool.parts)))).items()
    ]


def _tokenizer_for(spool: Spool, train: Part, tokenizer: str | Tokenizer) -> tuple[Tokenizer, str]:
    """The tokenizer, and why it is this one; one that is learnt sees the training part alone."""
    if isinstance(tokenizer, Tokenizer):
        return tokenizer, "given"
    spec, reason = tokenizer, "asked for"
    kind, _, most = tokenizer.partition(":")
    if kind == "auto":
        spec, reason = suggest(min(train.characters, int(most)) if most else train.characters)
    if (asked := bpe_size(spec)) is None:
        chosen = Tokenizer.from_spec(spec)
    else:
        spool.progress.stage("training the tokenizer", min(TRAINING_SAMPLE, train.characters))
        chosen = Tokenizer.train(_sample(spool, train), asked, spool.progress)
    if asked is not None and chosen.vocab_size < asked:
        spool.notes.append(f"the text has words for {chosen.vocab_size} tokens of the {asked} asked for")
    if not chosen.lossless:
        spool.notes.append(
            "this tokenizer may change how a text is written (é of one character or two, a space in front); "
            "losses are of the text that its tokens spell"
        )
    if chosen.end_of_text is None:
        spool.notes.append("this tokenizer has no end-of-text token; documents follow each other without one")
    return chosen, reason


def _sample(spool: Spool, part: Part) -> Iterator[str]:
    """At most 50 MB of a part, evenly spread over it."""
    share = min(1.0, TRAINING_SAMPLE / part.bytes)
    seen = taken = 0
    for _, start, end in part.ranges():
        for text in spool.text(start, end):
            if taken <= seen * share:
                yield text
                taken += len(text)
            seen += len(text)


def _places(train: Part, validation: Part, starts: list[int]) -> np.ndarray:
    """Where each piece's document begins in the training tokens, and where the piece stood: (n, 2).

    `starts` are those of the training stretches, and their end. The second number alone would not do: the
    end of one document is where the next begins.
    """
    before = np.searchsorted(train.starts, validation.starts)  # training stretches before each piece
    first = np.searchsorted(train.documents, validation.documents)  # no document is held out whole
    return np.array(starts, np.uint64)[np.stack((first, before), axis=1)]


def _encode(
    folder: Path, name: str, spool: Spool, part: Part, tokenizer: Tokenizer, *, in_pieces: bool
) -> tuple[int, list[int]]:
    """Write a part's tokens, and the places where its documents start; tokens, and where stretches start.

    End-of-text stands before each document, and before each piece of a part that is in pieces. Where a piece
    was taken out of a document the training text goes on without a mark: to a model, end-of-text means that a
    text begins.
    """
    stretches, documents = array("Q"), array("Q")
    prefix = np.array([] if tokenizer.end_of_text is None else [tokenizer.end_of_text], tokenizer.dtype)
    new_document = np.ones(len(part.documents), bool)
    if not in_pieces:
        new_document[1:] = part.documents[1:] != part.documents[:-1]

    def encoded(pieces: list[tuple[bool, bool, str]]) -> tuple[np.ndarray, list[tuple[int, bool]], int]:
        ids: list[np.ndarray] = []
        firsts, count = [], 0
        for first, marked, text in pieces:
            if first:
                firsts.append((count, marked))
                if marked:
                    ids.append(prefix)
            ids.append(tokenizer.encode_piece(text))
            count += len(ids[-1]) + (first and marked) * len(prefix)
        return np.concatenate(ids), firsts, sum(len(text) for *_, text in pieces)

    def arrays() -> Iterator[np.ndarray]:
        tokens = 0
        spool.progress.stage("encoding", part.characters)
        for ids, firsts, length in in_threads(encoded, _groups(spool, part, tokenizer, new_document)):
            stretches.extend(tokens + first for first, _ in firsts)
            documents.extend(tokens + first for first, marked in firsts if marked)
            tokens += len(ids)
            spool.progress.advance(length)
            yield ids

    path = folder / f"{name}.npy"
    tokens = write_tokens(path, arrays(), tokenizer.vocab_size)
    if tokens < 2:
        raise DataError(f"{name}: {plural(tokens, 'token')} of the 2 that are needed; add text or give --val")
    write_array(folder / f"{name}_documents.npy", np.array(documents, np.uint64))
    return tokens, stretches.tolist()


def _groups(
    spool: Spool, part: Part, tokenizer: Tokenizer, new_document: np.ndarray
) -> Iterator[list[tuple[bool, bool, str]]]:
    """Pieces of stretches, with whether each is the first of its own and whether a document begins there.

    They come in groups worth a thread's while.
    """
    group: list[tuple[bool, bool, str]] = []
    size = 0
    for (_, start, end), marked in zip(part.ranges(), new_document.tolist()):
        first = True
        for piece in tokenizer.cut(spool.text(start, end)):
            group.append((first, marked, piece))
            first = False
            size += len(piece)
            if size >= 1 << 16:
                yield group
                group, size = [], 0
    if group:
        yield group
