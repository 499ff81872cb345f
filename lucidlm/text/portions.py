"""Files come in, portions of them go out. One process reads a portion, and what it read is kept.

A portion is a few files, one file, or some lines of a large .jsonl file. It depends on the files alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from lucidlm.errors import DataError
from lucidlm.text.account import Account
from lucidlm.text.formats.decoding import File, cannot_read
from lucidlm.text.formats.kinds import by_content
from lucidlm.text.reading import Reading

PORTION = 1 << 26
"""Bytes of a portion, about. A file that cannot be divided is one portion and may have more.

A process that is killed loses one portion at most. If all files together have fewer bytes, nothing is kept.
"""
_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Portion:
    """Files that one process reads, all of the same source."""

    files: tuple[File, ...]

    @property
    def what(self) -> str:
        """What a process does with it, for the error if the process dies."""
        first, more = self.files[0], len(self.files) - 1
        return f"reading {first.name}" + (f" or one of {more:,} files after it" if more else "")


def portions(
    files: Iterable[File], sizes: Sequence[int], reading: Reading, *, size: int, whole: frozenset[File]
) -> Iterator[Portion]:
    """The portions of files of these sizes, in order. No file of `whole` is divided."""
    group, together = list[File](), 0
    for file, length in zip(files, sizes, strict=True):
        spans = [] if file in whole else _spans(file, length, reading, size)
        if group and (spans or together + length > size or group[0].source != file.source):
            yield Portion(tuple(group))
            group, together = [], 0
        if spans:
            yield from (Portion((replace(file, span=span),)) for span in spans)
        else:
            group.append(file)
            together += length
    if group:
        yield Portion(tuple(group))


def _spans(file: File, length: int, reading: Reading, size: int) -> list[tuple[int, int]]:
    """Borders of parts that can be read one by one. Only unpacked lines of JSON in UTF-8 have them."""
    count = round(length / size)
    if (
        count < 2
        or file.kind != "jsonl"
        or file.packings
        or reading.encoding.lower() not in ("utf-8", "utf8")
    ):
        return []
    try:
        if by_content(file, noted := Account()) != file or noted.seen:
            return []
        borders = sorted({0, *_line_starts(file, [length * number // count for number in range(1, count)])})
    except DataError:  # reading it raises the same error
        return []
    return list(pairwise([*borders, length])) if len(borders) > 1 else []


def _line_starts(file: File, places: Sequence[int]) -> Iterator[int]:
    """The first start of a line at each place or after it; none where the line is longer than a megabyte."""
    try:
        with open(file.path, "rb") as opened:
            for place in places:
                opened.seek(place - 1)
                line = opened.readline(1 << 20)
                # At the start of a part, a byte order mark would be taken for that of a file.
                if line.endswith(b"\n") and opened.read(3) not in (_MARK, b""):
                    yield place - 1 + len(line)
    except OSError as problem:
        raise cannot_read(file.name, problem) from problem
