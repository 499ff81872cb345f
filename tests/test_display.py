"""A bar is drawn on a terminal only."""

import pytest

from lucidlm.display import Display


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
