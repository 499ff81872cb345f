"""benchmarks/timing.py: whose turn it is, and which times count."""

import importlib.util
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "benchmarks" / "timing.py"


@pytest.fixture(scope="module")
def timing():
    spec = importlib.util.spec_from_file_location("timing", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["timing"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["timing"]


def test_works_take_turns_and_the_warm_up_does_not_count(timing):
    calls: list[str] = []

    def work(name, seconds):
        calls.append(name)
        return seconds

    works = {"a": lambda: work("a", 1.0), "b": lambda: work("b", 2.0)}
    times = timing.interleaved(works, rounds=3, canary=lambda: 100.0)
    assert "".join(calls) == "ab" + "ababab"
    assert times == {"a": timing.Times((1.0,) * 3, 3), "b": timing.Times((2.0,) * 3, 3)}


def test_a_time_beside_a_slow_canary_is_dropped(timing):
    canaries = iter([100.0, 100.0, 79.0, 81.0, 100.0])  # one to warm up, one before, one after each of three
    seconds = iter([1.0, 2.0, 3.0])
    times = timing.interleaved(
        {"a": lambda: next(seconds)}, rounds=3, warm_up=False, canary=lambda: next(canaries)
    )
    assert times["a"] == timing.Times((3.0,), 3)


def test_where_no_canary_was_good_all_times_count_and_it_is_said(timing):
    times = timing.counted([(1.0, 50.0), (4.0, 60.0), (2.0, 10.0)], best=100.0)
    assert times == timing.Times((1.0, 4.0, 2.0), 3, quiet=False)
    assert (times.median, times.least, times.spread) == (2.0, 1.0, 1.5)
    assert "no quiet moment" in str(times)


def test_the_canary_is_the_fastest_of_its_matmuls(timing):
    clock = iter([0.0, 4.0, 10.0, 12.0])
    assert timing.canary(size=2, repeats=2, clock=lambda: next(clock)) == 16 / 2.0


def test_timed_work_returns_its_seconds(timing):
    clock, done = iter([5.0, 7.5]), []
    assert timing.timed(lambda: done.append(1), clock=lambda: next(clock))() == 2.5
    assert done == [1]


def test_busy_loops_end_with_their_context(timing, monkeypatch):
    started = []
    popen = timing.subprocess.Popen
    monkeypatch.setattr(timing.subprocess, "Popen", lambda *call: started.append(popen(*call)) or started[-1])
    with timing.busy_loops(2):
        assert [loop.poll() for loop in started] == [None, None]
    assert all(loop.returncode is not None for loop in started)
