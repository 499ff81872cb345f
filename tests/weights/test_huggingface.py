"""Model folders against transformers, the independent reader and writer."""

import json
import logging

import pytest
import torch
from models import BYTES, a_model
from safetensors.torch import load_file, save_file

from lucidlm.errors import WeightsError
from lucidlm.weights.hf_config import config_of, read_config
from lucidlm.weights.huggingface import load_model, save_model

SHAPES = [
    {"family": "gpt2", "qkv_bias": False},
    {"family": "gpt2", "qkv_bias": True, "tied_head": True, "hidden_dim": 100},
    {"family": "modern"},
    {"family": "modern", "n_kv_heads": 1, "qk_norm": False},
    {"family": "modern", "n_kv_heads": 1, "tied_head": True, "head_dim": 32, "rope_theta": 5e4},
]
TEXT = "A tide-table, <|endoftext|> a clock: déjà vu."


@pytest.fixture(params=SHAPES, ids=lambda fields: "-".join(map(str, fields.values())))
def model(request):
    return a_model(**request.param, document_prefix_id=256)


@pytest.fixture
def folder(model, tmp_path):
    save_model(model, BYTES, tmp_path)
    return tmp_path


@pytest.fixture
def transformers():
    transformers = pytest.importorskip("transformers")
    transformers.logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    return transformers


def test_transformers_opens_it_whole_and_gives_the_same_logits(model, folder, transformers):
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    ids = torch.randint(0, 257, (2, 50))
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model(ids), atol=1e-5, rtol=1e-5)


def test_transformers_tokenizer_reads_control_text_as_text(folder, transformers):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer(TEXT)["input_ids"] == BYTES.encode(TEXT)
    assert tokenizer.decode(tokenizer(TEXT)["input_ids"]) == TEXT


def test_transformers_goes_on_as_argmax_does(model, folder, transformers):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([[72, 105, 33]])
    written = theirs.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, temperature=None,
                              max_new_tokens=40, eos_token_id=None, pad_token_id=256)  # fmt: skip
    with torch.no_grad():
        for _ in range(40):
            ids = torch.cat((ids, model(ids)[:, -1:].argmax(-1)), dim=1)
    assert written.tolist() == ids.tolist()


def test_reading_back_is_bitwise_the_same(model, folder):
    again = load_model(folder)
    assert again.config == model.config
    assert again.document_prefix_id == 256
    assert not again.training
    for (name, mine), theirs in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name


def test_a_tied_weight_is_stored_once_and_stays_one(tmp_path):
    save_model(a_model(tied_head=True), BYTES, tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    again = load_model(tmp_path)
    assert again.head.weight is again.token_embedding.weight


@pytest.mark.parametrize("family", ["gpt2", "modern"])
def test_a_tied_matrix_may_be_stored_as_the_heads(tmp_path, family):
    """As safetensors.torch.save_model stores it; transformers opens such files too."""
    model = a_model(family=family, tied_head=True)
    save_model(model, BYTES, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    embedding = next(name for name in tensors if name.endswith(("wte.weight", "embed_tokens.weight")))
    tensors["lm_head.weight"] = tensors.pop(embedding)
    save_file(tensors, tmp_path / "model.safetensors")
    again = load_model(tmp_path)
    assert again.head.weight is again.token_embedding.weight
    assert torch.equal(again.head.weight, model.head.weight)


@pytest.mark.parametrize("tied", [True, False])
def test_what_transformers_writes_is_read_with_equal_logits(transformers, tmp_path, tied):
    shape = {"vocab_size": 257, "tie_word_embeddings": tied, "bos_token_id": 256, "eos_token_id": 256}
    gpt2 = transformers.GPT2Config(n_positions=32, n_embd=48, n_layer=2, n_head=3, **shape)
    qwen = transformers.Qwen3Config(
        hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=32,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0}, **shape,
    )  # fmt: skip
    llama = transformers.LlamaConfig(
        hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, max_position_embeddings=32, **shape,
    )  # fmt: skip
    for number, config in enumerate((gpt2, qwen, llama)):
        theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
        theirs.save_pretrained(tmp_path / str(number))
        ours = load_model(tmp_path / str(number))
        ids = torch.randint(0, 257, (2, 32))
        with torch.no_grad():
            torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-5, rtol=1e-5)


def test_names_without_the_prefix_and_mask_buffers_of_older_files_are_understood(tmp_path):
    model = a_model(qkv_bias=True)
    save_model(model, BYTES, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    older = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    older |= {"h.0.attn.bias": torch.ones(1, 1, 64, 64), "h.1.attn.masked_bias": torch.tensor(-1e4)}
    save_file(older, tmp_path / "model.safetensors")
    ids = torch.randint(0, 257, (1, 20))
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path)(ids), model(ids))


def damage_weights(change):
    def damage(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return damage


def damage_config(**fields):
    def damage(folder):
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(values | fields))

    return damage


def cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def only_pickle(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut_weights, "safetensors"),
        (only_pickle, "pickled"),
        (damage_weights(lambda tensors: tensors.pop("transformer.wte.weight")), "missing"),
        (damage_weights(lambda tensors: tensors.update(more=torch.ones(1))), "to no part"),
        (damage_weights(lambda tensors: tensors.update({"lm_head.weight": torch.ones(3, 3)})), "makes it"),
        (damage_weights(lambda tensors: tensors["transformer.ln_f.bias"].fill_(torch.nan)), "NaN"),
        (damage_config(auto_map={"AutoModel": "evil.Model"}), "auto_map"),
        (damage_config(model_type="bert"), "bert"),
        (damage_config(n_embd="wide"), "n_embd"),
        (damage_config(n_head=7), "n_heads 7"),
        (damage_config(activation_function="relu"), "relu"),
        (damage_config(document_prefix_id=9999), "9999"),
        (lambda folder: (folder / "config.json").write_text("{"), "JSON"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "object"),
        (lambda folder: (folder / "config.json").write_text(" " * 2**21), "bytes"),
        (lambda folder: (folder / "config.json").unlink(), "not there"),
    ],
)
def test_what_is_damaged_or_foreign_is_refused_with_path_and_reason(tmp_path, damage, reason):
    save_model(a_model(qkv_bias=True), BYTES, tmp_path)
    damage(tmp_path)
    with pytest.raises(WeightsError, match=reason) as refusal:
        load_model(tmp_path)
    assert str(tmp_path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_another_state_can_be_saved_under_the_models_shape(tmp_path):
    model = a_model()
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        model.final_norm.weight.fill_(9.0)
    save_model(model, BYTES, tmp_path, state=kept)
    assert torch.equal(load_model(tmp_path).final_norm.weight, kept["final_norm.weight"])


def test_files_can_be_read_by_others(tmp_path):
    save_model(a_model(), BYTES, tmp_path)
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o044 == 0o044, path


def test_the_shape_of_a_preset_survives_its_config_file(tmp_path):
    from lucidlm.model.presets import PRESETS

    for shape in (each.shape for each in PRESETS.values()):
        values = config_of(shape, begin_of_text=None, end_of_text=None)
        (tmp_path / "config.json").write_text(json.dumps(values))
        assert read_config(tmp_path) == shape
