import math
from dataclasses import dataclass

import pytest

from lucidlm.errors import ConfigError
from lucidlm.runtime.ranges import Range, check_ranges


@pytest.mark.parametrize(("range", "inside", "outside", "shown"), [
    (Range(0, 10), (0, 5, 10, 0.5), (-1, 11, 10.001), "at least 0 and at most 10"),
    (Range(0, 1, without_least=True), (1e-300, 1), (0, -0.0, 1.1), "more than 0 and at most 1"),
    (Range(0.5, 1, without_most=True), (0.5, 0.99), (1, 0.4), "at least 0.5 and less than 1"),
    (Range(1, 2**63 - 1), (1, 2**63 - 1), (0, 2**63), "at least 1 and at most 9,223,372,036,854,775,807"),
])  # fmt: skip
def test_a_range_has_its_numbers_and_says_its_limits(range, inside, outside, shown):
    assert all(value in range for value in inside)
    assert not any(value in range for value in (*outside, math.nan, math.inf, -math.inf, "5", None))
    assert str(range) == shown


def test_the_first_number_out_of_range_is_named_with_its_flag_and_the_way_out():
    @dataclass
    class Settings:
        batch_size: int | None = None
        lr: float = 0.1

    ranges = {"batch_size": Range(1, 64, otherwise="give several"), "lr": Range(0, 1)}
    check_ranges(Settings(), ranges)
    with pytest.raises(ConfigError, match=r"^--batch-size 0: it must be at least 1 and at most 64$"):
        check_ranges(Settings(0, 5.0), ranges)
    with pytest.raises(ConfigError, match=r"at most 64; give several$"):  # advice for those who need more
        check_ranges(Settings(65), ranges)
    with pytest.raises(ConfigError, match=r"^--optim\.lr nan: "):
        check_ranges(Settings(lr=math.nan), ranges, table="optim.")
