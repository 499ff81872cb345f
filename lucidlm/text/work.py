"""Pieces of long work come in; their records come out in order: those that are kept, and new ones.

Processes do the pieces that are not kept.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from lucidlm.runtime.progress import Progress
from lucidlm.text.kept import Kept
from lucidlm.text.processes import Processes, Task


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of work."""

    name: str
    """Its name in the folder of kept pieces: a hash of all that it is made from."""
    function: Callable[..., dict]
    """Does it, called with `arguments`, the folder, the name and `progress=`; returns the record.

    An empty record: it cannot be done."""
    arguments: tuple
    what: str
    """What is done, for the error if its process dies."""
    units: str
    """The entry of the record that says by how much doing it moves the progress."""


@dataclass(frozen=True, slots=True)
class Work:
    """Where finished pieces are kept, and the processes that do the others."""

    kept: Kept
    processes: Processes

    @property
    def progress(self) -> Progress:
        """Told of what is done, and of what was done before."""
        return self.processes.progress

    def sweep(self, prefix: str, wanted: Callable[[str], bool]) -> None:
        """When no process works any more, delete the pieces of this prefix, but not the wanted ones."""
        self.processes.settle()
        self.kept.sweep(prefix, wanted)

    def records(self, pieces: Iterable[Piece]) -> Iterator[tuple[str, dict]]:
        """The name and the record of each piece, in order. What is kept is not done again."""
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
    """The record of a piece that was done before."""
    progress.advance(record[units])
    return record
