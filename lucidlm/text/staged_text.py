"""Documents come in, portion by portion, and are written to the disk; any stretch of them goes out again."""

import codecs
import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lucidlm.errors import DataError
from lucidlm.runtime.files import naming
from lucidlm.runtime.progress import Progress
from lucidlm.runtime.wording import one_line
from lucidlm.text.account import Account
from lucidlm.text.documents import Document, Used, documents_of
from lucidlm.text.formats.decoding import File, cannot_read, known_encoding
from lucidlm.text.kept import Kept
from lucidlm.text.portions import Portion
from lucidlm.text.reading import Reading

BLOCK = 1 << 20
"""Bytes that are read at once."""
INDEX = np.dtype([("offset", "<u8"), ("bytes", "<u8"), ("characters", "<u8"), ("digest", "S16")])
"""The index entry of each document."""
ROWS = 1 << 14
"""Index entries that are read at once."""
KINDS = ("text", "index", "names")
"""Files of a staged portion: the text of its documents, their index entries, and their names, one a line."""


def stage(
    portion: Portion, reading: Reading, aliases: dict[str, str], kept: Kept, name: str, *, progress: Progress
) -> dict:
    """Stage the documents of a portion; returns its record.

    DataError for a file that the user named and that cannot be used. The record is empty if the portion is a
    part of a file and cannot be read: only reading the whole file tells what is wrong with it.
    """
    reading = replace(reading, encoding=known_encoding(reading.encoding))
    account, used, read = Account(), Used(), list[int]()
    with kept.new(name, KINDS) as piece:
        with _Writer([piece.paths[kind] for kind in KINDS], aliases, progress) as writer:
            for number, file in enumerate(portion.files):
                try:
                    taken = writer.write(file, reading)
                except DataError as problem:
                    if file.span is not None:
                        return {}
                    if not file.source:
                        raise
                    account.pass_over(problem.reason, file.name)
                    used.refuse(problem)
                    continue
                account.join(taken)
                used.taken += 1
                read.append(number)
        try:
            lines = sum(_line_ends(file) for file in portion.files if file.span is not None)
        except DataError:
            return {}
        return piece.keep(
            {
                "documents": writer.documents,
                "bytes": writer.bytes,
                "lines": lines,
                "read": read,
                "used": asdict(used),
                "account": account.to_fields(),
            }
        )


class _Writer:
    """The files of a portion while it is staged."""

    def __init__(self, paths: Sequence[Path], aliases: dict[str, str], progress: Progress) -> None:
        self.documents = self.bytes = 0
        self._paths, self._aliases, self._progress = paths, aliases, progress
        self._stack = ExitStack()

    def __enter__(self) -> "_Writer":
        with ExitStack() as stack:
            self._files = [stack.enter_context(open(path, "wb")) for path in self._paths]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with naming(self._paths[0]):
            self._stack.close()

    def write(self, file: File, reading: Reading) -> Account:
        """Append the documents of a file; returns its account. After a DataError, nothing was appended."""
        account, before = Account(), (self.documents, self.bytes)
        places = [each.tell() for each in self._files]
        try:
            for document in documents_of(file, reading):
                name = self._aliases.get(document.source, document.source)
                self._append(document, name)
                document.add_to(account, name)
        except DataError:
            for each, place in zip(self._files, places):
                each.seek(place)
                each.truncate()
            self.documents, self.bytes = before
            raise
        return account

    def _append(self, document: Document, name: str) -> None:
        text, index, names = self._files
        offset, characters, digest = self.bytes, 0, hashlib.sha256()
        with naming(self._paths[0]):
            for piece in document.pieces():
                data = piece.encode("utf-8")
                text.write(data)
                digest.update(data)
                characters += len(piece)
                self.bytes += len(data)
                self._progress.advance(len(data))
            entry = (offset, self.bytes - offset, characters, digest.digest()[:16])
            index.write(np.array(entry, INDEX).tobytes())
            names.write(one_line(name).encode() + b"\n")
        self.documents += 1


def _line_ends(file: File) -> int:
    """Line ends in the part of a file that is read; DataError if one is a carriage return alone."""
    assert file.span is not None
    ends = returns = 0
    try:
        with open(file.path, "rb") as opened:
            opened.seek(file.span[0])
            left, before = file.span[1] - file.span[0], b""
            while left and (block := opened.read(min(BLOCK, left))):
                left -= len(block)
                ends += block.count(b"\n")
                returns += block.count(b"\r") - block.count(b"\r\n") - (before + block[:1] == b"\r\n")
                before = block[-1:]
    except OSError as problem:
        raise cannot_read(file.name, problem) from problem
    if returns:
        raise DataError(f"{file.name}: a line ends with a carriage return alone")
    return ends


@dataclass(frozen=True, slots=True)
class Segment:
    """A staged portion."""

    name: str
    documents: int
    bytes: int
    lines_before: int = 0
    """Lines of the same file in the portions before it: the names of its documents do not count them."""


class StagedText:
    """All documents, in the segments of a folder. Offsets count the bytes of all segments together."""

    def __init__(self, folder: Path, segments: Sequence[Segment], parts: Sequence[int]) -> None:
        """`parts`: the number of documents of the training sources, and of the validation sources."""
        self.folder, self.segments, self.parts = folder, tuple(segments), tuple(parts)
        self._starts = [0, *accumulate(segment.bytes for segment in segments)]
        self._open: tuple[int, BinaryIO] | None = None

    def __reduce__(self) -> tuple:
        return StagedText, (self.folder, self.segments, self.parts)

    @property
    def documents(self) -> int:
        """The number of all documents."""
        return sum(self.parts)

    def index(self) -> np.ndarray:
        """Offset, bytes, characters and digest of each document: 40 bytes of memory for each."""
        return np.concatenate([np.empty(0, INDEX), *(rows for _, rows in self.index_blocks())])

    def index_blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """The index entries in blocks, each with the number of its first document."""
        number = 0
        for segment, start in zip(self.segments, self._starts):
            with open(self._path(segment, "index"), "rb") as file:
                while len(rows := _entries(file)):
                    rows["offset"] = rows["offset"] + np.uint64(start)
                    yield number, rows
                    number += len(rows)

    def blocks(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes between two offsets, which lie in one document, in blocks of at most 1 MiB."""
        if start >= end:
            return
        segment = bisect_right(self._starts, start) - 1
        first = self._starts[segment]
        while start < end:
            # All generators share one open file: another may have moved its position since the last block.
            reader = self._reader(segment)
            reader.seek(start - first)
            block = reader.read(min(BLOCK, end - start))
            assert block, "a segment is shorter than its index says"
            start += len(block)
            yield block

    def text(self, start: int, end: int) -> Iterator[str]:
        """The text between two offsets, in blocks of at most 1 MiB."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        for block in self.blocks(start, end):
            yield decoder.decode(block)

    def names(self, documents: Iterable[int]) -> dict[int, str]:
        """The names of these documents, by number."""
        wanted, found, first = sorted(set(documents)), dict[int, str](), 0
        for segment in self.segments:
            here = [number for number in wanted if first <= number < first + segment.documents]
            if here:
                with open(self._path(segment, "names"), encoding="utf-8", newline="\n") as lines:
                    chosen = set(here)
                    for number, line in enumerate(lines, first):
                        if number in chosen:
                            found[number] = renumbered(line[:-1], segment.lines_before)
            first += segment.documents
        return found

    def close(self) -> None:
        """Close the file that is open."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _reader(self, segment: int) -> BinaryIO:
        if self._open is None or self._open[0] != segment:
            self.close()
            path = self._path(self.segments[segment], "text")
            self._open = segment, open(path, "rb")  # noqa: SIM115
        return self._open[1]

    def _path(self, segment: Segment, kind: str) -> Path:
        return self.folder / f"{segment.name}.{kind}"


def _entries(file: BinaryIO) -> np.ndarray:
    return np.fromfile(file, INDEX, ROWS)


def renumbered(name: str, lines: int) -> str:
    """The name of a record, such as "a.jsonl:12", with `lines` added to its line number."""
    file, colon, line = name.rpartition(":")
    return f"{file}{colon}{int(line) + lines}" if lines and line.isdecimal() else name
