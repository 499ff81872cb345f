"""What a person sees while something runs: reports come in, a live line or plain lines go to stderr."""

import math
import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from lucidlm.runtime.console import say, show
from lucidlm.runtime.wording import fixed, printable

if TYPE_CHECKING:
    from lucidlm.measure.explanation import Explanation
    from lucidlm.training.state import Report

TRAINING = "training"
SECONDS_BEFORE_BAR = 1.0
"""What takes less needs no bar."""
SECONDS_BETWEEN_LINES = 15.0
"""Without a terminal: a line of training at most this often."""


class Display:
    """Progress of long work on standard error: a live bar on a terminal, else plain lines.

    A context manager around the work. It is a Progress; `watch` gets the reports of a training.
    """

    def __init__(self) -> None:
        # A notebook's kernel sets FORCE_COLOR, and rich would draw its bar there line by line.
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self.console = Console(stderr=True, highlight=False, force_terminal=terminal, force_jupyter=False)
        self.last_line = -math.inf
        self.shown_at: tuple[int, float] | None = None
        """Tokens and time at the last line: the speed that is shown is the mean since then."""
        self._bar: Progress | None = None
        self._stage: tuple[str, int | None] = "", None
        self._done = 0
        self._began = math.inf

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def note(self, line: str) -> None:
        """A line for a person."""
        if self._bar is None:
            say(line)
        else:
            self.console.print(printable(line), markup=False, soft_wrap=True)

    def stage(self, name: str, total: int | None = None) -> None:
        """A new stage of the work; a bar appears if it takes longer than a moment."""
        self.close()
        self._stage, self._done, self._began = (name, total), 0, time.monotonic()

    def advance(self, n: int = 1) -> None:
        """n more units of the stage."""
        self._done += n
        if self._bar is None:
            if not self.console.is_terminal or time.monotonic() - self._began < SECONDS_BEFORE_BAR:
                return
            self._open(*self._stage)
        assert self._bar is not None
        self._bar.update(self._bar.task_ids[0], completed=self._done)

    def watch(self, report: "Report") -> None:
        """A step of a training; validations and notes stay on the screen."""
        if self.console.is_terminal:
            if self._stage[0] != TRAINING:
                self.stage(TRAINING, report.steps)
                self._open("step", report.steps)
            assert self._bar is not None
            numbers = self._numbers(report) if report.step.step else "validating"
            self._bar.update(
                self._bar.task_ids[0], completed=report.step.step, total=report.steps, numbers=numbers
            )
        elif report.step.step and time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            self.note(f"step {report.step.step:,}/{report.steps:,}  {self._numbers(report)}")
        if report.validation is not None:
            self.note(_validation(report))
            if report.sample:
                self.note(f"    {report.sample!r}")
        for note in report.notes:
            self.note(f"    {note}")

    def _open(self, name: str, total: int | None) -> None:
        text = f"{name} {{task.completed:,}}" + ("/{task.total:,}" if total else "")
        # A narrow terminal cuts the numbers at the end of the line, and not the step.
        step = Column(no_wrap=True, min_width=len(f"{name} {total:,}/{total:,}") if total else None)
        columns = (TextColumn(text, table_column=step), BarColumn(None), TextColumn("{task.fields[numbers]}"))
        self._bar = Progress(*columns, console=self.console, transient=True, expand=True)
        self._bar.add_task("", total=total, numbers="")
        self._bar.start()

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _numbers(self, report: "Report") -> str:
        step, now = report.step, time.monotonic()
        tokens_per_s = step.tokens_per_s
        if self.shown_at is not None and now > self.shown_at[1]:
            tokens_per_s = (step.tokens - self.shown_at[0]) / (now - self.shown_at[1])
        if (
            not self.console.is_terminal
            or self.shown_at is None
            or now - self.shown_at[1] > SECONDS_BETWEEN_LINES
        ):
            self.shown_at = step.tokens, now
        from lucidlm.model.loss import perplexity  # here, where torch is loaded

        mfu = f"  {step.mfu:.0%} of peak" if step.mfu is not None else ""
        left = f"  {_duration(report.time_left_s)} left" if report.time_left_s else ""
        speed = f"{tokens_per_s:,.0f} tokens/s{mfu}{left}"
        return f"loss {fixed(step.loss_nats, 3)}  perplexity {fixed(perplexity(step.loss_nats), 1)}  {speed}"


def print_token_lines(explanation: "Explanation") -> None:
    """An explanation's tables, on a terminal coloured by surprisal: the unlikelier, the stronger."""
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        for line in explanation.lines():
            show(line)
        return
    from numpy import concatenate

    from lucidlm.measure.explanation import steps
    from lucidlm.pages.tokens import colour_edges

    colours = ("", "32", "36", "33", "33;1", "35", "31", "31;1")
    of_all = concatenate([text.tokens.nats for text in explanation.texts])
    edges = colour_edges(of_all, math.log(explanation.vocab_size))  # the levels of the page
    for text in explanation.texts:
        lines = text.lines()
        for _ in range(2):
            show(next(lines))
        levels = edges.searchsorted(text.tokens.nats, side="right").tolist()
        for line, level in zip(lines, levels, strict=True):
            print(f"\x1b[{colours[level]}m{printable(line)}\x1b[0m")
        show("")
    show("\n".join(steps(explanation)))


def _validation(report: "Report") -> str:
    each = report.validation
    assert each is not None
    whole = each.heldout_tokens
    part = whole is not None and whole > each.validation_tokens
    return (
        f"step {each.step:>6,}  epoch {each.epoch:5.1f}  training loss {fixed(each.training_loss_nats, 4)}  "
        f"validation loss {fixed(each.validation_loss_nats, 4)}  "
        f"perplexity {fixed(each.validation_perplexity, 1)}  "
        f"{fixed(each.validation_bits_per_byte, 3)} bits/byte"
        + (f"  (sample: {each.validation_tokens:,} of {whole:,} tokens)" if part else "")
    )


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02}"
    return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"
