"""A text becomes a prepared folder: documents come in, token files of training and validation go out.

The documents are spooled into one temporary file, split, checked for text that stands in both parts, and
encoded in parallel, all in bounded memory. The folder appears at once when everything in it is written.
"""

import codecs
import collections
import contextlib
import hashlib
import importlib.resources
import json
import os
import re
import shutil
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from glob import glob, has_magic
from pathlib import Path

import numpy as np

from lucidlm.errors import ConfigError, DataError, RunError
from lucidlm.runtime.files import MANIFEST, check_manifest, lock, replacing_folder, sha256_of, write_manifest
from lucidlm.text.documents import Document, read_documents
from lucidlm.text.tokenizer import Tokenizer, bpe_size, in_threads, suggest
from lucidlm.text.windows import TokenFile, write_tokens

Sources = str | Path | Sequence[str | Path]
Progress = Callable[[str, int, int | None], None]

SPLIT_BY_DOCUMENT = 20
"""From so many documents on, whole documents are held out; of fewer, the end of each."""
LARGEST_VALIDATION = 16_000_000
"""Bytes of validation text beyond which evaluating only takes longer."""
TRAINING_SAMPLE = 50_000_000
"""Bytes of text from which a vocabulary is learnt."""
FEW_TOKENS = 1000
"""A validation part under this gets a warning."""

_KIND, _VERSION = "lucidlm corpus", 1
_BLOCK = 1 << 20
_LISTED = 1000
_INDEX = np.dtype([("offset", "<u8"), ("bytes", "<u8"), ("characters", "<u8"), ("digest", "S16")])


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
    def train_bytes(self) -> int:
        """Bytes of UTF-8 of the training part."""
        return self.manifest["train"]["bytes"]

    @property
    def validation_bytes(self) -> int:
        """Bytes of UTF-8 of the validation part."""
        return self.manifest["validation"]["bytes"]

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
    encoding: str = "utf-8",
    field: str = "text",
    raw: bool = False,
    progress: Progress | None = None,
) -> Corpus:
    """The prepared folder `out` of these sources, made unless it stands there already, from the same text.

    The tokenizer "auto" suits the amount of text, "auto:N" a training that has time for N characters of it.
    No sources: the bundled story. `validation` names sources of their own for the validation part; without it
    the text is split: by a hash of each document's content, or, of fewer than 20 documents, near the end of
    each. A validation document that stands in the training sources too is taken out of training, and said.
    """
    if not 0 < validation_fraction < 1:
        raise ConfigError(f"validation fraction {validation_fraction} is not between 0 and 1; try 0.1")
    automatic = isinstance(tokenizer, str) and tokenizer.partition(":")[0] == "auto"
    if isinstance(tokenizer, str) and not automatic and tokenizer != "bytes" and bpe_size(tokenizer) is None:
        tokenizer = Tokenizer.from_spec(tokenizer)  # a wrong spec is an error before the text is read
    out, aliases = Path(out), {}
    reading = {"encoding": encoding, "field": field, "raw": raw}
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock(out))
        if not (texts := _as_list(sources)):
            texts += [stack.enter_context(_bundled_story())]
            aliases[str(texts[0])] = "the bundled story"
        order = _Order(texts, _as_list(validation), tokenizer, validation_fraction, reading, aliases)
        files = [_files_of(order.texts, out), _files_of(order.held_out, out)]
        key = _key(order.settings, files)
        standing, status = _standing(out, key)
        if standing:
            return standing
        with replacing_folder(out) as folder:
            described = _write_parts(folder, order, progress or (lambda stage, done, total: None))
            _check_unchanged(files)
            made_from = {"key": key, "settings": order.settings, **_sources(files, aliases)}
            write_manifest(folder, {"kind": _KIND, "version": _VERSION, **made_from, **described})
    return replace(open_corpus(out), status=status)


@dataclass(frozen=True, slots=True)
class _Order:
    """What `prepare` was asked for."""

    texts: list[str | Path]
    held_out: list[str | Path]
    tokenizer: str | Tokenizer
    fraction: float
    reading: dict
    aliases: dict[str, str]
    """What to call a source whose path says nothing to a reader."""

    @property
    def settings(self) -> dict:
        spec = self.tokenizer if isinstance(self.tokenizer, str) else self.tokenizer.fingerprint()
        return {**self.reading, "tokenizer": spec, "validation_fraction": self.fraction}


def open_corpus(folder: str | os.PathLike) -> Corpus:
    """A prepared folder, checked against its manifest; DataError where a file is missing or changed."""
    folder = Path(folder)
    manifest = check_manifest(folder)
    if manifest.get("kind") != _KIND or manifest.get("version") != _VERSION:
        raise DataError(
            f"{folder}: its {MANIFEST} is of {manifest.get('kind')!r} version {manifest.get('version')!r}, "
            f"not {_KIND!r} version {_VERSION}; prepare the text anew"
        )
    if missing := {f"{part}{kind}.npy" for part in ("train", "validation") for kind in ("", "_documents")} - {
        *manifest["files"]
    }:
        raise DataError(f"{folder}: {MANIFEST} does not list {min(missing)}; prepare the text anew")
    tokenizer = Tokenizer.load(folder)
    if tokenizer.fingerprint() != manifest["tokenizer"]["fingerprint"]:
        raise DataError(
            f"{folder}: tokenizer.json is not the one the text was encoded with; prepare the text anew"
        )
    train, validation = (
        TokenFile(folder / f"{part}.npy", tokenizer.vocab_size) for part in ("train", "validation")
    )
    return Corpus(folder, tokenizer, train, validation, manifest)


def train_documents(corpus: Corpus) -> Iterator[np.ndarray]:
    """The ids of each document of the training part, without end-of-text."""
    return _documents(corpus, "train", corpus.train)


def validation_documents(corpus: Corpus) -> Iterator[np.ndarray]:
    """The ids of each document of the validation part, without end-of-text."""
    return _documents(corpus, "validation", corpus.validation)


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


def _bundled_story() -> contextlib.AbstractContextManager[Path]:
    return importlib.resources.as_file(importlib.resources.files("lucidlm.text") / "assets" / "story.txt")


def _files_of(sources: list[str | Path], out: Path) -> list[dict] | None:
    """Path, size and SHA-256 of each file of the sources; None where one is no file (stdin, an address)."""
    found: list[Path] = []
    for source in map(str, sources):
        path = Path(source)
        if path.is_file():
            found.append(path)
        elif path.is_dir():
            found += sorted(_visible_files(path, out))
        elif has_magic(source) and "://" not in source:
            for match in map(Path, sorted(glob(source, recursive=True))):
                found += [match] if match.is_file() else sorted(_visible_files(match, out))
        else:
            return None
    return [_file(path) for path in found]


def _visible_files(folder: Path, out: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.is_file() and out.absolute() not in path.absolute().parents:
            yield path


def _file(path: Path) -> dict:
    status = path.stat()
    return {"path": str(path), "size": status.st_size, "time": status.st_mtime_ns, "sha256": sha256_of(path)}


def _check_unchanged(files: list[list[dict] | None]) -> None:
    for file in (file for part in files for file in part or []):
        status = os.stat(file["path"])
        if (status.st_size, status.st_mtime_ns) != (file["size"], file["time"]):
            raise DataError(f"{file['path']}: changed while it was being read; run again when it is complete")


def _sources(files: list[list[dict] | None], aliases: dict[str, str]) -> dict:
    keys = ("path", "size", "sha256")
    named = [
        [{**file, "path": aliases.get(file["path"], file["path"])} for file in part or []] for part in files
    ]
    listed = [[{key: file[key] for key in keys} for file in part] for part in named]
    return {"sources": listed[0], "validation_sources": listed[1]}


def _key(settings: dict, files: list[list[dict] | None]) -> str | None:
    """One hash of all that the folder is made from; None where that is not known before reading."""
    if None in files:
        return None
    # The suffix says how a file is read; where it lies does not matter.
    contents = [[(Path(file["path"]).name, file["sha256"]) for file in part or []] for part in files]
    return hashlib.sha256(json.dumps([_VERSION, settings, contents], sort_keys=True).encode()).hexdigest()


def _standing(out: Path, key: str | None) -> tuple[Corpus | None, str]:
    """The corpus in `out` if it is that of `key`, and otherwise what is to be done there."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None, "new"
    try:
        manifest = json.loads((out / MANIFEST).read_bytes())
        ours = manifest["kind"] == _KIND
        foreign = {path.name for path in out.iterdir()} - {*manifest["files"], MANIFEST}
    except (OSError, ValueError, KeyError, TypeError):
        ours, manifest, foreign = False, {}, set()
    if not ours or foreign:
        reason = f"holds {min(foreign)}, which is not of it" if foreign else "is no prepared folder"
        raise RunError(
            f"{out} exists and {reason}; it is not overwritten: choose another --out or move it away"
        )
    if key is None or manifest.get("key") != key:
        return None, "redone: the text or a setting has changed"
    try:
        return open_corpus(out), "reused"
    except DataError as error:
        return None, f"redone: {error}"


# The cleaned text on the disk


class _Spool:
    """All documents in one temporary file of UTF-8, and an index of where each stands."""

    def __init__(self, folder: Path, progress: Progress, aliases: dict[str, str]):
        self.progress = progress
        self.folder = folder
        self.folder.mkdir()
        self.aliases = aliases
        self.parts: list[int] = []
        """Documents of the training sources, and of the validation sources."""
        self.notes: list[str] = []
        for kind in ("text", "index", "names"):
            self._path(kind).touch()
        self._reader = open(self._path("text"), "rb")  # noqa: SIM115

    def fill(self, sources: list[str | Path], reading: dict) -> None:
        """Append the documents of these sources."""
        documents = read_documents(sources, **reading, progress=self._tell) if sources else ()
        counted: collections.Counter[str] = collections.Counter()
        first: dict[str, str] = {}
        count = 0
        with contextlib.ExitStack() as stack:
            text, index, names = (
                stack.enter_context(open(self._path(k), "ab")) for k in ("text", "index", "names")
            )
            for document in documents:
                index.write(self._append(document, text))
                name = self.aliases.get(document.source, document.source)
                names.write(name.replace("\n", " ").encode("utf-8", "replace") + b"\n")
                for note in document.notes:
                    counted[note] += 1
                    first.setdefault(note, name)
                count += 1
        self.parts.append(count)
        for note, times in counted.items():
            more = f" (and so in {times - 1:,} more documents)" if times > 1 else ""
            self.notes.append(f"{first[note]}: {note}{more}")

    def index(self) -> np.ndarray:
        """Place, bytes, characters and digest of each document."""
        return np.fromfile(self._path("index"), _INDEX)

    def blocks(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes between two places, in blocks of at most 1 MiB."""
        while start < end:
            # One open file for a million documents; another generator may have moved it since the last block.
            self._reader.seek(start)
            block = self._reader.read(min(_BLOCK, end - start))
            start += len(block)
            yield block

    def text(self, start: int, end: int) -> Iterator[str]:
        """The text between two places, in blocks of at most 1 MiB."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        for block in self.blocks(start, end):
            yield decoder.decode(block)

    def names(self, documents: Iterable[int]) -> dict[int, str]:
        """What the sources call these documents."""
        wanted = set(documents)
        with open(self._path("names"), encoding="utf-8", newline="\n") as lines:
            return {number: line[:-1] for number, line in enumerate(lines) if number in wanted}

    def close(self) -> None:
        """Leave nothing of the spool in the folder."""
        self._reader.close()
        shutil.rmtree(self.folder)

    def _path(self, kind: str) -> Path:
        return self.folder / kind

    def _append(self, document: Document, text) -> bytes:
        offset, characters, digest = text.tell(), 0, hashlib.sha256()
        for piece in document.pieces():
            data = piece.encode("utf-8")
            text.write(data)
            digest.update(data)
            characters += len(piece)
            self.progress("read", text.tell(), None)
        entry = (offset, text.tell() - offset, characters, digest.digest()[:16])
        return np.array(entry, _INDEX).tobytes()

    def _tell(self, line: str) -> None:
        if line.endswith("skipped"):
            self.notes.append(line)
        self.progress(line, 0, None)


# The split


@dataclass(frozen=True, slots=True)
class _Part:
    """Stretches of the spool: number of the document, first and last byte of each."""

    documents: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    characters: int

    @property
    def bytes(self) -> int:
        return int((self.ends - self.starts).sum())

    def ranges(self) -> Iterator[tuple[int, int, int]]:
        for low in range(0, len(self.documents), _BLOCK):
            rows = slice(low, low + _BLOCK)
            yield from zip(
                self.documents[rows].tolist(), self.starts[rows].tolist(), self.ends[rows].tolist()
            )


def _split(spool: _Spool, fraction: float) -> tuple[_Part, _Part, str]:
    """Training part, validation part, and a sentence that says how they were divided."""
    index = spool.index()
    if spool.parts[1]:
        return _split_as_given(spool, index)
    if len(index) < SPLIT_BY_DOCUMENT:
        return _split_by_position(spool, index, fraction)
    return _split_by_content(index, fraction)


def _split_as_given(spool: _Spool, index: np.ndarray) -> tuple[_Part, _Part, str]:
    held_out = np.arange(len(index)) >= spool.parts[0]
    known = np.isin(index["digest"], index["digest"][held_out]) & ~held_out
    if known.all(where=~held_out):
        raise DataError(
            f"all {spool.parts[0]:,} training documents stand in the validation text; give another one"
        )
    if known.any():
        places = np.flatnonzero(known).tolist()
        name = spool.names(places[:1])[places[0]]
        spool.notes.append(
            f"{len(places):,} training documents stand in the validation text word for word (first {name}): "
            f"taken out of training"
        )
    return _whole(index, ~held_out & ~known), _whole(index, held_out), "validation text given on its own"


def _split_by_content(index: np.ndarray, fraction: float) -> tuple[_Part, _Part, str]:
    # The hash depends on nothing but the text, so a document stays on its side whatever is added.
    hashes = np.frombuffer(index["digest"].tobytes(), ">u8")[::2]
    sizes = index["bytes"]
    held_out = hashes < int(fraction * 2**64)
    while sizes[held_out].sum() > LARGEST_VALIDATION and np.unique(hashes[held_out]).size > 1:
        fraction /= 2
        held_out = hashes < int(fraction * 2**64)
    if not held_out.any():
        held_out = hashes == hashes.min()
    elif held_out.all():
        held_out = hashes != hashes.max()
    if held_out.all() or not held_out.any():
        raise DataError(f"all {len(index):,} documents are the same text; give a validation text with --val")
    how = f"{held_out.sum():,} of {len(index):,} documents held out, chosen by a hash of their content"
    return _whole(index, ~held_out), _whole(index, held_out), how


def _split_by_position(spool: _Spool, index: np.ndarray, fraction: float) -> tuple[_Part, _Part, str]:
    while fraction * int(index["bytes"].sum()) > LARGEST_VALIDATION:
        fraction /= 2
    kept = [int(characters * (1 - fraction)) for characters in index["characters"].tolist()]
    starts, ends = index["offset"], index["offset"] + index["bytes"]
    cuts = np.array(
        [_place_of(spool, *place) for place in zip(starts.tolist(), ends.tolist(), kept)], np.uint64
    )
    characters = int(index["characters"].sum())
    train = _stretches(starts, cuts, sum(kept))
    validation = _stretches(cuts, ends, characters - sum(kept))
    each = "the text" if len(index) == 1 else f"each of {len(index)} documents"
    return train, validation, f"the last {fraction * 100:.3g} % of {each} held out"


def _whole(index: np.ndarray, chosen: np.ndarray) -> _Part:
    rows = index[chosen]
    characters = int(rows["characters"].sum())
    return _Part(np.flatnonzero(chosen), rows["offset"], rows["offset"] + rows["bytes"], characters)


def _stretches(starts: np.ndarray, ends: np.ndarray, characters: int) -> _Part:
    some = np.flatnonzero(starts < ends)
    return _Part(some, starts[some], ends[some], characters)


def _place_of(spool: _Spool, start: int, end: int, characters: int) -> int:
    """The byte at which the character of this number starts, counted from `start`."""
    for block in spool.blocks(start, end):
        firsts = np.flatnonzero((np.frombuffer(block, np.uint8) & 0xC0) != 0x80)  # not a continuation byte
        if characters < len(firsts):
            return start + int(firsts[characters])
        characters -= len(firsts)
        start += len(block)
    return end


# Text that stands in both parts

_PARAGRAPH = 200
_SHINGLE = 8
_SKETCH = 64
_SKETCHED = 2_000_000
_SHARED = 32
_OVERLAP = 0.8
_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")


def _leaks(spool: _Spool, train: _Part, validation: _Part) -> dict:
    """Paragraphs of 200 characters or more that stand in both parts, and documents that nearly do.

    A validation document is sketched by its smallest hashes of 8 words in a row; if 80 % of them stand in one
    training document, most of its text does (Broder 1997, "On the resemblance and containment of documents").
    """
    paragraphs, sketches = _sketched(spool, validation)
    shared: dict[int, tuple[int, str]] = {}
    near: dict[int, tuple[float, int]] = {}
    done = 0
    for document, start, end in train.ranges():
        found: list[np.ndarray] = [np.empty(0, np.int64)]
        for text in _paragraph_blocks(spool, start, end):
            for hashed, paragraph in _paragraphs(text):
                if hashed in paragraphs:
                    shared.setdefault(hashed, (document, paragraph))
            found.append(sketches.found_in(_shingles(text)))
            done += len(text)
            spool.progress("check", done, train.characters)
        rows = sketches.rows[np.unique(np.concatenate(found)).astype(np.int64)]
        for row, count in collections.Counter(rows.tolist()).items():
            overlap = count / sketches.sizes[row]
            if overlap >= _OVERLAP and overlap > near.get(row, (0, 0))[0]:
                near[row] = overlap, document
    return _told(spool, shared, paragraphs, {sketches.documents[row]: near[row] for row in sorted(near)})


@dataclass(frozen=True, slots=True)
class _Sketches:
    """Hashes of the validation documents' words, sorted, and the row to which each belongs."""

    hashes: np.ndarray
    rows: np.ndarray
    sizes: list[int]
    documents: list[int]

    def found_in(self, shingles: np.ndarray) -> np.ndarray:
        """The places of the hashes that stand among the shingles."""
        if not len(self.hashes) or not len(shingles):
            return np.empty(0, np.int64)
        places = np.searchsorted(self.hashes, shingles)
        places[places == len(self.hashes)] = 0
        hits = np.unique(shingles[self.hashes[places] == shingles])
        first, last = (np.searchsorted(self.hashes, hits, side) for side in ("left", "right"))
        ranges = zip(first.tolist(), last.tolist())
        return np.array([place for low, high in ranges for place in range(low, high)], np.int64)


def _sketched(spool: _Spool, validation: _Part) -> tuple[dict[int, tuple[int, int]], _Sketches]:
    """Hash -> document and length of each long paragraph, and the sketches; of a huge text, of its start."""
    paragraphs: dict[int, tuple[int, int]] = {}
    hashes: list[np.ndarray] = []
    sizes: list[int] = []
    documents: list[int] = []
    for document, start, end in validation.ranges():
        if len(paragraphs) + len(sizes) * _SKETCH >= _SKETCHED:
            spool.notes.append(
                f"text in both parts was looked for in the first {len(documents):,} documents only"
            )
            break
        smallest = np.empty(0, np.uint64)
        for text in _paragraph_blocks(spool, start, end):
            for hashed, paragraph in _paragraphs(text):
                paragraphs.setdefault(hashed, (document, len(paragraph)))
            smallest = np.unique(np.concatenate([smallest, _shingles(text)]))[:_SKETCH]
        if len(smallest) >= _SHINGLE:  # less says nothing
            hashes.append(smallest)
            sizes.append(len(smallest))
            documents.append(document)
    joined = np.concatenate([np.empty(0, np.uint64), *hashes])
    order = np.argsort(joined, kind="stable")
    # Boilerplate that stands everywhere would make each look-up as long as the list of documents.
    order = order[np.arange(len(order)) - np.searchsorted(joined[order], joined[order]) < _SHARED]
    rows = np.repeat(np.arange(len(sizes)), sizes)
    return paragraphs, _Sketches(joined[order], rows[order], sizes, documents)


def _paragraph_blocks(spool: _Spool, start: int, end: int) -> Iterator[str]:
    """A stretch of the spool in blocks that end where a paragraph does, or a line of a huge one."""
    waiting = ""
    for text in spool.text(start, end):
        waiting += text
        cut = waiting.rfind("\n\n") + 1
        if not cut and len(waiting) > 4 * _BLOCK:
            cut = waiting.rfind("\n") + 1 or len(waiting)
        if cut:
            yield waiting[:cut]
            waiting = waiting[cut:]
    yield waiting


def _paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Hash and text of each long paragraph and each long line, however its lines are wrapped."""
    for block in _BLANK_LINES.split(text):
        if len(block) < _PARAGRAPH:
            continue
        lines = block.split("\n")
        whole = [block] if len(lines) > 1 else []
        for paragraph in (*whole, *(line for line in lines if len(line) >= _PARAGRAPH)):
            words = " ".join(paragraph.split())
            if len(words) >= _PARAGRAPH:
                hashed = hashlib.blake2b(words.encode("utf-8"), digest_size=8).digest()
                yield int.from_bytes(hashed, "little"), words


def _shingles(text: str) -> np.ndarray:
    """A hash of each 8 words in a row, uint64."""
    words = np.fromiter(map(zlib.crc32, text.encode("utf-8").split()), np.uint64)
    count = len(words) - _SHINGLE + 1
    if count < 1:
        return np.empty(0, np.uint64)
    hashes = np.zeros(count, np.uint64)
    for place in range(_SHINGLE):
        hashes = (hashes ^ words[place : place + count]) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    return hashes


def _told(spool: _Spool, shared: dict, paragraphs: dict, near: dict[int, tuple[float, int]]) -> dict:
    """The leaks for the manifest, named, and a note on each kind."""
    examples = list(shared.items())[:_LISTED]
    listed = list(near.items())[:_LISTED]
    numbers = [paragraphs[hashed][0] for hashed, _ in examples] + [number for _, (number, _) in examples]
    names = spool.names(numbers + [number for place, (_, train) in listed for number in (place, train)])
    characters = sum(paragraphs[hashed][1] for hashed in shared)
    if near:
        (first, (overlap, train)) = listed[0]
        spool.notes.append(
            f"{len(near):,} validation documents stand nearly word for word in the training text (first "
            f"{names[first]}: {overlap:.0%} in {names[train]}); the validation loss will be too good"
        )
    if shared:
        spool.notes.append(
            f"{len(shared):,} paragraphs ({characters:,} characters) of the validation text stand in the "
            f"training text too (first: {examples[0][1][1][:50]!r}); the validation loss will be too good"
        )
    return {
        "near_documents": len(near),
        "documents": [
            {"validation": names[place], "train": names[train], "overlap": round(overlap, 4)}
            for place, (overlap, train) in listed
        ],
        "shared_paragraphs": len(shared),
        "shared_characters": characters,
        "paragraphs": [
            {"validation": names[paragraphs[hashed][0]], "train": names[number], "text": text[:80]}
            for hashed, (number, text) in examples
        ],
    }


# Tokens


def _write_parts(folder: Path, order: _Order, progress: Progress) -> dict:
    """Read, split, check, encode and write both parts; what the manifest says about them."""
    with contextlib.closing(_Spool(folder / "spool", progress, order.aliases)) as spool:
        for sources in (order.texts, order.held_out):
            spool.fill(sources, order.reading)
        return _write_spooled(folder, order, spool)


def _write_spooled(folder: Path, order: _Order, spool: _Spool) -> dict:
    train, validation, how = _split(spool, order.fraction)
    for name, part in (("training", train), ("validation", validation)):
        if not part.bytes:
            total = train.characters + validation.characters
            raise DataError(f"a text of {total} characters leaves no {name} text; add text or give --val")
    spool.notes.append(how)
    leaks = _leaks(spool, train, validation)
    tokenizer, reason = _tokenizer_for(spool, train, order.tokenizer)
    tokenizer.save(folder)
    counts = {
        name: {
            "documents": len(part.documents),
            "characters": part.characters,
            "bytes": part.bytes,
            "tokens": _encode(
                folder / f"{name}.npy", folder / f"{name}_documents.npy", spool, part, tokenizer
            ),
        }
        for name, part in (("train", train), ("validation", validation))
    }
    if (tokens := counts["validation"]["tokens"]) < FEW_TOKENS:
        spool.notes.append(f"validation text is only {tokens:,} tokens: its loss is uncertain")
    described = {"name": tokenizer.name, "vocab_size": tokenizer.vocab_size, "reason": reason}
    return {
        "tokenizer": {**described, "fingerprint": tokenizer.fingerprint()},
        **counts,
        "documents": _listed(spool, train, validation),
        "leaks": leaks,
        "notes": spool.notes,
    }


def _listed(spool: _Spool, train: _Part, validation: _Part) -> list[dict]:
    """Where each document went, for the first thousand."""
    bytes_of = [
        {document: end - start for document, start, end in part.ranges() if document < _LISTED}
        for part in (train, validation)
    ]
    return [
        {
            "source": name,
            "train_bytes": bytes_of[0].get(number, 0),
            "validation_bytes": bytes_of[1].get(number, 0),
        }
        for number, name in spool.names(range(min(_LISTED, sum(spool.parts)))).items()
    ]


def _tokenizer_for(spool: _Spool, train: _Part, tokenizer: str | Tokenizer) -> tuple[Tokenizer, str]:
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
        total = min(TRAINING_SAMPLE, train.bytes)
        texts = _sample(spool, train)
        chosen = Tokenizer.train(texts, asked, lambda stage, done, _: spool.progress(stage, done, total))
    if asked is not None and chosen.vocab_size < asked:
        spool.notes.append(f"the text has words for {chosen.vocab_size} tokens of the {asked} asked for")
    if not chosen.lossless:
        spool.notes.append(
            "this tokenizer changes the text before encoding it; counts of bytes are of the text read"
        )
    if chosen.end_of_text is None:
        spool.notes.append("this tokenizer has no end-of-text token; documents follow each other without one")
    return chosen, reason


def _sample(spool: _Spool, part: _Part) -> Iterator[str]:
    """At most 50 MB of a part, evenly spread over it."""
    share = min(1.0, TRAINING_SAMPLE / part.bytes)
    seen = taken = 0
    for _, start, end in part.ranges():
        for text in spool.text(start, end):
            if taken <= seen * share:
                yield text
                taken += len(text)
            seen += len(text)


def _encode(tokens_path: Path, documents_path: Path, spool: _Spool, part: _Part, tokenizer: Tokenizer) -> int:
    """Write a part's tokens and the places where its documents start; the number of tokens."""
    starts = array("Q")
    prefix = np.array([] if tokenizer.end_of_text is None else [tokenizer.end_of_text], tokenizer.dtype)

    def encoded(pieces: list[tuple[bool, str]]) -> tuple[np.ndarray, list[int], int]:
        ids: list[np.ndarray] = []
        firsts, count = [], 0
        for first, text in pieces:
            if first:
                firsts.append(count)
                ids.append(prefix)
            ids.append(tokenizer.encode_piece(text))
            count += len(ids[-1]) + first * len(prefix)
        return np.concatenate(ids), firsts, sum(len(text) for _, text in pieces)

    def arrays() -> Iterator[np.ndarray]:
        tokens = characters = 0
        for ids, firsts, length in in_threads(encoded, _groups(spool, part, tokenizer)):
            starts.extend(tokens + first for first in firsts)
            tokens += len(ids)
            characters += length
            spool.progress("encode", characters, part.characters)
            yield ids

    tokens = write_tokens(tokens_path, arrays(), tokenizer.vocab_size)
    if tokens < 2:
        raise DataError(
            f"{tokens_path.stem}: {tokens} tokens of the 2 that are needed; add text or give --val"
        )
    np.save(documents_path, np.frombuffer(starts, np.uint64) if starts else np.empty(0, np.uint64))
    return tokens


def _groups(spool: _Spool, part: _Part, tokenizer: Tokenizer) -> Iterator[list[tuple[bool, str]]]:
    """Pieces of documents, each with whether it is the first of one, in groups worth a thread's while."""
    group: list[tuple[bool, str]] = []
    size = 0
    for _, start, end in part.ranges():
        first = True
        for piece in tokenizer.cut(spool.text(start, end)):
            group.append((first, piece))
            first = False
            size += len(piece)
            if size >= 1 << 16:
                yield group
                group, size = [], 0
    if group:
        yield group
