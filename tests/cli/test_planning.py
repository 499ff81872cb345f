"""The verb plan: nothing is trained and nothing is left; what it would ignore is refused."""

import importlib
import json
import tempfile

import pytest


@pytest.fixture
def aside(tmp_path, monkeypatch):
    """Where temporary folders are made."""
    importlib.import_module("torch._dynamo")  # makes a cache folder there when it is first imported
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_plan_of_this_machine_leaves_no_folder_behind(call, home, aside):
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    words = ("plan", "book.txt", "--steps", "4", "--preset", "modern-1m", "--context-length", "16")
    said = call(*words, "--batch-tokens", "32", "--threads", "1")
    assert said.code == 0, said.err
    assert "plan: 4 steps of 32 tokens" in said.out
    assert "device: cpu" in said.out
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before
    assert list(aside.iterdir()) == []


def test_an_error_leaves_no_folder_behind_either(call, aside):
    said = call("plan", "book.txt", "--steps", "1", "--context-length", "32", "--batch-tokens", "8")
    assert said.code == 2
    assert "--batch-tokens 8" in said.err
    assert list(aside.iterdir()) == []


def test_a_plan_for_many_gpus_reads_nothing(call, aside):
    said = call("plan", "--gpus", "8", "--gpu", "h100", "--params", "7b", "--tokens", "140b", "--json")
    plan = json.loads(said.out)
    assert plan["parameters"] == pytest.approx(7e9, rel=0.05)
    assert (plan["gpus"], plan["tokens"], plan["chosen"]["shards"]) == (8, 140 * 10**9, 4)
    assert call("plan", "--gpus", "8", "--params", "7b", "--tokens", "140b").out.count("\n") > 8


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (("--params", "7b"), "--params"),
        (("--mfu", "0.4"), "--mfu"),
        (("book.txt", "--gpus", "8", "--params", "7b"), "book.txt"),
        (("--gpus", "8", "--params", "7b", "--minutes", "3"), "--minutes"),
        (("--gpus", "8", "--params", "7b", "-v"), "--verbose"),
        (("run", "--steps", "1"), "--from run"),
    ],
)
def test_what_a_plan_would_ignore_is_refused(call, trained, words, flag):
    said = call("plan", *words)
    assert (said.code, said.out) == (2, "")
    assert flag in said.err
