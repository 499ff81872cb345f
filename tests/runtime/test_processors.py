import pytest

from lucidlm.runtime.device import available_processors


@pytest.mark.parametrize(
    ("said", "used"), [("1", 1), ("0", None), ("", None), ("many", None), ("4096", None)]
)
def test_omp_num_threads_bounds_the_processors_that_are_used(monkeypatch, said, used):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    there = available_processors()
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert available_processors() == (used or there)
