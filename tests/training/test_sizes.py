"""Shapes of a size: about as many parameters as asked for, with the proportions of the presets."""

import pytest

from lucidlm.errors import ConfigError
from lucidlm.model.presets import PRESETS
from lucidlm.training.sizes import amount, shape_of


@pytest.mark.parametrize("params", ["150k", "1m", "4m", "30m", "350m", "1b", "7b", "13b", "70b", "400b"])
def test_a_shape_has_about_the_weights_that_were_asked_for(params):
    count = amount("--params", params)
    shape = shape_of(count)
    assert shape.n_parameters == pytest.approx(count, rel=0.1)
    assert shape.family == "modern"
    assert shape.head_dim == 64  # vLLM and llama.cpp take it
    assert 16 < shape.emb_dim / shape.n_layers < 190


def test_the_presets_are_on_the_ladder_and_large_models_have_a_layer_for_128_channels():
    for name, preset in PRESETS.items():
        if name.startswith("modern"):
            assert shape_of(preset.shape.n_parameters) == preset.shape
    for params in (7e9, 13e9, 70e9):
        shape = shape_of(int(params))
        assert shape.emb_dim / shape.n_layers == pytest.approx(128, rel=0.2)


@pytest.mark.parametrize(("text", "value"), [("124m", 124e6), ("1.5B", 1.5e9), ("2t", 2e12), ("1_000", 1000)])
def test_amounts_are_read_as_people_write_them(text, value):
    assert amount("--tokens", text) == value


@pytest.mark.parametrize("text", ["", "x", "7 bn", "-1", "0", "0.0001", "1e9", "inf", "9" * 30, "7b7"])
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(ConfigError, match="as in 124m"):
        amount("--params", text)
