"""Token ids come in and are written as .npy files; the files come in and their ids are read in place.

A large text has its tokens in several files, its shards, which are read as one row of ids.
"""

import ast
import io
import os
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from lucidlm.errors import DataError
from lucidlm.runtime.files import naming
from lucidlm.runtime.wording import plural

_HEADER_BYTES = 128  # of an .npy file with one axis: numpy pads it so that the length can be written later
_CHECKED_AT_ONCE = 1 << 22


class TokenFile:
    """An .npy file of token ids, read in place. Checked when opened; its size also before each read."""

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
        # If a mapped file was truncated, reading a missing page would kill the process (SIGBUS).
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
        # Read, not mapped: mapped pages would count as memory of the process.
        for start in range(0, self.tokens, _CHECKED_AT_ONCE):
            offset = self._start + start * self.dtype.itemsize
            largest = int(np.fromfile(self.path, self.dtype, _CHECKED_AT_ONCE, offset=offset).max())
            if largest >= vocab_size:
                raise DataError(
                    f"{self.path}: token id {largest} in a vocabulary of {vocab_size:,}; "
                    f"use the tokenizer that it was written with, or prepare the text again"
                )


class TokenShards:
    """The token files of a text, read as one."""

    def __init__(self, paths: Sequence[str | os.PathLike], vocab_size: int | None = None):
        self.files = [TokenFile(path, vocab_size) for path in paths]
        self.path = self.files[0].path.parent
        self.dtype = self.files[0].dtype
        if other := next((file for file in self.files if file.dtype != self.dtype), None):
            raise DataError(
                f"{other.path}: holds {other.dtype}, the shard before it {self.dtype}; prepare the text again"
            )
        self._starts = np.array([0, *accumulate(map(len, self.files))])
        self.tokens = int(self._starts[-1])

    def __len__(self) -> int:
        return self.tokens

    def __getitem__(self, where) -> np.ndarray:
        if not isinstance(where, slice):
            return self._at(where)
        start, end, step = where.indices(self.tokens)
        if step != 1:
            return self._at(np.arange(start, end, step))
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        parts = []
        for number in range(first, len(self.files)):
            before = int(self._starts[number])
            if before >= end:
                break
            parts.append(self.files[number][max(start - before, 0) : end - before])
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([np.empty(0, self.dtype), *parts])

    def _at(self, places) -> np.ndarray:
        """The ids at a place, or at an array of places."""
        wanted = np.asarray(places)
        if wanted.size and wanted.dtype.kind not in "iu":
            raise DataError(
                f"{self.path}: {plural(wanted.size, 'place')} of type {wanted.dtype}; give whole numbers"
            )
        for place in (int(wanted.min()), int(wanted.max())) if wanted.size else ():
            if not -self.tokens <= place < self.tokens:
                raise IndexError(
                    f"{self.path}: place {place:,} of {plural(self.tokens, 'token')}; "
                    f"give {-self.tokens:,} to {self.tokens - 1:,}"
                )
        flat = np.where(wanted < 0, wanted + self.tokens, wanted).reshape(-1)
        found = np.empty(flat.shape, self.dtype)
        shards = np.searchsorted(self._starts, flat, side="right") - 1
        for number in np.unique(shards).tolist():
            here = shards == number
            found[here] = self.files[number][flat[here] - self._starts[number]]
        return found.reshape(wanted.shape)[()]


Tokens = TokenFile | TokenShards
"""The tokens of a text."""


def shard_name(part: str, number: int, count: int) -> str:
    """The name of a shard: train-00002-of-00160.npy; the number is counted from 0."""
    return f"{part}-{number:05d}-of-{count:05d}.npy"


def open_tokens(paths: Sequence[Path], vocab_size: int | None = None) -> Tokens:
    """The tokens in one file, or in its shards."""
    return TokenFile(paths[0], vocab_size) if len(paths) == 1 else TokenShards(paths, vocab_size)


def write_tokens(path: str | os.PathLike, arrays: Iterable[np.ndarray], vocab_size: int) -> int:
    """Write the arrays one after the other into an .npy file; return the number of tokens.

    The dtype is uint16 if the vocabulary fits, else uint32. DataError for an id outside the vocabulary.
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


def write_joined(
    path: str | os.PathLike, parts: Sequence[Path], added: Sequence[int] | None = None, *, way_out: str
) -> None:
    """Write the numbers of several .npy files into one, each with a number of `added` added to all of it.

    DataError with the `way_out` if one of them is damaged.
    """
    headers = [_read_npy(part, ("<u2", "<u4", "<u8"), way_out=way_out) for part in parts]
    dtype = headers[0][1]
    with naming(path), open(path, "wb") as file:
        file.write(_header(sum(count for count, *_ in headers), dtype))
        for part, (count, _, start), more in zip(parts, headers, added or [0] * len(parts)):
            with open(part, "rb") as opened:
                opened.seek(start)
                while count:
                    numbers = np.fromfile(opened, dtype, min(count, _CHECKED_AT_ONCE))
                    if not len(numbers):
                        raise DataError(f"{part}: shorter than its header says; {way_out}")
                    count -= len(numbers)
                    file.write((numbers + dtype.type(more) if more else numbers).data)


def write_array(path: str | os.PathLike, array: np.ndarray) -> None:
    """Write an .npy file. np.save alone would not report a full disk for its last buffer."""
    held = io.BytesIO()
    np.save(held, array)
    with naming(path), open(path, "wb") as file:
        file.write(held.getbuffer())


def _header(tokens: int, dtype: np.dtype) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": dtype.str, "fortran_order": False, "shape": (tokens,)}
    )
    assert file.tell() == _HEADER_BYTES
    return file.getvalue()


def _read_header(path: Path) -> tuple[int, np.dtype, int]:
    """Number of tokens, dtype and offset of the data of an .npy file."""
    return _read_npy(path, ("<u2", "<u4", ">u2", ">u4"))


def _read_npy(
    path: Path, kinds: Sequence[str], *, way_out: str = "prepare the text again"
) -> tuple[int, np.dtype, int]:
    """Count, dtype and offset of the numbers of an .npy file, which must be of one of these kinds."""
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
        raise DataError(f"{path}: not an .npy file with one row of numbers; {way_out}") from None
    if dtype.str not in kinds:
        names = " or ".join(dict.fromkeys(np.dtype(kind).name for kind in kinds))
        raise DataError(f"{path}: holds {dtype}, but files of its kind hold {names}; {way_out}")
    if type(tokens) is not int or tokens < 0:
        raise DataError(f"{path}: says that it has {tokens!r:.40} numbers; {way_out}")
    return tokens, dtype, start


def _check_array(path: str | os.PathLike, ids: np.ndarray, vocab_size: int) -> None:
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise DataError(f"{path}: ids of shape {ids.shape} and type {ids.dtype} are not a row of integers")
    for id in (int(ids.max()), int(ids.min())) if ids.size else ():
        if not 0 <= id < vocab_size:
            raise DataError(
                f"{path}: token id {id} is outside the vocabulary of {vocab_size}; check the tokenizer"
            )
