"""Hugging Face folders with something wrong: refused with path and reason, or exactly what they say."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import mutated, mutated_json, refusal
from models import BYTES, shape
from safetensors.torch import load_file, save_file

from lucidlm.errors import WeightsError
from lucidlm.model.gpt import GPT
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.weights.huggingface import save_model
from lucidlm.weights.load import load
from lucidlm.weights.names import to_huggingface

INDEX = "model.safetensors.index.json"
TEXT = "A tide-table, <|endoftext|> a clock: déjà vu.\n"


def split(folder: Path, count: int = 3) -> None:
    """The folder's weights in several files with an index, as transformers writes large models."""
    tensors = load_file(folder / "model.safetensors")
    shards = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    places = {name: shards[number % count] for number, name in enumerate(tensors)}
    for shard in shards:
        save_file({name: tensors[name] for name, where in places.items() if where == shard}, folder / shard)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


@pytest.fixture(params=["gpt2", "llama"])
def folder(request, tmp_path):
    """GPT-2 in one file, Llama in three."""
    torch.manual_seed(3)
    fields = {} if request.param == "gpt2" else {"family": "modern", "qk_norm": False, "n_kv_heads": 1}
    save_model(GPT(shape(n_layers=2, **fields)), BYTES, tmp_path)
    if request.param == "llama":
        split(tmp_path)
    return tmp_path


@pytest.fixture
def sharded(tmp_path):
    torch.manual_seed(3)
    fields = {"family": "modern", "tied_head": True}
    save_model(GPT(shape(n_layers=2, **fields)), BYTES, tmp_path)
    split(tmp_path)
    return tmp_path


# Several files


def test_several_files_are_read_as_transformers_reads_them(tmp_path):
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=257, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, bos_token_id=256, eos_token_id=256,
    )  # fmt: skip
    theirs = AutoModelForCausalLM.from_config(config).eval()
    theirs.save_pretrained(tmp_path, max_shard_size="40KB")
    BYTES.save(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 3
    model, _ = load(tmp_path)
    ids = torch.randint(0, 257, (2, 32))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, atol=1e-5, rtol=1e-5)


def test_one_file_or_several_give_the_same_weights(sharded):
    several, _ = load(sharded)
    shards = sorted(sharded.glob("model-*.safetensors"))
    save_file(
        {name: tensor for shard in shards for name, tensor in load_file(shard).items()},
        sharded / "model.safetensors",
    )
    for shard in [*shards, sharded / INDEX]:
        shard.unlink()
    one, _ = load(sharded)
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, several.state_dict()[name]), name


def rewrite_index(folder: Path, change) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/x.safetensors", "a/x.safetensors", "a\\x.safetensors", "x.bin", "", ".."]
)
def test_an_index_that_leads_out_of_its_folder_is_refused(sharded, name):
    for place in (sharded, sharded.parent):
        save_file({"more": torch.ones(1)}, place / "x.safetensors")
    rewrite_index(sharded, lambda places: places.update(more=name))
    assert "no safetensors file beside it" in refusal(sharded)


def test_a_missing_file_of_several_is_named(sharded):
    (sharded / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors: not there" in refusal(sharded)


def test_a_tensor_that_the_index_does_not_name_is_named(sharded):
    rewrite_index(sharded, lambda places: places.pop("model.norm.weight"))
    assert "it holds 'model.norm.weight'" in refusal(sharded)


def test_a_tensor_that_its_file_lacks_is_named(sharded):
    rewrite_index(sharded, lambda places: places.update(more="model-00001-of-00003.safetensors"))
    assert "it lacks 'more'" in refusal(sharded)


def test_a_tensor_in_two_files_is_refused(sharded):
    path = sharded / "model-00001-of-00003.safetensors"
    save_file(load_file(path) | load_file(sharded / "model-00002-of-00003.safetensors"), path)
    assert "model-00001-of-00003.safetensors: it holds" in refusal(sharded)


@pytest.mark.parametrize("index", ["{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "[]", "{"])
def test_an_index_that_is_none_is_refused(sharded, index):
    (sharded / INDEX).write_text(index)
    assert INDEX in refusal(sharded)


# What a file says twice


def change_weights(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.fixture
def tied(tmp_path):
    model = GPT(shape(n_layers=2, tied_head=True, qkv_bias=True))
    save_model(model, BYTES, tmp_path)
    return tmp_path


def test_a_tied_matrix_that_is_stored_twice_is_read_if_both_are_equal(tied):
    before, _ = load(tied)
    copied = lambda tensors: {"lm_head.weight": tensors["transformer.wte.weight"].clone()}  # noqa: E731
    change_weights(tied, lambda tensors: tensors.update(copied(tensors)))
    again, _ = load(tied)
    assert torch.equal(again.head.weight, before.head.weight)
    change_weights(tied, lambda tensors: tensors["lm_head.weight"][5, 5].add_(1))
    assert "tie_word_embeddings" in refusal(tied)
    change_weights(tied, lambda tensors: tensors.update({"lm_head.weight": torch.ones(3, 16)}))
    assert "tie_word_embeddings" in refusal(tied)


def test_a_tensor_with_and_without_its_prefix_is_refused(tied):
    change_weights(tied, lambda tensors: tensors.update({"wte.weight": torch.ones(257, 16)}))
    assert "transformer.wte.weight is there twice" in refusal(tied)


@pytest.mark.parametrize("family", ["gpt2", "qwen3", "llama"])
def test_a_model_that_was_saved_without_its_head_is_read(tmp_path, family):
    from transformers import AutoModel

    fields = {} if family == "gpt2" else {"family": "modern", "qk_norm": family == "qwen3"}
    model = GPT(shape(n_layers=2, **fields, tied_head=True)).eval()
    save_model(model, BYTES, tmp_path / "ours")
    AutoModel.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    BYTES.save(tmp_path / "theirs")
    assert not any(
        name.startswith(("model.", "transformer."))
        for name in load_file(tmp_path / "theirs" / "model.safetensors")
    )
    again, _ = load(tmp_path / "theirs")
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


# Types


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept_where_asked_and_exact_in_float32(tmp_path, dtype):
    model = GPT(shape(n_layers=2, family="modern")).to(dtype)
    save_model(model, BYTES, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {dtype}
    kept, _ = load(tmp_path, dtype=None)
    wide, _ = load(tmp_path)
    for name, weight in model.state_dict().items():
        assert torch.equal(kept.state_dict()[name], weight), name
        assert torch.equal(wide.state_dict()[name], weight.float()), name


def test_of_two_types_the_one_that_holds_both_is_taken(tied):
    def narrow(tensors):
        for number, name in enumerate(sorted(tensors)):
            tensors[name] = tensors[name].to([torch.float16, torch.bfloat16][number % 2])

    change_weights(tied, narrow)
    model, _ = load(tied, dtype=None)
    assert {weight.dtype for weight in model.state_dict().values()} == {torch.float32}


def test_quantised_weights_are_refused(tied):
    change_weights(
        tied, lambda tensors: tensors.update({"transformer.ln_f.bias": torch.ones(16, dtype=torch.int8)})
    )
    assert "stored as I8" in refusal(tied)


# Fields that our models cannot express


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        ("gpt2", "scale_attn_weights", False),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True),
        ("gpt2", "add_cross_attention", True),
        ("gpt2", "activation_function", "gelu"),
        ("gpt2", "num_attention_heads", 1),
        ("gpt2", "num_hidden_layers", 1),
        ("gpt2", "is_causal", False),
        ("llama", "is_causal", False),
        ("qwen3", "is_causal", False),
        ("llama", "rope_scaling", {"rope_type": "default", "rope_theta": 50.0}),
        ("llama", "attention_bias", True),
        ("llama", "mlp_bias", True),
        ("llama", "hidden_act", "gelu"),
        ("llama", "rope_scaling", {"rope_type": "llama3", "factor": 8.0}),
        ("llama", "rope_scaling", {"type": "linear", "factor": 2.0}),
        ("llama", "rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4}),
        ("llama", "rope_parameters", {"rope_type": "default", "partial_rotary_factor": 0.5}),
        ("llama", "quantization_config", {"quant_method": "gptq"}),
        ("qwen3", "use_sliding_window", True),
        ("qwen3", "layer_types", ["full_attention", "sliding_attention"]),
        ("qwen3", "head_dim", None),
    ],
)
def test_what_our_models_cannot_do_is_refused_by_its_field(tmp_path, family, field, value):
    fields = {} if family == "gpt2" else {"family": "modern", "qk_norm": family == "qwen3"}
    save_model(GPT(shape(n_layers=2, **fields)), BYTES, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {field: value}))
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path / 'config.json'}: {field}")


def test_llamas_config_may_leave_out_what_follows_from_the_rest(tmp_path):
    model = GPT(shape(n_layers=2, family="modern", qk_norm=False)).eval()
    save_model(model, BYTES, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for field in ("num_key_value_heads", "head_dim", "rope_parameters", "attention_bias", "dtype", "init"):
        del config[field]
    (tmp_path / "config.json").write_text(json.dumps(config | {"layer_types": ["full_attention"] * 2}))
    again, _ = load(tmp_path)
    assert again.config == model.config


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_layer", 10**9),
        ("n_embd", 2**31 - 2),
        ("n_inner", 2**31 - 1),
        ("vocab_size", 2**31 - 1),
        ("n_head", 0),
    ],
)
def test_sizes_that_no_memory_holds_are_refused_within_the_limits(tied, limited, field, value):
    config = json.loads((tied / "config.json").read_text())
    (tied / "config.json").write_text(json.dumps(config | {field: value}))
    started = time.process_time()
    refusal(tied)
    assert time.process_time() - started < 5


def test_a_hundred_thousand_tensors_are_refused_within_the_limits(tied, limited):
    change_weights(
        tied, lambda tensors: tensors.update({f"more.{n}": torch.zeros(1) for n in range(100_000)})
    )
    started = time.process_time()
    assert "to no part" in refusal(tied)
    assert time.process_time() - started < 5


# Damage at random: 2 GB and 5 s each at most.


def mutated_header(data: bytes, rng: np.random.Generator) -> bytes:
    """A safetensors file whose header is JSON of the right length, and wrong."""
    size = int.from_bytes(data[:8], "little")
    header = mutated_json(data[8 : 8 + size], rng)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def damaged(name: str, data: bytes, rng: np.random.Generator) -> bytes:
    if rng.random() < 0.4:
        return mutated(data, rng)
    return mutated_header(data, rng) if name.endswith(".safetensors") else mutated_json(data, rng)


def load_damaged(folder: Path, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    original = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    names = [name for name in original if name != "generation_config.json"]  # which is never read
    loaded = 0
    for number in range(count):
        name = names[int(rng.integers(0, len(names)))]
        (folder / name).write_bytes(damaged(name, original[name], rng))
        case = f"seed {seed}, number {number}, {name}"
        started, message = time.perf_counter(), None
        try:
            model, tokenizer = load(folder)
        except WeightsError as error:
            message = str(error)
        except Exception as error:
            raise AssertionError(case) from error
        assert time.perf_counter() - started < 5, case
        if message is None:
            loaded += 1
            check_is_what_the_files_say(folder, model, tokenizer, case)
        else:
            assert message.startswith(str(folder)), case
            assert "\n" not in message, case
            assert len(message) < 500 + len(str(folder)), case
        (folder / name).write_bytes(original[name])
    assert 0 < loaded < 0.6 * count  # many a damage is another number or another field of no meaning


def check_is_what_the_files_say(folder: Path, model: GPT, tokenizer: Tokenizer, case: str) -> None:
    tensors = {
        name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()
    }
    for name, tensor in to_huggingface(model.state_dict(), model.config).items():
        if name in tensors:  # else under its name without the prefix
            assert torch.equal(tensor, tensors[name].float()), case
    config = json.loads((folder / "config.json").read_text())
    assert model.config.vocab_size == config["vocab_size"], case
    assert model.document_prefix_id == config.get("document_prefix_id"), case
    assert tokenizer.vocab_size <= model.config.vocab_size, case
    if tokenizer.lossless:
        assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT, case
    assert all(torch.isfinite(weight).all() for weight in model.parameters()), case


def test_two_hundred_and_fifty_damaged_folders_are_refused_or_right(folder, limited):
    load_damaged(folder, 250, seed=1)


@pytest.mark.torture
def test_ten_thousand_damaged_folders_are_refused_or_right(folder, limited):
    load_damaged(folder, 10_000, seed=2)
