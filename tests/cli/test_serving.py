"""The verb serve: what it prints, what it refuses, and how it ends."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from models import BYTES, END_OF_TEXT, SMALLEST, lively
from trainings import begun_run

from lucidlm.measure.explanation import explain
from lucidlm.weights.huggingface import save_model
from lucidlm.weights.load import load


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(lively(SMALLEST.changed(document_prefix_id=END_OF_TEXT)), BYTES, folder)
    return folder


@contextlib.contextmanager
def command(*words):
    """`lucidlm serve ...` in a process of its own, and the lines that it printed until it listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lucidlm", "serve", *words, "--port", "0", "--threads", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    lines = []
    try:
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if line.startswith("listening"):
                break
        yield process, lines
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_says_what_it_serves_where_and_stops_at_a_signal(model_folder, number, code):
    with command(str(model_folder), "modern-1m") as (process, lines):
        tiny, preset, listening = lines
        assert tiny.startswith("tiny: huggingface, ")
        assert preset.startswith(
            "modern-1m: preset, 919,424 parameters, context 256, tokenizer bytes, float32"
        )
        address = listening.split()[2]
        with urllib.request.urlopen(f"{address}/v1/models", timeout=10) as answer:
            assert b'"tiny"' in answer.read()
        # A stream that nobody reads does not keep it from ending.
        body = b'{"model":"modern-1m","prompt":"a","max_tokens":255,"stream":true}'
        reading = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))
        reading.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(body), body)
        )
        reading.recv(100)
        began = time.monotonic()
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
        reading.close()
        assert time.monotonic() - began < 10
        assert process.returncode == code
        assert said.splitlines()[-1].startswith("lucidlm: interrupted by ")


def test_an_address_of_others_needs_a_key(call, model_folder):
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        answered = call("serve", str(model_folder), "--host", host)
        assert (answered.code, answered.out) == (2, "")
        assert "give --api-key too" in answered.lines[-1]
    # With a key the address itself is tried: 192.0.2.1 is nobody's.
    answered = call("serve", str(model_folder), "--host", "192.0.2.1", "--api-key", "secret")
    assert answered.code == 2
    assert "--host 192.0.2.1: " in answered.lines[-1]
    assert "--api-key too" not in answered.lines[-1]


def test_a_port_in_use_is_an_error_with_a_way_out(call, model_folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        answered = call("serve", str(model_folder), "--port", str(taken.getsockname()[1]))
    assert answered.code == 2
    assert "another program uses it; give another --port, or 0" in answered.lines[-1]


def asked(address: str, path: str, body: dict | None = None) -> dict:
    """The JSON that a server answers, an error's too."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return json.load(error)


def test_without_a_model_or_a_run_it_shows_where_to_train_one(tmp_path):
    with command("--runs", str(tmp_path / "runs")) as (_, lines):
        first, listening = lines
        address = listening.split()[2]
        assert first == f"no run in {tmp_path / 'runs'} yet: train one at {address}/train"
        assert asked(address, "/api/models") == {"models": [], "runs": True}
        assert asked(address, "/v1/models")["data"] == []
        said = asked(address, "/api/explain", {"texts": ["a"]})["error"]["message"]
        assert said == "no model is served yet; train one, or serve one: lucidlm serve gpt2"
        with urllib.request.urlopen(f"{address}/train", timeout=10) as answer:
            assert b'<main id="view"' in answer.read()


def test_without_a_model_it_serves_the_latest_run_and_others_when_they_are_asked_for(tmp_path):
    old, new = (begun_run(str(tmp_path / "runs" / name)) for name in ("old", "new"))
    for seed, folder in enumerate((old, new)):
        save_model(lively(SMALLEST.changed(document_prefix_id=END_OF_TEXT), seed=seed), BYTES, folder)
    os.utime(old / "run.toml", (1e9, 1e9))
    with command("--runs", str(tmp_path / "runs"), "--dtype", "bfloat16") as (_, lines):
        assert lines[0].startswith("new: run, ")
        address = lines[-1].split()[2]
        ids = {row["name"]: row["id"] for row in asked(address, "/api/runs")["runs"]}
        served = asked(address, "/api/models", {"run": ids["old"]})
        assert (served["name"], served["dtype"]) == ("runs/old", "bfloat16")
        names = [each["name"] for each in asked(address, "/api/models")["models"]]
        assert names == ["new", "runs/old"]
        explained = asked(address, "/api/explain", {"model": "runs/old", "texts": ["abc"]})
        model, tokenizer = load(old)
        assert explained["loss_nats"] == explain(model, tokenizer, "abc").loss_nats
        assert "no run has the id" in asked(address, "/api/models", {"run": "../old"})["error"]["message"]
        (old / "model.safetensors").unlink()
        assert "no weights yet" in asked(address, "/api/models", {"run": ids["old"]})["error"]["message"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "-1"], "--port -1"),
        (["--port", "65536"], "--port 65536"),
        (["--api-key", ""], "--api-key"),
        (["--api-key", "k", "--open"], "leave --open or --api-key out"),
        (["--api-key", "ö"], "--api-key"),
        (["--host", "no such host", "--api-key", "k"], "--host no such host"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_loaded(call, model_folder, words, said):
    answered = call("serve", str(model_folder), *words)
    assert answered.code == 2
    assert said in answered.lines[-1]


def test_two_models_of_one_name_are_refused(call, model_folder, tmp_path):
    other = tmp_path / "tiny"
    other.symlink_to(model_folder)
    answered = call("serve", str(model_folder), str(other), "--port", "0")
    assert answered.code == 2
    assert "two models are called tiny" in answered.lines[-1]
