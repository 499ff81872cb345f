"""From one program to the next and back: OpenAI's release, ours, transformers'; every preset's shape too."""

import json

import pytest
import torch
from models import BYTES
from releases import FIXTURE

from lucidlm.errors import WeightsError
from lucidlm.model.gpt import GPT
from lucidlm.model.presets import PRESETS, preset
from lucidlm.weights.export import export
from lucidlm.weights.hf_config import config_of
from lucidlm.weights.huggingface import save_model
from lucidlm.weights.load import load
from lucidlm.weights.names import to_huggingface


def bits_of(model: GPT) -> dict[str, bytes]:
    return {name: weight.numpy().tobytes() for name, weight in model.state_dict().items()}


def test_openais_release_goes_to_transformers_and_back_bitwise(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = load(FIXTURE)
    export(model, tokenizer, tmp_path / "ours")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    ids = torch.tensor([tokenizer.encode("every effort moves you, and so on")])
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model(ids), atol=1e-4, rtol=0)
    assert AutoTokenizer.from_pretrained(tmp_path / "ours")("every effort").input_ids == tokenizer.encode(
        "every effort"
    )

    theirs.save_pretrained(tmp_path / "theirs")
    tokenizer.save(tmp_path / "theirs")
    again, _ = load(tmp_path / "theirs")
    assert bits_of(again) == bits_of(model)
    export(again, tokenizer, tmp_path / "back")
    assert bits_of(load(tmp_path / "back")[0]) == bits_of(model)


def test_ours_through_transformers_comes_back_bitwise(tiny_gpt, tmp_path):
    from transformers import AutoModelForCausalLM

    tiny_gpt.config = tiny_gpt.config.changed(document_prefix_id=256)
    save_model(tiny_gpt, BYTES, tmp_path / "ours")
    AutoModelForCausalLM.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    BYTES.save(tmp_path / "theirs")
    # transformers keeps fields of config.json that it does not know.
    assert json.loads((tmp_path / "theirs" / "config.json").read_text())["document_prefix_id"] == 256
    again, _ = load(tmp_path / "theirs")
    assert bits_of(again) == bits_of(tiny_gpt)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_presets_shape_is_transformers_tensor_for_tensor(name, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = preset(name).shape
    with torch.device("meta"):
        ours = GPT(config)
        written = to_huggingface(ours.state_dict(), config)
    values = config_of(config, begin_of_text=None, end_of_text=config.vocab_size - 1)
    (tmp_path / "config.json").write_text(json.dumps(values))
    with torch.device("meta"):
        theirs = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    expected = {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    if config.tied_head:
        expected.pop("lm_head.weight")
    expected = {
        name: shape for name, shape in expected.items() if not name.endswith((".attn.bias", "masked_bias"))
    }
    assert {name: tuple(tensor.shape) for name, tensor in written.items()} == expected
    extra = 0 if config.qkv_bias or config.family == "modern" else 3 * config.emb_dim * config.n_layers
    assert sum(parameter.numel() for parameter in theirs.parameters()) == config.n_parameters + extra


def test_a_folder_of_an_unknown_kind_is_told_what_it_holds_and_what_is_known(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin.*config\.json.*hparams\.json"):
        load(tmp_path)
