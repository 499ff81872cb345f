"""SIGINT, SIGTERM and SIGHUP in, an exception or a note to the running work out.

The first signal raises Interrupted in the main thread. Inside `held` it is only noted, for work that must
reach a good point first, such as an optimizer step or a save. The second signal ends the process at once.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field

ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
NAMES = {signal.SIGINT: "Ctrl-C (SIGINT)"}
ONE_SIGNAL_S = 0.1
"""The same signal twice within this time counts once: timeout(1) sends it to the process and to its group."""
PATIENCE_S = 1.5
"""Seconds for the main thread to see a signal; after them it must be in a long call of C code."""

NOTHING_LOST = "before there was anything to save: run the same command again"


class Interrupted(KeyboardInterrupt):
    """A signal that ends the work, raised in the main thread."""

    def __init__(self, number: int, note: str = NOTHING_LOST) -> None:
        super().__init__(number)
        self.number, self.note = number, note

    def __str__(self) -> str:
        """One line for a person: what was interrupted, and how to continue."""
        return f"interrupted by {name_of(self.number)} {self.note}"


def name_of(number: int) -> str:
    """The name of a signal for a person: "Ctrl-C (SIGINT)", "SIGTERM"."""
    try:
        return NAMES.get(signal.Signals(number), signal.Signals(number).name)
    except ValueError:
        return f"signal {number}"


@dataclass(slots=True)
class Signalled:
    """The signal that came, and what it may do now."""

    number: int = 0
    """The first signal; 0 if none came yet."""
    holding: int = 0
    """If over 0, a signal is only noted."""
    seen: threading.Event = field(default_factory=threading.Event)
    """Set when the main thread has seen the signal."""
    note: str = NOTHING_LOST
    """What runs now, what a signal would lose, and how to continue."""


_now: Signalled | None = None
"""The state of the process inside `ending`: signal handlers too belong to the process."""


@contextlib.contextmanager
def ending() -> Generator[Signalled]:
    """A context in which signals end the work as described above; without effect outside the main thread.

    Nested blocks count as one. An ignored SIGHUP stays ignored, as nohup requires.
    """
    global _now
    if _now is not None or threading.current_thread() is not threading.main_thread():
        yield _now if threading.current_thread() is threading.main_thread() and _now else Signalled()
        return
    _now = state = Signalled()
    numbers = [each for each in ENDING if each == signal.SIGINT or signal.getsignal(each) != signal.SIG_IGN]
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        with _watched(state):
            for number in numbers:
                signal.signal(number, _noting(state))
            yield state
    finally:
        _now = None
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def held() -> Generator[Signalled]:
    """A context in which the first signal is only noted: read `number` inside, or call `check` afterwards."""
    state = _own()
    state.holding += 1
    try:
        yield state
    finally:
        state.holding -= 1


def only_noted() -> None:
    """From now on the first signal is only noted: this process ends with an error that it has to say."""
    _own().holding += 1


@contextlib.contextmanager
def released() -> Generator[None]:
    """A context inside `held` in which a signal raises again, for work that may be dropped half done."""
    state = _own()
    before, state.holding = state.holding, 0
    try:
        check()
        yield
    finally:
        state.holding = before


@contextlib.contextmanager
def doing(note: str) -> Generator[None]:
    """A context in which the line of a signal is `note`: "while ...", and how to continue."""
    state = _own()
    before, state.note = state.note, note
    try:
        yield
    finally:
        state.note = before


def check() -> None:
    """Raises Interrupted if a signal was noted."""
    state = _own()
    if state.number and not state.holding:
        raise Interrupted(state.number, state.note)


def _own() -> Signalled:
    """The state of the process, in the main thread inside `ending`; elsewhere one that no signal reaches."""
    main = threading.current_thread() is threading.main_thread()
    return _now if _now is not None and main else Signalled()


def _noting(state: Signalled):
    """The signal handler, which runs in the main thread."""

    def handle(number: int, frame: object) -> None:
        state.seen.set()
        if state.number:
            return  # the watcher handles the second signal
        state.number = number
        if not state.holding:
            raise Interrupted(number, state.note)

    return handle


@contextlib.contextmanager
def _watched(state: Signalled) -> Generator[None]:
    """A thread that receives signals at once, while the main thread may be in C code for seconds.

    It ends the process at the second signal, and at the first one if the main thread does not see it in time
    and has nothing to save. Files that are being written then are temporary; the next run deletes them.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(ours, state), name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        theirs.close()
        watcher.join()
        ours.close()


def _watch(ours: socket.socket, state: Signalled) -> None:
    first, came = 0, 0.0
    while True:
        waiting = first and not state.seen.is_set() and not state.holding
        ours.settimeout(max(0.01, came + PATIENCE_S - time.monotonic()) if waiting else None)
        try:
            data = ours.recv(1)
        except TimeoutError:
            if not state.seen.is_set() and not state.holding:
                _end(first, f"lucidlm: {Interrupted(first, state.note)}\n")
            continue
        if not data:  # the block has ended
            return
        number = data[0]
        if number not in ENDING:
            continue
        if first and not (number == first and time.monotonic() - came < ONE_SIGNAL_S):
            _end(number, "")
        if not first:
            first, came = number, time.monotonic()


def _end(number: int, line: str) -> None:
    """Ends the process now, whatever its threads do."""
    with contextlib.suppress(OSError, ValueError, AssertionError):
        assert sys.__stderr__ is not None
        os.write(sys.__stderr__.fileno(), line.encode())
    os._exit(128 + number)
