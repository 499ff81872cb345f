"""TensorFlow's checkpoint format ("tensor bundle") in, checked tensors out, read without TensorFlow.

The index file is a LevelDB table (its table_format.md) of protobuf messages (tensor_bundle.proto). It says
where in the data file each tensor is, as little-endian float32. Only what OpenAI's releases use is read: one
data file, no compression, no slices. Errors in a file are raised as ValueError; `blaming` adds its name.
"""

import contextlib
import math
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import torch
from torch import Tensor

from lucidlm.errors import WeightsError
from lucidlm.runtime.wording import plural

LONGEST_NAME, MOST_DIMENSIONS = 200, 8
"""Far above what a release has: a damaged index cannot ask for much memory."""

# A table ends in 48 bytes with LevelDB's magic number. 5 bytes follow each block: compression and checksum.
_FOOTER, _MAGIC, _TRAILER = 48, 0xDB4775248B80FB57, 5
_COMPRESSIONS = {1: "Snappy", 2: "Zstandard"}
# types.proto
_FLOAT32 = 1
_DTYPES = {2: "float64", 3: "int32", 9: "int64", 10: "bool", 14: "bfloat16", 19: "float16"}
# The three wire types of protobuf that the messages use.
_VARINT, _BYTES, _FIXED32 = 0, 2, 5
READ_BYTES = 1 << 23


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where the data file holds a tensor, as the index says."""

    name: str
    shape: tuple[int, ...]
    offset: int
    size: int
    """Bytes."""
    checksum: int
    """Masked CRC-32C of its bytes."""


def read_index(path: Path) -> dict[str, StoredTensor]:
    """The tensors that model.ckpt.index lists, by name."""
    with blaming(path):
        entries = _table(path.read_bytes())
        key, header = next(entries, (None, b""))
        if key != b"":
            raise ValueError("it does not begin with a header")
        _check_header(header)
        return {tensor.name: tensor for tensor in map(_stored_tensor, entries)}


def _masked(crc: int) -> int:
    """A CRC-32C as the files store it: a CRC of data that holds CRCs would be weak (LevelDB, crc32c.h)."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@contextlib.contextmanager
def blaming(path: Path) -> Generator[None]:
    """An error in the file's contents becomes a WeightsError that names the file."""
    try:
        yield
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(f"{path}: {reason}; copy or download it again") from None


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a table file, in order: data blocks, a metaindex block, an index block, a footer."""
    end = len(data) - _FOOTER
    if end < 0 or int.from_bytes(data[-8:], "little") != _MAGIC:
        raise ValueError(
            f"{plural(len(data), 'byte')} that do not end as an index does: it is cut short or another file"
        )
    (about, about_size, index, index_size), _ = _varints(data[end:-8], 4)
    position, last = 0, None
    for separator, handle in _entries(_block(data, index, index_size)):
        (offset, size), used = _varints(handle, 2)
        # TensorFlow writes the blocks without a gap, so what lies elsewhere was not written by it.
        if offset != position or used != len(handle):
            raise ValueError(f"a block at byte {offset:,} where one at {position:,} is expected")
        for key, value in _entries(_block(data, offset, size)):
            if (last is not None and key <= last) or key > separator:
                raise ValueError(f"its names are not in order at {key[:60]!r}")
            last = key
            yield key, value
        position = offset + size + _TRAILER
    _block(data, about, about_size)
    if about != position or index != about + about_size + _TRAILER or end != index + index_size + _TRAILER:
        raise ValueError("there is more in it than blocks")


def _block(data: bytes, offset: int, size: int) -> bytes:
    end = offset + size
    if end + _TRAILER > len(data) - _FOOTER:
        raise ValueError(f"a block at byte {offset:,} of {plural(size, 'byte')} is not all there")
    stored = int.from_bytes(data[end + 1 : end + _TRAILER], "little")
    if _masked(google_crc32c.value(data[offset : end + 1])) != stored:
        raise ValueError(f"the checksum of its block at byte {offset:,} is wrong")
    if kind := data[end]:
        raise ValueError(
            f"its block at byte {offset:,} is compressed ({_COMPRESSIONS.get(kind, f'kind {kind}')}), "
            "which the release is not"
        )
    return data[offset:end]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block. A key is stored without what it shares with the start of the key before."""
    restarts = int.from_bytes(block[-4:], "little")  # for binary search, not needed to read the whole block
    end = len(block) - 4 * (restarts + 1)
    if end < 0 or not restarts:
        raise ValueError("a block in it is damaged")
    position, key = 0, b""
    while position < end:
        (shared, added, size), used = _varints(block[position : min(position + 30, end)], 3)
        position += used
        if shared > len(key) or shared + added > LONGEST_NAME or position + added + size > end:
            raise ValueError(f"the entry after {key[:60]!r} is damaged")
        key = key[:shared] + block[position : position + added]
        position += added + size
        yield key, block[position - size : position]


def _varints(data: bytes, count: int) -> tuple[list[int], int]:
    """The first `count` numbers, and how many bytes they take: 7 bits a byte, the lowest first (LEB128)."""
    values, position = [], 0
    for _ in range(count):
        value = shift = 0
        while True:
            if position == len(data) or shift > 63:
                raise ValueError("a number in it does not end")
            value |= (data[position] & 127) << shift
            position, shift = position + 1, shift + 7
            if data[position - 1] < 128:
                break
        values.append(value)
    return values, position


def _message(data: bytes, wires: dict[int, int]) -> dict[int, list[Any]]:
    """The fields of a protobuf message by number; `wires` has the wire type of each known field."""
    fields: dict[int, list[Any]] = {number: [] for number in wires}
    position = 0
    while position < len(data):
        (tag,), used = _varints(data[position : position + 10], 1)
        position += used
        number, wire = tag >> 3, tag & 7
        if wires.get(number) != wire:
            raise ValueError(f"an entry has a field {number} of kind {wire}, which is not known")
        if wire == _FIXED32:
            size = 4
        else:
            (size,), used = _varints(data[position : position + 10], 1)
            position += used
        if wire == _VARINT:
            fields[number].append(size)
            continue
        if position + size > len(data):
            raise ValueError("an entry is cut short")
        content = data[position : position + size]
        fields[number].append(int.from_bytes(content, "little") if wire == _FIXED32 else content)
        position += size
    return fields


def _only(values: list[Any], default: Any) -> Any:
    if len(values) > 1:
        raise ValueError("an entry has a field twice")
    return values[0] if values else default


def _check_header(value: bytes) -> None:
    """BundleHeaderProto: num_shards = 1, endianness = 2, version = 3 {producer = 1, min_consumer = 2}."""
    header = _message(value, {1: _VARINT, 2: _VARINT, 3: _BYTES})
    if (shards := _only(header[1], 0)) != 1:
        raise ValueError(f"its tensors are in {shards} data files, the release's are in 1")
    if _only(header[2], 0) != 0:
        raise ValueError("its numbers are big-endian, the release's are little-endian")
    version = _message(_only(header[3], b""), {1: _VARINT, 2: _VARINT, 3: _BYTES})
    if (least := _only(version[2], 0)) > 1:
        raise ValueError(f"it asks for a reader of version {least}, this is one of version 1")


def _stored_tensor(entry: tuple[bytes, bytes]) -> StoredTensor:
    """BundleEntryProto: dtype = 1, shape = 2, shard_id = 3, offset = 4, size = 5, crc32c = 6, slices = 7."""
    name = entry[0].decode("ascii")
    wires = dict.fromkeys((1, 3, 4, 5), _VARINT) | {2: _BYTES, 6: _FIXED32, 7: _BYTES}
    fields = _message(entry[1], wires)
    if (dtype := _only(fields[1], 0)) != _FLOAT32:
        raise ValueError(f"{name!r} is {_DTYPES.get(dtype, f'of type {dtype}')}, the release's are float32")
    if fields[7] or _only(fields[3], 0) != 0:
        raise ValueError(f"{name!r} is stored in slices or in another data file")
    # TensorShapeProto: dim = 2 {size = 1, name = 2}, unknown_rank = 3
    dimensions = _message(_only(fields[2], b""), {2: _BYTES})[2]
    if len(dimensions) > MOST_DIMENSIONS:
        raise ValueError(f"{name!r} has {len(dimensions):,} dimensions, at most {MOST_DIMENSIONS} are read")
    shape = tuple(_only(_message(one, {1: _VARINT, 2: _BYTES})[1], 0) for one in dimensions)
    size = _only(fields[5], 0)
    if size != 4 * math.prod(shape):
        raise ValueError(
            f"{name!r} has {plural(size, 'byte')}, its shape {shape} makes {4 * math.prod(shape):,}"
        )
    if len(fields[6]) != 1:
        raise ValueError(f"{name!r} has no checksum")
    return StoredTensor(name, shape, _only(fields[4], 0), size, fields[6][0])


def check_contents(file: BufferedReader, tensors: Iterable[StoredTensor]) -> None:
    """Compares each tensor's checksum and looks for NaN, a few megabytes at a time."""
    for tensor in tensors:
        crc, finite = 0, True
        file.seek(tensor.offset)
        for start in range(0, tensor.size, READ_BYTES):
            piece = _bytes_from(file, min(READ_BYTES, tensor.size - start))
            crc = google_crc32c.extend(crc, piece)
            finite = finite and bool(np.isfinite(np.frombuffer(piece, "<f4")).all())
        if _masked(crc) != tensor.checksum:
            raise ValueError(f"the checksum of {tensor.name} is wrong")
        if not finite:
            raise ValueError(f"{tensor.name} holds NaN or infinity; take another checkpoint")


def read_tensor(file: BufferedReader, tensor: StoredTensor, *, device: str, dtype: torch.dtype) -> Tensor:
    """The tensor in our layout, filled a few megabytes at a time: never two of it in memory."""
    columns, matrix = tensor.shape[-1], len(tensor.shape) == 3
    shape = tensor.shape[:0:-1] if matrix else tensor.shape
    found = torch.empty(shape, device=device, dtype=dtype)
    rows = found.T if matrix else found.view(-1, columns)  # as stored
    step = max(1, READ_BYTES // (4 * columns))
    file.seek(tensor.offset)
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        # A copy, as torch takes writable memory only.
        numbers = np.frombuffer(_bytes_from(file, 4 * part.numel()), "<f4").astype(np.float32)
        part.copy_(torch.from_numpy(numbers).view(part.shape))
    return found


def _bytes_from(file: BufferedReader, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise ValueError("it was cut short while it was read")
    return data
