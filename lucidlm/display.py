"""What a person sees while something runs: reports come in, a live line or plain lines go to stderr."""

import math
import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from lucidlm.runtime.console import show
from lucidlm.runtime.wording import fixed, printable

if TYPE_CHECKING:
    from lucidlm.measure.explanation import Explanation
    from lucidlm.training.loop import Report

SECONDS_BETWEEN_LINES = 15.0
"""Without a terminal: a line of training at most this often."""


class TrainingDisplay:
    """A training's progress: use as a context manager, call `watch` with every report."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.progress: Progress | None = None
        self.last_line = -math.inf
        self.shown_at: tuple[int, float] | None = None
        """Tokens and time at the last line: the speed that is shown is the mean since then."""

    def __enter__(self) -> "TrainingDisplay":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.progress is not None:
            self.progress.stop()

    def say(self, line: str) -> None:
        """A line for a person."""
        self.console.print(printable(line), markup=False, soft_wrap=True)

    def watch(self, report: "Report") -> None:
        """Shows a step; a validation and what is worth a note stay on the screen."""
        if self.console.is_terminal:
            self._draw(report)
        elif report.step.step and time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            self.say(f"step {report.step.step:,}/{report.steps:,}  {self._numbers(report)}")
        if report.validation is not None:
            self.say(_validation(report))
            if report.sample:
                self.say(f"    {report.sample!r}")
        for note in report.notes:
            self.say(f"    {note}")

    def stage(self, stage: str, done: int, total: int | None) -> None:
        """How far the judging at the end is, on a terminal."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None
        stage_printer(stage, done, total)

    def _draw(self, report: "Report") -> None:
        if self.progress is None:
            columns = (
                TextColumn("step {task.completed:,}/{task.total:,}"),
                BarColumn(None),
                TextColumn("{task.fields[numbers]}"),
            )
            self.progress = Progress(*columns, console=self.console, transient=True, expand=True)
            self.progress.add_task("training", total=report.steps, numbers="")
            self.progress.start()
        numbers = self._numbers(report) if report.step.step else "validating"
        self.progress.update(
            self.progress.task_ids[0], completed=report.step.step, total=report.steps, numbers=numbers
        )

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


def counter(what: str) -> Callable[[int, int | None], None]:
    """Counts long work on a terminal, a line that the result then takes the place of."""
    began = shown = time.monotonic()

    def count(done: int, total: int | None) -> None:
        nonlocal shown
        now = time.monotonic()
        if not sys.stderr.isatty() or now - began < 2:
            return
        if total is not None and done >= total:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        elif now - shown > 0.2:
            shown = now
            of = f" of {total:,}" if total else ""
            speed = f"{done / (now - began):,.0f} a second"
            print(f"\r\x1b[K{done:,}{of} {what}, {speed}", end="", file=sys.stderr, flush=True)

    return count


def print_token_lines(explanation: "Explanation") -> None:
    """An explanation's tables, on a terminal coloured by surprisal: the unlikelier, the stronger."""
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        for line in explanation.lines():
            show(line)
        return
    from lucidlm.measure.explanation import steps
    from lucidlm.pages.page import colour_level

    colours = ("", "32", "36", "33", "33;1", "35", "31", "31;1")
    most = math.log(explanation.vocab_size)
    for text in explanation.texts:
        lines = text.lines()
        for _ in range(2):
            show(next(lines))
        for line, nats in zip(lines, text.tokens.nats.tolist(), strict=True):
            print(f"\x1b[{colours[colour_level(nats, most)]}m{printable(line)}\x1b[0m")
        show("")
    show("\n".join(steps(explanation)))


def stage_printer(stage: str, done: int, total: int | None) -> None:
    """Draws how far the preparation of a text is, on a terminal."""
    if not sys.stderr.isatty():
        return
    shown = f"{done / total:4.0%}" if total else f"{done:,}"
    end = "\n" if total and done >= total else ""
    print(f"\r\x1b[K{stage} {shown}", end=end, file=sys.stderr, flush=True)


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
