"""One text for many processes: each scores its share of the batches, and the first gets the sums of all.

A batch is scored as one process would score it, so that no token's loss depends on the number of processes.
What a process has scored is kept in the cache folder: after a kill, no kept batch is scored again or counted
twice.
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load, save
from torch import Tensor

from lucidlm import __version__
from lucidlm.errors import DataError, LucidError
from lucidlm.measure.counts import Counts
from lucidlm.measure.scoring import Document, Scorer
from lucidlm.measure.shortening import Sample, differences_of
from lucidlm.runtime import signals
from lucidlm.runtime.distributed import World
from lucidlm.runtime.fetch import cache_folder
from lucidlm.runtime.files import write_atomically
from lucidlm.runtime.progress import SILENT, Progress

FORMAT = 1
EVALUATIONS = "evaluations"
"""The folder of kept sums in the cache folder."""
SAVE_S, SAVE_TIMES = 10.0, 50.0
"""Between two saves: at least these seconds, and so many times as long as the last one took."""
KEPT_DAYS = 14
"""Sums of an evaluation that nobody has continued are deleted after this time."""
_DIGEST = hashlib.sha256().digest_size


def hash_of(documents: Iterable[Document], context_length: int) -> str:
    """A hash of all that decides the numbers of these documents: their text or ids, and the ids before."""
    digest = hashlib.sha256()
    for document in documents:
        parts: list[bytes] = []
        if isinstance(document, str):
            parts.append(document.encode("utf-8", "surrogatepass"))
        elif isinstance(document, np.ndarray):
            parts.append(document.astype("<i8").tobytes())
        else:
            before = np.asarray(document.before[-(context_length + 1) :])
            text = (document.text or "").encode("utf-8", "surrogatepass")
            parts += [text, before.astype("<i8").tobytes(), document.ids.astype("<i8").tobytes()]
        for part in parts:
            digest.update(b"%d " % len(part) + part)
    return digest.hexdigest()


class Share:
    """The part of an evaluation that this process scores."""

    def __init__(self, world: World, scorer: Scorer, *, model: str, text: str) -> None:
        """A hash of the model and its tokenizer, and the `hash_of` the documents.

        DataError where processes have other ones.
        """
        self.world = world
        told = world.gathered(lambda: {"model": model, "text": text})
        for number, other in enumerate(told):
            for what, found in other.items():
                if found != (expected := told[0][what]):
                    raise DataError(
                        f"rank {number} has another {what} than rank 0 "
                        f"(SHA-256 {found[:12]}, {expected[:12]}); give all processes the same files"
                    )
        settings = [asdict(scorer.counted()), scorer.prefix_id, scorer.protocol.batch_size]
        made_by = [FORMAT, __version__, torch.__version__]
        key = hashlib.sha256(json.dumps([made_by, settings, model, text]).encode()).hexdigest()
        self.kept = _Kept(key[:32], f"{world.rank.number}-{secrets.token_hex(8)}")

    def score(
        self,
        scorer: Scorer,
        counts: Counts,
        sample: Sample,
        documents: Iterable[Document],
        progress: Progress = SILENT,
    ) -> dict[int, Tensor]:
        """Scores this share; the first process gets the sums of all in `counts`.

        Returns the `differences_of` the sample there. Where one process fails, all do.
        """
        world = self.world
        with world.said_once():
            former, taken = self._former()
            self._score(scorer, counts, sample, documents, former, taken)
            for sums in former:
                counts.add_sums(sums)
            differences = differences_of(scorer, sample)

            def take(data: bytes) -> None:
                sums = unpacked(data)
                assert sums is not None, "what another process has sent is whole"
                counts.add_sums(sums)
                differences.update(_tensors(sums))

            world.bring(packed(counts.sums() | _arrays(differences)), take)
            for fault in dict.fromkeys(filter(None, world.gathered(lambda: self.kept.fault))):
                progress.note(fault)
        return differences

    def forget(self) -> None:
        """Deletes what was kept: the result is out."""
        self.kept.forget()

    def _score(
        self,
        scorer: Scorer,
        counts: Counts,
        sample: Sample,
        documents: Iterable[Document],
        former: list[dict[str, np.ndarray]],
        taken: set[int],
    ) -> None:
        known = {number: nats for sums in former for number, nats in _tensors(sums).items()}
        size, mine, turn, done = self.world.size, self.world.rank.number, 0, list[int]()

        def state() -> dict[str, np.ndarray]:
            own = {number: torch.cat(nats) for number, _, nats in sample.kept if number not in known and nats}
            return counts.sums() | _arrays(own) | {"batches": np.array(done, np.int64)}

        with signals.doing("while scoring: run the same command again, and it continues"):
            for number, batch in enumerate(scorer.batches(counts.watch(documents))):
                is_mine = number not in taken and turn % size == mine
                turn += number not in taken
                if is_mine:
                    with signals.held() as signalled:  # sums of half a batch cannot be kept
                        for piece in scorer.scored(batch):
                            counts.add(piece)
                            sample.add(piece)
                        done.append(number)
                        self.kept.save(state, now=signalled.number > 0)
                    signals.check()
                else:
                    sample.passed(batch, known)
                self.world.check()
            if done:
                self.kept.save(state, now=True)

    def _former(self) -> tuple[list[dict[str, np.ndarray]], set[int]]:
        """The sums that this process adds of those that were kept, and all batches whose sums are added.

        Each file belongs to the first process that can read it: machines may share a cache folder or not.
        A file with a batch that another one has is left out.
        """
        here = self.kept.read()
        told = self.world.gathered(lambda: {name: sums["batches"].tolist() for name, sums in here.items()})
        batches = {name: set(of) for files in reversed(told) for name, of in files.items()}
        owner = {name: number for number in reversed(range(len(told))) for name in told[number]}
        taken: set[int] = set()
        mine: list[dict[str, np.ndarray]] = []
        for name in sorted(batches, key=lambda name: (-len(batches[name]), name)):
            if taken.isdisjoint(batches[name]):
                taken |= batches[name]
                if owner[name] == self.world.rank.number:
                    mine.append(here[name])
        return mine, taken


class _Kept:
    """The files of one evaluation in the cache folder, and this process's own among them."""

    def __init__(self, key: str, name: str) -> None:
        self.name = name
        self.fault = ""
        """Why nothing can be kept; "" where it can."""
        self.folder: Path | None = None
        self.next_save = time.monotonic() + SAVE_S
        try:
            self.folder = cache_folder() / EVALUATIONS / key
        except LucidError as error:
            self._failed(error)

    def read(self) -> dict[str, dict[str, np.ndarray]]:
        """The sums in each file that is whole."""
        found = {}
        with contextlib.suppress(OSError):
            if self.folder is not None:
                _sweep(self.folder.parent)
                for path in sorted(self.folder.glob("*.sums")):
                    if (sums := unpacked(path.read_bytes())) is not None:
                        found[path.name] = sums
        return found

    def save(self, state: Callable[[], Mapping[str, np.ndarray]], *, now: bool) -> None:
        """Keeps `state()` instead of what this process has kept before, if it is time to, or `now`."""
        began = time.monotonic()
        if self.folder is None or not (now or began >= self.next_save):
            return
        try:
            write_atomically(self.folder / f"{self.name}.sums", packed(state()))
        except OSError as error:
            self._failed(error)
        ended = time.monotonic()
        self.next_save = ended + max(SAVE_S, SAVE_TIMES * (ended - began))

    def forget(self) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _failed(self, error: Exception) -> None:
        why = getattr(error, "strerror", None) or error
        self.fault = f"what is scored cannot be kept ({why}): after a kill, the evaluation begins again"


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays as bytes: a SHA-256 of the rest, and the rest."""
    data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return hashlib.sha256(data).digest() + data


def unpacked(data: bytes) -> dict[str, np.ndarray] | None:
    """The arrays; None where the bytes are damaged."""
    digest, rest = data[:_DIGEST], data[_DIGEST:]
    return load(rest) if hashlib.sha256(rest).digest() == digest else None


def _arrays(by_window: Mapping[int, Tensor]) -> dict[str, np.ndarray]:
    """Numbers of each window of a sample as three arrays."""
    values = [values.numpy() for values in by_window.values()]
    return {
        "windows": np.array(list(by_window), np.int64),
        "sizes": np.array([len(each) for each in values], np.int64),
        "values": np.concatenate([np.empty(0), *values]),
    }


def _tensors(arrays: Mapping[str, np.ndarray]) -> dict[int, Tensor]:
    parts = torch.from_numpy(np.array(arrays["values"])).split(arrays["sizes"].tolist())
    return dict(zip(arrays["windows"].tolist(), parts, strict=True))


def _sweep(folder: Path) -> None:
    """Deletes what nobody has continued for long."""
    for entry in os.scandir(folder):
        with contextlib.suppress(OSError):
            if time.time() - entry.stat().st_mtime > KEPT_DAYS * 24 * 3600:
                shutil.rmtree(entry.path, ignore_errors=True)
