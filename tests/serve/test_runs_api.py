"""Trainings are started, followed, stopped and resumed by requests; ids are keys, and never paths."""

import contextlib
import http.client
import json
import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from models import made_up_text
from serving import LIMIT_S, Running, running, wait_for
from trainings import begun_run

from lucidlm.runs.checkpoints import checkpoint_folders
from lucidlm.runs.data import corpus_of_run
from lucidlm.runs.history import read_history
from lucidlm.runs.listing import row_of
from lucidlm.runs.run_toml import read_settings
from lucidlm.serve.run_processes import Training
from lucidlm.serve.run_view import unigram_nats

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
