"""OpenAI's released GPT-2 folder in, model and tokenizer out, read without TensorFlow.

The index is a LevelDB table (its table_format.md) of protobuf messages (TensorFlow's tensor_bundle.proto): it
says where in the data file each tensor stands, as little-endian float32. C channels.
"""

import contextlib
import json
import math
import re
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import torch
from torch import Tensor

from lucidlm.errors import ConfigError, WeightsError
from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.runtime.memory import check_weights
from lucidlm.runtime.progress import SILENT, Progress, counted
from lucidlm.runtime.wording import plural
from lucidlm.text.byte_level import END_OF_TEXT, byte_alphabet
from lucidlm.text.tokenizer import Tokenizer

CHECKPOINT, HPARAMS, ENCODER, MERGES = "checkpoint", "hparams.json", "encoder.json", "vocab.bpe"
INDEX, DATA = "model.ckpt.index", "model.ckpt.data-00000-of-00001"
LARGEST = {CHECKPOINT: 1 << 16, HPARAMS: 1 << 16, ENCODER: 1 << 22, MERGES: 1 << 22, INDEX: 1 << 20}
"""Bytes that a file may have at most: several times what the largest release has."""
LONGEST_NAME, MOST_DIMENSIONS = 200, 8

OUTSIDE = {
    "token_embedding.weight": "model/wte",
    "position_embedding.weight": "model/wpe",
    "final_norm.weight": "model/ln_f/g",
    "final_norm.bias": "model/ln_f/b",
}
BLOCK = {  # a matrix is stored as [1, in, out], ours is (out, in); both are given in multiples of C
    "attention_norm.weight": ("ln_1/g", (1,)),
    "attention_norm.bias": ("ln_1/b", (1,)),
    "attention.qkv.weight": ("attn/c_attn/w", (1, 3)),
    "attention.qkv.bias": ("attn/c_attn/b", (3,)),
    "attention.out.weight": ("attn/c_proj/w", (1, 1)),
    "attention.out.bias": ("attn/c_proj/b", (1,)),
    "feed_forward_norm.weight": ("ln_2/g", (1,)),
    "feed_forward_norm.bias": ("ln_2/b", (1,)),
    "feed_forward.inner.weight": ("mlp/c_fc/w", (1, 4)),
    "feed_forward.inner.bias": ("mlp/c_fc/b", (4,)),
    "feed_forward.out.weight": ("mlp/c_proj/w", (4, 1)),
    "feed_forward.out.bias": ("mlp/c_proj/b", (1,)),
}
FIELDS = {
    "n_vocab": "vocab_size",
    "n_ctx": "context_length",
    "n_embd": "emb_dim",
    "n_head": "n_heads",
    "n_layer": "n_layers",
}

_FOOTER, _MAGIC, _TRAILER = 48, 0xDB4775248B80FB57, 5
_COMPRESSIONS = {1: "Snappy", 2: "Zstandard"}
_FLOAT32 = 1
_DTYPES = {2: "float64", 3: "int32", 9: "int64", 10: "bool", 14: "bfloat16", 19: "float16"}
_VARINT, _BYTES, _FIXED32 = 0, 2, 5
_READ_BYTES = 1 << 23


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


def is_openai_folder(folder: Path) -> bool:
    """Whether this is a folder of OpenAI's release, whole or not: `load_openai` says what it lacks."""
    return (folder / INDEX).is_file() or (folder / HPARAMS).is_file()


def load_openai(
    folder: str | Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Progress = SILENT,
) -> tuple[GPT, Tokenizer]:
    """Model, in eval mode, and tokenizer of such a folder.

    WeightsError with path and reason for one that is damaged: everything is checked, each tensor's checksum
    too, before memory for the weights is taken.
    """
    folder = Path(folder)
    _check_files(folder)
    config = read_hparams(folder / HPARAMS)
    tensors = _tensors_of(config, read_index(folder / INDEX), folder / INDEX)
    tokenizer = read_tokenizer(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise WeightsError(
            f"{folder / ENCODER}: {plural(tokenizer.vocab_size, 'token')}, but n_vocab of {HPARAMS} is "
            f"{config.vocab_size:,}; they do not belong together, download the folder again"
        )
    check_weights(str(folder), config.n_parameters, dtype, device)
    # Read, not mapped: mapped pages count as memory, and a mapped file that shrinks ends the process.
    with _told(folder / DATA), open(folder / DATA, "rb") as file:
        stored = sorted(tensors.values(), key=lambda tensor: tensor.offset)
        _check_contents(file, counted(stored, progress, "checking tensors"))
        state = {
            name: _read(file, tensor, device=device, dtype=dtype)
            for name, tensor in counted(tensors.items(), progress, "reading tensors")
        }
    state["head.weight"] = state["token_embedding.weight"]
    # GPT-2 was trained with end-of-text before each document.
    model = GPT.empty(config.changed(document_prefix_id=tokenizer.end_of_text))
    model.load_state_dict(state, assign=True)
    model.head.weight = model.token_embedding.weight
    model.requires_grad_(True)
    return model.eval(), tokenizer


def read_hparams(path: Path) -> GPTConfig:
    """The shape that hparams.json describes."""
    with _told(path):
        values = _json_object(path)
        if odd := sorted(values.keys() ^ FIELDS.keys()):
            raise ValueError(f"{odd[0]!r:.60} is {'missing' if odd[0] in FIELDS else 'not known'}")
        for name, value in values.items():
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r:.60}, not a whole number of at least 1")
        try:
            shape = {ours: values[theirs] for theirs, ours in FIELDS.items()}
            return GPTConfig(family="gpt2", qkv_bias=True, tied_head=True, **shape)
        except ConfigError as error:
            raise ValueError(str(error)) from None


def read_tokenizer(folder: Path) -> Tokenizer:
    """The byte-level BPE of encoder.json and vocab.bpe, which must say the same.

    As in the release, the ids are the 256 bytes in the order of their characters, one for each merge, and
    end-of-text: so each of the two files vouches for the other.
    """
    path = folder / MERGES
    with _told(path):
        version, *lines = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
        if not version.startswith("#version"):
            raise ValueError("its first line is no #version")
        vocabulary = {character: id for id, character in enumerate(sorted(byte_alphabet()))}
        merges = [line.split(" ") for line in lines]
        for number, merge in enumerate(merges, start=2):
            if len(merge) != 2 or not vocabulary.keys() >= set(merge):
                raise ValueError(f"line {number}, {' '.join(merge)!r:.60}, joins no two tokens before it")
            vocabulary.setdefault("".join(merge), len(vocabulary))
        if END_OF_TEXT in vocabulary:
            raise ValueError(f"it joins {END_OF_TEXT}, which no text may become")
    expected = {**vocabulary, END_OF_TEXT: len(vocabulary)}
    with _told(folder / ENCODER):
        found = _json_object(folder / ENCODER)
        for token in [*expected, *found]:
            if found.get(token) != expected.get(token):
                raise ValueError(
                    f"{token!r:.60} is {found.get(token)!r:.60}, {MERGES} makes it {expected.get(token)}"
                )
    return Tokenizer.from_vocabulary(vocabulary, merges, source=str(path))


def read_index(path: Path) -> dict[str, StoredTensor]:
    """The tensors that model.ckpt.index lists, by name."""
    with _told(path):
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
def _told(path: Path) -> Generator[None]:
    """What is found wrong inside becomes a WeightsError that names the file."""
    try:
        yield
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(f"{path}: {reason}; copy or download it again") from None


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        raise WeightsError(f"{folder}: no folder; give the one with {HPARAMS} and {INDEX}")
    for name in (HPARAMS, CHECKPOINT, INDEX, DATA, ENCODER, MERGES):
        path = folder / name
        if not path.is_file():
            raise WeightsError(f"{path}: {'not a file' if path.exists() else 'not there'}; download it too")
        if path.resolve().parent != folder.resolve():
            raise WeightsError(f"{path}: a link that leads out of the folder; copy the file itself there")
        if (size := path.stat().st_size) > LARGEST.get(name, size):
            raise WeightsError(
                f"{path}: {plural(size, 'byte')}, such a file has at most {LARGEST[name]:,}; "
                f"download it again"
            )
    with _told(folder / CHECKPOINT):
        text = (folder / CHECKPOINT).read_text(encoding="utf-8")
        found = re.match(r'model_checkpoint_path: "([^"\n]*)"\n', text)
        name = re.split(r"[/\\]", found[1])[-1] if found else ""
        if name != "model.ckpt":
            raise ValueError(f"it names {name!r:.60}, not model.ckpt")


def _json_object(path: Path) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            raise ValueError("a name stands in it twice")
        return values

    values = json.loads(path.read_bytes().decode("utf-8"), object_pairs_hook=once)
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    return values


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a table file in their order: blocks of them, two blocks about these, a footer."""
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
    """Keys and values of a block: of each key only what differs from the key before is stored."""
    restarts = int.from_bytes(block[-4:], "little")  # places to search from, not needed to read it all
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
    """The first `count` numbers, stored in 7 bits a byte, and the bytes that they take."""
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
    """The fields of a protobuf message by number; `wires` says how each of those that are known is stored."""
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


def _layout(config: GPTConfig) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Our name, the release's name and the release's shape of each tensor."""
    width = config.emb_dim
    rows = {"model/wte": config.vocab_size, "model/wpe": config.context_length}
    for ours, theirs in OUTSIDE.items():
        yield ours, theirs, (rows[theirs], width) if theirs in rows else (width,)
    for layer in range(config.n_layers):
        for ours, (theirs, widths) in BLOCK.items():
            shape = tuple(width * times for times in widths)
            yield f"blocks.{layer}.{ours}", f"model/h{layer}/{theirs}", (1, *shape) if shape[1:] else shape


def _tensors_of(config: GPTConfig, stored: dict[str, StoredTensor], index: Path) -> dict[str, StoredTensor]:
    """The stored tensors by our names: all of the model's, no other, the data file to its end."""
    tensors = {}
    for ours, theirs, shape in _layout(
        config
    ):  # ends at the first that is missing, however many n_layer asks
        if theirs not in stored:
            raise WeightsError(
                f"{index}: {theirs} is missing; n_layer of {HPARAMS} is {config.n_layers:,}, "
                "they do not belong together: download the folder again"
            )
        if stored[theirs].shape != shape:
            raise WeightsError(
                f"{index}: {theirs} is {stored[theirs].shape}, {HPARAMS} makes it {shape}; "
                "they do not belong together: download the folder again"
            )
        tensors[ours] = stored[theirs]
    if surplus := stored.keys() - {tensor.name for tensor in tensors.values()}:
        raise WeightsError(
            f"{index}: {min(surplus)!r} belongs to no part of a GPT-2 of {plural(config.n_layers, 'layer')}; "
            "save the model's tensors alone"
        )
    end = 0
    with _told(index):
        for tensor in sorted(tensors.values(), key=lambda tensor: tensor.offset):
            if tensor.offset != end:
                odd = "overlaps the tensor before it" if tensor.offset < end else "leaves a gap before it"
                raise ValueError(f"{tensor.name} at byte {tensor.offset:,} of the data {odd}")
            end += tensor.size
    if (size := index.with_name(DATA).stat().st_size) != end:
        raise WeightsError(
            f"{index.with_name(DATA)}: {plural(size, 'byte')}, {INDEX} makes it {end:,}; copy or "
            f"download it again"
        )
    return tensors


def _check_contents(file: BufferedReader, tensors: Iterable[StoredTensor]) -> None:
    """Compares each tensor's checksum and looks for NaN, a few megabytes at a time."""
    for tensor in tensors:
        crc, finite = 0, True
        file.seek(tensor.offset)
        for start in range(0, tensor.size, _READ_BYTES):
            piece = _bytes_from(file, min(_READ_BYTES, tensor.size - start))
            crc = google_crc32c.extend(crc, piece)
            finite = finite and bool(np.isfinite(np.frombuffer(piece, "<f4")).all())
        if _masked(crc) != tensor.checksum:
            raise ValueError(f"the checksum of {tensor.name} is wrong")
        if not finite:
            raise ValueError(f"{tensor.name} holds NaN or infinity; take another checkpoint")


def _read(file: BufferedReader, tensor: StoredTensor, *, device: str, dtype: torch.dtype) -> Tensor:
    """The tensor in our layout, filled a few megabytes at a time: never two of it in memory."""
    columns, matrix = tensor.shape[-1], len(tensor.shape) == 3
    shape = tensor.shape[:0:-1] if matrix else tensor.shape
    found = torch.empty(shape, device=device, dtype=dtype)
    rows = found.T if matrix else found.view(-1, columns)  # as stored
    step = max(1, _READ_BYTES // (4 * columns))
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
