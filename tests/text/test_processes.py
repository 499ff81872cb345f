"""Tasks in other processes: results in order, errors of one process, deaths that are named, no orphans."""

import os
import signal
import subprocess
import sys

import pytest
import worker_tasks
from recorded import Recorded
from waiting import LIMIT_S, until, until_ended

from lucidlm.errors import ConfigError, DataError, RunError
from lucidlm.text import processes as module
from lucidlm.text.processes import Processes, Task, check_workers


def tasks(function, count):
    return (Task(function, (number,), f"task {number}") for number in range(count))


def environment():
    """That of a program that imports what this one can."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def test_results_come_in_order_and_units_are_told_however_many_processes_there_are():
    for workers in (1, 3):
        told = Recorded()
        told.stage("squares")
        with Processes(workers, told) as processes:
            assert list(processes.results(tasks(worker_tasks.square, 12))) == [n * n for n in range(12)]
            if workers > 1:
                loaded = next(processes.results([Task(worker_tasks.modules, (), "looking")]))
                assert "lucidlm.text.processes" in loaded
                assert not {"torch", "multiprocessing", "__mp_main__", "lucidlm.cli"} & {*loaded}
        assert told.stages[0][1] == sum(range(12))


def test_the_first_task_that_fails_raises_when_its_turn_comes_and_a_fault_of_ours_has_its_trace():
    with Processes(2) as processes:
        mixed = [
            Task(worker_tasks.square, (5,), "a"),
            Task(worker_tasks.fail, (1,), "b"),
            Task(worker_tasks.fail, (2,), "c"),
        ]
        results = processes.results(mixed)
        assert next(results) == 25
        with pytest.raises(DataError, match="file 1: bad") as caught:
            next(results)
        assert caught.value.reason == "damaged"
    with Processes(2) as processes, pytest.raises(ZeroDivisionError) as caught:
        list(processes.results(tasks(worker_tasks.fail, 1)))
    assert "in fail" in caught.value.__notes__[0]


def test_results_that_nobody_asks_for_any_more_do_not_come_among_others():
    with Processes(3) as processes:
        given_up = processes.results(tasks(worker_tasks.square, 9))
        assert next(given_up) == 0
        given_up.close()
        later = processes.results(Task(worker_tasks.square, (number,), "later") for number in range(20, 26))
        assert list(later) == [number * number for number in range(20, 26)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("what", "task"),
    [
        ("its answer", Task(worker_tasks.unreadable, (), "reading a.jsonl")),
        ("its task", Task(worker_tasks.given, (worker_tasks.Unreadable(),), "reading a.jsonl")),
    ],
)
def test_a_message_that_cannot_be_read_ends_the_work_and_what_is_advised_works(what, task):
    with Processes(2) as processes:
        with pytest.raises(RunError) as caught:
            list(processes.results([*tasks(worker_tasks.square, 2), task, *tasks(worker_tasks.square, 2)]))
        numbers = [worker.program.pid for worker in processes._started]
    said = str(caught.value)
    assert (
        f" while reading a.jsonl: {what} cannot be read (LookupError: no such\\nclass); use --workers 1"
        in said
    )
    assert "\n" not in said
    until_ended(numbers)
    with Processes(1) as processes:
        assert len(list(processes.results([task]))) == 1


def test_a_result_that_cannot_be_sent_is_an_error_of_its_task():
    with Processes(2) as processes:
        with pytest.raises(Exception, match="lambda") as caught:
            list(processes.results([Task(worker_tasks.function, (), "a")]))
        assert any("in serve" in note for note in caught.value.__notes__)
        assert list(processes.results(tasks(worker_tasks.square, 3))) == [0, 1, 4]


@pytest.mark.skipif(os.name != "posix", reason="closes files by their numbers")
def test_a_process_that_closes_its_pipe_and_does_not_end_is_ended(monkeypatch):
    monkeypatch.setattr(module, "_END_S", 0.2)
    with Processes(2) as processes:
        with pytest.raises(RunError, match=r"worker process \d+ stopped answering and was ended while a"):
            list(processes.results([Task(worker_tasks.hang, (), "a")]))
        numbers = [worker.program.pid for worker in processes._started]
    until_ended(numbers)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_process_that_dies_is_named_with_its_work_and_the_others_end():
    with Processes(2) as processes:
        assert list(processes.results(tasks(worker_tasks.square, 2))) == [0, 1]
        numbers = [worker.program.pid for worker in processes._started]
        with pytest.raises(RunError) as caught:
            list(processes.results([Task(worker_tasks.end, (), "reading a.jsonl")]))
    assert "ended by signal 9" in str(caught.value)
    assert "while reading a.jsonl" in str(caught.value)
    assert "fewer --workers" in str(caught.value)
    until_ended(numbers)


PROGRAM = """
import sys, worker_tasks
from lucidlm.text import processes as module
from lucidlm.text.processes import Processes, Task
with Processes(2) as processes:
    list(processes.results(Task(worker_tasks.wait, (sys.argv[1],), "waiting") for _ in range(2)))
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_one_that_started_them_however_that_ends(tmp_path, number):
    path = tmp_path / "numbers"
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(path)], env=environment()) as program:
        numbers = until(lambda: path.exists() and len(lines := path.read_text().splitlines()) == 2 and lines)
        numbers = [int(line) for line in numbers]
        program.send_signal(number)
        assert program.wait(LIMIT_S) != 0
    until_ended(numbers)


@pytest.mark.parametrize("flags", [["-P"], ["-P", "-s"]])
def test_no_file_of_the_current_folder_is_run_as_a_module(tmp_path, flags):
    for name in ("pickle", "json", "numpy", "lucidlm", "contextlib", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\n")
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "text number {n}"}}\n' for n in range(50)))
    done = subprocess.run(
        [sys.executable, *flags, "-m", "lucidlm", "prepare", "a.jsonl", "--out", "out",
         "--tokenizer", "bytes", "--workers", "2"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "manifest.json").exists()
    assert not (tmp_path / "ran").exists()


def test_a_number_of_processes_that_nobody_means_is_refused():
    for workers in (-1, 513):
        with pytest.raises(ConfigError, match=r"--workers .*1 to 512"):
            check_workers(workers)
