"""Ranges of numbers that users give: a value and its limits in, a ConfigError with the limits out."""

import math
from dataclasses import dataclass
from numbers import Integral, Real

from lucidlm.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers from `least` to `most`, with or without the ends.

    >>> 0 in Range(0, 1), 0 in Range(0, 1, without_least=True)
    (True, False)
    """

    least: float
    most: float
    without_least: bool = False
    without_most: bool = False
    otherwise: str = ""
    """Advice for a user who needs more."""

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, Real) or value != value:
            return False
        value = float(value) if not isinstance(value, Integral) else int(value)
        above = value > self.least if self.without_least else value >= self.least
        return above and (value < self.most if self.without_most else value <= self.most)

    def __str__(self) -> str:
        """more than 0 and at most 1,000."""
        least = f"{'more than' if self.without_least else 'at least'} {_shown(self.least)}"
        most = f"{'less than' if self.without_most else 'at most'} {_shown(self.most)}"
        return f"{least} and {most}"


SEEDS = Range(0, 2**63 - 1)
"""The seeds that PyTorch takes, without negative ones."""


def is_whole(value: object, *, least: int, most: float = math.inf) -> bool:
    """Whether a value is an integer (no bool, no 2.0) within these limits."""
    return isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) <= most


def check_ranges(owner: object, ranges: dict[str, Range], *, table: str = "") -> None:
    """ConfigError for the first field of `owner` that is not None and not in its range."""
    for name, range in ranges.items():
        value = getattr(owner, name)
        if value is not None and value not in range:
            too_large = isinstance(value, Real) and value >= range.most
            advice = f"; {range.otherwise}" if range.otherwise and too_large else ""
            raise ConfigError(f"--{table}{name.replace('_', '-')} {value}: it must be {range}{advice}")


def _shown(limit: float) -> str:
    return f"{int(limit):,}" if limit == int(limit) else f"{limit:g}"
