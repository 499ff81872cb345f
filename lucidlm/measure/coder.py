"""An entropy coder: ids and the logits that predict each come in, words of 32 bits go out, and back.

A range coder spends -log2 p bits on an id of probability p, whatever p is. V vocabulary.
"""

import math
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import numpy as np
from constriction import stream  # ty: ignore[missing-module-member]

from lucidlm.errors import DataError, NumbersError
from lucidlm.runtime.progress import SILENT, Progress

Predictions = Generator[np.ndarray, int, None]
"""Logits (V,) of each next id, float64; it is sent the id that came."""

_CLASS_BITS = 8
"""Ids of one class differ in probability by less than 2^8, so that none is small within its class."""
_MOST_BITS = 1000.0
"""2^-1000 is still a float64; ids that are less probable are coded as if they had that probability."""
_LEAST = 2.0**-18
"""Least mass of a class in its table: 64 entries of 2^-24, so that rounding moves it by 0.02 bits at most."""
_GROUP = 256
"""Members of a class that have a table of their own; of more, a group is coded first."""

_Choose = Callable[[np.ndarray, int | None], int]
"""(weights (n,), the index to write) -> the index: the encoder writes it, the decoder reads it."""


class OtherProbabilitiesError(DataError):
    """These words were not written with these probabilities."""


def encode(
    ids: Iterable[int],
    predictions: Predictions,
    *,
    most_bits: float = math.inf,
    progress: Progress = SILENT,
) -> np.ndarray:
    """The coder's words (n,), uint32; only their start once they are clearly more than `most_bits`."""
    ids = list(ids)
    encoder = stream.queue.RangeEncoder()

    def write(weights: np.ndarray, wanted: int | None) -> int:
        assert wanted is not None, "an encoder knows what it writes"
        if len(weights) > 1:
            encoder.encode(wanted, stream.model.Categorical(weights, perfect=False))
        return wanted

    progress.stage("encoding tokens", len(ids))
    for _ in _all_coded(write, ids, predictions):
        progress.advance()
        if encoder.num_bits() > most_bits:
            break
    return encoder.get_compressed()


def decode(
    words: np.ndarray,
    n_tokens: int,
    predictions: Predictions,
    *,
    progress: Progress = SILENT,
) -> Iterator[int]:
    """The ids that were encoded to these words with the same predictions; DataError where none can be."""
    decoder = stream.queue.RangeDecoder(words)

    def read(weights: np.ndarray, wanted: int | None) -> int:
        if len(weights) == 1:
            return 0
        try:
            return int(decoder.decode(stream.model.Categorical(weights, perfect=False)))
        except AssertionError:  # what the library raises for words that no encoder writes
            raise OtherProbabilitiesError("no encoder writes these words") from None

    progress.stage("decoding tokens", n_tokens)
    for id in _all_coded(read, (None for _ in range(n_tokens)), predictions):
        progress.advance()
        yield id


def _all_coded(choose: _Choose, ids: Iterable[int | None], predictions: Predictions) -> Iterator[int]:
    """Each id once it is coded, and its prediction made of those before it alone."""
    came: Any = None
    for place, id in enumerate(ids):
        logits = predictions.send(came)
        if not np.isfinite(logits).all():
            raise NumbersError(f"the logits at token {place:,} hold NaN or infinity; take another checkpoint")
        came = _coded(choose, logits, id)
        yield came


def _coded(choose: _Choose, logits: np.ndarray, id: int | None) -> int:
    """The id that was coded with the probabilities of these logits, in close to -log2 p bits for any p.

    The coder's tables have entries of 24 bits, and each entry is p + 2^-24 at worst. One table over all V ids
    would make improbable ids too cheap and probable ones too expensive. So an id is coded in two steps: its
    class (ids whose p differ by less than 2^8 share one), then the id within its class. For an id of 6 bits
    and one of 14, the choices are these, as (weights, index):

    >>> def show(weights, index):
    ...     print(weights.round(4).tolist(), index)
    ...     return index
    >>> p = np.array([0.984375 - 2**-14, 2**-6, 2**-14])
    >>> _coded(show, np.log(p), 1)  # the class of 0 to 8 bits has p 0 and 1; the other one p 2
    [0.9999, 0.0001] 0
    [0.9843, 0.0156] 1
    1
    >>> _coded(show, np.log(p), 2)  # the only id of its class: all of its 14 bits are spent in the first step
    [0.9999, 0.0001] 1
    [0.0156] 0
    2
    """
    below = logits - logits.max()
    bits = np.minimum((np.log(np.exp(below).sum()) - below) / math.log(2), _MOST_BITS)  # (V,)
    classes = (bits // _CLASS_BITS).astype(np.int64)
    present = np.flatnonzero(np.bincount(classes))
    masses = np.bincount(classes, weights=np.exp2(-bits))[present]
    number = choose(np.maximum(masses, _LEAST), _place(present, None if id is None else int(classes[id])))
    _pay(choose, _LEAST / float(masses[number]))
    members = np.flatnonzero(classes == present[number])
    weights = np.exp2(_CLASS_BITS * present[number] - bits[members])  # over 2^-8, and 1 at most
    wanted = _place(members, id)
    if len(members) > _GROUP:
        of_groups = np.add.reduceat(weights, np.arange(0, len(members), _GROUP))
        group = choose(of_groups, None if wanted is None else wanted // _GROUP)
        inside = slice(group * _GROUP, (group + 1) * _GROUP)
        members, weights = members[inside], weights[inside]
        wanted = _place(members, id)
    return int(members[choose(weights, wanted)])


def _pay(choose: _Choose, times: float) -> None:
    """Spends log2(times) more bits: a class below the least mass was too cheap by that factor."""
    while times > 1:
        share = min(times, 1 / _LEAST)
        choose(np.array([1 / share, 1 - 1 / share]), 0)
        times /= share


def _place(ordered: np.ndarray, value: int | None) -> int | None:
    return None if value is None else int(np.searchsorted(ordered, value))
