"""How far long work is: what does it calls `progress(done, total)`, what waits for it shows that."""

from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

Progress = Callable[[int, int | None], None]
"""Gets how much is done, and of how much; None where that is not known."""

_Item = TypeVar("_Item")


def counted(items: Collection[_Item], progress: Progress | None) -> Iterator[_Item]:
    """The items, each told to `progress` when it is done."""
    for done, item in enumerate(items, start=1):
        yield item
        if progress is not None:
            progress(done, len(items))


def half(progress: Progress | None, number: int) -> Progress | None:
    """What the first (0) or the second (1) half of the work calls, where `progress` is told of the whole."""
    if progress is None:
        return None
    tell = progress
    return lambda done, total: tell(done + number * (total or 0), total and 2 * total)
