"""Signals end what runs: by an exception, by a note where work must come to its end first, or at once."""

import os
import signal
import subprocess
import sys
import time

import pytest

from lucidlm.runtime import signals
from lucidlm.runtime.signals import Interrupted, check, doing, ending, held, released

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send")


def names() -> list:
    return [signal.getsignal(number) for number in signals.ENDING]


@pytest.mark.parametrize("number", signals.ENDING)
def test_the_first_signal_raises_with_its_number_and_what_was_going_on(number):
    before = names()
    with ending(), doing("while counting: count again"), pytest.raises(Interrupted) as caught:
        signal.raise_signal(number)
    assert caught.value.number == number
    assert str(caught.value).endswith("while counting: count again")
    assert names() == before


def test_where_it_is_held_it_is_noted_and_raised_where_that_is_asked_for():
    with ending(), held() as signalled:
        signal.raise_signal(signal.SIGTERM)
        check()
        assert signalled.number == signal.SIGTERM
        with pytest.raises(Interrupted), released():
            raise AssertionError("this is work for nobody")
        check()


def test_inside_of_a_hold_what_may_be_dropped_is_dropped_at_once():
    with ending(), held():
        with pytest.raises(Interrupted), released():
            signal.raise_signal(signal.SIGINT)
        check()


def test_a_hangup_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending():
            signal.raise_signal(signal.SIGHUP)
            check()
    finally:
        signal.signal(signal.SIGHUP, before)


PROGRAM = """
import time
from lucidlm.runtime.signals import ending, held
with ending(), held():
    print("ready", flush=True)
    {work}
"""
IN_C = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 60_000_000)"
"""One call of C for many seconds, in which Python sees no signal."""


def _after(work: str, *sent: tuple[float, int], hold: bool = True) -> tuple[int, float]:
    """Exit code and seconds of a program that was sent signals, each after a wait."""
    program = PROGRAM.format(work=work).replace(", held():", ":" if not hold else ", held():")
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as done:
        assert done.stdout.readline() == b"ready\n"
        for wait, number in sent:
            time.sleep(wait)
            done.send_signal(number)
        began = time.monotonic()
        done.wait(timeout=30)
        return done.returncode, time.monotonic() - began


def test_a_second_signal_ends_the_process_at_once_in_the_middle_of_a_call_of_c(record_property):
    code, seconds = _after(IN_C, (0.1, signal.SIGINT), (0.3, signal.SIGINT))
    record_property("seconds after the second SIGINT", seconds)
    assert (code, seconds < 1) == (130, True)


def test_a_call_of_c_that_ends_in_nothing_to_save_is_not_waited_for():
    code, seconds = _after(IN_C, (0.1, signal.SIGTERM), hold=False)
    assert (code, seconds < 2.5) == (143, True)


def test_one_signal_that_timeout_sends_twice_is_one():
    work = "time.sleep(1.0); print('came to its end')"
    assert _after(work, (0.1, signal.SIGTERM), (0.0, signal.SIGTERM))[0] == 0
