"""The environment of torchrun comes in; the rank of this process, and the layout of a model, come out.

It does not import torch, as the flags and help of the command line are made from Layout.
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
    """A process of torchrun: its number among all processes, from 0, and on its machine."""

    number: int = 0
    local: int = 0
    """Number among the processes of its machine, from 0."""
    size: int = 1
    """Number of processes on all machines."""
    local_size: int = 1
    restarts: int = 0
    """How often torchrun has restarted all processes."""
    launched: bool = False
    """Whether torchrun has started this process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the processes of torchrun share a model. It changes the weights of a run by rounding only."""

    replicas: int | None = None
    """Under torchrun: number of copies of the model
    (default: one for each process if the model and its optimizer fit into one)."""
    shards: int | None = None
    """Under torchrun: number of processes that share the weights of one copy (default: by memory)."""
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
        """Replicas and shards for `size` processes; `fits`: the least number of shards that fit in memory."""
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
                f"give numbers whose product is {size}, or start {replicas * shards} (--nproc-per-node)"
            )
        return replicas, shards


class ElsewhereError(LucidError):
    """An error of another process of torchrun, which prints it: this process ends silently."""


class EverywhereError(LucidError):
    """An error that all processes of torchrun have: only the first process prints it."""


class MachineError(LucidError):
    """An error that all processes of a machine should have: its first process prints it, if it has it."""


def this_rank() -> Rank:
    """The rank of this process; without torchrun, the only process."""
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
    """Whether this process prints what all processes of torchrun would print, such as an unknown flag."""
    return _rank_or_only().number == 0


@contextlib.contextmanager
def printed_once() -> Generator[None]:
    """For a block that all processes run before they have joined: its error is printed once on each machine.

    Each machine has its own files, so the first process of each machine raises the error as it is. The
    other processes raise MachineError in its place.
    """
    try:
        yield
    except EverywhereError:
        raise
    except LucidError as error:
        if _rank_or_only().local == 0:
            raise
        raise MachineError(str(error)) from error


def started() -> int:
    """Number of processes that torchrun has started; 1 without it."""
    return _rank_or_only().size


def _rank_or_only() -> Rank:
    """As `this_rank`, but incomplete variables of torchrun are ignored, not an error."""
    with contextlib.suppress(ConfigError):
        return this_rank()
    return Rank()
