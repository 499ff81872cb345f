import dataclasses

import pytest
import torch
from torch import nn

from lucidlm.errors import ConfigError
from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.model.presets import PRESETS, preset

# Radford 2019 as OpenAI published the weights, head tied; the lecture's, untied, is in lecture.md.
PUBLISHED = {
    "lecture": 162_419_712,
    "gpt2-124m": 124_439_808,
    "gpt2-355m": 354_823_168,
    "gpt2-774m": 774_030_080,
    "gpt2-1558m": 1_557_611_200,
}


def built_on_paper(config: GPTConfig) -> GPT:
    """The model without memory for its weights: shapes only."""
    with torch.device("meta"):
        return GPT(config)


def modern(**changes) -> GPTConfig:
    return GPTConfig(**{"family": "modern", "emb_dim": 64, "n_heads": 4, "vocab_size": 257} | changes)


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_published_models_have_the_published_number_of_parameters(name, count):
    assert preset(name).shape.n_parameters == count
    assert built_on_paper(preset(name).shape).n_parameters == count


@pytest.mark.parametrize("name", sorted(PRESETS.keys() - PUBLISHED.keys()))
def test_the_modern_ladder_counts_its_parameters_as_the_model_has_them(name):
    model = built_on_paper(preset(name).shape)
    assert preset(name).shape.n_parameters == model.n_parameters == sum(p.numel() for p in model.parameters())


def test_each_rung_of_the_modern_ladder_has_about_as_many_parameters_as_its_name_says():
    units = {"m": 1e6, "b": 1e9}
    for name in PRESETS:
        if (config := preset(name).shape).family == "modern":
            size = name.removeprefix("modern-")
            assert config.n_parameters == pytest.approx(float(size[:-1]) * units[size[-1]], rel=0.2), name


def test_the_modern_ladder_has_heads_of_64_channels_and_starts_below_a_million_parameters():
    ladder = [each.shape for each in PRESETS.values() if each.shape.family == "modern"]
    assert {config.head_dim for config in ladder} == {64}
    assert ladder[0].n_parameters < 1_000_000
    assert [c.n_parameters for c in ladder] == sorted(c.n_parameters for c in ladder)


@pytest.mark.parametrize(
    "config",
    [
        GPTConfig(emb_dim=48, n_heads=3, n_layers=3, vocab_size=101, context_length=10),
        GPTConfig(emb_dim=48, n_heads=3, n_layers=1, vocab_size=101, qkv_bias=True, hidden_dim=50),
        GPTConfig(emb_dim=48, n_heads=3, n_layers=2, vocab_size=101, tied_head=True, qkv_bias=True),
        modern(n_layers=3),
        modern(n_layers=2, n_kv_heads=1, tied_head=True),
        modern(n_layers=1, head_dim=32, n_kv_heads=2, hidden_dim=100),  # wider inside than C
    ],
)
def test_parameters_are_counted_right_for_any_shape(config):
    assert config.n_parameters == built_on_paper(config).n_parameters


@pytest.mark.parametrize("family", ["gpt2", "modern"])
@pytest.mark.parametrize("tied", [False, True])
def test_parameters_at_work_on_every_token_are_all_but_the_tables_that_are_looked_up(family, tied):
    config = GPTConfig(
        family=family, emb_dim=64, n_heads=4, vocab_size=257, context_length=32, n_layers=2, tied_head=tied
    )
    model = built_on_paper(config)
    matrices = sum(
        m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear)
    )  # the head among them
    vectors = sum(p.numel() for p in model.parameters() if p.dim() == 1)
    assert config.matmul_parameters == matrices + vectors


def test_operations_per_token_are_six_per_parameter_and_attentions_two_products_over_half_the_context():
    config = modern(n_layers=3, head_dim=32)
    inner = 4 * 32
    for context in (16, 256):
        # Forward: 2 products of 2 operations a channel and earlier token (context / 2); backward: twice that.
        attention = 3 * (3 * 2 * 2 * inner * context // 2)
        assert config.flops_per_token(context) == 6 * config.matmul_parameters + attention
    assert config.flops_per_token() == config.flops_per_token(config.context_length)


def test_what_is_not_given_is_derived():
    config = GPTConfig()
    assert (config.n_kv_heads, config.head_dim, config.hidden_dim, config.norm_eps) == (12, 64, 3072, 1e-5)
    config = GPTConfig(family="modern", emb_dim=320, n_heads=5)
    assert (config.n_kv_heads, config.head_dim, config.norm_eps) == (5, 64, 1e-6)
    assert config.hidden_dim == 896  # 8/3 x 320 = 853.3, up to a multiple of 64
    assert GPTConfig(family="modern", emb_dim=192, n_heads=3).hidden_dim == 512  # 8/3 x 192, already one


def test_what_is_given_is_kept():
    config = modern(head_dim=32, hidden_dim=100, n_kv_heads=2, norm_eps=1e-4)
    assert (config.head_dim, config.hidden_dim, config.n_kv_heads, config.norm_eps) == (32, 100, 2, 1e-4)


def test_a_configuration_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset("lecture").shape.n_layers = 3


def test_the_lecture_is_the_course_configuration():
    wanted = {
        "vocab_size": 50257,
        "context_length": 256,
        "emb_dim": 768,
        "n_heads": 12,
        "n_layers": 12,
        "drop_rate": 0.1,
        "qkv_bias": False,
        "tied_head": False,
        "init": "torch",
        "norm_eps": 1e-5,
    }
    fields = preset("lecture").shape.to_dict()
    assert {name: fields[name] for name in wanted} == wanted


def test_a_preset_takes_changes_and_stays_as_it_was():
    assert preset("lecture").shape.changed(drop_rate=0.0).drop_rate == 0.0
    assert preset("lecture").shape.drop_rate == 0.1


def test_changed_derives_anew_what_follows_from_width_and_heads():
    config = preset("modern-1m").shape.changed(emb_dim=256, n_heads=8)
    assert (config.head_dim, config.n_kv_heads, config.hidden_dim) == (32, 8, 704)
    assert (
        preset("gpt2-124m").shape.changed(emb_dim=1024, n_heads=16).n_parameters
        > preset("gpt2-124m").shape.n_parameters
    )


def test_changed_keeps_what_does_not_follow():
    config = modern(head_dim=32, n_kv_heads=2, hidden_dim=100).changed(n_layers=7)
    assert (config.head_dim, config.n_kv_heads, config.hidden_dim, config.n_layers) == (32, 2, 100, 7)
    assert modern().changed(emb_dim=128, n_heads=4, n_kv_heads=2).n_kv_heads == 2


@pytest.mark.parametrize("name", PRESETS)
def test_a_configuration_survives_the_way_through_plain_values(name):
    assert GPTConfig(**preset(name).shape.to_dict()) == preset(name).shape


def test_an_unknown_preset_names_those_that_there_are():
    with pytest.raises(ConfigError, match=r"gpt3.*lecture.*gpt2-124m.*modern-1m"):
        preset("gpt3")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"context_length": 0}, "context_length is 0"),
        ({"emb_dim": -8}, "emb_dim is -8"),
        ({"n_layers": 0}, "n_layers is 0"),
        ({"n_heads": 0}, "n_heads is 0"),
        ({"n_kv_heads": 0}, "n_kv_heads is 0"),
        ({"hidden_dim": 0}, "hidden_dim is 0"),
        ({"drop_rate": 1.0}, "drop_rate is 1.0"),
        ({"drop_rate": -0.1}, "drop_rate is -0.1"),
        ({"drop_rate": float("nan")}, "drop_rate is nan"),
        ({"n_heads": 5}, "emb_dim 64 is not n_heads 5"),
        ({"head_dim": 8}, "emb_dim 64 is not n_heads 4 x head_dim 8"),
        ({"n_kv_heads": 2}, "n_kv_heads 2: grouped heads need the family modern"),
        ({"family": "modern", "n_kv_heads": 3}, "n_heads 4 is not a multiple of n_kv_heads 3"),
        ({"family": "modern", "n_kv_heads": 8}, "n_heads 4 is not a multiple of n_kv_heads 8"),
        ({"family": "modern", "head_dim": 7}, "head_dim is 7"),
        ({"family": "modern", "qkv_bias": True}, "qkv_bias"),
    ],
)
def test_a_shape_that_cannot_work_is_one_line_that_names_the_value(changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        GPTConfig(**{"emb_dim": 64, "n_heads": 4, "vocab_size": 257} | changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"family": "llama"},
        {"init": "none"},
        {"norm_eps": -1.0},
        {"rope_theta": 0.0},
        {"n_layers": 2.5},
        {"n_layers": True},
        {"emb_dim": "768"},
        {"init": "torch", "tied_head": True},
    ],
)
def test_what_no_model_can_be_made_of_is_refused_by_name(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        GPTConfig(**fields)


def test_another_family_derives_its_own_widths():
    assert GPTConfig().changed(family="modern") == GPTConfig(family="modern")
