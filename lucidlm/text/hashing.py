"""Numbers of 64 bits come in, hashes of them and of spans of them go out; sorted hashes are searched fast."""

import functools

import numpy as np

FACTOR = 0x9E3779B97F4A7C15
"""2^64 / the golden ratio. It is odd, so it has an inverse modulo 2^64."""
_MASK = (1 << 64) - 1
_INVERSE = pow(FACTOR, -1, 1 << 64)


def finalized(values: np.ndarray) -> np.ndarray:
    """64 bits that look random for each value: the finalizer of splitmix64, a bijection."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def splitmix64(values):
    """One step of splitmix64 from each state (Steele, Lea and Flood 2014). `finalized` alone maps 0 to 0."""
    with np.errstate(over="ignore"):  # numpy warns of scalars that wrap around, not of arrays
        return finalized(values + np.uint64(FACTOR))


def hash_of(*numbers: int) -> np.uint64:
    """64 bits drawn from whole numbers of any size and sign."""
    state = np.uint64(0)
    for number in numbers:
        for part in (number & _MASK, number >> 64 & _MASK):
            state = splitmix64(state ^ np.uint64(part))
    return state


class SpanHashes:
    """Hashes of any spans of a row of numbers, three operations each: a polynomial modulo 2^64."""

    def __init__(self, values: np.ndarray) -> None:
        powers, self._inverses = _powers(max(1, 1 << max(0, len(values) - 1).bit_length()))
        self._sums = np.zeros(len(values) + 1, np.uint64)
        np.cumsum(values * powers[: len(values)], out=self._sums[1:])

    def keys(self, starts: np.ndarray, n: int | np.ndarray) -> np.ndarray:
        """The hash of the n numbers from each start; n may differ from span to span."""
        return (self._sums[starts + n] - self._sums[starts]) * self._inverses[starts]

    def all_keys(self, n: int) -> np.ndarray:
        """The hashes of all spans of n numbers, in order."""
        end = len(self._sums) - n
        return (
            (self._sums[n:] - self._sums[:-n]) * self._inverses[:end] if end > 0 else np.empty(0, np.uint64)
        )


@functools.cache  # of powers of two only: together they take no more than twice the largest
def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first powers of FACTOR and of its inverse modulo 2^64, (count,) each."""
    factors, inverses = (np.full(count, value, np.uint64) for value in (FACTOR, _INVERSE))
    factors[0] = inverses[0] = 1
    return np.multiply.accumulate(factors), np.multiply.accumulate(inverses)


class Keys:
    """Different keys in order. `find` is fast where most of the keys that are looked for are not here."""

    def __init__(self, keys: np.ndarray) -> None:
        if not (keys[1:] >= keys[:-1]).all():
            self.keys, self.firsts, self.counts = np.unique(keys, return_index=True, return_counts=True)
        else:  # np.unique would take several times the memory
            self.firsts = np.flatnonzero(
                np.concatenate((np.ones(min(1, len(keys)), bool), keys[1:] != keys[:-1]))
            )
            self.keys = keys[self.firsts]
            self.counts = np.diff(self.firsts, append=len(keys)).astype(np.int32)
        self._prepare()

    @classmethod
    def of_counts(cls, keys: np.ndarray, counts: np.ndarray) -> "Keys":
        """The same, without `firsts`, of different sorted keys and how often each occurs."""
        made = cls.__new__(cls)
        made.keys, made.firsts, made.counts = keys, np.empty(0, np.int64), counts
        made._prepare()
        return made

    def _prepare(self) -> None:
        # The first bits rule out nearly all others: a table of 16 places for each key, 64 MB at most.
        bits = max(10, min(26, (16 * len(self.keys)).bit_length()))
        self._shift = np.uint64(64 - bits)
        self._beginnings = np.zeros(1 << bits, bool)
        self._beginnings[self.keys >> self._shift] = True

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of these keys are here, and their places among the sorted keys."""
        where = np.flatnonzero(self._beginnings[keys >> self._shift])
        if not len(self.keys):
            return where, where
        places = np.minimum(np.searchsorted(self.keys, keys[where]), len(self.keys) - 1)
        equal = self.keys[places] == keys[where]
        return where[equal], places[equal]
