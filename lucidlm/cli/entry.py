"""The way in: a command line comes in, a verb runs, an exit code goes out."""

import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lucidlm.cli.inputs import refuse_models
from lucidlm.cli.options import app
from lucidlm.edge import (
    END_OF_FLAGS,
    Arguments,
    answered,
    check_current_folder,
    leave_at_once,
    protected,
    refuse_dash_as_place,
    refuse_fractions,
    restore_docstrings,
)
from lucidlm.errors import LucidError
from lucidlm.runtime.console import sound_streams
from lucidlm.runtime.ranks import EverywhereError, printed_once, started
from lucidlm.runtime.signals import ending

VERBS = "lucidlm.cli."
"""The modules of the verbs begin with this."""
ON_MANY_PROCESSES = ("train", "evaluate")
"""The verbs that torchrun may start several times, to share their work."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code: 0, 1 our fault, 2 the user's, 130 / 143 interrupted."""
    given = list(sys.argv[1:] if argv is None else argv)
    end = given.index(END_OF_FLAGS) if END_OF_FLAGS in given else len(given)
    debug = "--debug" in given[:end]
    arguments = protected([argument for argument in given[:end] if argument != "--debug"] + given[end:])
    _yield_processors_soon(arguments.given)
    with sound_streams():
        code = answered(lambda: _run(arguments), arguments, debug=debug)
    if argv is None and code > 128:
        leave_at_once(code)
    return code


def _run(arguments: Arguments) -> int:
    for name, module in list(sys.modules.items()):
        if name.startswith(VERBS):
            restore_docstrings(module)
    with printed_once():
        app.config = (*_settings_file(arguments.given), refuse_fractions)
        verb, bound, _ = app.parse_args(arguments.parsed, exit_on_error=False, print_error=False)
        values = {name: arguments.restored(value) for name, value in bound.arguments.items()}
        refuse_dash_as_place(values)
        if verb.__module__.startswith(VERBS):  # help needs no folder
            _refuse_torchrun(arguments.given[0])
            check_current_folder()
    bound.arguments.update(values)
    with ending():
        result = verb(*bound.args, **bound.kwargs)
    return result if isinstance(result, int) else 0


def _refuse_torchrun(verb: str) -> None:
    """EverywhereError for a verb that several processes would each do as a whole."""
    if verb in ON_MANY_PROCESSES or (count := started()) == 1:
        return
    raise EverywhereError(
        f"{verb} computes in one process, torchrun has started {count} ({', '.join(ON_MANY_PROCESSES)} run "
        f"under it); start lucidlm {verb} without torchrun"
    )


def _yield_processors_soon(arguments: list[str]) -> None:
    """Lets threads that wait for each other spin for a moment only; to be called before PyTorch is imported.

    GNU's OpenMP spins 300,000 times by default. Where another program holds a processor, the thread that is
    waited for may want the very one that the waiting spins on: evaluating a small model took 23 s instead
    of 4, with this 8. Training keeps the default: its workers wait for each other four times a step.
    """
    if arguments[:1] != ["train"] and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def _settings_file(arguments: list[str]) -> tuple[Any, ...]:
    """The settings of `--config FILE`, below the flags and above the defaults."""
    for flag, value in itertools.zip_longest(arguments, arguments[1:]):
        if flag == END_OF_FLAGS:
            break
        name, equals, attached = flag.partition("=")
        value = attached if equals else value
        if name == "--config" and arguments[0] == "train" and value is not None:
            if not value:
                raise LucidError('--config "": no file has this name; give a .toml file or leave it out')
            from cyclopts.config import Dict

            from lucidlm.runs.run_toml import read_settings, read_toml
            from lucidlm.weights.whole import SETTINGS

            refuse_models(
                [value],
                wanted := f"give a run's {SETTINGS}, or another .toml file of settings",
                of_a_run=f"give its settings: --config {{0}}/{SETTINGS}",
                of_a_text=wanted,
                expected="a file",
            )
            asked, plan = read_settings(Path(value))  # refuses what is no setting, by name
            settings = {
                key: item for key, item in read_toml(Path(value)).items() if key not in ("plan", "out")
            }
            if plan is not None:
                settings["split"] = asked.split  # a run from before there was a choice does not say
            if "from_" in settings:
                settings["from"] = settings.pop("from_")  # the flag is no name in Python
            return (Dict(settings, source=value, use_commands_as_keys=False),)
    return ()
