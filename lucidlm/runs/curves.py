"""Numbers and texts of a run in, an event file of TensorBoard out.

TensorBoard's own writer has a thread, whose error on a full disk is a traceback. Here each record is written
at once, whole or not at all, and an OSError goes to the caller.
"""

import io
import os
import socket
import time
from pathlib import Path
from typing import Any

from lucidlm.runtime.files import append_whole

FOLDER = "tensorboard"
VERSION = "brain.Event:2"
"""What TensorBoard expects in the first record."""


def has_tensorboard() -> bool:
    """Whether the package tensorboard is installed."""
    # TensorBoard looks for TensorFlow: where that is installed, it costs seconds and lines of log.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        return False
    return True


class Curves:
    """The event file of one process that trains a run."""

    def __init__(self, run: Path) -> None:
        began = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        number = 0
        while (path := run / FOLDER / f"{began}.{number}").exists():
            number += 1
        self.path = path

    def numbers(self, step: int, values: dict[str, float]) -> None:
        """A point at this step on each of these curves."""
        from torch.utils.tensorboard.summary import scalar

        self._write(step, [scalar(name, value) for name, value in values.items()])

    def text(self, step: int, name: str, text: str) -> None:
        """A text at this step."""
        from torch.utils.tensorboard.summary import text as summary

        self._write(step, [summary(name, text)])

    def _write(self, step: int, summaries: list[Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # ty: ignore[missing-module-member]

        event = Event(wall_time=time.time(), step=step)
        for each in summaries:
            event.summary.MergeFrom(each)
        events = [event]
        if not self.path.exists() or not self.path.stat().st_size:  # or the disk was full
            events.insert(0, Event(wall_time=time.time(), file_version=VERSION))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        append_whole(self.path, b"".join(map(_record, events)))


def _record(event: Any) -> bytes:
    """An event as the file has it, with its length and checksums."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    RecordWriter(gathered := io.BytesIO()).write(event.SerializeToString())
    return gathered.getvalue()
