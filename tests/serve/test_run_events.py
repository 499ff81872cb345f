"""Rows and events of runs, as their files say: what is new is sent once, to a limited number of clients."""

import contextlib
import http.client
import itertools
import json
import os
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from histories import BEND, TRAIN, curve, taken
from serving import running, wait_for
from trainings import begun_run

from lucidlm.runs.history import METRICS, History
from lucidlm.runs.listing import row_of
from lucidlm.runs.records import checked_line
from lucidlm.runtime.locks import lock
from lucidlm.serve import run_events, run_view
from lucidlm.serve.documents import Documents
from lucidlm.serve.limits import LIMITS
from lucidlm.serve.run_events import Sent, news
from lucidlm.serve.run_view import RunView, lines_of
from lucidlm.serve.runs_folder import Runs, id_of


def written(run: Path, history: History) -> Path:
    rows = [{"event": "step"} | asdict(each) for each in history.steps]
    rows += [{"event": "validation"} | asdict(each) for each in history.validations]
    lines = "".join(checked_line(row, number) for number, row in enumerate(rows, start=1))
    (run / METRICS).write_text(lines, encoding="utf-8")
    return run


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path / "runs", Documents())


def following(connection: http.client.HTTPConnection, path: str) -> http.client.HTTPResponse:
    """The answer to a request for events; where it is a refusal, it has been read."""
    connection.request("GET", path)
    answer = connection.getresponse()
    if answer.status != 200:
        answer.read()
    return answer


def view_of(history: History) -> RunView:
    return RunView({"run": "r", "status": "training"}, history, run_view.rows_of(history), None, (), (), 0.0)


def test_rows_are_read_again_only_where_a_file_or_the_lock_has_changed(runs, monkeypatch):
    names = ("a", "deep/er/b", "c")
    for age, name in enumerate(names):
        written(begun_run(str(runs.folder / name)), History((taken(3),), ()))
        for file in ("run.toml", METRICS):
            os.utime(runs.folder / name / file, (1000 - age, 1000 - age))
    read = list[str]()

    def reading(run):
        read.append(run.name)
        return row_of(run)

    monkeypatch.setattr(run_view, "row_of", reading)
    rows = runs.rows()
    assert [row["name"] for row in rows] == list(names)
    assert [row["id"] for row in rows] == [id_of(runs.folder / name, runs.folder) for name in names]
    assert [(row["status"], row["own"]) for row in rows] == [("interrupted", False)] * 3
    assert read == ["a", "b", "c"]
    assert runs.rows() == rows
    assert read == ["a", "b", "c"]
    written(runs.folder / "c", History((taken(3), taken(4)), ()))
    assert runs.rows()[0]["steps"] == 4
    with lock(runs.folder / "a"):
        assert {row["name"]: row["status"] for row in runs.rows()}["a"] == "training"
    assert read == ["a", "b", "c", "c", "a"]


def test_a_run_that_another_process_trains_is_followed_and_not_stopped(tmp_path, monkeypatch):
    run = written(begun_run(str(tmp_path / "runs" / "other")), History((taken(1),), ()))
    monkeypatch.setattr(run_events, "LOOK_S", 0.05)
    monkeypatch.setattr(run_events, "SILENT_S", 0.3)
    limits = replace(LIMITS, watchers=1)
    with running(runs=tmp_path / "runs", limits=limits) as server, contextlib.ExitStack() as clients:
        ((id, own),) = [(row["id"], row["own"]) for row in server.ask("GET", "/api/runs").json["runs"]]
        assert not own
        with lock(run):
            for action in ("stop", "resume"):
                reply = server.ask("POST", f"/api/runs/{id}/{action}", {})
                assert reply.status == 409
            connection = clients.enter_context(contextlib.closing(server.connect()))
            connection.request("GET", f"/api/runs/{id}/events")
            answer = connection.getresponse()
            first = json.loads(answer.readline().removeprefix(b"data: "))
            assert (first["type"], first["status"], first["steps"]) == ("state", "training", 1)
            assert answer.readline() == b"\n"
            assert answer.readline().startswith(b":")  # no news: a comment shows that the connection lives
            refused = server.ask("GET", f"/api/runs/{id}/events")
            assert (refused.status, refused.headers["retry-after"]) == (429, "10")
            written(run, History((taken(1), taken(2), taken(3)), ()))
            lines = iter(answer.readline, b"")
            fresh = next(
                json.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith(b"data")
            )
            assert (fresh["type"], [point[0] for point in fresh["new"]["batch"]]) == ("news", [2, 3])
            written(run, History((taken(1), taken(2, 1.0)), ()))  # resumed from a checkpoint before step 3
            again = next(
                json.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith(b"data")
            )
            assert (again["type"], again["steps"]) == ("state", 2)
        assert b"".join(lines).endswith(b"data: [DONE]\n\n")
        assert [event["type"] for event in server.ask("GET", f"/api/runs/{id}/events").events] == [
            "state",
            "end",
        ]


def test_following_a_run_may_take_longer_than_other_requests(tmp_path, monkeypatch):
    run = begun_run(str(tmp_path / "runs" / "other"))
    monkeypatch.setattr(run_events, "LOOK_S", 0.05)
    monkeypatch.setattr(run_events, "SILENT_S", 0.3)
    limits = replace(LIMITS, total_s=0.5)
    with (
        lock(run),
        running(runs=tmp_path / "runs", limits=limits) as server,
        contextlib.closing(server.connect()) as connection,
    ):
        connection.request("GET", f"/api/runs/{id_of(run, tmp_path / 'runs')}/events")
        lines = iter(connection.getresponse().readline, b"")
        comments = (line for line in lines if line.startswith(b":"))
        assert len(list(itertools.islice(comments, 3))) == 3  # each after SILENT_S


def test_who_leaves_makes_room_and_the_server_does_not_wait_for_those_who_stay(tmp_path):
    run = written(begun_run(str(tmp_path / "runs" / "other")), History((taken(1),), ()))
    limits = replace(LIMITS, watchers=2, stop_s=600)
    with lock(run), contextlib.ExitStack() as clients:
        with running(runs=tmp_path / "runs", limits=limits) as server:
            (row,) = server.ask("GET", "/api/runs").json["runs"]
            threads, path = threading.active_count(), f"/api/runs/{row['id']}/events"
            files = len(os.listdir("/proc/self/fd"))
            for _ in range(10):
                with contextlib.closing(server.connect()) as connection:
                    answer = wait_for(
                        lambda: following(connection, path), lambda answer: answer.status == 200
                    )
                    assert answer.readline().startswith(b"data: ")
            # asyncio's own threads, which are shared, may be new.
            wait_for(threading.active_count, lambda count: count <= threads + 8)
            wait_for(lambda: len(os.listdir("/proc/self/fd")), lambda count: count <= files + 2)
            stays = clients.enter_context(contextlib.closing(server.connect()))
            answer = wait_for(lambda: following(stays, path), lambda answer: answer.status == 200)
        assert answer.read().endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("every", [3, 7, 333])
def test_news_are_all_points_once_and_few(every):
    steps, rows = tuple(taken(step, 5 - step / 5000) for step in range(1, 5001)), []
    validations = curve(BEND, TRAIN).validations
    sent, seen = Sent(), []
    for end in [*range(0, 5000, every), 5000]:
        view = view_of(History(steps[:end], validations[: end // 10]))
        assert sent.holds(view)
        more, sent = news(view, sent, all_of_it=end == 5000)
        assert len(more["batch"]) <= 21
        rows += more["batch"]
        seen += more["validation"]
    assert [row[0] for row in rows] == sorted({row[0] for row in rows})
    assert rows[-1][0] == 5000
    assert len(rows) < 1500 + 1500 / 2 + 1500 / 3 + 500 / 4 + 25
    sizes = [after[0] - before[0] for before, after in zip([(0,), *rows], rows)]
    assert sum(row[1] * size for row, size in zip(rows, sizes)) / 5000 == pytest.approx(
        sum(step.loss_nats for step in steps) / 5000
    )
    assert [row[0] for row in seen] == [each.step for each in validations]


def test_what_was_sent_is_no_longer_there_when_a_run_begins_again():
    steps = tuple(taken(step) for step in range(1, 11))
    whole = Sent.of(view_of(History(steps, curve(BEND, TRAIN).validations)))
    assert whole.holds(view_of(History((*steps, taken(11)), curve(BEND, TRAIN).validations)))
    assert not whole.holds(view_of(History(steps[:9], curve(BEND, TRAIN).validations)))
    assert not whole.holds(view_of(History((*steps[:9], taken(10, 1.0)), curve(BEND, TRAIN).validations)))
    assert not whole.holds(view_of(History(steps, ())))
    assert not whole.holds(None)
    assert Sent.of(None).holds(None)


def test_without_a_plan_and_an_end_there_is_no_line():
    assert lines_of(History((), ()), None) == []
    assert lines_of(History((), ()), None, 2.5) == [("unigram of tokens", 2.5)]
