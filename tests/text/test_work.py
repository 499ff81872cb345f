"""Pieces of work: records in order, nothing is done twice, nothing is deleted while it is written."""

import time

import worker_tasks
from recorded import Recorded

from lucidlm.text.kept import Kept
from lucidlm.text.processes import Processes
from lucidlm.text.work import Piece, Work


def pieces(count, **changes):
    for number in range(count):
        yield Piece(f"p-{number}", worker_tasks.keep, (number,), f"piece {number}", "number", **changes)


def test_records_come_in_order_and_what_is_kept_is_not_done_again(tmp_path):
    for workers in (1, 3):
        kept = Kept(tmp_path / str(workers))
        kept.folder.mkdir()
        for kept_before, done in ((0, 4), (4, 9), (9, 9)):
            told = Recorded()
            told.stage("keeping")
            with Processes(workers, told) as processes:
                found = list(Work(kept, processes).records(pieces(done)))
            assert [name for name, _ in found] == [f"p-{number}" for number in range(done)]
            assert [record["number"] for _, record in found] == list(range(done))
            assert told.stages[0][1] == sum(range(done))
            calls = (kept.folder / "calls").read_text().split()
            assert sorted(calls) == [str(number) for number in range(done)]
            assert len(calls) == max(done, kept_before)


def test_what_is_swept_is_swept_when_no_process_writes_any_more(tmp_path):
    kept = Kept(tmp_path, durable=False)
    with Processes(3) as processes:
        work = Work(kept, processes)
        given_up = work.records(pieces(9))
        assert next(given_up)[0] == "p-0"
        given_up.close()
        work.sweep("p-", lambda name: False)
        assert not any(worker.task for worker in processes._started)
        time.sleep(0.3)
        assert [path.name for path in tmp_path.iterdir()] == ["calls"]
