"""Tasks come in; other processes compute them, and the results go out in order.

The processes end when this one ends. They are new programs, not forks, and multiprocessing is not used: so
a caller's script needs no `if __name__ == "__main__"`, a thread of the caller cannot block them, and they
import lucidlm.text alone.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from lucidlm.errors import ConfigError, LucidError, RunError
from lucidlm.runtime.interpreter import own_flags
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.runtime.wording import one_line
from lucidlm.text.messages import can_be_sent, receive, send

MOST_WORKERS = 512
"""A process takes 100 MB or more, so a larger number is a mistake."""
_PROGRAM = (
    "import json, sys; tasks = open(0, 'rb', closefd=False); sys.path[:] = json.loads(tasks.readline()); "
    "from lucidlm.text.processes import serve; serve(tasks)"
)  # not sys.stdin: at its end Python would wait for the thread that reads
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Each process uses one core; a pool of threads in each would only take memory."""
_REPORT_S = 0.2
"""Seconds between two reports of progress."""
_PATIENCE_S = 2.0
"""Seconds in which a process may delete its temporary files before it is killed."""
_END_S = 10.0
"""Seconds after which a process that has closed its pipe and has not ended is killed."""


@dataclass(frozen=True, slots=True)
class Task:
    """A call of a function of a module: with these arguments, which can be pickled, and with `progress=`."""

    function: Callable[..., Any]
    arguments: tuple
    what: str
    """What the task does, for the error if its process dies: "reading a.jsonl"."""


def check_workers(workers: int) -> None:
    """Returns if this number of processes can be used; else ConfigError."""
    if not 0 <= workers <= MOST_WORKERS:
        raise ConfigError(
            f"--workers {workers}: give 1 to {MOST_WORKERS} processes, or 0 for one for each core"
        )


class Processes:
    """At most `workers` processes, started when they are needed. With 1, this process does the tasks."""

    def __init__(self, workers: int = 1, progress: Progress = SILENT, *, resumable: bool = False) -> None:
        """`resumable`: the same command, run again, uses what the processes have finished."""
        self.workers = workers
        self.progress = progress
        self.resumable = resumable
        self._events: queue.SimpleQueue = queue.SimpleQueue()
        self._started: list[_Worker] = []

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close(at_once=kind is not None)

    def results(self, tasks: Iterable[Task]) -> Iterator[Any]:
        """The result of each task, in order. The first task that fails raises when its turn comes.

        So the error is the one that a single process gives. A task is taken from the iterator only when a
        process is free.
        """
        if self.workers == 1:
            for task in tasks:
                yield task.function(*task.arguments, progress=self.progress)
            return
        self.settle()
        waiting, running = enumerate(tasks), 0
        ready: dict[int, _Answer] = {}
        turn, left = 0, True
        while True:
            while left and (worker := self._idle(started_by=running)):
                if (numbered := next(waiting, None)) is None:
                    left = False
                    break
                worker.give(*numbered)
                running += 1
            if turn in ready:
                answer = ready.pop(turn)
                turn += 1
                yield answer.result()
                continue
            if not running:
                return
            if (answer := self._take()) is not None:
                ready[answer[0]] = answer[1]
                running -= 1

    def settle(self) -> None:
        """Wait until no process works. Some may still, for results that the caller did not wait for."""
        while any(worker.task for worker in self._started):
            self._take()

    def close(self, *, at_once: bool = False) -> None:
        """End the processes. Those that work are stopped."""
        workers, self._started = self._started, []
        for worker in workers:
            worker.stop(at_once=at_once or worker.task is not None)
        end = time.monotonic() + _PATIENCE_S
        for worker in workers:
            worker.wait(max(0.0, end - time.monotonic()))

    def _idle(self, *, started_by: int) -> "_Worker | None":
        """A process without a task, a new one if there are fewer than `workers`; None if all work."""
        for worker in self._started:
            if worker.task is None:
                return worker
        if len(self._started) < self.workers:
            self._started.append(worker := _Worker(self._events))
            return worker
        return None

    def _take(self) -> "tuple[int, _Answer] | None":
        """The number of a task and its answer; None if a process only reported progress."""
        while True:
            with contextlib.suppress(queue.Empty):
                # With a limit: without one, Ctrl-C has no effect on Windows.
                worker, message = self._events.get(timeout=0.5)
                break
        if message is None:
            raise worker.death(resumable=self.resumable)
        if isinstance(message, _Unreadable):
            raise worker.unreadable(message)
        if isinstance(message, int):
            self.progress.advance(message)
            return None
        worker.task = None
        return worker.number, message


@dataclass(slots=True)
class _Answer:
    value: Any = None
    error: BaseException | None = None
    trace: str = ""

    def result(self) -> Any:
        if self.error is None:
            return self.value
        if self.trace:
            self.error.add_note(self.trace)
        raise self.error


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """Stands for a message that arrived and cannot be unpickled."""

    what: str
    """"its task", "its answer"."""
    problem: str

    @classmethod
    def of(cls, what: str, error: BaseException) -> "_Unreadable":
        return cls(what, one_line(f"{type(error).__name__}: {error}"))


@dataclass(slots=True, eq=False)
class _Worker:
    events: queue.SimpleQueue
    task: Task | None = None
    number: int = -1
    program: subprocess.Popen[Any] = field(init=False)

    def __post_init__(self) -> None:
        # In sessions of their own: Ctrl-C then reaches the command alone, which stops them.
        apart: dict[str, Any] = {"start_new_session": True}
        if os.name == "nt":
            apart = {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
        self.program = subprocess.Popen(
            [sys.executable, "-P", *own_flags(), "-c", _PROGRAM],  # the path of this process is sent
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | dict.fromkeys(_ONE_THREAD, "1") | {"TOKENIZERS_PARALLELISM": "false"},
            **apart,
        )
        threading.Thread(target=self._listen, name="worker", daemon=True).start()
        assert self.program.stdin is not None
        with contextlib.suppress(OSError):  # it is dead: `_listen` sees that too
            path = json.dumps([os.path.abspath(path) for path in sys.path])
            self.program.stdin.write(f"{path}\n".encode())
            self.program.stdin.flush()

    def give(self, number: int, task: Task) -> None:
        self.number, self.task = number, task
        with contextlib.suppress(OSError):
            self._send((task.function, task.arguments))

    def death(self, *, resumable: bool) -> RunError:
        try:
            code = self.program.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.program.kill()
            self.program.wait()
            how = "stopped answering and was ended"
        else:
            how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
            how += " (the system does this where memory runs out)" if code == -9 else ""
        kept = "what is done is kept: " if resumable else ""
        return RunError(
            f"worker process {self.program.pid} {how}{self._doing}; {kept}run the same command again, with "
            "fewer --workers if memory is short"
        )

    def unreadable(self, message: _Unreadable) -> RunError:
        return RunError(
            f"worker process {self.program.pid}{self._doing}: {message.what} cannot be read "
            f"({message.problem}); use --workers 1, which needs no other process"
        )

    @property
    def _doing(self) -> str:
        return f" while {self.task.what}" if self.task else ""

    def stop(self, *, at_once: bool) -> None:
        if at_once:
            self.program.terminate()
        assert self.program.stdin is not None
        with contextlib.suppress(OSError):
            self._send(None)
        with contextlib.suppress(OSError):
            self.program.stdin.close()

    def wait(self, seconds: float) -> None:
        try:
            self.program.wait(seconds)
        except subprocess.TimeoutExpired:
            self.program.kill()
            self.program.wait()

    def _send(self, message: object) -> None:
        assert self.program.stdin is not None
        send(self.program.stdin, message)

    def _listen(self) -> None:
        assert self.program.stdout is not None
        with self.program.stdout as answers:
            while True:
                try:
                    message = receive(answers)
                except (EOFError, OSError):
                    self.events.put((self, None))
                    return
                except (
                    BaseException
                ) as error:  # any: if this thread ended silently, `_take` would wait for ever
                    message = _Unreadable.of("its answer", error)
                self.events.put((self, message))


# In the other process


def serve(source: BinaryIO) -> None:
    """Do the tasks that arrive on standard input, until it ends."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between two answers
    tasks: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(source, tasks), daemon=True).start()
    progress = _Reported(answers)
    while (task := tasks.get()) is not None:
        answer = task if isinstance(task, _Unreadable) else _answer(*task, progress)
        try:
            progress.flush()
            send(answers, answer)
        except OSError:  # nobody listens any more
            return
        except Exception as error:  # a result that cannot be pickled
            send(answers, _failed(error))


def _answer(function: Callable[..., Any], arguments: tuple, progress: Progress) -> _Answer:
    try:
        return _Answer(function(*arguments, progress=progress))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return _failed(error)


def _receive(source: BinaryIO, tasks: queue.SimpleQueue) -> None:
    """Put the tasks of standard input into the queue, None after the last.

    If the input ends without the None, the parent is dead, and this process ends at once.
    """
    while True:
        try:
            task = receive(source)
        except (EOFError, OSError):
            break
        except BaseException as error:  # any: the main thread answers with it, and does not wait for ever
            task = _Unreadable.of("its task", error)
        tasks.put(task)
        if task is None:
            return
    tasks.put(None)
    if os.name == "posix":
        # Nobody reads an answer any more. The main thread may be in a call that blocks.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    time.sleep(_PATIENCE_S)
    os._exit(1)


def _failed(error: BaseException) -> _Answer:
    trace = "" if isinstance(error, LucidError | OSError) else traceback.format_exc()
    return _Answer(
        error=error if can_be_sent(error) else RuntimeError(f"{type(error).__name__}: {error}"), trace=trace
    )


class _Reported:
    """A progress that reports its units to the parent. Stages and notes are the parent's own."""

    def __init__(self, answers: BinaryIO) -> None:
        self._answers = answers
        self._units, self._time = 0, time.monotonic()

    def stage(self, name: str, total: int | None = None) -> None: ...

    def advance(self, n: int = 1) -> None:
        self._units += n
        if time.monotonic() - self._time >= _REPORT_S:
            self.flush()

    def note(self, line: str) -> None: ...

    def flush(self) -> None:
        if self._units:
            send(self._answers, self._units)
        self._units, self._time = 0, time.monotonic()
