"""Models of others as they are: folders of other years and programs, against the model they were made of."""

import json
import os
import shlex
import time

import pytest
import torch
from damage import refusal
from models import BYTES, shape
from recorded import Recorded
from safetensors.torch import load_file, save_file

from lucidlm.errors import WeightsError
from lucidlm.measure.evaluation import evaluate
from lucidlm.model.gpt import GPT
from lucidlm.weights import published
from lucidlm.weights.hf_config import read_config
from lucidlm.weights.huggingface import save_model
from lucidlm.weights.load import load

SHAPES = {
    "gpt2": {"qkv_bias": True, "tied_head": True},
    "llama": {"family": "modern", "qk_norm": False, "n_kv_heads": 1},
}
WEIGHTS = "model.safetensors"


def a_folder(kind, folder):
    """A model of that kind and its folder."""
    model = GPT(shape(n_layers=2, document_prefix_id=256, **SHAPES[kind])).eval()
    save_model(model, BYTES, folder)
    return model


@pytest.fixture(params=SHAPES)
def made(request, tmp_path):
    return a_folder(request.param, tmp_path), tmp_path


@pytest.fixture
def gpt2(tmp_path):
    return a_folder("gpt2", tmp_path), tmp_path


def change_weights(folder, change):
    tensors = load_file(folder / WEIGHTS)
    save_file(change(dict(tensors)) or tensors, folder / WEIGHTS)


def change_config(folder, remove=(), **fields):
    values = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if k not in remove}))


def assert_same(model, folder):
    lines = []
    again, _ = load(folder, progress=Recorded(lines))
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    return lines


# Tensors


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int8, torch.int64, torch.float64, torch.float8_e4m3fn]
)
def test_masks_and_angles_are_left_out_in_any_dtype(made, dtype):
    model, folder = made
    buffer = torch.ones(4).to(dtype)
    names = ["transformer.h.0.attn.bias", "transformer.h.1.attn.masked_bias"]
    if model.config.family == "modern":
        names = [
            "model.rotary_emb.inv_freq",
            "model.layers.0.self_attn.rotary_emb.inv_freq",
            "model.layers.1.self_attn.rotary_emb.cos_cached",
            "rotary_emb.original_inv_freq",
        ]
    change_weights(folder, lambda tensors: tensors | {name: buffer.clone() for name in names})
    assert_same(model, folder)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.bool])
def test_a_weight_of_another_dtype_is_named_with_it(gpt2, dtype):
    _, folder = gpt2
    name = "transformer.h.1.mlp.c_fc.weight"
    change_weights(folder, lambda tensors: tensors | {name: tensors[name].to(dtype)})
    stored = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "int8": "I8", "bool": "BOOL"}
    message = refusal(folder)
    assert f"{name!r} is stored as {stored[str(dtype).removeprefix('torch.')]}" in message


def test_weights_that_were_packed_under_another_name_are_told_from_missing_ones(gpt2):
    _, folder = gpt2
    name = "transformer.h.0.mlp.c_fc.weight"

    def packed(tensors):
        del tensors[name]
        return tensors | {name.replace("weight", "qweight"): torch.ones(4, dtype=torch.int32)}

    change_weights(folder, packed)
    assert "'transformer.h.0.mlp.c_fc.qweight' is there as I32" in refusal(folder)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "model.", "base.module."])
def test_names_may_stand_behind_those_of_a_module_around_the_model(made, wrapper):
    model, folder = made
    change_weights(folder, lambda tensors: {wrapper + name: tensor for name, tensor in tensors.items()})
    assert_same(model, folder)


def test_heads_for_other_tasks_are_left_out_and_said(gpt2):
    model, folder = gpt2
    heads = {"score.weight": torch.ones(2, 16), "v_head.summary.bias": torch.ones(1)}
    change_weights(folder, lambda tensors: tensors | heads)
    assert assert_same(model, folder) == [
        f"{folder}: left out 2 tensors of a head for another task (score.weight, v_head.summary.bias)"
    ]


def test_a_classifier_without_a_language_models_head_is_refused_as_one(tmp_path):
    """As LlamaForSequenceClassification is stored."""
    a_folder("llama", tmp_path)
    change_weights(tmp_path, lambda tensors: tensors | {"score.weight": tensors.pop("lm_head.weight")[:2]})
    assert "score.weight is there: this is a model for another task" in refusal(tmp_path)


def test_tensors_that_belong_nowhere_are_counted_and_named(gpt2):
    _, folder = gpt2
    change_weights(folder, lambda tensors: tensors | {f"more.{n}": torch.ones(1) for n in range(5)})
    assert "5 tensors ('more.0', 'more.1', 'more.2', ...) belong to no part of a gpt2 model" in refusal(
        folder
    )


def test_two_copies_of_a_tied_matrix_may_differ_in_dtype_alone_and_the_advice_for_others_works(gpt2):
    model, folder = gpt2
    wte = "transformer.wte.weight"
    change_weights(folder, lambda tensors: tensors | {"lm_head.weight": tensors[wte].double()})
    assert_same(model, folder)
    change_weights(folder, lambda tensors: tensors | {"lm_head.weight": tensors[wte] + 1})
    assert "set tie_word_embeddings to false" in refusal(folder)
    change_config(folder, tie_word_embeddings=False)
    again, _ = load(folder)
    assert torch.equal(again.head.weight, model.head.weight + 1)


# Pickled weights


def test_the_advice_for_pickled_weights_converts_them(gpt2, monkeypatch):
    model, folder = gpt2
    tensors = load_file(folder / WEIGHTS)
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"]  # one storage, as transformers writes it
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    program = shlex.split(refusal(folder).partition("python -c ")[2])[0]
    monkeypatch.chdir(folder)
    exec(program, {})
    assert_same(model, folder)


def test_other_pickles_are_named_and_not_read(gpt2):
    _, folder = gpt2
    (folder / WEIGHTS).rename(folder / "ckpt.pt")
    assert "ckpt.pt is never read" in refusal(folder)


def test_of_the_hub_all_files_of_a_tokenizer_are_fetched_and_missing_safetensors_are_said(
    tmp_path, monkeypatch
):
    import huggingface_hub

    asked = {}

    def snapshot(repository, revision, allow_patterns):
        asked["patterns"] = allow_patterns
        return tmp_path

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(WeightsError, match=r"owner/name: .*safetensors"):
        published.hub_folder("owner/name", progress=Recorded())
    assert {"vocab.json", "merges.txt", "tokenizer.json", "added_tokens.json"} <= {*asked["patterns"]}


# config.json


def test_a_config_of_2019_is_read_as_transformers_writes_it_today(gpt2):
    model, folder = gpt2
    older = {"n_ctx": 16, "vocab_size_or_config_json_file": 257, "task_specific_params": {"a": 1}}
    change_config(folder, remove=("model_type", "architectures", "vocab_size", "n_positions"), **older)
    assert read_config(folder) == model.config
    change_config(folder, rotary_dim=4)
    assert "model_type None is not known" in refusal(folder)


@pytest.mark.parametrize("name", ["gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh"])
def test_names_of_one_activation_are_one(gpt2, name):
    from transformers.activations import ACT2FN

    x = torch.linspace(-6, 6, 1001)
    torch.testing.assert_close(ACT2FN[name](x), torch.nn.functional.gelu(x, approximate="tanh"))
    change_config(gpt2[1], activation_function=name)
    assert_same(*gpt2)


def test_a_context_that_no_memory_holds_costs_none(tmp_path, limited):
    a_folder("llama", tmp_path)
    change_config(tmp_path, max_position_embeddings=2**31 - 1)
    model, tokenizer = load(tmp_path)
    found = evaluate(model, tokenizer, text="A short text, which is all that is scored.")
    assert found.tokens_scored == 42
    a_folder("gpt2", tmp_path)
    change_config(tmp_path, n_positions=2**31 - 1)
    assert "they do not belong together" in refusal(tmp_path)


# Files that are none


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs and devices")
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS])
@pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "folder"])
def test_what_is_no_plain_file_is_refused_at_once(gpt2, name, kind, limited):
    _, folder = gpt2
    (folder / name).unlink()
    if kind == "fifo":
        os.mkfifo(folder / name)
    elif kind == "folder":
        (folder / name).mkdir()
    else:
        (folder / name).symlink_to(kind)
    start = time.monotonic()
    assert "not a plain file" in refusal(folder)
    assert time.monotonic() - start < 5


def header_of(tensors, data=b""):
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_headers_that_claim_too_much_are_refused(gpt2, limited):
    _, folder = gpt2
    one = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    big = {"dtype": "F32", "shape": [2**40, 2**30], "data_offsets": [0, 8]}
    for data in (
        (2**63).to_bytes(8, "little") + b"{}",
        (2**27).to_bytes(8, "little") + b" " * 100,
        header_of({"a": one, "b": one}, bytes(8)),
        header_of({"a": big}, bytes(8)),
        header_of({"a": {**one, "data_offsets": [8, 0]}}, bytes(8)),
        header_of({"a": {**one, "data_offsets": [0, 2**62]}}, bytes(8)),
    ):
        (folder / WEIGHTS).write_bytes(data)
        start = time.monotonic()
        assert "safetensors" in refusal(folder)
        assert time.monotonic() - start < 5


# The tokenizer beside the model


def test_a_control_token_without_a_row_is_left_out_and_said(tmp_path):
    model = a_folder("gpt2", tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    end = document["added_tokens"][0]
    pad = {**end, "id": 257, "content": "[PAD]"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document | {"added_tokens": [end, pad]}))
    lines = assert_same(model, tmp_path)
    assert lines == [
        f"{tmp_path}: left out 1 control token of the tokenizer without a row in the model ([PAD])"
    ]
    note = {**pad, "content": "<note>", "special": False}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document | {"added_tokens": [end, note]}))
    assert "'<note>'" in refusal(tmp_path)


def test_a_model_may_have_more_rows_than_its_tokenizer_has_tokens(tmp_path):
    model = GPT(shape(n_layers=2, vocab_size=320, **SHAPES["gpt2"])).eval()
    save_model(model, BYTES, tmp_path)
    assert assert_same(model, tmp_path) == []
