"""Trainings are started, followed, stopped and resumed; ids are keys, and a form can name no file."""

import asyncio
import contextlib
import http.client
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from histories import BEND, TRAIN, curve, taken
from models import made_up_text
from serving import LIMIT_S, Running, running, wait_for
from trainings import begun_run

from lucidlm.errors import ServerError
from lucidlm.runs.checkpoints import checkpoint_folders
from lucidlm.runs.data import corpus_of_run
from lucidlm.runs.history import METRICS, History, read_history
from lucidlm.runs.listing import row_of
from lucidlm.runs.records import checked_line
from lucidlm.runs.run_toml import read_settings
from lucidlm.runtime.locks import lock
from lucidlm.serve import planning, run_events, run_view
from lucidlm.serve.documents import Documents
from lucidlm.serve.limits import LIMITS
from lucidlm.serve.run_events import Sent, news
from lucidlm.serve.run_forms import PlanForm, TrainForm, config_of, flags_of
from lucidlm.serve.run_processes import Training
from lucidlm.serve.run_view import RunView, lines_of, unigram_nats
from lucidlm.serve.runs_folder import Runs, id_of

TEXT = made_up_text()
QUICK = {"tokenizer": "bytes", "context_length": 16, "batch_tokens": 32, "validate_every": 2, "device": "cpu"}
ROW = set(row_of(Path("nowhere"))) | {
    *("id", "name", "checkpoints", "own", "message", "exit_code", "memory_bytes", "command"),
}
HEAD = ROW | {"time_s", "tokens_per_s", "time_left_s", "vocab_size", "lines"}
STATE = HEAD | {"curves", "validations", "samples"}


def followed(server: Running, id: str) -> list[dict]:
    """All events of a run, until its training ends."""
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT_S)
    ) as connection:
        connection.request("GET", f"/api/runs/{id}/events")
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        *parts, done, nothing = answer.read().decode().split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    return [json.loads(part.removeprefix("data: ")) for part in parts if not part.startswith(":")]


def state_when(server: Running, id: str, reached) -> dict:
    """The state of a run when `reached` holds of it."""
    return wait_for(lambda: server.ask("GET", f"/api/runs/{id}").json, reached)


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    with running(runs=tmp_path_factory.mktemp("live") / "runs") as server:
        yield server


@pytest.fixture(scope="module")
def trained(live):
    """The id of a run of six steps on an uploaded book, and the events that came from it."""
    document = live.upload("my book.txt", TEXT.encode(), "&tokenizer=bytes").json["id"]
    form = QUICK | {"text": document, "steps": 6, "seed": 7, "optim": {"lr": 0.01}, "early_stop": False}
    started = live.ask("POST", "/api/runs", form)
    assert started.status == 200, started.body
    assert set(started.json) == ROW
    assert (started.json["status"], started.json["name"], started.json["own"]) == (
        "starting",
        "my-book",
        True,
    )
    assert started.json["command"].startswith("lucidlm train 'my book.txt' --out=")
    return started.json["id"], followed(live, started.json["id"])


def folder_of(live: Running, id: str) -> Path:
    (row,) = [row for row in live.ask("GET", "/api/runs").json["runs"] if row["id"] == id]
    return Path(row["run"])


def test_the_events_of_a_training_are_its_points_once_each_and_end_with_all(live, trained):
    id, events = trained
    assert [event["type"] for event in events] == ["state", *["news"] * (len(events) - 2), "end"]
    assert events[0]["status"] == "starting"
    assert set(events[0]) == STATE | {"type"}
    assert set(events[-1]) == STATE | {"type"}
    assert {event["status"] for event in events} == {"starting", "training", "finished"}
    end, curves = events[-1], events[-1]["curves"]
    came = {
        name: [
            *events[0]["curves"][name],
            *(point for event in events[1:-1] for point in event["new"].get(name, [])),
        ]
        for name in ("batch", "training", "validation")
    }
    assert came == {name: curves[name] for name in came}
    assert [point[0] for point in came["batch"]] == [1, 2, 3, 4, 5, 6]
    assert [point[2] for point in came["batch"]] == [32, 64, 96, 128, 160, 192]
    seconds = [point[3] for point in came["batch"]]
    assert seconds == sorted(seconds)
    for name in ("validations", "samples"):
        assert [
            *events[0][name],
            *(row for event in events[1:-1] for row in event["new"].get(name, [])),
        ] == end[name]
        assert [row["step"] for row in end[name]] == [0, 2, 4, 6]
    assert live.ask("GET", f"/api/runs/{id}").json == {key: end[key] for key in STATE}


def test_a_run_is_shown_as_its_files_say(live, trained):
    id, events = trained
    run, end = folder_of(live, id), events[-1]
    history = read_history(run)
    assert {key: end[key] for key in set(row_of(run)) - {"text"}} == {
        key: value for key, value in row_of(run).items() if key != "text"
    }
    assert end["text"] == ["my book.txt"]
    assert (end["seed"], end["steps"], end["exit_code"], end["own"]) == (7, 6, 0, True)
    assert [point[:2] for point in end["curves"]["validation"]] == [
        [each.step, each.validation_loss_nats] for each in history.validations
    ]
    assert end["validations"] == [asdict(each) for each in history.validations]
    assert end["curves"]["best"] == [history.best.step, history.best.validation_loss_nats]
    assert end["best_step"] == history.best.step
    assert end["tokens_per_s"] > 0
    assert end["vocab_size"] == 257
    assert end["time_left_s"] is None
    probe = end["samples"][-1]["probe"]
    assert "".join(token["text"] for token in probe) in TEXT
    assert all(token["log_probability"] < 0 for token in probe)


def test_baselines_are_lines_in_nats_per_token(live, trained):
    id, events = trained
    run, lines = folder_of(live, id), dict(events[-1]["lines"])
    assert lines["uniform over the vocabulary"] == pytest.approx(math.log(257))
    assert lines["uniform over bytes"] == pytest.approx(math.log(256))  # its tokens are bytes
    assert {"gzip", "PPMd", "n-gram of bytes"} <= set(lines)
    early = next(dict(event["lines"]) for event in events if event["lines"])
    assert early["uniform over the vocabulary"] == pytest.approx(math.log(257))
    assert "gzip" not in early
    # While a run trains its unigram is counted here: the same number as that of its end.
    assert unigram_nats(corpus_of_run(run)) == pytest.approx(lines["unigram of tokens"])


def test_run_toml_names_a_text_that_stays(live, trained):
    id, _ = trained
    run = folder_of(live, id)
    config, _ = read_settings(run)
    (text,) = map(Path, config.text)
    assert text.read_text(encoding="utf-8") == TEXT
    assert text.name == "my-book.txt"
    assert text.is_relative_to(run.parent)  # and not in a folder that the server deletes


def test_a_checkpoint_and_the_best_weights_are_two_models(live, trained):
    id, events = trained
    steps = events[-1]["checkpoints"]
    assert steps == [int(each.name[5:]) for each in checkpoint_folders(folder_of(live, id))]
    best = live.ask("POST", "/api/models", {"run": id}).json
    last = live.ask("POST", "/api/models", {"run": id, "step": steps[-1]}).json
    assert (best["name"], best["kind"]) == ("runs/my-book", "run")
    assert (last["name"], last["kind"]) == (f"runs/my-book at step {steps[-1]}", "checkpoint")
    said = live.ask("POST", "/api/compare", {"a": best["name"], "b": last["name"], "text": TEXT[:50]})
    assert said.status == 200
    refused = live.ask("POST", "/api/models", {"run": id, "step": 5})
    assert (refused.status, refused.fault["param"]) == (404, "step")


def test_counting_the_text_of_a_run_costs_what_its_n_grams_cost(live, trained):
    id, _ = trained
    corpus = corpus_of_run(folder_of(live, id))
    name = live.ask("POST", "/api/models", {"run": id}).json["name"]
    said = live.ask("POST", "/api/baselines", {"model": name, "text": TEXT[:40]}).json
    unigram, ngram = said["baselines"]
    assert (unigram["name"], len(unigram["nats"]), len(ngram["nats"])) == ("unigram of tokens", 40, 40)
    counts = np.bincount(np.asarray(corpus.train[:]), minlength=257)
    ids = np.frombuffer(TEXT[:40].encode(), np.uint8)
    plain = -np.log(counts[ids] / counts.sum())  # smoothing moves it a little
    assert unigram["nats"] == pytest.approx(plain.tolist(), abs=0.3)
    assert sum(ngram["nats"]) < sum(unigram["nats"])
    other = live.ask("POST", "/api/baselines", {"text": "ab"}).json
    assert other["baselines"] == []
    assert "no run" in other["why"]


def test_the_list_has_a_row_for_each_run(live, trained):
    id, _ = trained
    listed = live.ask("GET", "/api/runs").json
    assert set(listed) == {"folder", "runs"}
    assert set(listed["runs"][0]) == ROW
    assert id in [row["id"] for row in listed["runs"]]
    assert live.ask("GET", f"/api/runs/{id}/events").events[0]["type"] == "state"
    assert [event["type"] for event in live.ask("GET", f"/api/runs/{id}/events").events] == ["state", "end"]


def test_a_finished_run_is_neither_stopped_nor_resumed_and_its_name_is_taken(live, trained):
    id, _ = trained
    assert live.ask("POST", f"/api/runs/{id}/stop", {}).status == 409
    assert live.ask("POST", f"/api/runs/{id}/resume", {}).status == 409
    reply = live.ask("POST", "/api/runs", QUICK | {"name": "my-book", "steps": 1})
    assert (reply.status, reply.fault["param"]) == (409, "name")


def test_a_training_that_cannot_begin_says_why(live):
    started = live.ask("POST", "/api/runs", QUICK | {"name": "small", "steps": 1, "batch_tokens": 8}).json
    events = followed(live, started["id"])
    end = events[-1]
    assert (end["type"], end["status"], end["exit_code"]) == ("end", "failed", 2)
    assert end["message"].startswith("--batch-tokens 8 is less than one window")
    assert set(end) == STATE | {"type"}
    row = next(row for row in live.ask("GET", "/api/runs").json["runs"] if row["id"] == started["id"])
    assert (row["status"], row["message"]) == ("failed", end["message"])
    assert not (Path(row["run"])).exists()


def test_a_training_is_stopped_with_a_checkpoint_and_goes_on_and_ends_with_the_server(tmp_path):
    (tmp_path / "book.txt").write_text(TEXT, encoding="utf-8")
    with running(runs=tmp_path / "runs") as server:
        document = server.upload("book.txt", TEXT.encode()).json["id"]
        form = QUICK | {"text": document, "steps": 10**6, "validate_every": 10**5}
        id = server.ask("POST", "/api/runs", form).json["id"]
        refused = server.ask("POST", "/api/runs", form)
        assert (refused.status, "one training runs at a time" in refused.fault["message"]) == (409, True)
        early = state_when(server, id, lambda state: state["steps"] > 5)
        assert (early["status"], early["planned_steps"]) == ("training", 10**6)
        assert early["memory_bytes"] > 10**7
        assert early["time_left_s"] > 0
        assert [name for name, _ in early["lines"]] == ["uniform over the vocabulary", "unigram of tokens"]
        assert server.ask("POST", f"/api/runs/{id}/stop", {}).json["id"] == id
        assert server.ask("POST", f"/api/runs/{id}/stop", {}).status in (200, 409)  # no second signal
        stopped = state_when(server, id, lambda state: state["status"] == "interrupted")
        assert (stopped["exit_code"], stopped["own"]) == (143, True)
        run = Path(stopped["run"])
        assert checkpoint_folders(run)[-1].name == f"step_{stopped['steps']:06d}"
        assert read_history(run).end == 15
        assert server.ask("POST", f"/api/runs/{id}/resume", {}).json["id"] == id
        on = state_when(server, id, lambda state: state["steps"] > stopped["steps"])
        assert on["time_s"] > stopped["time_s"]  # the clock goes on
        assert server.ask("POST", f"/api/runs/{id}/resume", {}).status == 409
    assert read_history(run).end == 15
    assert read_history(run).last_step >= on["steps"]
    assert row_of(run)["status"] == "interrupted"


def test_a_training_gets_one_signal_however_often_it_is_asked_to_stop(tmp_path):
    # The second would end it without a checkpoint.
    counting = (
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('signal', flush=True))\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", counting], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        training = Training(tmp_path / "run", process, ())
        training.stop()
        assert process.stdout.readline() == "signal\n"
        for _ in range(3):
            training.stop()
        assert process.communicate()[0] == ""


PAYLOADS = [
    *("..%2f..%2fetc%2fpasswd", "%2e%2e", "%2e%2e%2f", "..", "%00", "a" * 12, "0" * 12, "x" * 500),
    *(
        "run",
        "%2fetc%2fpasswd",
        "....//",
        "%c0%ae%c0%ae",
        "C:%5c",
        "~",
        "*",
        "%F0%9F%92%A9",
        "-",
        "runs%2frun",
    ),
]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_an_id_is_a_key_and_never_a_path(live, trained, payload):
    outside = Path(folder_of(live, trained[0]).parent).with_name("outside")
    if not outside.exists():
        begun_run(str(outside))
    for each in (payload, f"..%2f{outside.name}", str(outside).replace("/", "%2f")):
        assert live.ask("GET", f"/api/runs/{each}").status in (404, 405)
        assert live.ask("GET", f"/api/runs/{each}/events").status in (404, 405)
        for action in ("stop", "resume"):
            assert live.ask("POST", f"/api/runs/{each}/{action}", {}).status in (404, 405)
    assert sorted(file.name for file in outside.iterdir()) == ["run.toml"]


REFUSED = [
    *({"name": name} for name in ("../x", "a/b", "", "-x", "x" * 61, "a.b", "x\n", "/tmp/x", "..", "é", 1)),
    *(
        {"text": text}
        for text in ("/etc/passwd", "../book.txt", "http://example.org", "story ", "", ["story"])
    ),
    *({name: "x"} for name in ("out", "from_", "from", "val", "config", "track", "tensorboard", "resume")),
    *({"tokenizer": value} for value in ("/etc/passwd", "bpe:", "bpe:9999999", "auto;")),
    *({"encoding": value} for value in ("../utf8", "", "--out")),
    *(
        {"device": "cuda:9"},
        {"dtype": "int8"},
        {"split": "none"},
        {"raw": "yes"},
        {"seed": -1},
        {"seed": 1.5},
    ),
    *({"minutes": value} for value in (0, -1, 1e9, "3", True)),
    *({"steps": value} for value in (0, 10**6 + 1, 2.5)),
    *({"minutes": 1, "steps": 1}, {"steps": 1, "epochs": 1}, {"context_length": 0}, {"drop_rate": 1.0}),
    *({"preset": "/etc"}, {"preset": "gpt2"}, {"sample_prompt": "a\0b"}, {"sample_prompt": "\ud800"}),
    *({"optim": {"lr": -1}}, {"optim": {"file": "x"}}, {"optim": "muon"}, {"optim": {"name": "sgd"}}),
]


@pytest.mark.parametrize("fields", REFUSED, ids=lambda fields: str(fields)[:50])
def test_a_form_that_names_a_file_or_is_out_of_range_is_refused(live, fields):
    before = live.ask("GET", "/api/runs").json
    reply = live.ask("POST", "/api/runs", fields)
    assert (reply.status, reply.fault["type"]) == (400, "invalid_request_error"), reply.body
    assert live.ask("GET", "/api/runs").json == before


def test_a_number_that_is_infinite_and_an_unknown_document_are_refused(live):
    for number in ("NaN", "Infinity", "1e999"):
        assert live.ask("POST", "/api/runs", b'{"minutes": %s}' % number.encode()).status == 400
    assert live.ask("POST", "/api/runs", {"text": "0" * 12}).status == 404
    assert live.ask("POST", "/api/runs", b"{}", content_type="text/plain").status == 415
    assert live.ask("POST", "/api/runs", {}, origin="https://example.org").status == 403


def test_each_setting_of_a_form_becomes_one_flag_that_lucidlm_takes():
    everything = {
        "minutes": 2.5, "preset": "modern-1m", "tokenizer": "bpe:300", "context_length": 32, "drop_rate": 0.1,
        "batch_tokens": 64, "micro_batch": 2, "validate_every": 5, "val_fraction": 0.2, "split": "end",
        "encoding": "latin-1", "field": "--out", "raw": True, "seed": 3, "early_stop": False,
        "dtype": "float32", "device": "cpu", "threads": 1, "sample_prompt": '--out=/tmp "quoted" -x',
        "optim": {"name": "adamw", "lr": 0.1, "matrix_lr": 0.2, "weight_decay": 0.3, "beta1": 0.4,
                  "beta2": 0.5, "momentum": 0.6, "row_beta": 0.7, "warmup_steps": 8, "decay_fraction": 0.9,
                  "clip": 1.5},
    }  # fmt: skip
    form = TrainForm.model_validate(everything)
    assert set(everything) | {"text", "name", "steps", "epochs"} == set(TrainForm.model_fields)
    from lucidlm.cli import app

    flags = flags_of(form)
    assert len(flags) == len(everything) - 1 + len(everything["optim"])
    _, bound, _ = app.parse_args(["train", *flags], exit_on_error=False, print_error=False)
    assert bound.arguments["settings"] == config_of(form)
    assert config_of(form).sample_prompt == everything["sample_prompt"]
    assert flags_of(PlanForm()) == []


# What the disk says, without a server.


def written(run: Path, history: History) -> Path:
    rows = [{"event": "step"} | asdict(each) for each in history.steps]
    rows += [{"event": "validation"} | asdict(each) for each in history.validations]
    lines = "".join(checked_line(row, number) for number, row in enumerate(rows, start=1))
    (run / METRICS).write_text(lines, encoding="utf-8")
    return run


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path / "runs", Documents())


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


def following(connection: http.client.HTTPConnection, path: str) -> http.client.HTTPResponse:
    """The answer to a request for events; where it is a refusal, it has been read."""
    connection.request("GET", path)
    answer = connection.getresponse()
    if answer.status != 200:
        answer.read()
    return answer


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


def view_of(history: History) -> RunView:
    return RunView({"run": "r", "status": "training"}, history, run_view.rows_of(history), None, (), (), 0.0)


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


# Plans.


def test_a_plan_that_nobody_waits_for_leaves_no_process(monkeypatch):
    begun = []

    class Kept(subprocess.Popen):
        def __init__(self, *words, **options):
            super().__init__(*words, **options)
            begun.append(self)

    async def ask():
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        over = threading.Event()
        busy = loop.run_in_executor(None, over.wait, LIMIT_S)  # so that the client leaves before its turn
        left = asyncio.ensure_future(planning._answered({}))
        while not begun:
            await asyncio.sleep(0.01)
        left.cancel()
        over.set()
        await asyncio.gather(busy, left, return_exceptions=True)
        monkeypatch.setattr(planning, "PLAN_S", 0.01)
        with pytest.raises(ServerError, match="takes over"):
            await planning._answered({})

    monkeypatch.setattr(planning.subprocess, "Popen", Kept)
    asyncio.run(ask())
    assert len(begun) == 2
    for each in begun:
        assert each.returncode == -signal.SIGKILL
        assert each.stdin.closed
        assert each.stdout.closed
        assert each.stderr.closed


def test_a_plan_is_that_of_the_training_by_the_same_form(live, trained):
    _, events = trained
    document = live.upload("my book.txt", TEXT.encode(), "&tokenizer=bytes").json["id"]
    form = QUICK | {"text": document, "steps": 6, "seed": 7, "optim": {"lr": 0.01}, "early_stop": False}
    plan = live.ask("POST", "/api/plan", form).json
    end = events[-1]
    assert (plan["steps"], plan["parameters"]) == (end["planned_steps"], end["parameters"])
    assert (plan["vocab_size"], plan["heldout_tokens"]) == (end["vocab_size"], end["heldout_tokens"])
    assert (plan["context_length"], plan["batch_tokens"], plan["tokenizer"]) == (16, 32, "bytes")
    assert plan["lines"][2].startswith("plan: 6 steps of 32 tokens")
    assert plan["predicted"]["bits_low"] < plan["predicted"]["bits_per_byte"] < plan["predicted"]["bits_high"]
    assert plan["time_s"] == pytest.approx(6 * 32 / plan["tokens_per_s"])


def test_what_cannot_be_planned_is_refused(live):
    reply = live.ask("POST", "/api/plan", QUICK | {"batch_tokens": 8, "steps": 1})
    assert reply.status == 400
    assert reply.fault["message"].startswith("--batch-tokens 8 is less than one window of 16 tokens")
    assert live.ask("POST", "/api/plan", {"name": "x"}).status == 400
    assert live.ask("POST", "/api/plan", {"minutes": 1, "steps": 1}).status == 400
    assert live.ask("POST", "/api/plan", {"text": "0" * 12}).status == 404


def test_a_plan_that_nobody_waits_for_is_given_up(live, monkeypatch):
    begun = []

    class Recorded(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            begun.append(self)

    monkeypatch.setattr(planning.subprocess, "Popen", Recorded)
    with contextlib.closing(live.connect()) as connection:
        connection.request("POST", "/api/plan", b"{}", {"content-type": "application/json"})
        (process,) = wait_for(lambda: begun)
    assert process.wait(LIMIT_S) == -signal.SIGKILL
