"""The edge of the command line: arguments of a shell and errors come in, values and exit codes go out."""

import ast
import contextlib
import dataclasses
import errno
import inspect
import itertools
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from cyclopts import ArgumentCollection, CycloptsError, MissingArgumentError, UnknownOptionError

from lucidlm.errors import LucidError
from lucidlm.runtime.console import say
from lucidlm.runtime.memory import is_out_of_memory, out_of_memory_line
from lucidlm.runtime.places import path_text
from lucidlm.runtime.ranks import ElsewhereError, EverywhereError, MachineError, speaks
from lucidlm.runtime.run_out import ran_out
from lucidlm.runtime.signals import Interrupted

FLAG = re.compile(r"--?[A-Za-z][\w.-]*(=.*)?", re.DOTALL)
"""A flag. Any other argument that begins with a dash is a text: "- item one", "---", "-"."""
END_OF_FLAGS = "--"
SPEAKS_S = 10.0
"""Seconds that another process of torchrun has to print an error of all: torchrun ends all when one ends."""
PLACES = ("out", "html", "csv", "svg")
"""Flags that name a file or folder to write."""

WRONG_PATH = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}
WRONG_PATH |= {errno.ELOOP, errno.EROFS, errno.EEXIST, errno.ENOTEMPTY, errno.EINVAL}
"""Errors of the operating system that another path avoids."""


@dataclasses.dataclass(frozen=True, slots=True)
class Arguments:
    """A command line for the parser, which takes a text with a dash first for a flag: a name replaces it."""

    parsed: list[str]
    texts: dict[str, str]
    """The text of each name."""
    given: list[str]

    def restored(self, value: Any) -> Any:
        """The value with the texts in place of their names, also inside tuples, lists and dataclasses."""
        if isinstance(value, str):
            return self.texts.get(value, value)
        if isinstance(value, tuple | list):
            return type(value)(self.restored(item) for item in value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            return dataclasses.replace(
                value, **{name: new for name, old in fields.items() if (new := self.restored(old)) != old}
            )
        return value

    def spelled(self, message: str) -> str:
        """A message of the parser, with the texts in place of their names."""
        for name, text in self.texts.items():
            message = message.replace(name, text)
        return message


def restore_docstrings(module: ModuleType) -> None:
    """Gives functions back the docstrings that `python -OO` has dropped: help is made of them."""
    if module.__doc__ is not None:
        return
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.FunctionDef):
            getattr(module, node.name).__doc__ = ast.get_docstring(node)


def protected(given: list[str]) -> Arguments:
    """The command line with names in place of texts that begin with a dash and are not flags."""
    end = given.index(END_OF_FLAGS) if END_OF_FLAGS in given else len(given)
    texts: dict[str, str] = {}
    parsed = list(given)
    for place, argument in enumerate(given[:end]):
        if argument.startswith("-") and not FLAG.fullmatch(argument) and not _is_number(argument):
            name = f"argument-{place}-of-{len(given)}"
            while any(name in other for other in given):
                name += "-"
            parsed[place] = name
            texts[name] = argument
    return Arguments(parsed, texts, given)


def _is_number(argument: str) -> bool:
    try:
        float(argument)
    except ValueError:
        return False
    return True


def refuse_dash_as_place(values: dict[str, Any]) -> None:
    """EverywhereError for a dash as the file to write: it means standard input, where a text is read."""
    for name, value in values.items():
        group = dataclasses.is_dataclass(value) and not isinstance(value, type)
        fields = (
            {field.name: getattr(value, field.name) for field in dataclasses.fields(value)} if group else {}
        )
        for flag, place in ({name: value} | fields).items():
            if flag in PLACES and place == "-":
                raise EverywhereError(
                    f"--{flag} -: a dash means standard input, which cannot be written; give a file name "
                    "(./- for a file called -)"
                )


def answered(work: Callable[[], int], arguments: Arguments, *, debug: bool) -> int:
    """The work's exit code; an error is one line and its own: 1 our fault, 2 the user's, 130 interrupted."""
    try:
        code = work()
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as error:
        return _said_interrupted(error)
    except BrokenPipeError:
        return 0  # whoever read our output has enough of it (`| head`)
    except Exception as error:
        if (interruption := _interruption(error)) is not None:
            return _said_interrupted(interruption)
        if isinstance(error, ElsewhereError):
            return error.exit_code
        if isinstance(error, CycloptsError | EverywhereError) and not speaks():
            wait_to_be_ended()
            return 2
        if isinstance(error, MachineError):
            wait_to_be_ended()  # if it returns, the first process has no such error: it must be printed here
        if debug:
            raise
        line, code = _line_and_code(error, arguments)
        say(f"lucidlm: {arguments.spelled(line)}")
        return code


def wait_to_be_ended() -> None:
    """Waits while another process prints the error of all and ends; torchrun then ends this process too."""
    time.sleep(SPEAKS_S)


def _said_interrupted(error: KeyboardInterrupt) -> int:
    interrupted = error if isinstance(error, Interrupted) else Interrupted(signal.SIGINT)
    if speaks():
        say(f"lucidlm: {interrupted}")
    return 128 + interrupted.number


def _interruption(error: BaseException) -> KeyboardInterrupt | None:
    """The signal that an error was made of: in a class that is being made, Python 3.11 makes one of it."""
    cause = error.__cause__
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__cause__
    return cause


def leave_at_once(code: int) -> None:
    """Ends an interrupted process whose work is undone: Python's own end takes PyTorch apart, for a second
    and more beside other programs."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def _line_and_code(error: Exception, arguments: Arguments) -> tuple[str, int]:
    """The line about an error, and the exit code."""
    if isinstance(error, CycloptsError):
        return _parser_line(error, arguments), 2
    if isinstance(error, LucidError):
        return str(error), error.exit_code
    if is_out_of_memory(error):
        return out_of_memory_line(), 2
    if isinstance(error, OSError) and error.errno in WRONG_PATH:
        named = isinstance(error.filename, str | bytes | os.PathLike)
        path = shortened(path_text(os.fsdecode(error.filename))) if named else "a path"
        return f"{path}: {error.strerror}; check the path and who may use it", 2
    if line := ran_out(error):
        return line, 2
    if isinstance(error, OSError):
        return str(error), 1  # a disk that fails is nobody's bug: the line is the system's
    return _internal(error), 1


def shortened(name: str, *, most: int = 200) -> str:
    """The name, cut after `most` characters."""
    return name if len(name) <= most else f"{name[:most]}... ({len(name):,} characters)"


def refuse_fractions(app: object, commands: object, arguments: ArgumentCollection) -> None:
    """LucidError for a fraction where a whole number is expected; the parser would round it silently."""
    for argument in arguments:
        if argument.hint not in (int, int | None):
            continue
        for token in argument.tokens:
            with contextlib.suppress(ValueError):
                if not float(token.value).is_integer():
                    raise LucidError(f"{token.keyword or argument.name} {token.value}: give a whole number")


def check_current_folder() -> None:
    """LucidError where it was deleted: paths would have no beginning, and MKL ends a process without one."""
    try:
        os.getcwd()
    except OSError:
        raise LucidError(
            "the current folder was deleted; change to one that exists (cd) and try again"
        ) from None


def _parser_line(error: CycloptsError, arguments: Arguments) -> str:
    """The parser's message in one line, and how to give a value that begins with a dash."""
    line = " ".join(str(error).split())
    verb = next((argument for argument in arguments.given if not argument.startswith("-")), "VERB")
    given = arguments.given
    end = given.index(END_OF_FLAGS) if END_OF_FLAGS in given else len(given)
    if isinstance(error, UnknownOptionError):
        option = error.token.keyword or error.token.value or ""
        if option in [argument.partition("=")[0] for argument in given[end + 1 :]]:
            return f"{option} comes after --, where only texts are allowed; give flags before --"
        line += f' A text or file that begins with a dash goes after --: lucidlm {verb} ... -- "{option}".'
    elif isinstance(error, MissingArgumentError) and (flag := error.keyword):
        follows = [after for before, after in itertools.pairwise(given[:end]) if before == flag]
        if any(after.startswith("-") for after in follows):
            line += f" A value that begins with a dash is given with =: {flag}={follows[0]}."
    return f"{line} (lucidlm {verb} --help lists verbs and flags)"


def _internal(error: Exception) -> str:
    """One line about our own fault; the traceback goes to a file that the user can send."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    what = (str(error).strip().splitlines() or [""])[0][:300]
    line = f"internal error in lucidlm: {type(error).__name__}: {what}"
    line += f" ({Path(last.filename).name}:{last.lineno}); "
    try:
        with tempfile.NamedTemporaryFile(
            "w",
            encoding="utf-8",
            errors="backslashreplace",
            prefix="lucidlm-fault-",
            suffix=".txt",
            delete=False,
        ) as file:
            file.write("".join(traceback.format_exception(error)))
    except OSError:
        return line + "the same command with --debug shows the traceback"
    return line + f"please report it with its traceback, which is in {file.name}"
