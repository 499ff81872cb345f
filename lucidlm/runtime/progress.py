"""Progress of long work: a function says what it does and how far it is; its caller draws that, or nothing.

What takes long has `progress: Progress = SILENT`; lucidlm/display.py draws it on a terminal.
"""

from collections.abc import Collection, Iterator
from typing import Protocol, TypeVar

_Item = TypeVar("_Item")


class Progress(Protocol):
    """What long work calls."""

    def stage(self, name: str, total: int | None = None) -> None:
        """A stage of the work begins, such as "scoring tokens"; `total` is its number of units, if known."""

    def advance(self, n: int = 1) -> None:
        """n more units of the stage are done."""

    def note(self, line: str) -> None:
        """A line for a person."""


class _Silent:
    def stage(self, name: str, total: int | None = None) -> None: ...

    def advance(self, n: int = 1) -> None: ...

    def note(self, line: str) -> None: ...


SILENT: Progress = _Silent()
"""Draws nothing."""


def counted(items: Collection[_Item], progress: Progress, stage: str) -> Iterator[_Item]:
    """The items of a stage; each is done when the next one is asked for."""
    progress.stage(stage, len(items))
    for item in items:
        yield item
        progress.advance()
