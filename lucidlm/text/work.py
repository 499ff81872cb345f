"""Pieces of long work come in; their records go out in order.

Pieces that were kept are not done again; processes do the others.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from lucidlm.runtime.progress import Progress
from lucidlm.text.kept import Kept
from lucidlm.text.processes import Processes, Task


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of work, to be done by a process."""

    name: str
    """Its name in the folder of kept pieces: a hash of everything that it depends on."""
    function: Callable[..., dict]
    """Called with `arguments`, the folder, the name and `progress=`; keeps the piece and returns its record.

    The record is empty if the piece cannot be made."""
    arguments: tuple
    what: str
    """What the function does, for the error if its process dies."""
    units: str
    """The entry of the record with the units of progress that the piece counts for."""


@dataclass(frozen=True, slots=True)
class Work:
    """The folder of finished pieces, and the processes that make the others."""

    kept: Kept
    processes: Processes

    @property
    def progress(self) -> Progress:
        """The progress that the processes report to."""
        return self.processes.progress

    def sweep(self, prefix: str, wanted: Callable[[str], bool]) -> None:
        """Wait until no process works, then delete the pieces with this prefix that are not wanted."""
        self.processes.settle()
        self.kept.sweep(prefix, wanted)

    def records(self, pieces: Iterable[Piece]) -> Iterator[tuple[str, dict]]:
        """The name and the record of each piece, in order."""
        names = deque[str]()

        def tasks() -> Iterator[Task]:
            for piece in pieces:
                names.append(piece.name)
                if (record := self.kept.record(piece.name)) is not None:
                    yield Task(found, (record, piece.units), piece.what)
                else:
                    yield Task(piece.function, (*piece.arguments, self.kept, piece.name), piece.what)

        for record in self.processes.results(tasks()):
            yield names.popleft(), record


def found(record: dict, units: str, *, progress: Progress) -> dict:
    """The record of a piece that was made before."""
    progress.advance(record[units])
    return record
