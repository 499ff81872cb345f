"""Threads stay within limits that the machine bears, and the first vector math is done on one thread."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from lucidlm.errors import ConfigError
from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.model.loss import log_softmax
from lucidlm.runtime.process import (
    Arithmetic,
    available_processors,
    set_threads,
    settle_vector_math,
    thread_limit,
)


@pytest.mark.parametrize(
    ("said", "used"), [("1", 1), ("0", None), ("", None), ("many", None), ("4096", None)]
)
def test_omp_num_threads_limits_the_cores_that_are_used(monkeypatch, said, used):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    there = available_processors()
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert available_processors() == (used or there)


def test_more_threads_than_a_few_times_the_cores_are_refused_and_never_started(monkeypatch):
    started = []
    monkeypatch.setattr(torch, "set_num_threads", started.append)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    limit = thread_limit()
    for threads in (limit + 1, 100_000, 10**30):
        with pytest.raises(ConfigError, match=rf"--threads {threads}\b.*\b16\b"):
            set_threads(threads)
    with pytest.raises(ConfigError, match=r"65,535.*\b512\b"):
        set_threads(65535, recorded=True)
    made = replace(Arithmetic.here(torch.device("cpu")), threads=65535)
    with pytest.raises(ConfigError, match=r"65,535.*\b512\b"), made.used():
        pass
    with pytest.raises(ConfigError, match="--threads 17"), made.used(17):
        pass
    assert started == []
    set_threads(limit)
    set_threads(64, recorded=True)  # a run of a larger machine
    assert started == [16, 64]


CALLS = """
import json, torch
calls = []
for name in ("exp", "log", "sqrt"):
    def watched(x, *, name=name, original=getattr(torch, name), **rest):
        calls.append([name, str(x.dtype), x.numel(), str(x.device)])
        return original(x, **rest)
    setattr(torch, name, watched)
found = []
from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.model.loss import softmax
from lucidlm.runtime.process import settle_vector_math
config = GPTConfig(vocab_size=9, context_length=4, emb_dim=4, n_layers=1, n_heads=1)
for work in (lambda: softmax(torch.zeros(2, 3)), lambda: GPT(config), lambda: GPT.empty(config)):
    settle_vector_math.cache_clear()
    calls.clear()
    work()
    found.append(list(calls))
print(json.dumps(found))
"""


def test_a_loss_and_a_model_call_each_function_on_few_numbers_first():
    # The race itself shows in about one process of ten, on a loaded machine with two threads. This test shows
    # that the remedy comes before any large tensor could.
    done = subprocess.run([sys.executable, "-c", CALLS], capture_output=True, text=True, check=True)
    for calls in json.loads(done.stdout):
        assert {(name, kind) for name, kind, _, device in calls if device == "cpu"} >= {
            (name, kind) for name in ("exp", "log", "sqrt") for kind in ("torch.float32", "torch.float64")
        }
        assert max(size for _, _, size, _ in calls) <= 64


def test_vector_math_is_settled_once_and_changes_no_number():
    settle_vector_math()
    misses = settle_vector_math.cache_info().misses
    before = torch.random.get_rng_state()
    settle_vector_math()
    assert torch.equal(torch.random.get_rng_state(), before)
    logits = torch.linspace(-6, 6, 99)
    assert torch.equal(log_softmax(logits), log_softmax(logits))
    GPT(GPTConfig(vocab_size=9, context_length=4, emb_dim=4, n_layers=1, n_heads=1))
    assert settle_vector_math.cache_info().misses == misses
