"""Documents come in one by one and are staged on the disk; any stretch of them comes out again."""

import codecs
import contextlib
import hashlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from lucidlm.runtime.files import naming
from lucidlm.runtime.progress import Progress
from lucidlm.runtime.wording import one_line
from lucidlm.text.account import Account
from lucidlm.text.documents import Document, read_files
from lucidlm.text.formats.decoding import File
from lucidlm.text.reading import Reading

BLOCK = 1 << 20
"""Bytes that are read at once."""
INDEX = np.dtype([("offset", "<u8"), ("bytes", "<u8"), ("characters", "<u8"), ("digest", "S16")])
"""The index entry of each document."""


class StagedText:
    """All documents in one temporary file of UTF-8, with an index."""

    def __init__(self, folder: Path, progress: Progress, aliases: dict[str, str]):
        self.progress = progress
        self.folder = folder
        self.folder.mkdir()
        self.aliases = aliases
        self.parts: list[int] = []
        """Number of documents of the training sources, and of the validation sources."""
        self.notes: list[str] = []
        self.account = Account()
        """What was left out of all files."""
        self.read: set[Path] = set()
        """The files whose text is staged."""
        for kind in ("text", "index", "names"):
            self._path(kind).touch()
        self._reader = open(self._path("text"), "rb")  # noqa: SIM115

    def fill(self, files: Iterable[File], reading: Reading) -> None:
        """Append the documents of these files."""
        documents = read_files(files, self.account, reading=reading)
        count = 0
        with naming(self._path("text")), contextlib.ExitStack() as stack:
            text, index, names = (
                stack.enter_context(open(self._path(k), "ab")) for k in ("text", "index", "names")
            )
            for document in documents:
                index.write(self._append(document, text))
                name = self.aliases.get(document.source, document.source)
                names.write(one_line(name).encode() + b"\n")
                assert document.path is not None
                self.read.add(document.path)
                document.add_to(self.account, name)
                count += 1
        self.parts.append(count)

    def index(self) -> np.ndarray:
        """Offset, bytes, characters and digest of each document."""
        return np.fromfile(self._path("index"), INDEX)

    def blocks(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes between two offsets, in blocks of at most 1 MiB."""
        while start < end:
            # One open file serves all generators: another one may have moved it since the last block.
            self._reader.seek(start)
            block = self._reader.read(min(BLOCK, end - start))
            start += len(block)
            yield block

    def text(self, start: int, end: int) -> Iterator[str]:
        """The text between two offsets, in blocks of at most 1 MiB."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        for block in self.blocks(start, end):
            yield decoder.decode(block)

    def names(self, documents: Iterable[int]) -> dict[int, str]:
        """The names of these documents, by number."""
        wanted = set(documents)
        with open(self._path("names"), encoding="utf-8", newline="\n") as lines:
            return {number: line[:-1] for number, line in enumerate(lines) if number in wanted}

    def close(self) -> None:
        """Delete the staged text."""
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
            self.progress.advance(len(data))
        entry = (offset, text.tell() - offset, characters, digest.digest()[:16])
        return np.array(entry, INDEX).tobytes()
