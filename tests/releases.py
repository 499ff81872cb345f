"""OpenAI's release for tests: TensorFlow's own files, and a textbook writer, GPT-2 and BPE.

The folder in fixtures was written by TensorFlow; arrays.npz beside it holds what it was given.
"""

import functools
import itertools
import json
from pathlib import Path

import numpy as np
import regex
import torch
from oracles import attention, gelu_tanh, layer_norm

from lucidlm.weights import openai

FIXTURE = Path(__file__).parent / "weights" / "fixtures" / "openai-gpt2-tiny"


FILES = ("checkpoint", "hparams.json", "encoder.json", "vocab.bpe", openai.INDEX, openai.DATA)


TEXTS = (
    "",
    "Jack would not sing the old song about the eyes, would he?",
    "  two  spaces\n\n\tand a tab \r\n",
    "I'll we've they'd it's 'tis can't 1234 x=3.14!",
    "déjà vu, 東京, \U0001f980\u200d, \x00\x7f\x85\xa0\xad",
    "<|endoftext|> is thirteen characters",
)


SMALLEST = {"n_vocab": 257, "n_ctx": 4, "n_embd": 2, "n_head": 1, "n_layer": 1}


@functools.cache
def arrays() -> dict[str, np.ndarray]:
    """What TensorFlow was given, by the release's names."""
    with np.load(FIXTURE / "arrays.npz") as file:
        return {name: file[name] for name in file.files}


# A writer of such files, bit by bit.


@functools.cache
def crc_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    return byte


def textbook_crc32c(data: bytes) -> int:
    table = [crc_of_byte(byte) for byte in range(256)]
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 255] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> bytes:
    rotated = (crc >> 15) | ((crc & 0x7FFF) << 17)
    return ((rotated + 0xA282EAD8) % 2**32).to_bytes(4, "little")


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value % 128 + 128]) + varint(value // 128)


def field(number: int, content: int | bytes) -> bytes:
    """A protobuf field; 0 is not written, as in proto3."""
    if isinstance(content, int):
        return varint(number * 8) + varint(content) if content else b""
    return varint(number * 8 + 2) + varint(len(content)) + content


def header(shards: int = 1, endianness: int = 0, needs: int = 0) -> bytes:
    return field(1, shards) + field(2, endianness) + field(3, field(1, 1) + field(2, needs))


def entry(shape, *, offset=0, size=0, crc=b"\0\0\0\0", dtype=1, shard=0, more=b"") -> bytes:
    dimensions = b"".join(field(2, field(1, size)) for size in shape)
    numbers = field(3, shard) + field(4, offset) + field(5, size)
    return field(1, dtype) + field(2, dimensions) + numbers + b"\x35" + crc + more


def block_of(entries: list[tuple[bytes, bytes]], *, interval: int = 16) -> bytes:
    """A block without its trailer: every 16th key is stored whole."""
    written, restarts, before = b"", [], b""
    for number, (key, value) in enumerate(entries):
        equal = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, key))
        shared = sum(1 for _ in equal)
        if number % interval == 0:
            restarts.append(len(written))
            shared = 0
        written += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    restarts = restarts or [0]
    return written + b"".join(place.to_bytes(4, "little") for place in [*restarts, len(restarts)])


def table_of(blocks: list[tuple[bytes, bytes]], *, kind: int = 0, swapped: bool = False) -> bytes:
    """A table file of blocks, each with a key that is not less than its last."""
    written, handles = b"", []

    def write(block: bytes) -> bytes:
        nonlocal written
        handle = varint(len(written)) + varint(len(block))
        written += block + bytes([kind]) + masked(textbook_crc32c(block + bytes([kind])))
        return handle

    handles = [write(block) for _, block in blocks]
    handles = handles[::-1] if swapped else handles
    keys = [key for key, _ in blocks]
    footer = write(block_of([])) + write(block_of(list(zip(keys, handles, strict=True)), interval=1))
    return written + footer.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")


def blocks_of(entries: list[tuple[bytes, bytes]], count: int) -> list[tuple[bytes, bytes]]:
    """The entries in `count` blocks, each named by its last key."""
    parts = [part for part in np.array_split(np.arange(len(entries)), count) if len(part)]
    return [(entries[part[-1]][0], block_of([entries[i] for i in part])) for part in parts]


def entries_of(tensors: dict[str, np.ndarray], crc=textbook_crc32c) -> tuple[dict[bytes, bytes], list[bytes]]:
    """The index's entries and the data, tensor by tensor."""
    entries, data, offset = {b"": header()}, [], 0
    for name in sorted(tensors):
        data.append(np.ascontiguousarray(tensors[name], "<f4").tobytes())
        size, checksum = len(data[-1]), masked(crc(data[-1]))
        entries[name.encode()] = entry(tensors[name].shape, offset=offset, size=size, crc=checksum)
        offset += size
    return entries, data


def write_index(folder: Path, entries: dict[bytes, bytes], blocks: int = 1) -> None:
    (folder / openai.INDEX).write_bytes(table_of(blocks_of(sorted(entries.items()), blocks)))


def write_release(folder: Path, tensors: dict[str, np.ndarray], *, blocks: int = 1) -> dict[bytes, bytes]:
    """Index and data of these tensors in place of the folder's; the index's entries."""
    entries, data = entries_of(tensors)
    write_index(folder, entries, blocks)
    (folder / openai.DATA).write_bytes(b"".join(data))
    return entries


def random_tensors(hparams: dict[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    """All tensors of such a model by the release's names, written out once more."""
    draw = np.random.default_rng(seed).standard_normal
    c, tensors = hparams["n_embd"], {}
    tensors["model/wte"], tensors["model/wpe"] = draw((hparams["n_vocab"], c)), draw((hparams["n_ctx"], c))
    norms = ["model/ln_f"]
    for h in (f"model/h{i}" for i in range(hparams["n_layer"])):
        norms += [f"{h}/ln_1", f"{h}/ln_2"]
        for name, rows, columns in (
            ("attn/c_attn", c, 3 * c),
            ("attn/c_proj", c, c),
            ("mlp/c_fc", c, 4 * c),
            ("mlp/c_proj", 4 * c, c),
        ):
            tensors[f"{h}/{name}/w"], tensors[f"{h}/{name}/b"] = draw((1, rows, columns)), draw(columns)
    for norm in norms:
        tensors[f"{norm}/g"], tensors[f"{norm}/b"] = draw(c), draw(c)
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


# What the loaded model must be.


def expected_state(tensors: dict[str, np.ndarray], n_layer: int) -> dict[str, np.ndarray]:
    """Our state dict, line by line: a matrix [1, in, out] becomes (out, in), its thirds rows."""
    state = {
        "token_embedding.weight": tensors["model/wte"],
        "position_embedding.weight": tensors["model/wpe"],
    }
    for i in range(n_layer):
        h, block = f"model/h{i}", f"blocks.{i}"
        state[f"{block}.attention_norm.weight"] = tensors[f"{h}/ln_1/g"]
        state[f"{block}.attention_norm.bias"] = tensors[f"{h}/ln_1/b"]
        parts = np.split(tensors[f"{h}/attn/c_attn/w"][0], 3, axis=1)
        state[f"{block}.attention.qkv.weight"] = np.concatenate([part.T for part in parts])
        state[f"{block}.attention.qkv.bias"] = tensors[f"{h}/attn/c_attn/b"]
        state[f"{block}.attention.out.weight"] = tensors[f"{h}/attn/c_proj/w"][0].T
        state[f"{block}.attention.out.bias"] = tensors[f"{h}/attn/c_proj/b"]
        state[f"{block}.feed_forward_norm.weight"] = tensors[f"{h}/ln_2/g"]
        state[f"{block}.feed_forward_norm.bias"] = tensors[f"{h}/ln_2/b"]
        state[f"{block}.feed_forward.inner.weight"] = tensors[f"{h}/mlp/c_fc/w"][0].T
        state[f"{block}.feed_forward.inner.bias"] = tensors[f"{h}/mlp/c_fc/b"]
        state[f"{block}.feed_forward.out.weight"] = tensors[f"{h}/mlp/c_proj/w"][0].T
        state[f"{block}.feed_forward.out.bias"] = tensors[f"{h}/mlp/c_proj/b"]
    state["final_norm.weight"], state["final_norm.bias"] = tensors["model/ln_f/g"], tensors["model/ln_f/b"]
    return {**state, "head.weight": tensors["model/wte"]}


def assert_bitwise(model, tensors: dict[str, np.ndarray], n_layer: int) -> None:
    expected, found = expected_state(tensors, n_layer), model.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
        assert tensor.shape == expected[name].shape, name
        assert tensor.numpy().tobytes() == expected[name].tobytes(), name


def release_logits(tensors: dict[str, np.ndarray], ids: np.ndarray, *, n_layer: int, n_head: int):
    """GPT-2 as the release's model.py computes it, in float64: ids (B, T) -> logits (B, T, V)."""
    w = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}

    def conv1d(x, name):
        return x @ w[f"{name}/w"][0] + w[f"{name}/b"]

    def norm(x, name):
        return layer_norm(x, w[f"{name}/g"], w[f"{name}/b"], eps=1e-5)

    batch, length = ids.shape
    x = w["model/wte"][ids] + w["model/wpe"][:length]
    for h in (f"model/h{i}" for i in range(n_layer)):
        q, k, v = np.split(conv1d(norm(x, f"{h}/ln_1"), f"{h}/attn/c_attn"), 3, axis=-1)
        q, k, v = (part.reshape(batch, length, n_head, -1).transpose(0, 2, 1, 3) for part in (q, k, v))
        mixed = attention(q, k, v).transpose(0, 2, 1, 3).reshape(x.shape)
        x = x + conv1d(mixed, f"{h}/attn/c_proj")
        x = x + conv1d(gelu_tanh(conv1d(norm(x, f"{h}/ln_2"), f"{h}/mlp/c_fc")), f"{h}/mlp/c_proj")
    return norm(x, "model/ln_f") @ w["model/wte"].T


def textbook_ids(folder: Path, text: str) -> list[int]:
    """Byte-level BPE from the two files: merge the pair that stands first in vocab.bpe until none does."""
    encoder = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    lines = (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:]
    ranks = {tuple(line.split()): rank for rank, line in enumerate(lines) if line}
    shown = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    hidden = [b for b in range(256) if b not in shown]
    character = {b: chr(b) for b in shown} | {b: chr(256 + n) for n, b in enumerate(hidden)}
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    ids = []
    for word in regex.findall(pattern, text):
        parts = [character[byte] for byte in word.encode()]
        while pairs := [pair for pair in zip(parts, parts[1:]) if pair in ranks]:  # noqa: RUF007
            first, joined = min(pairs, key=ranks.__getitem__), []
            while parts:
                if tuple(parts[:2]) == first:
                    joined, parts = [*joined, "".join(first)], parts[2:]
                else:
                    joined, parts = [*joined, parts[0]], parts[1:]
            parts = joined
        ids += [encoder[part] for part in parts]
    return ids
