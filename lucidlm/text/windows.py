"""Token ids come in, the inputs and targets of each training step go out.

B batch, T context length, N tokens of the file.
"""

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from lucidlm.errors import DataError
from lucidlm.runtime.wording import plural
from lucidlm.text.hashing import hash_of, splitmix64
from lucidlm.text.token_file import Tokens

if TYPE_CHECKING:
    import torch

IGNORE_INDEX = -100  # torch's cross_entropy skips this target

_Ids = TypeVar("_Ids", np.ndarray, "torch.Tensor")


def inputs_and_targets(ids: _Ids) -> tuple[_Ids, _Ids]:
    """Inputs and targets of ids (B, T+1) or (T+1,): the targets are the inputs one token later.

    Both are views with T tokens, of an array or a tensor. DataError for fewer than 2 tokens.

    >>> inputs_and_targets(np.array([6109, 3626, 6100, 345]))
    (array([6109, 3626, 6100]), array([3626, 6100,  345]))
    """
    if getattr(ids, "ndim", 0) < 1:
        raise DataError(f"{type(ids).__name__} has no tokens along an axis; give an array or a tensor of ids")
    if (tokens := ids.shape[-1]) < 2:
        raise DataError(f"{plural(tokens, 'token')}: too few for an input and a target; give at least 2")
    return ids[..., :-1], ids[..., 1:]


class Windows:
    """A token file as an endless, reproducible sequence of training windows.

    An epoch covers each of the N-1 targets exactly once. Its windows have their own offset on the circle of
    targets, so borders move from epoch to epoch, and their own order. Both are drawn from (seed, epoch) and
    never stored. One window of an epoch is short if T does not divide N-1. With moving=False the borders
    stay, as in the course: a small model with learned positions then memorizes sooner.
    """

    def __init__(self, tokens: np.ndarray | Tokens, context_length: int, *, moving: bool = True):
        if len(tokens) < 2:
            raise DataError(
                f"a training text of {plural(len(tokens), 'token')} is too short for an input and a target; "
                "give more text"
            )
        if context_length < 1:
            raise DataError(f"context length {context_length} is under 1; raise --context-length")
        self.tokens = tokens
        self.context_length = context_length
        self.moving = moving
        self.n_targets = len(tokens) - 1
        self.n_windows = -(-self.n_targets // context_length)

    def batch_at(
        self, *, seed: int, step: int, batch_size: int, rows: range | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets (B, T), int64, of a step: a function of the arguments and the file only.

        With `rows`, only these of its B rows. Places after the end of a short window have input 0 and target
        -100. Window step * batch_size + row is the same however the sequence is divided into batches.
        """
        numbers = range(step * batch_size, (step + 1) * batch_size)
        if rows is not None:
            numbers = numbers[rows.start : rows.stop]
        places = [divmod(number, self.n_windows) for number in numbers]
        inputs = np.zeros((len(numbers), self.context_length), np.int64)
        targets = np.full((len(numbers), self.context_length), IGNORE_INDEX, np.int64)
        for epoch in sorted({epoch for epoch, _ in places}):
            those = [row for row, place in enumerate(places) if place[0] == epoch]
            key = hash_of(seed, epoch)
            windows = shuffled(np.array([places[row][1] for row in those], np.uint64), self.n_windows, key)
            offset = int(hash_of(int(key), 1)) % self.n_targets if self.moving else 0
            for row, window in zip(those, windows.tolist()):
                self._fill(inputs[row], targets[row], window, offset)
        return inputs, targets

    def epoch_at(self, step: int, batch_size: int) -> float:
        """Epochs of the text that were seen before this step."""
        return step * batch_size / self.n_windows

    def _fill(self, inputs: np.ndarray, targets: np.ndarray, window: int, offset: int) -> None:
        first = window * self.context_length
        length = min(self.context_length, self.n_targets - first)
        start = (first + offset) % self.n_targets
        done = 0
        while done < length:  # length <= n_targets, so the circle is never turned twice
            count = min(length - done, self.n_targets - start)
            ids = self.tokens[start : start + count + 1]
            inputs[done : done + count], targets[done : done + count] = inputs_and_targets(ids)
            done, start = done + count, 0


def shuffled(places: np.ndarray, n: int, key: np.uint64) -> np.ndarray:
    """These places under a permutation of range(n) drawn by `key`, uint64, without storing the permutation.

    A Feistel network permutes the smallest power of 4 that is at least n. A result outside range(n) is
    permuted again until it is inside (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"): at
    most 4 steps on average.
    """
    half = np.uint64(max(1, (max(n - 1, 1).bit_length() + 1) // 2))
    places = _feistel(places.astype(np.uint64), half, key)
    while (outside := places >= np.uint64(n)).any():
        places[outside] = _feistel(places[outside], half, key)
    return places


def _feistel(places: np.ndarray, half: np.uint64, key: np.uint64) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = places >> half, places & mask
    # Four rounds make a Feistel network pseudorandom (Luby and Rackoff 1988); two more help with few bits.
    for turn in range(6):
        left, right = right, left ^ (splitmix64(right + splitmix64(key ^ np.uint64(turn))) & mask)
    return left << half | right
