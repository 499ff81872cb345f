"""Configs of transformers drawn at random: refused by a field, or loaded with transformers' own logits."""

import random
from pathlib import Path

import pytest
import torch

from lucidlm.errors import WeightsError
from lucidlm.weights.huggingface import load_model

pytestmark = pytest.mark.slow

ROPES = [
    None,
    None,
    {"rope_type": "default", "rope_theta": 5e5},
    {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
    {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8, "rope_theta": 1e4},
]


def rarely(draw: random.Random, usual, *others):
    return usual if draw.random() < 0.85 else draw.choice(others)


def drawn_config(draw: random.Random):
    """A config.json's fields, most of them as our models have them."""
    import transformers

    heads = draw.choice([1, 2, 4])
    shared = {
        "vocab_size": draw.choice([50, 257]),
        "tie_word_embeddings": draw.random() < 0.5,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if draw.random() < 0.3:
        return transformers.GPT2Config(
            n_positions=draw.choice([8, 32]),
            n_embd=heads * draw.choice([4, 8]),
            n_layer=draw.choice([1, 2, 3]),
            n_head=heads,
            n_inner=draw.choice([None, 20]),
            activation_function=rarely(draw, "gelu_new", "gelu_pytorch_tanh", "relu", "gelu"),
            layer_norm_epsilon=draw.choice([1e-5, 1e-2]),
            scale_attn_weights=rarely(draw, True, False),
            scale_attn_by_inverse_layer_idx=rarely(draw, False, True),
            reorder_and_upcast_attn=draw.random() < 0.3,
            **shared,
        )
    shared |= {
        "max_position_embeddings": draw.choice([8, 32]),
        "hidden_size": heads * draw.choice([4, 8]),
        "intermediate_size": draw.choice([12, 40]),
        "num_hidden_layers": draw.choice([1, 2, 3]),
        "num_attention_heads": heads,
        "num_key_value_heads": draw.choice([count for count in (1, 2, 4) if heads % count == 0]),
        "rms_norm_eps": draw.choice([1e-6, 1e-2]),
        "hidden_act": rarely(draw, "silu", "gelu"),
        "attention_bias": rarely(draw, False, True),
        "rope_parameters": draw.choice(ROPES),
    }
    if draw.random() < 0.5:
        window = rarely(draw, False, True)
        shared |= {"use_sliding_window": window, "sliding_window": 4 if window else None}
        return transformers.Qwen3Config(
            head_dim=draw.choice([4, 8, 16]), max_window_layers=draw.choice([0, 1, 5]), **shared
        )
    if draw.random() < 0.5:
        shared["head_dim"] = draw.choice([4, 8, 16])
    return transformers.LlamaConfig(mlp_bias=rarely(draw, False, True), **shared)


@torch.no_grad()
def load_drawn(count: int, seed: int, place: Path) -> None:
    import transformers

    draw, loaded = random.Random(seed), 0
    for number in range(count):
        torch.manual_seed(number)
        model = transformers.AutoModelForCausalLM.from_config(drawn_config(draw)).eval()
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        model.to(draw.choice([torch.float32, torch.bfloat16, torch.float16]))
        folder = place / str(number)
        model.save_pretrained(folder, max_shard_size=draw.choice(["5GB", "5KB"]))
        refusal = None
        try:
            ours = load_model(folder)
        except WeightsError as error:
            refusal = str(error)
        if refusal is not None:
            assert refusal.startswith(f"{folder / 'config.json'}: ")
            assert "our models" in refusal
            continue
        loaded += 1
        ids = torch.randint(0, ours.config.vocab_size, (2, ours.config.context_length))
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        wanted = theirs(ids).logits
        apart = (ours(ids) - wanted).abs().max() / wanted.abs().max()
        assert apart < 2e-5, f"seed {seed}, number {number}: {apart:.1e} apart"
    assert count / 4 < loaded < count


def test_fifty_configs_are_refused_or_give_transformers_logits(tmp_path):
    load_drawn(50, seed=1, place=tmp_path)


@pytest.mark.torture
def test_two_thousand_configs_are_refused_or_give_transformers_logits(tmp_path):
    load_drawn(2000, seed=2, place=tmp_path)
