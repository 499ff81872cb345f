"""The processes of torchrun as one world: what all have to know is exchanged, and none waits for a lost one.

Numbers that decide what a run does next (sums of nats, a signal, the clock of the first process) are
exchanged over gloo, also where the weights travel over NCCL. Long waits, as for a text that the first process
prepares, watch signs of life instead of a clock.
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
"""Seconds between two signs of life."""
POLL_S = 0.005
PLAIN = (Tensor, nn.Parameter)
"""Types of tensors that are whole: with them, nothing is imported for others, which takes half a second."""
LOOK_S = 0.5
"""Seconds between two looks whether another process has failed, during long work."""
NOTICE_S = 3.0
"""Seconds that a process which fails leaves the others to notice it, before torchrun ends them all."""


class World:
    """All processes of a training or an evaluation; this one alone unless torchrun has started it.

    Every method that exchanges something has to be called by all processes, in the same order. RunError
    where one of them is lost, with its number.
    """

    def __init__(
        self,
        rank: Rank | None = None,
        *,
        store: dist.Store | None = None,
        group: dist.ProcessGroup | None = None,
        layout: Layout | None = None,
    ) -> None:
        """store and group: of the control messages. Without them the world is this process."""
        self.rank = rank or Rank()
        self.layout = layout or Layout()
        self.store, self.group = store, group
        self.told_so_far = 0
        self.shards = 1
        """Processes that the weights of one model are divided among."""
        self.blocks: list[str] = []
        """Keys of the open blocks of `said_once`."""
        self.next_look = 0.0

    @property
    def size(self) -> int:
        """Processes in all."""
        return self.rank.size

    @property
    def alone(self) -> bool:
        """Whether there is no other process to exchange anything with."""
        return self.group is None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank.number == 0

    def rows(self, count: int) -> range:
        """The part of `count` rows that is this process's: contiguous, of equal sizes.

        RunError where the processes do not divide them.
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
        """These numbers of every process, float64, in the order of their ranks."""
        if self.group is None:
            return [list(values)]
        mine = torch.tensor(values, dtype=torch.float64)
        found = [torch.empty_like(mine) for _ in range(self.size)]
        with self.noticing_losses():
            dist.all_gather(found, mine, group=self.group)
        return [each.tolist() for each in found]

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums over all processes, added in the order of their ranks: the same everywhere, each time."""
        return [sum(column) for column in zip(*self.exchanged(values), strict=True)]

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return flag if self.group is None else any(each[0] for each in self.exchanged([flag]))

    def first_says(self, flag: bool) -> bool:
        """What the first process says."""
        return flag if self.group is None else bool(self.exchanged([flag])[0][0])

    def told(self, make: Callable[[], Any]) -> Any:
        """What `make` returns on the first process, on all of them; the others wait as long as it lives.

        It is told as JSON. Where `make` raises, the others raise ElsewhereError.
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
        """Ends the exchange: from now on each process is alone. All call it at the same place."""
        if self.group is not None:
            with self.noticing_losses():
                dist.barrier(group=self.group)
            dist.destroy_process_group()
            self.store = self.group = None

    def gathered(self, make: Callable[[], Any]) -> list[Any]:
        """What `make` returns on each process, told as JSON, in the order of their ranks, on all of them.

        Where it raises on one, that one's error is raised there, and the others raise ElsewhereError: no
        process goes on alone.
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
        """A block that all processes enter: an error of one ends it on all, and one of them says it.

        The others raise ElsewhereError: where they fail too, wait for another process, or call `check`.
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
            # torchrun ends all processes when one has failed: that one has said why.
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

        It looks at most every half second, unless `now`.
        """
        if self.store is None or (not now and time.monotonic() < self.next_look):
            return
        self.next_look = time.monotonic() + LOOK_S
        for key in self.blocks:
            if self.store.check([key]):
                self.store.add(f"{key}/noticed", 1)
                raise ElsewhereError(json.loads(self.store.get(key))["error"])

    def bring(self, data: bytes, take: Callable[[bytes], None]) -> None:
        """`take` gets the data of each other process, in the order of their ranks, on the first process."""
        if self.group is None:
            return
        sizes = self.gathered(lambda: len(data))  # without a clock: the others may compute for long
        with self.noticing_losses():
            if not self.first:
                dist.send(torch.frombuffer(bytearray(data), dtype=torch.uint8), 0, group=self.group)
                return
            for number, size in enumerate(sizes[1:], start=1):
                found = torch.empty(size, dtype=torch.uint8)
                dist.recv(found, number, group=self.group)
                take(found.numpy().tobytes())

    def _heard(self, key: str, *, of: int) -> Any:
        """What another process has set under `key`, as soon as it has."""
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
        """Gives these tensors the values of the first process."""
        if self.group is None:
            return
        with self.noticing_losses(), torch.no_grad():
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    @contextlib.contextmanager
    def noticing_losses(self) -> Generator[None]:
        """RunError that names the processes which are lost, where an exchange inside fails for that."""
        try:
            yield
        except RuntimeError as error:
            if not (lost := self.lost()):
                raise
            raise _lost(lost) from error

    def lost(self) -> list[int]:
        """The processes that give no sign of life now, after a wait for one."""
        if self.store is None:
            return []
        watches = [_Watch(self, number) for number in range(self.size) if number != self.rank.number]
        with contextlib.suppress(RuntimeError):  # the store itself may be gone
            time.sleep(4 * BEAT_S)
            return [watch.of for watch in watches if not watch.moved()]
        return []


ALONE = World()
"""The world of a process that torchrun has not started."""


class _Watch:
    """Looks at the signs of life of one process."""

    def __init__(self, world: World, of: int) -> None:
        self.world, self.of = world, of
        self.seen, self.since = _beats(world, of), time.monotonic()
        self.next = self.since + BEAT_S

    def look(self) -> None:
        """RunError if there was no sign for longer than the layout's patience."""
        if (now := time.monotonic()) < self.next:
            return
        self.next = now + BEAT_S
        if self.moved():
            self.since = now
        elif now - self.since > self.world.layout.patience:
            raise _lost([self.of])

    def moved(self) -> bool:
        """Whether there was a sign since the last look."""
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

    `device`: what the weights are on, which decides what carries them: NCCL between GPUs, else gloo. Where
    torchrun has started one process only, it is alone.
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
    # Processes that torchrun has started again must not read what the former ones have left in the store.
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
            yield World(rank, store=store, group=control, layout=layout)
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


@contextlib.contextmanager
def _beating(store: dist.Store, rank: Rank) -> Generator[None]:
    """Signs of life of this process in the store, from a thread of its own, until the block ends."""
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
    """A tensor that may be sharded, as one that is not; all processes of the world have to call this."""
    if type(tensor) in PLAIN:
        return tensor
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def divided_as(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, the same on all processes, divided among them as another one of its shape is."""
    if type(other) in PLAIN:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(other, DTensor):
        return tensor
    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)


def is_divided(tensor: Tensor) -> bool:
    """Whether each process has only a part of this tensor."""
    if type(tensor) in PLAIN:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
