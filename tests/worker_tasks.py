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
