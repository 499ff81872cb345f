"""What a run writes down while it trains: metrics.jsonl, samples.jsonl and, if asked, TensorBoard's files.

A full disk must not cost a training run: the first line that cannot be written is reported, none stops it.
"""

import contextlib
from collections.abc import Collection, Generator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lucidlm.runs.curves import Curves
from lucidlm.runs.history import METRICS, SAMPLES, Step, Validation
from lucidlm.runs.records import checked_line, read_lines
from lucidlm.runtime.files import append_whole, write_atomically
from lucidlm.runtime.progress import Progress


class Metrics:
    """The open metrics of one run."""

    def __init__(self, run: Path, *, tensorboard: bool, progress: Progress) -> None:
        self.run, self.progress = run, progress
        self.failed: set[Path] = set()
        """What could not be written once, and was said to be so."""
        self.count()
        self.curves = Curves(run) if tensorboard else None

    def count(self) -> None:
        """Counts the lines that are there: the next one has the number after theirs."""
        self.lines = {name: len(read_lines(self.run / name).events) for name in (METRICS, SAMPLES)}

    def step(self, step: Step) -> None:
        """One line, and the curves that change with every step."""
        self.event("step", asdict(step))
        names = ("loss_nats", "learning_rate_factor", "grad_norm", "tokens_per_s")
        self._draw(step.step, {f"step/{name}": getattr(step, name) for name in names})

    def validation(self, validation: Validation) -> None:
        """One line, and the two losses that are compared."""
        self.event("validation", asdict(validation))
        pairs = [
            (name, side)
            for side in ("validation", "training")
            for name in ("loss_nats", "perplexity", "bits_per_byte")
        ]
        values = {f"{name}/{side}": getattr(validation, f"{side}_{name}") for name, side in pairs}
        self._draw(validation.step, values)

    def event(self, kind: str, values: dict[str, Any]) -> None:
        """Any other line of metrics.jsonl."""
        self._append(METRICS, {"event": kind} | values)

    def sample(self, values: dict[str, Any]) -> None:
        """One line of samples.jsonl."""
        self._append(SAMPLES, values)
        if self.curves is not None:
            with self._told(self.curves.path.parent):
                self.curves.text(values["step"], "sample", values["prompt"] + values["text"])

    def _draw(self, step: int, values: dict[str, float]) -> None:
        if self.curves is not None:
            with self._told(self.curves.path.parent):
                self.curves.numbers(step, values)

    def _append(self, name: str, values: dict[str, Any]) -> None:
        self.lines[name] += 1  # counted where it cannot be written too: then it is missing, and that is known
        with self._told(self.run / name):
            append_whole(self.run / name, checked_line(values, self.lines[name]).encode("utf-8"))

    @contextlib.contextmanager
    def _told(self, path: Path) -> Generator[None]:
        """An OSError inside is said, once a file."""
        try:
            yield
        except OSError as error:
            if path not in self.failed:
                self.progress.note(
                    f"{path} cannot be written ({error.strerror or error}); training goes on without it"
                )
            self.failed.add(path)


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
