"""Tasks for other processes, which import them by name."""

import os
import signal
import sys
import time

from lucidlm.errors import DataError


def square(number, *, progress):
    time.sleep(0.02 * (number % 3))
    progress.advance(number)
    print("what a library prints comes between no answers")
    return number * number


def fail(number, *, progress):
    raise DataError(f"file {number}: bad", reason="damaged") if number % 2 else ZeroDivisionError(number)


def end(*, progress):
    os.kill(os.getpid(), signal.SIGKILL)


def modules(*, progress):
    return sorted(sys.modules)


def wait(path, *, progress):
    with open(path, "a") as file:
        print(os.getpid(), file=file)
    time.sleep(60)


class Unreadable:
    """Can be sent, and not be read."""

    def __reduce__(self):
        return no_class, ()


def no_class():
    raise LookupError("no such\nclass")


def unreadable(*, progress):
    return Unreadable()


def given(argument, *, progress):
    return type(argument).__name__


def function(*, progress):
    return lambda: 5


def hang(*, progress):
    os.closerange(3, 100)
    time.sleep(60)


def keep(number, kept, name, *, progress):
    with kept.new(name, ["text"]) as piece:
        time.sleep(0.02 * (number % 3))
        piece.paths["text"].write_text(name)
        with open(kept.folder / "calls", "a") as file:
            print(number, file=file)
        progress.advance(number)
        return piece.keep({"number": number})
