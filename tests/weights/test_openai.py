"""OpenAI's release against TensorFlow's own files, a textbook GPT-2 and BPE; files damaged in every way."""

import functools
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import torch
from damage import mutated, refusal
from releases import (
    FILES,
    FIXTURE,
    SMALLEST,
    TEXTS,
    arrays,
    assert_bitwise,
    blocks_of,
    entries_of,
    entry,
    header,
    random_tensors,
    release_logits,
    table_of,
    textbook_ids,
    write_index,
    write_release,
)

from lucidlm.errors import WeightsError
from lucidlm.model.config import GPTConfig
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.weights import openai
from lucidlm.weights.openai import is_openai_folder, load_openai, read_tokenizer


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


def test_twelve_layers_come_in_the_order_of_their_numbers(folder):
    hparams = SMALLEST | {"n_vocab": 503, "n_layer": 12}  # by name, h10 stands before h2
    tensors = random_tensors(hparams)
    (folder / "hparams.json").write_text(json.dumps(hparams))
    write_release(folder, tensors, blocks=3)
    model, _ = load_openai(folder)
    assert_bitwise(model, tensors, 12)


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_a_textbook_bpe(text):
    tokenizer = read_tokenizer(FIXTURE)
    ids = tokenizer.encode(text)
    assert ids == textbook_ids(FIXTURE, text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.vocab_size == 503


def test_gpt2s_own_two_files_are_the_tokenizer_gpt2(tmp_path):
    model = Tokenizer.gpt2().document()["model"]
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
    model = trained.document()["model"]
    merges = "".join(f"{left} {right}\n" for left, right in model["merges"])
    (tmp_path / "vocab.bpe").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    (tmp_path / "encoder.json").write_text(json.dumps(model["vocab"]))
    assert read_tokenizer(tmp_path).fingerprint() == trained.fingerprint()


def test_a_folder_is_known_by_what_only_the_release_has(tmp_path):
    assert is_openai_folder(FIXTURE)
    assert not is_openai_folder(tmp_path)
    assert not is_openai_folder(tmp_path / "none")
    (tmp_path / "config.json").write_text("{}")
    assert not is_openai_folder(tmp_path)
    (tmp_path / openai.INDEX).write_bytes(b"")
    assert is_openai_folder(tmp_path)


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


def test_data_that_are_cut_or_lengthened_are_refused_by_their_size(folder):
    path = folder / openai.DATA
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    assert f"{path}: 448,511 bytes, {openai.INDEX} makes it 448,512" in refusal(folder)
    path.write_bytes(data + b"\0")
    assert f"{path}: 448,513 bytes" in refusal(folder)


def test_data_that_shrink_while_they_are_read_are_refused(folder, monkeypatch):
    check = openai.check_contents

    def check_and_cut(file, tensors):
        check(file, tensors)
        os.truncate(folder / openai.DATA, 1000)

    monkeypatch.setattr(openai, "check_contents", check_and_cut)
    assert f"{folder / openai.DATA}: it was cut short" in refusal(folder)


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
