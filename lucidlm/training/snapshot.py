"""The state of a run at the end of a step, and its way to the disk while training goes on."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lucidlm.weights.header import Origin


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a save writes, as it was when a step had ended."""

    step: int
    saved: tuple[int, int]
    """Step and number of validations."""
    weights: dict[str, Tensor]
    origin: Origin
    optimizer: dict[str, Tensor]
    state: dict[str, Any]
    best: dict[str, Tensor] | None
    """The best weights, where they are not yet in the run's folder."""
    best_origin: Origin


class Writing:
    """A snapshot that a thread of its own writes."""

    def __init__(self, snapshot: Snapshot, write: Callable[[], None]) -> None:
        self.snapshot = snapshot
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._write, args=(write,), name="saving")
        self.thread.start()

    def _write(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:
            self.error = error
