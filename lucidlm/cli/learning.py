"""The verb that teaches: learn."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from lucidlm.cli.options import app
from lucidlm.errors import ConfigError, LucidError
from lucidlm.runtime.console import say, show, show_json

if TYPE_CHECKING:
    from lucidlm.learn.path import Step


@app.command
def learn(
    step: int | None = None,
    *,
    answer: str | None = None,
    out: str = "learn",
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Learn in twelve short steps how the loss of a language model is made: predict, then see.

    Exit code: 0; 1 the answer is wrong.

    Parameters
    ----------
    step
        Number of the step (default: list the steps and your progress).
    answer
        Answer of the question: a number or a letter (default: ask for it on a terminal).
    out
        Folder for the texts, the small run and your progress.
    json
        Print the numbers of the step as JSON; needs --answer.
    """
    from lucidlm.display import Display
    from lucidlm.learn import path
    from lucidlm.learn.workshop import Workshop

    if json and answer is None:
        raise LucidError("--json needs a step and --answer: lucidlm learn 1 --answer 8 --json")
    if step is None:
        if answer is not None:
            raise LucidError(f"--answer {answer}: give the step that it answers: lucidlm learn 1 --answer 8")
        show(path.contents(Path(out)))
        return 0
    this = path.step_of(step)
    if answer is not None:
        this.check(answer)  # before the numbers are computed: one step trains a model
    if not json:
        show("\n".join([f"Step {step} of {len(path.STEPS)}: {this.title}", "", *this.lesson_lines()]))
    with Display() as progress:
        workshop = Workshop(Path(out), progress)
        workshop.write_texts()
        asked = this.work(workshop)
    if not json:
        show("\n".join([*asked.given, "", *this.question_lines()]))
    if answer is None and (answer := _answer_of_terminal(this)) is None:
        show(f"\nAnswer with: lucidlm learn {step} --answer ANSWER")
        return 0
    right = asked.is_right(answer)
    if right:
        path.mark_done(Path(out), step)
    if json:
        show_json(path.record_of(step, asked, answer))
    else:
        show("\n".join(["", asked.judged(answer), *asked.shown, *this.why_lines()]))
    return 0 if right else 1


def _answer_of_terminal(step: "Step") -> str | None:
    """An answer of the right kind, asked for until there is one; None without a terminal and at Ctrl-D."""
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout)):
        return None
    while True:
        try:
            answer = input("your answer: ")
            step.check(answer)
        except EOFError:
            return None
        except ConfigError as error:
            say(str(error))
        else:
            return answer
