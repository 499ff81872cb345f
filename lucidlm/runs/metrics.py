"""Numbers and texts of a run in, lines of metrics.jsonl and samples.jsonl out.

A full disk must not cost a training: the first line that cannot be written is noted, and none stops it.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from lucidlm.runs.history import METRICS, SAMPLES
from lucidlm.runs.records import checked_line, read_lines
from lucidlm.runtime.files import append_whole, write_atomically
from lucidlm.runtime.progress import Progress


class Metrics:
    """The open metrics of one run."""

    def __init__(self, run: Path, *, progress: Progress, muted: bool = False) -> None:
        """muted: another process writes them."""
        self.run, self.progress, self.muted = run, progress, muted
        self.failed: set[str] = set()
        """Files that could not be written once, which was noted."""
        self.count()

    def count(self) -> None:
        """Counts the lines that are there: the next line has the number after theirs."""
        self.lines = {name: len(read_lines(self.run / name).events) for name in (METRICS, SAMPLES)}

    def event(self, kind: str, values: dict[str, Any]) -> None:
        """A line of metrics.jsonl: a step, a validation, a change of the plan, the end."""
        self._append(METRICS, {"event": kind} | values)

    def sample(self, values: dict[str, Any]) -> None:
        """A line of samples.jsonl."""
        self._append(SAMPLES, values)

    def _append(self, name: str, values: dict[str, Any]) -> None:
        if self.muted:
            return
        self.lines[name] += 1  # also where it cannot be written: then a number is missing, and that is seen
        try:
            append_whole(self.run / name, checked_line(values, self.lines[name]).encode("utf-8"))
        except OSError as error:
            if name not in self.failed:
                reason = error.strerror or error
                self.progress.note(
                    f"{self.run / name} cannot be written ({reason}); training goes on without it"
                )
            self.failed.add(name)


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
