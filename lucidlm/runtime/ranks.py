"""The environment of torchrun in, which of its processes this one is out; and how they are to share a model.

No torch here: the command line's flags and help are made from Layout.
"""

import contextlib
import os
from collections.abc import Generator
from dataclasses import dataclass

from lucidlm.errors import ConfigError, LucidError
from lucidlm.runtime.ranges import Range, check_ranges

MOST_RANKS = 2**20


@dataclass(frozen=True, slots=True)
class Rank:
    """One of the processes that torchrun has started, which are numbered from 0."""

    number: int = 0
    local: int = 0
    """Its number among the processes of its machine."""
    size: int = 1
    """All processes, of all machines."""
    local_size: int = 1
    restarts: int = 0
    """How often torchrun has started all processes again."""
    launched: bool = False
    """Whether torchrun has started this process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the processes of torchrun share a model. No weight of a run depends on it but by rounding."""

    replicas: int | None = None
    """Under torchrun: groups of processes that each hold the whole model
    (default: one for each process where the model and its optimizer fit into one)."""
    shards: int | None = None
    """Under torchrun: processes that the weights of one model are divided among (default: by memory)."""
    patience: float = 600.0
    """Under torchrun: seconds without a sign of life after which a process counts as lost."""

    def __post_init__(self) -> None:
        check_ranges(
            self,
            {
                "replicas": Range(1, MOST_RANKS),
                "shards": Range(1, MOST_RANKS),
                "patience": Range(1, 7 * 24 * 3600),
            },
        )

    def over(self, size: int, *, fits: int) -> tuple[int, int]:
        """Replicas and shards of `size` processes; `fits`: the fewest shards whose part fits into one."""
        if self.replicas is None and self.shards is None:
            shards = next((each for each in range(fits, size + 1) if size % each == 0), size)
            return size // shards, shards
        shards = self.shards or max(1, size // (self.replicas or 1))
        replicas = self.replicas or max(1, size // shards)
        if replicas * shards != size:
            asked = " ".join(
                f"--{name} {value}"
                for name, value in (("replicas", self.replicas), ("shards", self.shards))
                if value is not None
            )
            raise ConfigError(
                f"{asked}: {replicas} x {shards} is {replicas * shards}, torchrun has started {size}; "
                "give numbers whose product is that, or start as many (--nproc-per-node)"
            )
        return replicas, shards


class ElsewhereError(LucidError):
    """An error of another process of torchrun, which says it: this one ends without a word."""


class EverywhereError(LucidError):
    """An error that all processes of torchrun have: only the first process prints it."""


def this_rank() -> Rank:
    """Which process of torchrun this is; the only one where torchrun has not started it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ and "RANK" not in os.environ:
        return Rank()
    try:
        return Rank(
            number=int(os.environ["RANK"]),
            local=int(os.environ.get("LOCAL_RANK", "0")),
            size=int(os.environ["WORLD_SIZE"]),
            local_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
            restarts=int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
            launched=True,
        )
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"RANK is set, but torchrun's other variables are not ({error}); start with torchrun, or "
            "unset RANK"
        ) from None


def speaks() -> bool:
    """Whether this process says what all processes of torchrun would say, as that a flag is unknown."""
    return _rank_or_only().number == 0


@contextlib.contextmanager
def printed_once() -> Generator[None]:
    """For a block that all processes run before they have joined: its error is printed once on each machine.

    Each machine has its own files, so the first process of each machine raises the error as it is. The
    other processes raise EverywhereError in its place.
    """
    try:
        yield
    except LucidError as error:
        if _rank_or_only().local == 0:
            raise
        raise EverywhereError(str(error)) from error


def started() -> int:
    """How many processes torchrun has started; 1 without it."""
    return _rank_or_only().size


def _rank_or_only() -> Rank:
    """As `this_rank`, but half of torchrun's variables are none: they matter only to who needs the rank."""
    with contextlib.suppress(ConfigError):
        return this_rank()
    return Rank()
