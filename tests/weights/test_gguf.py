"""GGUF files against gguf's own reader and table of names, and against transformers, which opens them too."""

import errno
import json
import logging
import os
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import tokenizers
import torch
from models import BYTES, a_model
from recorded import Recorded
from tokenizers import pre_tokenizers

from lucidlm.errors import ConfigError, WeightsError
from lucidlm.model.gpt import GPT
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.weights.gguf import _Written, export_gguf
from lucidlm.weights.names import TRANSPOSED, to_huggingface

SHAPES = [
    {"family": "gpt2", "qkv_bias": False},
    {"family": "gpt2", "qkv_bias": True, "tied_head": True, "hidden_dim": 96},
    {"family": "modern", "n_kv_heads": 1, "head_dim": 64, "rope_theta": 5e4},
    {"family": "modern", "tied_head": True},
]
TEXT = "A tide-table, <|endoftext|> a clock: déjà vu.\n\n  The lamps' 1,234 hours\tdon't  wait. "
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def read_gguf(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a GGUF file by its name there, as float32, by gguf's own reader."""
    tensors = gguf.GGUFReader(path).tensors
    return {each.name: np.array(gguf.dequantize(each.data, each.tensor_type)) for each in tensors}


def in_ggufs_names(model: GPT) -> dict[str, torch.Tensor]:
    """The model's tensors by gguf's own table from transformers' names."""
    modern = model.config.family == "modern"
    architecture = gguf.MODEL_ARCH.QWEN3 if modern else gguf.MODEL_ARCH.GPT2
    table = gguf.get_tensor_name_map(architecture, model.config.n_layers)
    tensors = {
        table.get_name(name, try_suffixes=(".weight", ".bias")): tensor.T
        if TRANSPOSED.search(name)
        else tensor
        for name, tensor in to_huggingface(model.state_dict(), model.config).items()
    }
    return tensors | {"output.weight": model.head.weight.detach()}


def metadata(path: Path) -> dict:
    fields = gguf.GGUFReader(path).fields
    return {key: field.contents() for key, field in fields.items() if not key.startswith("GGUF.")}


def vocabulary(path: Path) -> dict:
    found = metadata(path)
    return {key.removeprefix("tokenizer.ggml."): found[key] for key in found if key.startswith("tokenizer.")}


def by_the_library(tokens: list[str], types: list[int], merges: list[str]) -> tokenizers.Tokenizer:
    """The tokenizers library's BPE, made of what the file says."""
    ids = {token: id for id, token in enumerate(tokens) if types[id] != gguf.TokenType.CONTROL}
    pairs = [tuple(merge.split(" ")) for merge in merges if merge.replace(" ", "") in ids]
    library = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=ids, merges=pairs))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = tokenizers.decoders.ByteLevel()
    return library


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return Tokenizer.train([TEXT * 20], 300)


@pytest.fixture(params=SHAPES, ids=lambda fields: "-".join(map(str, fields.values())))
def model(request):
    return a_model(**request.param)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.gguf"


# What is in the file


def test_every_tensor_is_there_bitwise_under_ggufs_own_name_for_it(model, path):
    export_gguf(model, BYTES, path, kind="f32")
    found, expected = read_gguf(path), in_ggufs_names(model)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == np.float32
        assert found[name].tobytes() == tensor.contiguous().numpy().tobytes(), name


@pytest.mark.parametrize(("kind", "dtype"), [("f16", torch.float16), ("bf16", torch.bfloat16)])
def test_half_numbers_are_those_that_torch_rounds_to(model, path, kind, dtype):
    export_gguf(model, BYTES, path, kind=kind)
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    found = read_gguf(path)
    for name, tensor in in_ggufs_names(model).items():
        plain = tensor.dim() == 1 or name == "position_embd.weight"
        assert types[name] == ("F32" if plain else kind.upper()), name
        expected = tensor if plain else tensor.to(dtype).float()
        assert torch.equal(torch.from_numpy(found[name]), expected), name


def test_q8_0_is_within_half_a_step_of_its_block_and_leaves_vectors_alone(model, path):
    export_gguf(model, BYTES, path, kind="q8_0")
    found = read_gguf(path)
    for name, tensor in in_ggufs_names(model).items():
        if tensor.dim() == 1 or name == "position_embd.weight":
            assert torch.equal(torch.from_numpy(found[name]), tensor), name
            continue
        wanted, read = tensor.reshape(-1, 32), torch.from_numpy(found[name]).reshape(-1, 32)
        steps = wanted.abs().amax(1, keepdim=True) / 127
        # A step is stored as a float16, off by up to 2^-11 of itself, and counted up to 127 times.
        assert ((read - wanted).abs() <= steps * (0.5 + 127 * 2**-11) + 1e-6).all(), name
        assert not torch.equal(read, wanted), name


def test_metadata_says_the_shape_in_llama_cpps_words(path):
    export_gguf(a_model(qkv_bias=True), BYTES, path, kind="f32", name="Verdict")
    found = metadata(path)
    assert {key: value for key, value in found.items() if not key.startswith("tokenizer.")} == {
        "general.architecture": "gpt2",
        "general.type": "model",
        "general.name": "Verdict",
        "general.file_type": 0,
        "general.quantization_version": 2,
        "gpt2.vocab_size": 257,
        "gpt2.context_length": 64,
        "gpt2.embedding_length": 64,
        "gpt2.block_count": 2,
        "gpt2.feed_forward_length": 256,
        "gpt2.attention.head_count": 2,
        "gpt2.attention.head_count_kv": 2,
        "gpt2.attention.layer_norm_epsilon": pytest.approx(1e-5),
    }
    export_gguf(a_model(**SHAPES[2]), BYTES, path, kind="q8_0")
    found = metadata(path)
    assert {key: value for key, value in found.items() if not key.startswith("tokenizer.")} == {
        "general.architecture": "qwen3",
        "general.type": "model",
        "general.name": "model",
        "general.file_type": 7,
        "general.quantization_version": 2,
        "qwen3.vocab_size": 257,
        "qwen3.context_length": 64,
        "qwen3.embedding_length": 64,
        "qwen3.block_count": 2,
        "qwen3.feed_forward_length": 192,
        "qwen3.attention.head_count": 2,
        "qwen3.attention.head_count_kv": 1,
        "qwen3.attention.key_length": 64,
        "qwen3.attention.value_length": 64,
        "qwen3.attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
        "qwen3.rope.freq_base": 5e4,
    }


def test_a_model_in_bfloat16_is_written_exactly(path):
    model = a_model().to(torch.bfloat16)
    export_gguf(model, BYTES, path, kind="bf16")
    assert torch.equal(torch.from_numpy(read_gguf(path)["output.weight"]), model.head.weight.detach().float())


def test_progress_counts_each_tensor_as_it_is_written_and_compared(path):
    told = Recorded()
    export_gguf(a_model(), BYTES, path, progress=told)
    total = len(read_gguf(path))
    assert [stage[1:] for stage in told.stages] == [[total, total], [total, total]]


# The tokenizer


@pytest.mark.parametrize("name", ["bytes", "bpe", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_tokens_and_merges_are_the_tokenizers(path, bpe, name):
    tokenizer = {"bytes": lambda: BYTES, "bpe": lambda: bpe, "gpt2": Tokenizer.gpt2}[name]()
    export_gguf(a_model(vocab_size=tokenizer.vocab_size), tokenizer, path, kind="f16")
    found = vocabulary(path)
    tokens, types, merges = found.pop("tokens"), found.pop("token_type"), found.pop("merges")
    library = by_the_library(tokens, types, merges)
    assert library.encode(TEXT).ids == tokenizer.encode(TEXT)
    assert library.decode(tokenizer.encode(TEXT)) == TEXT
    assert len(tokens) == len(set(tokens)) == tokenizer.vocab_size
    assert len(merges) == max(1, tokenizer.vocab_size - 257)
    end = tokenizer.end_of_text
    assert [id for id, kind in enumerate(types) if kind == gguf.TokenType.CONTROL] == [end]
    assert tokens[end] == "<|endoftext|>"
    assert found == {
        "model": "gpt2",
        "pre": "gpt-2",
        "bos_token_id": end,
        "eos_token_id": end,
        "add_bos_token": False,
        "add_eos_token": False,
    }


def test_the_one_merge_of_plain_bytes_begins_with_what_no_merge_makes(path):
    export_gguf(a_model(), BYTES, path)
    found = vocabulary(path)
    (merge,) = found["merges"]
    left, right = merge.split(" ")
    assert len(left) == 2
    assert {left, left + right}.isdisjoint(found["tokens"])


def test_ids_beyond_the_tokenizers_are_padding_that_no_text_can_name(path, bpe):
    size = bpe.vocab_size
    export_gguf(a_model(vocab_size=size + 3), bpe, path)
    found = vocabulary(path)
    tokens, types = found["tokens"], found["token_type"]
    assert len(tokens) == size + 3
    assert types[size:] == [gguf.TokenType.UNUSED] * 3
    assert gguf.TokenType.UNUSED not in types[:size]
    assert len(set(tokens)) == len(tokens)


def someone_elses(folder: Path, pre_tokenizer, *, normalizer=None, ignore_merges=False) -> Tokenizer:
    library = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=ignore_merges))
    library.pre_tokenizer = pre_tokenizer
    if normalizer:
        library.normalizer = normalizer
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=280, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"], show_progress=False,
    )  # fmt: skip
    library.train_from_iterator([TEXT], trainer)
    library.add_tokens(["<tool>"])
    library.save(str(folder / "tokenizer.json"))
    return Tokenizer.load(folder)


LLAMA = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")


PLAIN = pre_tokenizers.ByteLevel(add_prefix_space=False)
DIGITS = pre_tokenizers.Digits(individual_digits=True)


def split_by(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ({"pre_tokenizer": split_by(QWEN), "normalizer": tokenizers.normalizers.NFC()}, "qwen2"),
        ({"pre_tokenizer": split_by(LLAMA)}, "dbrx"),
        ({"pre_tokenizer": split_by(LLAMA), "ignore_merges": True}, "llama-bpe"),
        ({"pre_tokenizer": pre_tokenizers.Sequence([DIGITS, PLAIN])}, "smollm"),
    ],
)
def test_other_splits_go_by_llama_cpps_names(path, tmp_path, made, named):
    tokenizer = someone_elses(tmp_path, **made)
    export_gguf(a_model(vocab_size=tokenizer.vocab_size), tokenizer, path)
    found = vocabulary(path)
    assert found["pre"] == named
    assert found["token_type"][found["tokens"].index("<tool>")] == gguf.TokenType.USER_DEFINED
    assert found["token_type"][found["tokens"].index("<|endoftext|>")] == gguf.TokenType.CONTROL


@pytest.mark.parametrize(
    "made",
    [
        {"pre_tokenizer": split_by(r"\w+|\s+")},
        {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)},
        {"pre_tokenizer": split_by(QWEN), "ignore_merges": True},
        {"pre_tokenizer": split_by(QWEN), "normalizer": tokenizers.normalizers.NFD()},
    ],
)
def test_a_split_that_llama_cpp_does_not_know_is_refused(path, tmp_path, made):
    tokenizer = someone_elses(tmp_path, **made)
    with pytest.raises(ConfigError, match="has a pre_tokenizer or normalizer that"):
        export_gguf(a_model(vocab_size=tokenizer.vocab_size), tokenizer, path)
    assert not path.exists()


# An independent reader


@pytest.mark.parametrize(
    "made",
    [
        # Of a GGUF transformers takes a GPT-2 to have 1,024 positions, and a Qwen3 to have heads of 128.
        lambda: a_model(context_length=1024, qkv_bias=False),
        lambda: a_model(context_length=1024, qkv_bias=True, tied_head=True),
        lambda: a_model(family="modern", n_kv_heads=1, head_dim=128, rope_theta=5e4),
        lambda: a_model(family="modern", n_heads=4, n_kv_heads=2, qk_norm=False),
    ],
    ids=["gpt2", "gpt2-tied", "qwen3", "llama"],
)
def test_transformers_opens_it_and_gives_the_same_logits(path, made):
    transformers = pytest.importorskip("transformers")
    transformers.logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    model = made()
    export_gguf(model, BYTES, path, kind="f32")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    ids = torch.randint(0, 257, (2, 50))
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model(ids), atol=1e-4, rtol=1e-4)


# What goes wrong


def test_without_gguf_it_says_what_to_install(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match=r"package gguf; pip install 'lucidlm\[gguf\]'"):
        export_gguf(a_model(), BYTES, path)


def with_a_weight_of(value: float) -> GPT:
    model = a_model()
    with torch.no_grad():
        model.blocks[1].feed_forward.inner.weight[3, 5] = value
    return model


@pytest.mark.parametrize(
    ("made", "tokenizer", "kind", "error", "reason"),
    [
        (a_model, lambda: BYTES, "q4_0", ConfigError, "kind is 'q4_0'; GGUF files are written as f32, f16"),
        (lambda: a_model(emb_dim=48), lambda: BYTES, "q8_0", ConfigError, "emb_dim is 48; q8_0 stores"),
        (lambda: a_model(hidden_dim=100), lambda: BYTES, "q8_0", ConfigError, "hidden_dim is 100"),
        (
            lambda: a_model(family="modern", n_heads=1, head_dim=40),
            lambda: BYTES,
            "q8_0",
            ConfigError,
            "n_heads x head_dim is 40",
        ),
        (
            lambda: a_model(emb_dim=2, n_heads=1, n_layers=513),
            lambda: BYTES,
            "f32",
            ConfigError,
            "n_layers is 513; .* up to 512",
        ),
        (
            lambda: a_model(vocab_size=256),
            lambda: BYTES,
            "f32",
            WeightsError,
            "257 tokens, the model 256",
        ),
        (lambda: with_a_weight_of(torch.nan), lambda: BYTES, "f32", WeightsError, "blk.1.ffn_up.*NaN"),
        (lambda: with_a_weight_of(1e5), lambda: BYTES, "f16", WeightsError, "blk.1.ffn_up.*1e\\+05.*f32"),
        (lambda: with_a_weight_of(1e8), lambda: BYTES, "q8_0", WeightsError, "blk.1.ffn_up.*choose f32"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(path, made, tokenizer, kind, error, reason):
    with pytest.raises(error, match=reason) as refusal:
        export_gguf(made(), tokenizer(), path, kind=kind)
    assert "\n" not in str(refusal.value)
    assert not list(path.parent.iterdir())


def test_a_tokenizer_without_end_of_text_is_refused(path, tmp_path, bpe):
    bpe.save(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    document["added_tokens"][0]["special"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="no end-of-text token"):
        export_gguf(a_model(vocab_size=bpe.vocab_size), Tokenizer.load(tmp_path), path)


def test_a_folder_in_the_files_place_is_refused(path):
    path.mkdir()
    with pytest.raises(ConfigError, match="a folder is there"):
        export_gguf(a_model(), BYTES, path)


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0"])
def test_a_number_that_was_written_wrongly_is_found_and_the_old_file_stays(path, monkeypatch, kind):
    export_gguf(a_model(), BYTES, path, kind=kind)
    before = path.read_bytes()
    write = gguf.GGUFWriter.write_tensor_data

    def write_one_bit_wrongly(self, tensor, **options):
        tensor = np.ascontiguousarray(tensor)
        if tensor.size > 10_000:
            # The highest but the sign of the last number; of q8_0 it is 64 steps.
            tensor = tensor.copy()
            tensor.view(np.uint8).reshape(-1)[-1] ^= 0x40
        write(self, tensor, **options)

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", write_one_bit_wrongly)
    with pytest.raises(WeightsError, match=f"written as {kind} its numbers of up to .* read back as others"):
        export_gguf(a_model(), BYTES, path, kind=kind)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_the_smallest_and_largest_numbers_of_a_type_pass_the_comparison(path):
    for kind, values in (
        ("f16", (65504.0, 6e-8, 1e-9, -0.0)),
        ("bf16", (3e38, 1e-39, 1e-45)),
        ("q8_0", (127 * 65504.0, 1e-30, 1e-45)),
    ):
        model = a_model(n_layers=1)
        with torch.no_grad():
            model.head.weight.zero_()
            for row, value in enumerate(values):
                model.head.weight[row, 32 * (row % 2)] = value
        export_gguf(model, BYTES, path, kind=kind)


def test_the_file_can_be_read_by_others_and_its_folder_is_made(tmp_path):
    path = tmp_path / "new" / "model.gguf"
    export_gguf(a_model(), BYTES, path)
    assert path.stat().st_mode & 0o044 == 0o044


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is full here")
def test_a_full_disk_is_called_full(tmp_path):
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError) as caught:
        np.ones(5, np.float32).view(_Written).tofile(full)
    assert caught.value.errno == errno.ENOSPC
    with open(tmp_path / "numbers", "wb") as file:
        np.arange(6, dtype=np.float32).reshape(2, 3).T.view(_Written).tofile(file)
    assert np.fromfile(tmp_path / "numbers", np.float32).tolist() == [0, 3, 1, 4, 2, 5]
