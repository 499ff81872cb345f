"""What is drawn while something runs: a bar on a terminal only, lines elsewhere; no colour with NO_COLOR."""

import io
import re
import sys
from dataclasses import replace

import pytest

from lucidlm import display as drawing
from lucidlm.display import Display
from lucidlm.runs.history import Step, Validation
from lucidlm.training.state import Report

STEP = Step(
    step=12, epoch=0.1, tokens=10, loss_nats=5.562, learning_rate_factor=1.0, grad_norm=1.0, tokens_per_s=1e3,
    mfu=0.5, time_s=1.0,
)  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal_of(monkeypatch) -> Terminal:
    """Standard error on a terminal with colours. No fixture: pytest replaces the stream after those."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    made = Terminal()
    monkeypatch.setattr(sys, "stderr", made)
    return made


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE", "JPY_PARENT_PID"])
def test_no_bar_is_drawn_into_a_pipe_or_a_notebook_whatever_the_environment_says(
    variable, monkeypatch, capsys
):
    monkeypatch.setenv(variable, "1")
    with Display() as display:
        monkeypatch.setattr("lucidlm.display.SECONDS_BEFORE_BAR", 0.0)
        display.stage("scoring tokens", 100)
        display.advance(50)
        display.note("a note")
    assert capsys.readouterr().err == "a note\n"


@pytest.mark.parametrize("no_color", [False, True])
def test_no_color_holds_on_a_terminal(monkeypatch, no_color):
    terminal = terminal_of(monkeypatch)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    with Display() as display:
        display.watch(Report(STEP, 10, 1.0, notes=("a note",)))
    assert "a note" in terminal.getvalue()
    coloured = re.search(r"\x1b\[[0-9;]*(3[0-7]|38|9[0-7])[0-9;]*m", terminal.getvalue())
    assert (coloured is None) == no_color


def test_a_narrow_terminal_shows_the_step_whole_and_cuts_the_numbers(monkeypatch):
    terminal = terminal_of(monkeypatch)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    with Display() as display:
        display.watch(Report(STEP, 1200, 80.0))
    assert "step 12/1,200 " in terminal.getvalue()
    assert "tokens/s" not in terminal.getvalue()


@pytest.mark.parametrize(
    ("total", "shown"), [(1000, "scoring tokens 500/1,000 "), (None, "scoring tokens 500 ")]
)
def test_the_bar_of_a_stage_shows_what_is_done_and_the_total_where_it_is_known(monkeypatch, total, shown):
    terminal = terminal_of(monkeypatch)
    monkeypatch.setattr(drawing, "SECONDS_BEFORE_BAR", 0.0)
    with Display() as display:
        display.stage("scoring tokens", total)
        display.advance(499)
        display.advance()
    assert shown in terminal.getvalue()


def test_the_perplexity_of_a_diverged_loss_is_a_power_of_ten_in_every_line(capsys):
    validation = Validation(
        step=3, epoch=0.1, validation_loss_nats=700.0, validation_perplexity=1e304, time_s=1.0,
        validation_bits_per_byte=1e3, validation_tokens=10, training_loss_nats=1e37, training_tokens=10,
        training_perplexity=float("inf"), training_bits_per_byte=1e37,
    )  # fmt: skip
    with Display() as display:
        display.watch(Report(replace(STEP, loss_nats=900.0), 10, 1.0, validation=validation))
    lines = capsys.readouterr().err.splitlines()
    assert "perplexity inf" in lines[0]
    assert "perplexity 1.00e+304" in lines[1]
    assert "training loss 1.00e+37" in lines[1]
