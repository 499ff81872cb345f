"""The processes of torchrun come in; one world comes out: they exchange values and notice a lost process.

Numbers that decide what a run does next (sums of nats, signals, the clock of the first process) are
exchanged over gloo, even if the weights use NCCL. Long waits, such as for the preparation of a text by the
first process, watch signs of life (heartbeats) instead of a time limit.
"""

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Generator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lucidlm.errors import ConfigError, RunError
from lucidlm.runtime import signals
from lucidlm.runtime.device import choose_device
from lucidlm.runtime.ranks import ElsewhereError, Layout, Rank, printed_once, this_rank
from lucidlm.runtime.wording import plural

BEAT_S = 1.0
"""Seconds between two signs of life of a process."""
POLL_S = 0.005
PLAIN = (Tensor, nn.Parameter)
"""Types of unsharded tensors: for them DTensor is not imported, which takes half a second."""
LOOK_S = 0.5
"""Seconds between two checks for a failed process, during long work."""
NOTICE_S = 3.0
"""Seconds that a failed process waits until the others have noticed it; then torchrun ends them all."""


class World:
    """All processes of a training or an evaluation; without torchrun, this process alone.

    All processes must call the methods that exchange values, in the same order. If a process is lost, they
    raise RunError with its rank.
    """

    def __init__(
        self,
        rank: Rank | None = None,
        *,
        store: dist.Store | None = None,
        group: dist.ProcessGroup | None = None,
        layout: Layout | None = None,
    ) -> None:
        """store and group carry the control messages. Without them the world is this process alone."""
        self.rank = rank or Rank()
        self.layout = layout or Layout()
        self.store, self.group = store, group
        self.told_so_far = 0
        self.shards = 1
        """Number of processes that share the weights of one copy of the model."""
        self.blocks: list[str] = []
        """Keys of the open blocks of `said_once`."""
        self.next_look = 0.0

    @property
    def size(self) -> int:
        """Number of processes."""
        return self.rank.size

    @property
    def alone(self) -> bool:
        """Whether this is the only process."""
        return self.group is None

    @property
    def first(self) -> bool:
        """Whether this process (rank 0) writes files and prints."""
        return self.rank.number == 0

    def rows(self, count: int) -> range:
        """This process's part of `count` rows: contiguous, the same size for each process.

        RunError if `count` is not a multiple of the number of processes.
        """
        if count % self.size:
            near = [each for each in range(1, count + 1) if count % each == 0]
            below = max(each for each in near if each < self.size)
            above = [f" or {each}" for each in near if each > self.size][:1]
            raise RunError(
                f"{plural(count, 'window')} of a step cannot be divided among {self.size} processes; start "
                f"{below}{above[0] if above else ''} (--nproc-per-node), or choose --batch-tokens so that "
                "they can"
            )
        each = count // self.size
        return range(self.rank.number * each, (self.rank.number + 1) * each)

    def exchanged(self, values: Sequence[float]) -> list[list[float]]:
        """These numbers from every process, float64, in the order of ranks."""
        if self.group is None:
            return [list(values)]
        mine = torch.tensor(values, dtype=torch.float64)
        found = [torch.empty_like(mine) for _ in range(self.size)]
        with self.noticing_losses():
            dist.all_gather(found, mine, group=self.group)
        return [each.tolist() for each in found]

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums over all processes, added in the order of ranks: equal on all, and each time."""
        return [sum(column) for column in zip(*self.exchanged(values), strict=True)]

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on any process."""
        return flag if self.group is None else any(each[0] for each in self.exchanged([flag]))

    def first_says(self, flag: bool) -> bool:
        """`flag` of the first process."""
        return flag if self.group is None else bool(self.exchanged([flag])[0][0])

    def told(self, make: Callable[[], Any]) -> Any:
        """The result of `make` on the first process, on all processes; the others wait while it is alive.

        It is sent as JSON. If `make` raises, the others raise ElsewhereError.
        """
        if self.store is None:
            return make()
        self.told_so_far += 1
        key = f"told/{self.told_so_far}"
        if not self.first:
            return self._heard(key, of=0)
        try:
            value = make()
        except BaseException as error:
            self.store.set(key, _failed(error))
            raise
        self.store.set(key, _fine(value))
        return value

    def leave(self) -> None:
        """Ends the exchange: each process continues alone. All processes must call it at the same place."""
        if self.group is not None:
            with self.noticing_losses():
                dist.barrier(group=self.group)
            dist.destroy_process_group()
            self.store = self.group = None

    def gathered(self, make: Callable[[], Any]) -> list[Any]:
        """The results of `make` on each process, in the order of ranks, on all processes; sent as JSON.

        If `make` raises on one process, that process raises the error and the others raise ElsewhereError,
        so no process continues alone.
        """
        if self.store is None:
            return [make()]
        self.told_so_far += 1
        keys = [f"gathered/{self.told_so_far}/{number}" for number in range(self.size)]
        failed: BaseException | None = None
        try:
            value = _fine(make())
        except BaseException as error:
            failed, value = error, _failed(error)
        self.store.set(keys[self.rank.number], value)
        if failed is not None:
            raise failed
        return [self._heard(key, of=number) for number, key in enumerate(keys)]

    @contextlib.contextmanager
    def said_once(self) -> Generator[None]:
        """A block that all processes enter: an error of one process ends it on all, and is printed once.

        The others raise ElsewhereError when they fail too, wait for another process, or call `check`.
        """
        if self.store is None:
            yield
            return
        self.told_so_far += 1
        key = f"failed/{self.told_so_far}"
        self.blocks.append(key)
        try:
            yield
        except ElsewhereError:
            raise
        except KeyboardInterrupt:
            # torchrun ends all processes when one has failed; that process has printed its error.
            with contextlib.suppress(RuntimeError):
                self.check(now=True)
            raise
        except Exception as error:
            with self.noticing_losses():
                if self.store.add(f"{key}/count", 1) > 1:
                    self.store.add(f"{key}/noticed", 1)
                    raise ElsewhereError(f"another process has failed: {error}") from error
                signals.only_noted()
                self.store.set(key, _failed(error))
                end = time.monotonic() + NOTICE_S
                while self.store.add(f"{key}/noticed", 0) < self.size - 1 and time.monotonic() < end:
                    time.sleep(POLL_S)
            raise
        finally:
            self.blocks.remove(key)

    def check(self, *, now: bool = False) -> None:
        """ElsewhereError if another process has failed in an open block of `said_once`; for long work.

        It checks at most every half second, unless `now`.
        """
        if self.store is None or (not now and time.monotonic() < self.next_look):
            return
        self.next_look = time.monotonic() + LOOK_S
        for key in self.blocks:
            if self.store.check([key]):
                self.store.add(f"{key}/noticed", 1)
                raise ElsewhereError(json.loads(self.store.get(key))["error"])

    def bring(self, data: bytes, take: Callable[[bytes], None]) -> None:
        """On the first process, `take` gets the data of each other process, in the order of ranks."""
        if self.group is None:
            return
        sizes = self.gathered(lambda: len(data))  # no time limit: the others may compute for long
        with self.noticing_losses():
            if not self.first:
                dist.send(torch.frombuffer(bytearray(data), dtype=torch.uint8), 0, group=self.group)
                return
            for number, size in enumerate(sizes[1:], start=1):
                found = torch.empty(size, dtype=torch.uint8)
                dist.recv(found, number, group=self.group)
                take(found.numpy().tobytes())

    def _heard(self, key: str, *, of: int) -> Any:
        """Waits for the value that another process sets under `key`, and returns it."""
        assert self.store is not None
        watch = _Watch(self, of)
        while not self.store.check([key]):
            self.check()
            watch.look()
            time.sleep(POLL_S)
        heard = json.loads(self.store.get(key))
        if "error" in heard:
            raise ElsewhereError(f"rank {of}: {heard['error']}")
        return heard["value"]

    def same(self, tensors: Sequence[Tensor]) -> None:
        """Copies the values of these tensors from the first process."""
        if self.group is None:
            return
        with self.noticing_losses(), torch.no_grad():
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    @contextlib.contextmanager
    def noticing_losses(self) -> Generator[None]:
        """Turns the error of an exchange into a RunError that names the lost processes, if any are lost."""
        try:
            yield
        except RuntimeError as error:
            if not (lost := self.lost()):
                raise
            raise _lost(lost) from error

    def lost(self) -> list[int]:
        """Ranks of the processes that gave no sign of life during a wait of a few seconds."""
        if self.store is None:
            return []
        watches = [_Watch(self, number) for number in range(self.size) if number != self.rank.number]
        with contextlib.suppress(RuntimeError):  # the store itself may be gone
            time.sleep(4 * BEAT_S)
            return [watch.of for watch in watches if not watch.moved()]
        return []


ALONE = World()
"""The world of a process without torchrun."""


class _Watch:
    """Watches the signs of life of one process."""

    def __init__(self, world: World, of: int) -> None:
        self.world, self.of = world, of
        self.seen, self.since = _beats(world, of), time.monotonic()
        self.next = self.since + BEAT_S

    def look(self) -> None:
        """RunError if there was no sign for longer than `patience` of the layout."""
        if (now := time.monotonic()) < self.next:
            return
        self.next = now + BEAT_S
        if self.moved():
            self.since = now
        elif now - self.since > self.world.layout.patience:
            raise _lost([self.of])

    def moved(self) -> bool:
        """Whether there was a sign since the last call."""
        before, self.seen = self.seen, _beats(self.world, self.of)
        return before != self.seen


def _fine(value: Any) -> str:
    return json.dumps({"value": value})


def _failed(error: BaseException) -> str:
    return json.dumps({"error": f"{type(error).__name__}: {error}"})


def _beats(world: World, of: int) -> bytes:
    assert world.store is not None
    key = f"beat/{of}"
    return world.store.get(key) if world.store.check([key]) else b""


def _lost(ranks: list[int]) -> RunError:
    names = ", ".join(map(str, ranks))
    return RunError(
        f"no sign of life from rank {names}; what was saved before is intact: start the same command again, "
        "or let torchrun do that (--max-restarts)"
    )


@contextlib.contextmanager
def joined(layout: Layout, *, device: str = "auto") -> Generator[World]:
    """The world of the processes that torchrun has started, until the block ends.

    `device` has the weights and decides the backend: NCCL between GPUs, else gloo. If torchrun has started
    only one process, the world is that process alone.
    """
    rank = this_rank()
    if rank.size == 1:
        if not rank.launched and layout != Layout():
            raise ConfigError(
                "--replicas, --shards and --patience are for the processes of torchrun: start with torchrun "
                "--nproc-per-node N -m lucidlm train ..., or leave them out"
            )
        layout.over(1, fits=1)
        yield World(rank, layout=layout)
        return
    patience = timedelta(seconds=layout.patience)
    with printed_once():
        chosen = choose_device(device)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", rank.local)
        torch.cuda.set_device(chosen)
    shared, _, _ = next(iter(dist.rendezvous("env://", timeout=patience)))
    # After a restart by torchrun, processes must not read what the earlier ones left in the store.
    store = dist.PrefixStore(f"lucidlm/{rank.restarts}", shared)
    with _beating(store, rank):
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo",
            store=store,
            rank=rank.number,
            world_size=rank.size,
            timeout=patience,
            device_id=chosen if chosen.type == "cuda" else None,
        )
        try:
            control = dist.new_group(backend="gloo", timeout=patience)
            world = World(rank, store=store, group=control, layout=layout)
            yield world
            # The store ends with the first process: not before the others have read what it told them last.
            if not world.alone:
                with contextlib.suppress(RuntimeError):  # one that is lost now was no longer needed
                    dist.barrier(group=control)
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


@contextlib.contextmanager
def _beating(store: dist.Store, rank: Rank) -> Generator[None]:
    """Writes signs of life of this process to the store, in a thread, until the block ends."""
    ended = threading.Event()

    def beat() -> None:
        for number in itertools.count():
            with contextlib.suppress(RuntimeError):
                store.set(f"beat/{rank.number}", str(number))
            if ended.wait(BEAT_S):
                return

    thread = threading.Thread(target=beat, name="signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def whole(tensor: Tensor) -> Tensor:
    """The tensor, unsharded; all processes of the world must call this."""
    if type(tensor) in PLAIN:
        return tensor
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def divided_as(tensor: Tensor, other: Tensor) -> Tensor:
    """An unsharded tensor, equal on all processes, sharded like another tensor of the same shape."""
    if type(other) in PLAIN:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(other, DTensor):
        return tensor
    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)


def is_divided(tensor: Tensor) -> bool:
    """Whether this tensor is sharded: each process has only a part of it."""
    if type(tensor) in PLAIN:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
