"""Token files and their training windows: ids on the disk come in, inputs and targets of each step go out.

B batch, T context length, N tokens of the file.
"""

import ast
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from lucidlm.errors import DataError
from lucidlm.runtime.files import naming
from lucidlm.runtime.wording import plural

if TYPE_CHECKING:
    import torch

IGNORED = -100  # what torch's cross_entropy skips

_HEADER_BYTES = 128  # of an .npy file with one axis: numpy pads it so that the length may grow in place
_CHECKED_AT_ONCE = 1 << 22
_MASK = np.uint64(0xFFFFFFFFFFFFFFFF)

_Ids = TypeVar("_Ids", np.ndarray, "torch.Tensor")


def inputs_and_targets(ids: _Ids) -> tuple[_Ids, _Ids]:
    """Inputs and targets of ids (B, T+1) or (T+1,): the targets are the inputs one token later.

    Both are views with T tokens, of an array or a tensor alike. DataError for fewer than 2 tokens.
    """
    if getattr(ids, "ndim", 0) < 1:
        raise DataError(f"{type(ids).__name__} has no tokens along an axis; give an array or a tensor of ids")
    if (tokens := ids.shape[-1]) < 2:
        raise DataError(f"{plural(tokens, 'token')}: no input with a target; give at least 2")
    return ids[..., :-1], ids[..., 1:]


class TokenFile:
    """An .npy file of token ids, read in place; checked when opened, its size before each read too."""

    def __init__(self, path: str | os.PathLike, vocab_size: int | None = None):
        self.path = Path(path)
        self.tokens, self.dtype, self._start = _read_header(self.path)
        self._bytes = self._start + self.tokens * self.dtype.itemsize
        self._check_size()
        # numpy cannot map an empty file.
        self._ids = (
            np.memmap(self.path, self.dtype, "r", self._start, (self.tokens,))
            if self.tokens
            else np.empty(0, self.dtype)
        )
        if vocab_size is not None:
            self._check_ids(vocab_size)

    def __len__(self) -> int:
        return self.tokens

    def __getitem__(self, where) -> np.ndarray:
        self._check_size()
        return self._ids[where]

    def _check_size(self) -> None:
        # A map of a file that was cut short kills the process with SIGBUS at the missing page.
        try:
            size = os.stat(self.path).st_size
        except OSError as error:
            raise DataError(f"{self.path}: {error.strerror}; prepare the text again") from None
        if size != self._bytes:
            raise DataError(
                f"{self.path}: {size:,} bytes where {self.tokens:,} tokens need {self._bytes:,}; "
                f"prepare the text again"
            )

    def _check_ids(self, vocab_size: int) -> None:
        if vocab_size > np.iinfo(self.dtype).max:
            return
        # Read, not mapped: mapped pages would count as memory of this process.
        for start in range(0, self.tokens, _CHECKED_AT_ONCE):
            offset = self._start + start * self.dtype.itemsize
            largest = int(np.fromfile(self.path, self.dtype, _CHECKED_AT_ONCE, offset=offset).max())
            if largest >= vocab_size:
                raise DataError(
                    f"{self.path}: token id {largest} in a vocabulary of {vocab_size:,}; "
                    f"take the tokenizer it was written with or prepare the text again"
                )


def write_tokens(path: str | os.PathLike, arrays: Iterable[np.ndarray], vocab_size: int) -> int:
    """Write the arrays one after the other into an .npy file and return their number of tokens.

    The ids are uint16 where the vocabulary fits, else uint32. DataError for an id outside the vocabulary.
    """
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    tokens = 0
    with naming(path), open(path, "wb") as file:
        file.write(_header(0, dtype))
        for array in arrays:
            ids = np.asarray(array)
            _check_array(path, ids, vocab_size)
            file.write(np.ascontiguousarray(ids, dtype).data)
            tokens += ids.size
        file.seek(0)
        file.write(_header(tokens, dtype))
    return tokens


def write_array(path: str | os.PathLike, array: np.ndarray) -> None:
    """Write an .npy file. np.save leaves its last buffer to C, which says nothing of a disk that is full."""
    held = io.BytesIO()
    np.save(held, array)
    with naming(path), open(path, "wb") as file:
        file.write(held.getbuffer())


class Windows:
    """A token file as an endless, reproducible sequence of training windows.

    An epoch covers each of the N-1 targets exactly once. Its windows start at an offset of their own on the
    circle of targets, so that borders move from epoch to epoch, and come in an order of their own; both are
    drawn from (seed, epoch) and never stored. One window of an epoch is short where T does not divide N-1.
    With moving=False the borders stay, as in the course: a small model of learned positions then learns by
    heart sooner.
    """

    def __init__(self, tokens: np.ndarray | TokenFile, context_length: int, *, moving: bool = True):
        if len(tokens) < 2:
            raise DataError(
                f"a training text of {plural(len(tokens), 'token')} has no input with a target; "
                "give more text"
            )
        if context_length < 1:
            raise DataError(f"context length {context_length} is under 1; raise --context-length")
        self.tokens = tokens
        self.context_length = context_length
        self.moving = moving
        self.n_targets = len(tokens) - 1
        self.n_windows = -(-self.n_targets // context_length)

    def batch_at(self, *, seed: int, step: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets (B, T), int64, of a step; a function of its arguments and the file alone.

        Places past the end of a short window have input 0 and target -100. Any slice of the sequence
        step * batch_size + row is the same however it is divided into batches.
        """
        numbers = range(step * batch_size, (step + 1) * batch_size)
        places = [divmod(number, self.n_windows) for number in numbers]
        inputs = np.zeros((batch_size, self.context_length), np.int64)
        targets = np.full((batch_size, self.context_length), IGNORED, np.int64)
        for epoch in sorted({epoch for epoch, _ in places}):
            rows = [row for row, place in enumerate(places) if place[0] == epoch]
            key = _hash(seed, epoch)
            windows = shuffled(np.array([places[row][1] for row in rows], np.uint64), self.n_windows, key)
            offset = int(_hash(int(key), 1)) % self.n_targets if self.moving else 0
            for row, window in zip(rows, windows.tolist()):
                self._fill(inputs[row], targets[row], window, offset)
        return inputs, targets

    def epoch_at(self, step: int, batch_size: int) -> float:
        """How often the whole text has been seen before this step."""
        return step * batch_size / self.n_windows

    def _fill(self, inputs: np.ndarray, targets: np.ndarray, window: int, offset: int) -> None:
        first = window * self.context_length
        length = min(self.context_length, self.n_targets - first)
        start = (first + offset) % self.n_targets
        done = 0
        while done < length:  # a text shorter than a window never turns the circle twice: length <= n_targets
            count = min(length - done, self.n_targets - start)
            ids = self.tokens[start : start + count + 1]
            inputs[done : done + count], targets[done : done + count] = inputs_and_targets(ids)
            done, start = done + count, 0


def shuffled(places: np.ndarray, n: int, key: np.uint64) -> np.ndarray:
    """Where the permutation of range(n) drawn by `key` sends these places, uint64, without storing it.

    A Feistel network permutes the smallest power of 4 that is at least n; what it sends outside range(n)
    walks on until it is inside (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"): at most 4
    steps on average.
    """
    half = np.uint64(max(1, (max(n - 1, 1).bit_length() + 1) // 2))
    places = _feistel(places.astype(np.uint64), half, key)
    while (outside := places >= np.uint64(n)).any():
        places[outside] = _feistel(places[outside], half, key)
    return places


def _feistel(places: np.ndarray, half: np.uint64, key: np.uint64) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = places >> half, places & mask
    # Four rounds make a Feistel network pseudo-random (Luby and Rackoff 1988); two more help few bits.
    for turn in range(6):
        left, right = right, left ^ (_mix(right + _mix(key ^ np.uint64(turn))) & mask)
    return left << half | right


def _hash(*numbers: int) -> np.uint64:
    """64 bits drawn from whole numbers of any size and sign."""
    state = np.uint64(0)
    for number in numbers:
        for part in (number & int(_MASK), number >> 64 & int(_MASK)):
            state = _mix(state ^ np.uint64(part))
    return state


def _mix(x):
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): a bijection of 64 bits that looks random."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _header(tokens: int, dtype: np.dtype) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": dtype.str, "fortran_order": False, "shape": (tokens,)}
    )
    assert file.tell() == _HEADER_BYTES
    return file.getvalue()


def _read_header(path: Path) -> tuple[int, np.dtype, int]:
    """Number of tokens, type and first byte of the data of an .npy file."""
    try:
        with open(path, "rb") as file:
            np.lib.format.read_magic(file)
            length = int.from_bytes(file.read(2), "little")
            header = ast.literal_eval(file.read(length).decode("latin-1").strip())
            start = file.tell()
        (tokens,), dtype = header["shape"], np.dtype(header["descr"])
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; prepare the text first") from None
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
        raise DataError(f"{path}: no .npy file of one row of token ids; prepare the text again") from None
    if dtype.str not in ("<u2", "<u4", ">u2", ">u4") or not isinstance(tokens, int) or tokens < 0:
        raise DataError(f"{path}: holds {dtype}, token files hold uint16 or uint32; prepare the text again")
    return tokens, dtype, start


def _check_array(path: str | os.PathLike, ids: np.ndarray, vocab_size: int) -> None:
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise DataError(f"{path}: ids of shape {ids.shape} and type {ids.dtype} are no row of whole numbers")
    for id in (int(ids.max()), int(ids.min())) if ids.size else ():
        if not 0 <= id < vocab_size:
            raise DataError(
                f"{path}: token id {id} is outside the vocabulary of {vocab_size}; check the tokenizer"
            )
