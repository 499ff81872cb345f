"""An uploaded text comes in, what the view Data shows of it goes out: reading, split, leaks, tokens."""

import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lucidlm.errors import DataError, ServerError
from lucidlm.runtime.wording import plural, printable
from lucidlm.serve.transcript import spelled
from lucidlm.text.account import Account
from lucidlm.text.corpus import PLACES, Corpus, validation_documents
from lucidlm.text.documents import read_files
from lucidlm.text.excerpts import as_excerpt
from lucidlm.text.formats.decoding import File
from lucidlm.text.formats.kinds import by_content, kind_of
from lucidlm.text.preparation import prepare
from lucidlm.text.reading import READING, Reading
from lucidlm.text.windows import inputs_and_targets

LARGEST_TEXT = 2**30
"""Bytes of text that a file may hold when it is unpacked."""
READING_STAGE = "reading text"
"""What `prepare` calls the stage whose units are bytes of the text."""
FIRST_LINES, LINE_CHARACTERS = 20, 200
LISTED = 20
"""Documents and leaks that are named."""
MOST_PIECES = 1000
"""Held-out pieces whose place is shown."""


@dataclass(frozen=True, slots=True)
class Question:
    """How a text is read, and by which tokens."""

    tokenizer: str = "auto"
    reading: Reading = READING
    window: int = 16
    """Tokens of the window whose inputs and targets are shown."""


class Patience:
    """A Progress that ends the work where nobody waits for it any more, or where the text is too large."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self._counts = False
        self._bytes = 0

    def stage(self, name: str, total: int | None = None) -> None:
        """A stage begins."""
        self._counts = name == READING_STAGE
        self._check()

    def advance(self, n: int = 1) -> None:
        """More of it is done."""
        self._bytes += n * self._counts
        self._check()

    def note(self, line: str) -> None:
        """Nothing: the notes are in the manifest."""

    def _check(self) -> None:
        if self.over.is_set():
            raise ServerError("nobody waits for this text any more", status=503)
        if self._bytes > LARGEST_TEXT:
            raise DataError(f"the text is over {LARGEST_TEXT:,} bytes when it is unpacked; give a part of it")


def view_of(path: Path, name: str, question: Question, patience: Patience) -> dict[str, Any]:
    """What `prepare` does with the text; DataError with lucidlm's own words where it cannot be used.

    `name` stands for the path in all of it. Takes seconds for megabytes.
    """
    folder = Path(tempfile.mkdtemp(prefix="prepared-", dir=path.parent))
    try:
        corpus = prepare(
            [path], folder / "data", tokenizer=question.tokenizer, reading=question.reading, progress=patience
        )
        found = _of_corpus(corpus, question.window) | _of_text(path, name, question.reading, patience)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = renamed(found, str(path), name)
    notes = [note for note in found.pop("notes") if note not in found["removed"]]
    return found | {"read": [_read_as(found), *found["removed"]], "split": notes}


def _read_as(found: dict[str, Any]) -> str:
    """In one line, how the file was read."""
    packed = f", {' '.join(found['packings'])} unpacked" if found["packings"] else ""
    size = plural(found["account"]["bytes_of_files"], "byte")
    return f"{size} read as {found['kind']} ({', '.join(found['encodings'])}{packed})"


def renamed(value: Any, path: str, name: str) -> Any:
    """The value with a name in place of a path, in all its strings."""
    if isinstance(value, dict):
        return {renamed(key, path, name): renamed(item, path, name) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [renamed(item, path, name) for item in value]
    return value.replace(path, name) if isinstance(value, str) else value


def _of_corpus(corpus: Corpus, window: int) -> dict[str, Any]:
    manifest, leaks = corpus.manifest, corpus.manifest["leaks"]
    return {
        "tokenizer": manifest["tokenizer"]["name"],
        "vocab_size": manifest["tokenizer"]["vocab_size"],
        "tokenizer_reason": manifest["tokenizer"]["reason"],
        "train": manifest["train"],
        "validation": manifest["validation"],
        "tokens": corpus.train_tokens + corpus.validation_tokens,
        "characters": corpus.characters,
        "held_out": {
            "design": corpus.design,
            "bytes": corpus.validation_bytes,
            "share": corpus.validation_bytes / (corpus.validation_bytes + corpus.train_bytes),
            "pieces": list(_pieces(corpus)),
            "documents": manifest["documents"][:LISTED],
        },
        "leaks": leaks | {key: leaks[key][:LISTED] for key in ("documents", "examples")},
        "account": manifest["read"],
        "notes": corpus.notes,
        "window": _window(corpus, window),
    }


def _pieces(corpus: Corpus) -> Iterator[dict[str, Any]]:
    """Of each held-out piece where it was cut out, as a share of the training tokens, and its tokens."""
    if corpus.design != "strata":
        return
    places = np.load(corpus.folder / PLACES)[:MOST_PIECES, 1].tolist()
    for place, piece in zip(places, map(as_excerpt, validation_documents(corpus))):
        yield {"at": place / corpus.train_tokens, "tokens": len(piece.ids)}


def _window(corpus: Corpus, length: int) -> dict[str, Any]:
    """The first window of the training text: the targets are the inputs one token later."""
    found: dict[str, Any] = {}
    sides = zip(("input", "target"), inputs_and_targets(np.asarray(corpus.train[: length + 1])))
    for side, ids in sides:
        found[f"{side}s"] = [spelled(corpus.tokenizer, id) for id in ids.tolist()]
        found[f"{side}_ids"] = ids.tolist()
    return found


def _of_text(path: Path, name: str, reading: Reading, patience: Patience) -> dict[str, Any]:
    """What only the text itself has; it was read once before, so that it can be read."""
    kind, packings = kind_of(name)
    file = by_content(File(path, name, kind, packings), Account())
    account, words, documents = Account(), 0, 0
    first = ""
    patience.stage("counting words")
    for document in read_files([File(path, name, kind, packings)], account, reading=reading):
        inside = False  # of a word that the last piece ended in
        for piece in document.pieces():
            words += len(piece.split()) - (inside and not piece[:1].isspace())
            inside = not piece[-1:].isspace()
            first += piece[: FIRST_LINES * LINE_CHARACTERS - len(first)] if documents == 0 else ""
            patience.advance(len(piece))
        documents += 1
        document.add_to(account)
    lines = [printable(line)[:LINE_CHARACTERS] for line in first.split("\n")[:FIRST_LINES]]
    return {
        "kind": file.kind,
        "packings": file.packings,
        "encodings": list(account.decoded) or ["utf-8"],
        "removed": account.lines(),
        "words": words,
        "documents": documents,
        "beginning": "\n".join(lines),
    }
