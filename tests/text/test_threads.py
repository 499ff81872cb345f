"""Work in threads: results in the order of what comes in, and its errors."""

import time

import pytest

from lucidlm.text.threads import in_threads


def test_work_in_threads_keeps_the_order_and_passes_errors_on():
    def slow(number):
        time.sleep(0.001 * (number % 3))
        return number * number

    assert list(in_threads(slow, range(50))) == [number * number for number in range(50)]
    assert list(in_threads(slow, [])) == []
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda number: 1 // (5 - number), range(50)))
    endless = in_threads(slow, iter(int, 1))
    assert next(endless) == 0
    endless.close()
