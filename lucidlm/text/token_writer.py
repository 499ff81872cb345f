"""Parts of the staged text come in, are encoded, and are written as token files: `train`, `validation`.

Each process encodes one chunk into one file. The files of a small part are joined; those of a large part are
its shards, in the order of the text.
"""

import functools
import hashlib
import os
import shutil
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lucidlm.errors import DataError
from lucidlm.runtime.files import naming
from lucidlm.runtime.progress import Progress
from lucidlm.runtime.wording import plural
from lucidlm.text.chunks import Chunk, chunks
from lucidlm.text.corpus import PLACES
from lucidlm.text.kept import Kept, intact
from lucidlm.text.split import Part, Pieces
from lucidlm.text.staged_text import StagedText
from lucidlm.text.threads import in_threads
from lucidlm.text.token_file import shard_name, write_array, write_joined, write_tokens
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.text.work import Piece, Work

ENCODED = 1 << 26
"""Bytes of text that a process encodes into one file, which is a shard if the part is large."""
ONE_FILE = 1 << 30
"""Bytes of the largest part whose tokens are in one file. Those of a larger part are in shards."""
PREFIX = "tokens-"
KINDS = ("npy", "documents.npy", "starts.npy")
"""Files of a chunk: its tokens, and the places in them where documents and stretches begin."""


@dataclass(frozen=True, slots=True)
class Written:
    """A part that was written."""

    tokens: int
    marks: int
    """The number of stretches."""
    files: tuple[str, ...]
    """Names of its token files, in order."""
    starts: np.ndarray
    """Where each stretch begins in the tokens; only for a part in pieces, which are few."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """How the chunks of a part are encoded."""

    tokenizer: Tokenizer | None
    """None in another process, which makes its own from `spec`."""
    spec: str
    """gpt2, bytes, or the folder with the file of the tokenizer."""
    fingerprint: str
    in_pieces: bool
    """Whether each stretch is a document of its own."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, folder: Path, *, in_pieces: bool) -> "Encoder":
        """The encoder with a tokenizer that is saved in this folder."""
        spec = tokenizer.name if tokenizer.name in ("gpt2", "bytes") else str(folder)
        return cls(tokenizer, spec, tokenizer.fingerprint(), in_pieces)

    def __reduce__(self) -> tuple:
        return Encoder, (None, self.spec, self.fingerprint, self.in_pieces)

    def get(self) -> Tokenizer:
        """The tokenizer."""
        return self.tokenizer or _made(self.spec, self.fingerprint)


@functools.lru_cache(1)
def _made(spec: str, fingerprint: str) -> Tokenizer:
    return Tokenizer.from_spec(spec)


def write_part(
    folder: Path,
    name: str,
    staged: StagedText,
    part: Part,
    encoder: Encoder,
    key: str,
    work: Work,
) -> Written:
    """Write a part's tokens and the starts of its documents.

    End-of-text comes before each document, and before each piece of a part that is in pieces. Where a piece
    was cut out, the training text goes on without end-of-text: to a model it means that a new text begins.
    `key` is a hash of the text.
    """
    tokenizer = encoder.get()
    digest = hashlib.sha256(f"{key} {encoder.fingerprint}".encode()).hexdigest()[:16]
    work.sweep(PREFIX, lambda name: name.startswith(f"{PREFIX}{digest}"))
    work.progress.stage("encoding", part.characters)

    def piece(chunk: Chunk) -> Piece:
        made = f"{PREFIX}{digest}-{chunk.digest()[:16]}{'-pieces' * encoder.in_pieces}"
        return Piece(made, encode, (staged, chunk, encoder), "encoding", "characters")

    cuts = functools.partial(_cuts, staged, tokenizer)
    found = list(work.records(map(piece, chunks(part, ENCODED, cuts))))
    tokens = sum(record["tokens"] for _, record in found)
    if tokens < 2:
        raise DataError(
            f"{name}: only {plural(tokens, 'token')}, at least 2 are needed; add text or give --val"
        )
    names = [name for name, _ in found]
    befores = np.cumsum([0, *(record["tokens"] for _, record in found)])[:-1].tolist()
    tokens_of, documents_of, starts_of = ([work.kept.path(name, kind) for name in names] for kind in KINDS)
    if part.bytes <= ONE_FILE:
        files = (f"{name}.npy",)
        _join(folder / files[0], tokens_of)
    else:
        files = tuple(shard_name(name, number, len(names)) for number in range(len(names)))
        for path, shard in zip(tokens_of, files):
            _put(path, folder / shard)
    _join(folder / f"{name}_documents.npy", documents_of, befores)
    starts = [np.empty(0, np.uint64)]
    if isinstance(part, Pieces):
        for path, before in zip(starts_of, befores):
            with intact(path):
                starts.append(np.load(path) + np.uint64(before))
    marks = sum(record["stretches"] for _, record in found)
    return Written(tokens, marks, files, np.concatenate(starts))


def encode(
    staged: StagedText, chunk: Chunk, encoder: Encoder, kept: Kept, name: str, *, progress: Progress
) -> dict:
    """Encode a chunk and keep its tokens; returns the record."""
    tokenizer = encoder.get()
    stretches, documents = array("Q"), array("Q")
    prefix = np.array([] if tokenizer.end_of_text is None else [tokenizer.end_of_text], tokenizer.dtype)
    tokens = characters = 0

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
        nonlocal tokens, characters
        groups = _groups(staged, chunk, tokenizer, in_pieces=encoder.in_pieces)
        # Another process uses one core; this one works alone and uses all of them.
        results = in_threads(encoded, groups) if encoder.tokenizer is not None else map(encoded, groups)
        for ids, firsts, length in results:
            stretches.extend(tokens + first for first, _ in firsts)
            documents.extend(tokens + first for first, marked in firsts if marked)
            tokens += len(ids)
            characters += length
            progress.advance(length)
            yield ids

    with kept.new(name, KINDS) as piece:
        write_tokens(piece.paths["npy"], arrays(), tokenizer.vocab_size)
        for kind, values in (("documents.npy", documents), ("starts.npy", stretches)):
            write_array(piece.paths[kind], np.array(values, np.uint64))
        staged.close()
        return piece.keep({"tokens": tokens, "characters": characters, "stretches": len(stretches)})


def _groups(
    staged: StagedText, chunk: Chunk, tokenizer: Tokenizer, *, in_pieces: bool
) -> Iterator[list[tuple[bool, bool, str]]]:
    """Pieces of a chunk: whether a stretch begins with it, whether that begins a document, and the text.

    They are in groups of 64 Ki characters or more, so that a thread has enough to do.
    """
    group: list[tuple[bool, bool, str]] = []
    size, before, first = 0, chunk.before, chunk.begins
    for document, start, end in zip(*(values.tolist() for values in chunk.stretches)):
        marked = in_pieces or document != before
        for piece in tokenizer.cut(staged.text(start, end)):
            group.append((first, marked, piece))
            first = False
            size += len(piece)
            if size >= 1 << 16:
                yield group
                group, size = [], 0
        before, first = document, True
    if group:
        yield group


def _cuts(staged: StagedText, tokenizer: Tokenizer, start: int, end: int) -> Iterator[int]:
    """The places where `cut` ends a piece of a long stretch. It may be divided there and nowhere else."""
    for piece in tokenizer.cut(staged.text(start, end)):
        start += len(piece.encode("utf-8"))
        yield start


def _join(target: Path, paths: list[Path], added: list[int] | None = None) -> None:
    """Write the files as one."""
    if len(paths) == 1:
        _put(paths[0], target)
    else:
        # They are kept: as long as they are there, another preparation would take them again.
        way_out = f"delete {paths[0].parent} and run the same command again"
        write_joined(target, paths, added, way_out=way_out)


def _put(path: Path, target: Path) -> None:
    """Give a kept file a second name, or copy it: it stays among the kept files until the end."""
    try:
        os.link(path, target)
    except OSError:  # the disk has no links
        with open(path, "rb") as file, naming(target), open(target, "wb") as copy:
            shutil.copyfileobj(file, copy)  # copyfile would name two files in an error


def write_places(folder: Path, train: Pieces, validation: Pieces, starts: Sequence[int] | np.ndarray) -> None:
    """Write where each piece's document begins in the training tokens, and where the piece was cut out.

    `starts` are the starts of the training stretches, and the end of the last. The cut alone is not enough:
    at the border of two documents it does not say to which one the piece belongs.
    """
    before = np.searchsorted(train.starts, validation.starts)  # training stretches before each piece
    first = np.searchsorted(train.documents, validation.documents)  # no document is held out whole
    write_array(folder / PLACES, np.array(starts, np.uint64)[np.stack((first, before), axis=1)])
