import os
from dataclasses import replace

import pytest
import torch

from lucidlm.errors import ConfigError
from lucidlm.runtime.device import Arithmetic, available_processors, set_threads, thread_limit


@pytest.mark.parametrize(
    ("said", "used"), [("1", 1), ("0", None), ("", None), ("many", None), ("4096", None)]
)
def test_omp_num_threads_bounds_the_processors_that_are_used(monkeypatch, said, used):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    there = available_processors()
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert available_processors() == (used or there)


def test_more_threads_than_a_few_times_the_processors_are_refused_and_never_started(monkeypatch):
    started = []
    monkeypatch.setattr(torch, "set_num_threads", started.append)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    limit = thread_limit()
    for threads in (limit + 1, 100_000, 10**30):
        with pytest.raises(ConfigError, match=f"--threads {threads}: at most 16 are started on 2 processors"):
            set_threads(threads)
    with pytest.raises(ConfigError, match="65,535 threads are asked for by a file, and at most 512"):
        set_threads(65535, recorded=True)
    made = replace(Arithmetic.here(torch.device("cpu")), threads=65535)
    with pytest.raises(ConfigError, match="asked for by a file"), made.used():
        pass
    with pytest.raises(ConfigError, match="--threads 17"), made.used(17):
        pass
    assert started == []
    set_threads(limit)
    set_threads(64, recorded=True)  # a run of a larger machine
    assert started == [16, 64]
