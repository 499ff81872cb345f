"""What a run writes down while it trains: metrics.jsonl, samples.jsonl and, if asked, TensorBoard's files.

A full disk must not cost a training run: the first line that cannot be written is reported, none stops it.
"""

import os
import sys
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lucidlm.errors import ConfigError
from lucidlm.measure.history import METRICS, SAMPLES, Step, Validation, checked_line, read_lines
from lucidlm.runtime.files import write_atomically


class Metrics:
    """The open metrics of one run."""

    def __init__(self, run: Path, *, tensorboard: bool, warn: Callable[[str], None]) -> None:
        self.run, self.warn, self.failed = run, warn, False
        self.count()
        self.writer = _tensorboard_writer(run) if tensorboard else None

    def count(self) -> None:
        """Counts the lines that are there: the next one has the number after theirs."""
        self.lines = {name: len(read_lines(self.run / name).events) for name in (METRICS, SAMPLES)}

    def step(self, step: Step) -> None:
        """One line, and the curves that change with every step."""
        self.event("step", asdict(step))
        if self.writer is not None:
            for name in ("loss_nats", "learning_rate_factor", "grad_norm", "tokens_per_s"):
                self.writer.add_scalar(f"step/{name}", getattr(step, name), step.step)

    def validation(self, validation: Validation) -> None:
        """One line, and the two losses that are compared."""
        self.event("validation", asdict(validation))
        if self.writer is not None:
            for side in ("validation", "training"):
                for name in ("loss_nats", "perplexity", "bits_per_byte"):
                    value = getattr(validation, f"{side}_{name}")
                    self.writer.add_scalar(f"{name}/{side}", value, validation.step)

    def event(self, kind: str, values: dict[str, Any]) -> None:
        """Any other line of metrics.jsonl."""
        self._append(METRICS, {"event": kind} | values)

    def sample(self, values: dict[str, Any]) -> None:
        """One line of samples.jsonl."""
        self._append(SAMPLES, values)
        if self.writer is not None:
            self.writer.add_text("sample", values["prompt"] + values["text"], values["step"])

    def close(self) -> None:
        """Ends TensorBoard's file."""
        if self.writer is not None:
            self.writer.close()

    def _append(self, name: str, values: dict[str, Any]) -> None:
        # One write of one whole line, so that a crash can tear none but the last.
        self.lines[name] += 1  # counted where it cannot be written too: then it is missing, and that is known
        line = checked_line(values, self.lines[name])
        path = self.run / name
        try:
            size = path.stat().st_size if path.exists() else 0
            try:
                with open(path, "a", encoding="utf-8", newline="\n") as file:
                    file.write(line)
            except OSError:
                # A full disk may have taken half a line: without it the next one can still be read.
                if path.exists():
                    os.truncate(path, size)
                raise
        except OSError as error:
            if not self.failed:
                self.warn(
                    f"{self.run / name} cannot be written ({error.strerror}); training goes on without it"
                )
            self.failed = True


def forget_after(run: Path, step: int, *, validated: Collection[int]) -> None:
    """Drops the lines that a resumed run will write again, and a torn last line.

    Those are of the steps after `step`, and of validations that are not in the checkpoint: it may have been
    saved before the validation of its step.
    """
    for name in (METRICS, SAMPLES):
        if (run / name).exists():
            kept = [event for event in read_lines(run / name).events if _is_kept(event, step, validated)]
            lines = (checked_line(event, number) for number, event in enumerate(kept, start=1))
            write_atomically(run / name, "".join(lines))


def _is_kept(event: dict[str, Any], step: int, validated: Collection[int]) -> bool:
    """Changes of the plan stay: they hold for the resumed run, which does not make them again."""
    kind, at = event.get("event", "sample"), event.get("step", 0)
    if type(at) is not int:
        return False
    if kind in ("validation", "sample"):
        return at in validated
    return kind == "plan" or (at <= step and kind != "end")


def _tensorboard_writer(run: Path) -> Any:
    # TensorBoard looks for TensorFlow, and where that is installed loading it costs seconds and lines of log.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError(
            f"--tensorboard needs the package tensorboard: {sys.executable} -m pip install tensorboard"
        ) from None
    return SummaryWriter(str(run / "tensorboard"))
