"""OpenAI's release against TensorFlow's own files, a textbook GPT-2 and BPE, and files damaged in every way.

The folder in fixtures was written by TensorFlow; arrays.npz beside it holds what it was given.
"""

import functools
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import regex
import torch
from damage import mutated
from oracles import attention, gelu_tanh, layer_norm

from lucidlm.errors import WeightsError
from lucidlm.model.config import GPTConfig
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.weights import openai, tf_bundle
from lucidlm.weights.openai import is_openai_folder, load_openai, read_tokenizer
from lucidlm.weights.tf_bundle import read_index

FIXTURE = Path(__file__).parent / "fixtures" / "openai-gpt2-tiny"
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


@pytest.fixture
def folder(tmp_path):
    """A copy of the fixture, to be damaged."""
    for name in FILES:
        shutil.copy(FIXTURE / name, tmp_path / name)
    return tmp_path


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


def test_the_writer_of_these_tests_writes_what_tensorflow_wrote():
    entries, data = entries_of(arrays())
    # TensorFlow shortens the key of the last block to the next greater letter: m -> n.
    assert table_of([(b"n", block_of(sorted(entries.items())))]) == (FIXTURE / openai.INDEX).read_bytes()
    assert b"".join(data) == (FIXTURE / openai.DATA).read_bytes()


def test_tensorflows_folder_loads_bitwise_as_gpt2():
    model, tokenizer = load_openai(FIXTURE)
    shape = {"vocab_size": 503, "context_length": 64, "emb_dim": 48, "n_heads": 4, "n_layers": 3}
    fields = {"qkv_bias": True, "tied_head": True, "document_prefix_id": tokenizer.end_of_text}
    assert model.config == GPTConfig(**shape, **fields)
    assert_bitwise(model, arrays(), 3)
    assert model.head.weight is model.token_embedding.weight
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in model.parameters())
    assert not model.training
    assert tokenizer.end_of_text == 502


def test_its_logits_are_those_of_a_textbook_gpt2():
    model, _ = load_openai(str(FIXTURE))
    ids = np.random.default_rng(0).integers(0, 503, (2, 20))
    expected = release_logits(arrays(), ids, n_layer=3, n_head=4)
    with torch.no_grad():
        found = model(torch.from_numpy(ids)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_another_dtype_is_the_rounded_float32(dtype):
    plain, _ = load_openai(FIXTURE)
    model, _ = load_openai(FIXTURE, dtype=dtype)
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert mine.dtype == dtype
        assert torch.equal(mine, theirs.to(dtype))


def test_loading_leaves_pytorchs_generator_alone():
    before = torch.get_rng_state()
    load_openai(FIXTURE)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("blocks", [2, 7, 41])
def test_an_index_of_several_blocks_is_read(folder, blocks):
    write_release(folder, arrays(), blocks=blocks)
    model, _ = load_openai(folder)
    assert_bitwise(model, arrays(), 3)


@pytest.mark.parametrize("count", [4, 400, 100_000])
def test_reading_in_pieces_gives_the_same(monkeypatch, count):
    monkeypatch.setattr(tf_bundle, "READ_BYTES", count)
    model, _ = load_openai(FIXTURE)
    assert_bitwise(model, arrays(), 3)


def test_twelve_layers_come_in_the_order_of_their_numbers(folder):
    hparams = SMALLEST | {"n_vocab": 503, "n_layer": 12}  # by name, h10 stands before h2
    tensors = random_tensors(hparams)
    (folder / "hparams.json").write_text(json.dumps(hparams))
    write_release(folder, tensors, blocks=3)
    model, _ = load_openai(folder)
    assert_bitwise(model, tensors, 12)


def test_the_names_of_the_release_are_known(folder):
    stored = read_index(folder / openai.INDEX)
    assert {name: tensor.shape for name, tensor in stored.items()} == {
        name: array.shape for name, array in arrays().items()
    }
    assert random_tensors(json.loads((folder / "hparams.json").read_text())).keys() == stored.keys()


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_a_textbook_bpe(text):
    tokenizer = read_tokenizer(FIXTURE)
    ids = tokenizer.encode(text)
    assert ids == textbook_ids(FIXTURE, text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.vocab_size == 503


def test_gpt2s_own_two_files_are_the_tokenizer_gpt2(tmp_path):
    model = Tokenizer.gpt2()._document()["model"]
    merges = "".join(f"{left} {right}\n" for left, right in model["merges"])
    (tmp_path / "vocab.bpe").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    ids = {character: id for id, character in enumerate(model["vocab"])}
    assert len(ids) == 50257
    (tmp_path / "encoder.json").write_text(json.dumps(model["vocab"]))
    for name, published in (
        ("vocab.bpe", "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
        ("encoder.json", "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"),
    ):
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == published
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.name == "gpt2"
    assert tokenizer.end_of_text == 50256
    assert tokenizer.fingerprint() == Tokenizer.gpt2().fingerprint()


def test_a_vocabulary_trained_elsewhere_works_in_the_releases_layout(tmp_path):
    trained = Tokenizer.train([" ".join(TEXTS) * 20], 300)
    model = trained._document()["model"]
    merges = "".join(f"{left} {right}\n" for left, right in model["merges"])
    (tmp_path / "vocab.bpe").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    (tmp_path / "encoder.json").write_text(json.dumps(model["vocab"]))
    assert read_tokenizer(tmp_path).fingerprint() == trained.fingerprint()


@pytest.mark.parametrize(
    ("data", "crc"),
    [  # RFC 3720, B.4, and the check value of the catalogues
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_crc32c_of_known_bytes(data, crc):
    assert google_crc32c.value(data) == textbook_crc32c(data) == crc


def test_a_folder_is_known_by_what_only_the_release_has(tmp_path):
    assert is_openai_folder(FIXTURE)
    assert not is_openai_folder(tmp_path)
    assert not is_openai_folder(tmp_path / "none")
    (tmp_path / "config.json").write_text("{}")
    assert not is_openai_folder(tmp_path)
    (tmp_path / openai.INDEX).write_bytes(b"")
    assert is_openai_folder(tmp_path)


# What is refused.


def refusal(folder: Path) -> str:
    """The message with which a folder is refused: one line, first a path in it, last a way out."""
    with pytest.raises(WeightsError) as error:
        load_openai(folder)
    message = str(error.value)
    assert message.startswith(str(folder))
    assert "\n" not in message
    assert "; " in message
    return message


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_is_named(folder, name):
    (folder / name).unlink()
    assert f"{folder / name}: not there" in refusal(folder)
    (folder / name).mkdir()
    assert f"{folder / name}: not a file" in refusal(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_link_out_of_the_folder_is_refused(folder, name):
    (folder / name).unlink()
    (folder / name).symlink_to(FIXTURE / name)
    assert f"{folder / name}: a link" in refusal(folder)


@pytest.mark.parametrize("name", sorted(openai.LARGEST))
def test_a_file_that_is_far_too_large_is_not_read(folder, name):
    os.truncate(folder / name, 1 << 40)
    assert f"{folder / name}: 1,099,511,627,776 bytes" in refusal(folder)


def test_what_is_no_folder_is_refused(tmp_path):
    assert "no folder" in refusal(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("checkpoint", 'model_checkpoint_path: "../../other"\n', "'other', not model.ckpt"),
        ("checkpoint", "", "names ''"),
        ("hparams.json", "{", "Expecting"),
        ("hparams.json", "[" * 60_000, "recursion"),
        ("hparams.json", "[1]", "not a JSON object"),
        ("hparams.json", b"\xff", "utf-8"),
        ("hparams.json", '{"n_embd": 1, "n_embd": 48}', "twice"),
        ("hparams.json", {"n_layer": None}, "n_layer is None"),
        ("hparams.json", {"n_layer": True}, "n_layer is True"),
        ("hparams.json", {"n_layer": 3.0}, "n_layer is 3.0"),
        ("hparams.json", {"n_layer": 0}, "n_layer is 0"),
        ("hparams.json", {"n_head": 5}, "n_heads 5"),
        ("hparams.json", {"n_inner": 64}, "'n_inner' is not known"),
        ("hparams.json", '{"n_embd": 48}', "'n_ctx' is missing"),
        ("hparams.json", '{"n_embd": 1' + "0" * 5000 + "}", "digits"),
        ("encoder.json", {"he": 300}, "'he' is 300, vocab.bpe makes it 257"),
        ("encoder.json", {"more": 503}, "'more' is 503, vocab.bpe makes it None"),
        ("encoder.json", {"\ud800\n": 503}, r"'\ud800\n' is 503"),
        ("encoder.json", "{}", "is None, vocab.bpe makes it 0"),
        ("vocab.bpe", "#version: 0.2\nh e\nt\n", "line 3"),
        ("vocab.bpe", "#version: 0.2\nh e\nxy z\n", "line 3"),
        ("vocab.bpe", "#version: 0.2\nh e \n", "line 2"),
        ("vocab.bpe", "h e\n", "#version"),
        ("vocab.bpe", b"#version: 0.2\n\xff", "utf-8"),
    ],
)  # fmt: skip
def test_a_text_file_that_is_wrong_is_named_with_the_reason(folder, name, content, reason):
    if isinstance(content, dict):
        content = json.dumps(json.loads((folder / name).read_text()) | content)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refusal(folder)
    assert message.startswith(f"{folder / name}: ")
    assert reason in message


def test_no_merges_can_make_a_text_end_of_text(folder):
    parts = "<|endoftext|>"
    merges = [f"{parts[:n]} {parts[n]}" for n in range(1, len(parts))]
    (folder / "vocab.bpe").write_text("\n".join(["#version: 0.2", *merges]))
    assert "<|endoftext|>" in refusal(folder)


def test_more_tokens_than_the_model_has_rows_are_refused(folder):
    hparams = SMALLEST | {"n_vocab": 502}
    (folder / "hparams.json").write_text(json.dumps(hparams))
    write_release(folder, random_tensors(hparams))
    assert "503 tokens, but n_vocab of hparams.json is 502" in refusal(folder)


@pytest.mark.parametrize(
    ("hparams", "reason"),
    [
        ({"n_layer": 10**15}, "model/h3/ln_1/g is missing"),
        ({"n_layer": 2}, "'model/h2/attn/c_attn/b' belongs to no part"),
        ({"n_embd": 4 * 10**15}, "model/wte is (503, 48)"),
        ({"n_vocab": 504}, "model/wte is (503, 48), hparams.json makes it (504, 48)"),
        ({"n_ctx": 1024}, "model/wpe is (64, 48), hparams.json makes it (1024, 48)"),
    ],
)
def test_hparams_of_another_model_are_told_by_a_tensor(folder, hparams, reason):
    values = json.loads((folder / "hparams.json").read_text())
    (folder / "hparams.json").write_text(json.dumps(values | hparams))
    assert f"{folder / openai.INDEX}: {reason}" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.pop("model/h1/mlp/c_fc/w"), "model/h1/mlp/c_fc/w is missing"),
        (lambda t: t.update({"model/global_step": t["model/wpe"]}), "'model/global_step' belongs to no part"),
        (lambda t: t.update({"model/wte": t["model/wte"].T}), "model/wte is (48, 503)"),
        (lambda t: t.update({"model/ln_f/g": t["model/ln_f/g"][None]}), "model/ln_f/g is (1, 48)"),
        (lambda t: t.update({"a" * 200: t["model/wpe"]}), "belongs to no part"),
        (lambda t: t.update({"a" * 201: t["model/wpe"]}), "damaged"),
    ],
)
def test_tensors_that_are_not_the_models_are_named(folder, change, reason):
    tensors = dict(arrays())
    change(tensors)
    write_release(folder, tensors, blocks=2)
    message = refusal(folder)
    assert message.startswith(f"{folder / openai.INDEX}: ")
    assert reason in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(folder, value):
    tensors = dict(arrays())
    tensors["model/h2/ln_2/b"] = tensors["model/h2/ln_2/b"].copy()
    tensors["model/h2/ln_2/b"][47] = value
    write_release(folder, tensors)
    assert f"{folder / openai.DATA}: model/h2/ln_2/b holds NaN or infinity" in refusal(folder)


def test_data_that_are_cut_or_lengthened_are_refused_by_their_size(folder):
    path = folder / openai.DATA
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    assert f"{path}: 448,511 bytes, {openai.INDEX} makes it 448,512" in refusal(folder)
    path.write_bytes(data + b"\0")
    assert f"{path}: 448,513 bytes" in refusal(folder)


def test_one_bit_of_the_data_is_noticed_and_its_tensor_named(folder):
    path = folder / openai.DATA
    data = bytearray(path.read_bytes())
    for name, tensor in read_index(folder / openai.INDEX).items():
        data[tensor.offset + tensor.size - 1] ^= 1
        path.write_bytes(data)
        assert f"{path}: the checksum of {name} is wrong" in refusal(folder)
        data[tensor.offset + tensor.size - 1] ^= 1


def test_data_that_shrink_while_they_are_read_are_refused(folder, monkeypatch):
    check = openai.check_contents

    def check_and_cut(file, tensors):
        check(file, tensors)
        os.truncate(folder / openai.DATA, 1000)

    monkeypatch.setattr(openai, "check_contents", check_and_cut)
    assert f"{folder / openai.DATA}: it was cut short" in refusal(folder)


WPE = {"shape": (64, 48), "offset": 339_648, "size": 12_288}


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (b"", header(shards=2), "in 2 data files"),
        (b"", header(endianness=1), "big-endian"),
        (b"", header(needs=2), "version 2"),
        (b"", field(9, 1), "field 9"),
        (b"", b"\x08", "does not end"),
        (b"model/wpe", entry((64, 48), dtype=2), "'model/wpe' is float64"),
        (b"model/wpe", entry((64, 48), dtype=19), "'model/wpe' is float16"),
        (b"model/wpe", entry((64, 48), dtype=99), "'model/wpe' is of type 99"),
        (b"model/wpe", entry(**WPE, shard=1), "another data file"),
        (b"model/wpe", entry(**WPE, more=field(7, b"x")), "slices"),
        (b"model/wpe", entry(**WPE, more=field(1, 1)), "twice"),
        (b"model/wpe", entry(**WPE, more=b"\x3d"), "field 7 of kind 5"),
        (b"model/wpe", entry(**WPE)[:-1], "cut short"),
        (b"model/wpe", entry(**WPE)[:-5], "no checksum"),
        (b"model/wpe", entry(**WPE | {"size": 12_287}), "12,287 bytes"),
        (b"model/wpe", entry(**WPE | {"shape": (2**32, 2**32)}), "its shape"),
        (b"model/wpe", entry(**WPE | {"shape": (2**63, 48)}), "its shape"),
        (b"model/wpe", entry(**WPE | {"shape": (1,) * 9}), "9 dimensions"),
        (b"model/wpe", entry(**WPE | {"offset": WPE["offset"] - 4}), "overlaps"),
        (b"model/wpe", entry(**WPE | {"offset": WPE["offset"] + 4}), "leaves a gap"),
        (b"model/wpe", entry(**WPE | {"offset": 2**62}), "leaves a gap"),
        (b"model/wpe", entry(**WPE | {"offset": 0}), "overlaps"),
        (b"model/\xe4", entry(**WPE), "ascii"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_entry_of_the_index_that_cannot_be_is_refused_although_its_checksum_holds(
    folder, key, value, reason
):
    entries = write_release(folder, arrays())
    if key == b"model/wpe":
        expected = entry(**WPE, crc=entries[key][-4:])
        assert entries[key] == expected, "the entries above are the fixture's but for one thing"
    write_index(folder, entries | {key: value}, blocks=3)
    message = refusal(folder)
    assert message.startswith(f"{folder / openai.INDEX}: ")
    assert reason in message


def test_an_index_without_its_header_is_refused(folder):
    entries = write_release(folder, arrays())
    del entries[b""]
    write_index(folder, entries)
    assert "header" in refusal(folder)


@pytest.mark.parametrize(("kind", "name"), [(1, "Snappy"), (7, "kind 7")])
def test_a_compressed_block_is_refused_by_name(folder, kind, name):
    blocks = blocks_of(sorted(write_release(folder, arrays()).items()), 2)
    (folder / openai.INDEX).write_bytes(table_of(blocks, kind=kind))
    assert f"compressed ({name})" in refusal(folder)


def test_a_wrong_checksum_of_any_block_is_noticed(folder):
    path = folder / openai.INDEX
    data = bytearray(path.read_bytes())
    for place in (100, 0x4FF, 0x500, 0x505, len(data) - 60):
        data[place] ^= 16
        path.write_bytes(data)
        assert "checksum of its block" in refusal(folder)
        data[place] ^= 16


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda blocks: table_of(blocks[::-1]), "header"),
        (lambda blocks: table_of([blocks[0], blocks[2], blocks[1]]), "not in order"),
        (lambda blocks: table_of(blocks, swapped=True), "is expected"),
        (lambda blocks: table_of([blocks[0], blocks[0], *blocks[1:]]), "not in order"),
        (lambda blocks: table_of([(b"", blocks[0][1]), *blocks[1:]]), "not in order"),
        (lambda blocks: table_of([(b"n", b"")]), "damaged"),
        (lambda blocks: table_of([(b"n", b"\xff\xff\xff\xff")]), "damaged"),
        (lambda blocks: table_of([(b"n", b"\0\0\0\0")]), "damaged"),
        (lambda blocks: table_of([]), "header"),
        (lambda blocks: b"", "0 bytes that do not end"),
        (lambda blocks: table_of(blocks)[:-1], "cut short"),
        (lambda blocks: table_of(blocks)[1:], "not all there"),
        (lambda blocks: b"x" + table_of(blocks), "checksum"),
        (lambda blocks: table_of(blocks)[:-48] + b"x" + table_of(blocks)[-48:], "more in it"),
        (lambda blocks: table_of(blocks)[:-48] + b"\xff" * 40 + table_of(blocks)[-8:], "does not end"),
        (lambda blocks: table_of(blocks)[:-48] + b"\x7f" * 40 + table_of(blocks)[-8:], "checksum"),
        (lambda blocks: table_of(blocks)[:-48] + b"\xff\x7f" * 20 + table_of(blocks)[-8:], "not all there"),
    ],
)
def test_an_index_that_is_no_whole_table_is_refused(folder, damage, reason):
    blocks = blocks_of(sorted(write_release(folder, arrays()).items()), 3)
    (folder / openai.INDEX).write_bytes(damage(blocks))
    message = refusal(folder)
    assert message.startswith(f"{folder / openai.INDEX}: ")
    assert reason in message


def test_keys_that_would_grow_without_end_are_refused(folder):
    """A shared prefix costs a byte or two: 1 MB of such keys would be gigabytes of text."""
    one = entry((), size=4)
    grown = b"\0\0" + varint(len(header())) + header()
    grown += b"".join(varint(n) + b"\x01" + varint(len(one)) + b"a" + one for n in range(50_000))
    (folder / openai.INDEX).write_bytes(table_of([(b"b", grown + b"\0\0\0\0\x01\0\0\0")]))
    assert "the entry after" in refusal(folder)


@pytest.mark.parametrize(("count", "reason"), [(60_000, "is missing"), (100_000, "bytes, such a file has")])
def test_a_hundred_thousand_tensors_are_refused_within_the_limits(folder, limited, count, reason):
    one = entry((), size=4)
    write_index(folder, {b"": header()} | {b"%05d" % n: one for n in range(count)}, blocks=50)
    assert reason in refusal(folder)


# Damage at random: 2 GB and 5 s each at most.


def mutated_behind_checksums(rng: np.random.Generator) -> bytes:
    """An index with one block wrong whose checksum is right, so that it is read."""
    entries = sorted(entries_of_fixture().items())
    blocks = blocks_of(entries, int(rng.integers(1, 5)))
    which = int(rng.integers(0, len(blocks)))
    key, block = blocks[which]
    match int(rng.integers(0, 3)):
        case 0:
            blocks[which] = (key, mutated(block, rng))
        case 1:
            blocks[which] = (mutated(key, rng), block)
        case 2:
            number = int(rng.integers(0, len(entries)))
            name, value = entries[number]
            entries[number] = (
                (name, mutated(value, rng)) if rng.integers(0, 2) else (mutated(name, rng), value)
            )
            blocks = blocks_of(entries, 3)
    return table_of(blocks)


@functools.cache
def entries_of_fixture() -> dict[bytes, bytes]:
    return entries_of(arrays())[0]


def load_mutated(folder: Path, count: int, seed: int) -> None:
    """Each folder with a damaged file is refused, or is what its files say all the same."""
    rng = np.random.default_rng(seed)
    original = {name: (FIXTURE / name).read_bytes() for name in FILES}
    weights = np.array([1, 3, 4, 4, 6, 3, 6])
    loaded = 0
    for number in range(count):
        name = [*FILES, "behind"][rng.choice(7, p=weights / weights.sum())]
        if name == "behind":
            name, data = openai.INDEX, mutated_behind_checksums(rng)
        else:
            data = mutated(original[name], rng)
        (folder / name).write_bytes(data)
        case = f"seed {seed}, number {number}, {name}"
        started = time.perf_counter()
        message = None
        try:
            model, tokenizer = load_openai(folder)
        except WeightsError as error:
            message = str(error)
        assert time.perf_counter() - started < 5, case
        if message is not None:
            assert message.startswith(str(folder)), case
            assert "\n" not in message, case
            assert len(message) < 500 + len(str(folder)), case
        else:
            loaded += 1
            assert_bitwise(model, arrays(), 3)
            assert model.config.n_heads == json.loads((folder / "hparams.json").read_text())["n_head"], case
            expected = [textbook_ids(folder, text) for text in TEXTS]
            assert [tokenizer.encode(text) for text in TEXTS] == expected, case
        (folder / name).write_bytes(original[name])
    assert loaded < count / 20, "hardly any damage is without effect"


def test_five_hundred_damaged_folders_are_refused_or_right(folder, limited):
    load_mutated(folder, 500, seed=1)


@pytest.mark.torture
def test_twenty_thousand_damaged_folders_are_refused_or_right(folder, limited):
    load_mutated(folder, 20_000, seed=2)


PEAK = """
import sys, torch
from pathlib import Path
from lucidlm.weights.openai import load_openai
status = lambda name: int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0]) << 10
load_openai(sys.argv[1])
before = status("VmRSS")
model, _ = load_openai(sys.argv[2], dtype=getattr(torch, sys.argv[3]))
size = sum(parameter.numel() * parameter.itemsize for parameter in model.parameters())
print((status("VmHWM") - before) / size)
"""


@pytest.mark.torture
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the memory of a process is not known")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gpt2_of_124m_takes_less_than_1_2_times_its_size(folder, dtype):
    hparams = {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12}
    entries, data = entries_of(random_tensors(hparams), google_crc32c.value)
    (folder / "hparams.json").write_text(json.dumps(hparams))
    write_index(folder, entries, blocks=2)
    (folder / openai.DATA).write_bytes(b"".join(data))
    command = [sys.executable, "-c", PEAK, str(FIXTURE), str(folder), dtype]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert float(done.stdout) < 1.2
