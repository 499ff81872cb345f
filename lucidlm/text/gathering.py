"""Files of the training and the validation sources come in; their staged documents go out."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lucidlm.text.account import Account
from lucidlm.text.documents import Used
from lucidlm.text.formats.decoding import File, known_encoding
from lucidlm.text.portions import Portion, portions
from lucidlm.text.reading import Reading
from lucidlm.text.staged_text import Segment, StagedText, renumbered, stage
from lucidlm.text.work import Piece, Work

PREFIX = "read-"


@dataclass(frozen=True, slots=True)
class Content:
    """A file of the sources, with its size, time and hash before it is read."""

    file: File
    size: int
    time: int
    sha256: str | None
    """None for a file of a folder that cannot be read: it will be skipped."""

    @property
    def key(self) -> list[str | None]:
        """What the text depends on: the name, because of its suffix, and the content, but not the folder."""
        return [Path(self.file.name).name, self.sha256]


@dataclass(frozen=True, slots=True)
class Gathered:
    """The staged documents of all files."""

    staged: StagedText
    account: Account
    """What was left out of all files."""
    read: frozenset[Path]
    """The files whose text is staged."""
    key: str
    """A hash of the staged text."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What to read, and how."""

    parts: Sequence[Sequence[Content]]
    """The files of the training sources, and of the validation sources."""
    reading: Reading
    aliases: dict[str, str]
    portion: int
    """Bytes of a portion, about."""

    def portions(self, whole: frozenset[File]) -> list[tuple[int, str, Portion]]:
        """The part, the name and the files of each portion. No file of `whole` is divided."""
        reading = replace(self.reading, encoding=known_encoding(self.reading.encoding))
        found = []
        for part, contents in enumerate(self.parts):
            keys = {content.file.path: content.key for content in contents}
            sizes = [content.size for content in contents]
            files = [content.file for content in contents]
            for portion in portions(files, sizes, reading, size=self.portion, whole=whole):
                described = [
                    [keys[file.path], self.aliases.get(file.name, file.name), file.source, file.span]
                    for file in portion.files
                ]
                described = [reading.to_dict(), part, described]
                digest = hashlib.sha256(json.dumps(described).encode()).hexdigest()
                found.append((part, f"{PREFIX}{digest[:24]}", portion))
        return found


class _CannotDivide(Exception):
    """A part of a file cannot be read alone."""

    def __init__(self, file: File) -> None:
        self.file = replace(file, span=None)


def gather(sources: Sources, account: Account, work: Work) -> Gathered:
    """Stage the documents of all files. `account` has the files that the search skipped.

    The first file in order that cannot be used raises DataError, whichever process comes to it first.
    """
    whole: frozenset[File] = frozenset()
    while True:
        planned = sources.portions(whole)
        work.sweep(PREFIX, {name for _, name, _ in planned}.__contains__)
        try:
            return _gathered(sources, planned, account, work)
        except _CannotDivide as problem:
            whole |= {problem.file}


def _gathered(
    sources: Sources, planned: list[tuple[int, str, Portion]], found: Account, work: Work
) -> Gathered:
    account, read = Account(), set[Path]()
    account.join(found)
    segments, parts = list[Segment](), [0, 0]
    lines, used, source = 0, Used(), ("", 0)
    pieces = (
        Piece(name, stage, (portion, sources.reading, sources.aliases), portion.what, "bytes")
        for _, name, portion in planned
    )
    for (part, _, portion), (name, record) in zip(planned, work.records(pieces), strict=True):
        first = portion.files[0]
        if not record:
            raise _CannotDivide(first)
        if (first.source, part) != source:
            used.check(source[0])
            used, source = Used(), (first.source, part)
        used.add(Used(**record["used"]))
        lines = 0 if first.span is None or first.span[0] == 0 else lines
        own = Account.from_fields(record["account"])
        own.first = {what: renumbered(name, lines) for what, name in own.first.items()}
        account.join(own)
        segments.append(Segment(name, record["documents"], record["bytes"], lines))
        lines += record["lines"]
        parts[part] += record["documents"]
        read |= {portion.files[number].path for number in record["read"]}
    used.check(source[0])
    key = hashlib.sha256(json.dumps([parts, [segment.name for segment in segments]]).encode()).hexdigest()
    return Gathered(StagedText(work.kept.folder, segments, parts), account, frozenset(read), key)
