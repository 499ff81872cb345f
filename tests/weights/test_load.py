"""The one resolver: presets, folders, and what is neither."""

import pytest
import torch

from lucidlm.errors import WeightsError
from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.weights.huggingface import save_model
from lucidlm.weights.load import load


def test_a_preset_is_random_from_its_seed_and_says_so():
    lines = []
    before = torch.get_rng_state()
    model, tokenizer = load("modern-1m", seed=5, notice=lines.append)
    again, _ = load("modern-1m", seed=5)
    other, _ = load("modern-1m", seed=6)
    assert lines == ["modern-1m: random weights, seed 5"]
    assert torch.equal(model.head.weight, again.head.weight)
    assert not torch.equal(model.head.weight, other.head.weight)
    assert torch.equal(before, torch.get_rng_state())
    assert tokenizer.name == "bytes"
    assert not model.training


def test_a_folder_of_a_presets_name_is_meant_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = GPT(GPTConfig(vocab_size=257, context_length=8, emb_dim=16, n_layers=1, n_heads=1))
    save_model(model, Tokenizer.bytes(), tmp_path / "lecture", document_prefix_id=256)
    loaded, _ = load("./lecture")
    assert loaded.n_parameters == model.n_parameters


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("lectur", "did you mean lecture"),
        ("gpt2", "gpt2-124m for the same shape"),
        ("no/such/folder", "no folder and no preset"),
    ],
)
def test_what_is_neither_folder_nor_preset_is_told_what_is(name, told):
    with pytest.raises(WeightsError, match=told):
        load(name)


def test_a_folder_without_a_model_is_told_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(WeightsError, match=r"notes\.txt"):
        load(tmp_path)


def test_a_tokenizer_larger_than_its_model_is_refused_with_both_sizes(tmp_path):
    model = GPT(GPTConfig(vocab_size=100, context_length=8, emb_dim=16, n_layers=1, n_heads=1))
    save_model(model, Tokenizer.bytes(), tmp_path, document_prefix_id=None)
    with pytest.raises(WeightsError, match="257 tokens, its model 100"):
        load(tmp_path)
