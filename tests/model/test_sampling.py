"""Each decoding strategy against arithmetic, and the settings that choose them against their ranges."""

import itertools
import math

import pytest
import torch

from lucidlm.errors import ConfigError, WeightsError
from lucidlm.model.decoding import Decoding
from lucidlm.model.sampling import (
    distribution,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    next_token,
    penalise_repetition,
)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": -0.1}, {"temperature": math.nan}, {"temperature": math.inf}, {"top_k": 0},
        {"top_k": 2.5}, {"top_k": True}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_p": math.nan},
        {"min_p": -0.1}, {"min_p": 1.5}, {"repetition_penalty": 0.0}, {"repetition_penalty": math.nan},
        {"repetition_penalty": 1e300}, {"max_new_tokens": -1}, {"max_new_tokens": 2.5}, {"stop": ""},
        {"temperature": 1e-300}, {"temperature": 1e300}, {"max_new_tokens": 10**12},
        {"repetition_penalty": 1e-300},
    ],
)  # fmt: skip
def test_a_setting_out_of_its_range_is_named_with_its_value(fields):
    ((name, value),) = fields.items()
    with pytest.raises(ConfigError) as refused:
        Decoding(**fields)
    assert str(refused.value).startswith(
        f"--{name.replace('_', '-')} {value or repr(value)}".replace("'", '"')
    )


def test_one_stop_string_and_several_are_the_same_kind_of_setting():
    assert Decoding(stop="end") == Decoding(stop=["end"]) == Decoding(stop=("end",))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_logits_of_any_dtype_are_drawn_from_in_at_least_float32(dtype):
    logits = torch.randn(9, dtype=dtype)
    at_least = torch.promote_types(dtype, torch.float32)
    for decoding in (Decoding(), Decoding(temperature=0), Decoding(top_k=3, top_p=0.9, repetition_penalty=2)):
        probabilities = distribution(logits, decoding, [1, 2])
        assert probabilities.dtype == at_least
        assert torch.equal(probabilities, distribution(logits.to(at_least), decoding, [1, 2]))


@pytest.mark.parametrize(
    ("decoding", "wanted"),
    [
        (Decoding(temperature=1.0), [0.4, 0.3, 0.2, 0.1]),
        (Decoding(temperature=0.5), [0.16 / 0.3, 0.09 / 0.3, 0.04 / 0.3, 0.01 / 0.3]),
        (Decoding(temperature=1.0, top_k=2), [4 / 7, 3 / 7, 0, 0]),
        (Decoding(temperature=1.0, top_k=9), [0.4, 0.3, 0.2, 0.1]),
        (Decoding(temperature=1.0, top_p=0.65), [4 / 7, 3 / 7, 0, 0]),
        (Decoding(temperature=1.0, top_p=0.01), [1, 0, 0, 0]),
        (Decoding(temperature=1.0, min_p=0.45), [4 / 9, 3 / 9, 2 / 9, 0]),
        (Decoding(temperature=0.0), [1, 0, 0, 0]),
        # Of the distribution before the temperature, top-p would keep three.
        (Decoding(temperature=0.5, top_p=0.8), [16 / 25, 9 / 25, 0, 0]),
        (Decoding(temperature=1.0, top_k=3, top_p=0.7), [4 / 7, 3 / 7, 0, 0]),
    ],
)
def test_drawn_tokens_follow_the_distribution_worked_out_by_hand(decoding, wanted):
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log() + 3
    assert distribution(logits, decoding).tolist() == pytest.approx(wanted, abs=1e-6)
    generator, draws = torch.Generator().manual_seed(11), 4000
    counts = [0] * 4
    for _ in range(draws):
        counts[next_token(logits, decoding, generator=generator)] += 1
    assert all(count == 0 for count, p in zip(counts, wanted, strict=True) if p == 0)
    chi_square = sum((n - draws * p) ** 2 / (draws * p) for n, p in zip(counts, wanted, strict=True) if p)
    assert chi_square < 16.27  # p = 0.001 at three degrees of freedom, stricter at fewer


def test_of_equal_logits_top_k_keeps_the_lower_ids():
    assert torch.isfinite(keep_top_k(torch.zeros(6), 2)).tolist() == [True, True, False, False, False, False]


def test_top_k_and_top_p_keep_what_a_sorted_list_keeps():
    numbers = torch.Generator().manual_seed(5)
    for k in (1, 2, 5, 11, 12, 30):
        # Few levels, so that many logits are equal; some are forbidden from the start.
        logits = torch.randint(-2, 3, (12,), generator=numbers).float()
        logits[logits == -2] = -torch.inf
        order = sorted(range(12), key=lambda id: (-logits[id].item(), id))
        wanted = {id for id in order[:k] if logits[id] > -torch.inf}
        assert set(torch.isfinite(keep_top_k(logits, k)).nonzero()[:, 0].tolist()) == wanted
        probabilities, mass, wanted = logits.double().softmax(0).tolist(), 0.0, set()
        for id in order:
            if mass >= k / 31:
                break
            wanted.add(id)
            mass += probabilities[id]
        assert set(torch.isfinite(keep_top_p(logits, k / 31)).nonzero()[:, 0].tolist()) == wanted


def test_strategies_that_are_off_change_nothing():
    logits = torch.randn(50)
    assert keep_top_k(logits, 100) is logits
    assert keep_top_p(logits, 1.0) is logits
    assert keep_min_p(logits, 0.0) is logits
    assert penalise_repetition(logits, [1, 2], 1.0) is logits


def test_the_repetition_penalty_divides_what_is_positive_and_multiplies_what_is_negative():
    logits = torch.tensor([2.0, -2.0, 2.0, 0.0])
    assert penalise_repetition(logits, [0, 1, 1, 3], 2.0).tolist() == [1.0, -4.0, 2.0, 0.0]


def test_thousands_of_settings_draw_a_token_that_is_allowed():
    generator, random = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    grid = itertools.product(
        (0.0, 1e-8, 0.7, 50.0), (None, 1, 3, 40), (1e-9, 0.5, 1.0), (0.0, 0.3, 1.0), (0.5, 1.0, 3.0)
    )
    for temperature, top_k, top_p, min_p, penalty in grid:
        decoding = Decoding(
            temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=penalty
        )
        for kind in range(5):
            logits = torch.randn(20, generator=random) * 10 ** (kind - 1)
            if kind == 3:
                logits[::2] = -torch.inf
            if kind == 4:
                logits[[4, 9]] = torch.inf
            id = next_token(logits, decoding, ids=[0, 3], generator=generator)
            assert logits[id] > -torch.inf
            if kind == 4:
                assert id in (4, 9)
            elif temperature == 0:
                assert id == penalise_repetition(logits, [0, 3], penalty).argmax()


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_logits_that_say_nothing_are_an_error_that_names_them(temperature):
    decoding = Decoding(temperature=temperature)
    with pytest.raises(WeightsError, match="NaN"):
        next_token(torch.tensor([0.0, torch.nan, torch.inf]), decoding)
    with pytest.raises(WeightsError, match="forbids every token"):
        next_token(torch.full((3,), -torch.inf), decoding)


def test_infinite_logits_share_the_probability_and_pass_through_the_strategies():
    logits = torch.tensor([0.0, torch.inf, 5.0, torch.inf])
    assert distribution(logits, Decoding()).tolist() == [0, 0.5, 0, 0.5]
    assert distribution(logits, Decoding(top_k=1)).tolist() == [0, 1, 0, 0]
    assert distribution(logits, Decoding(top_p=0.5)).tolist() == [0, 1, 0, 0]


def test_top_p_that_rounds_to_nothing_keeps_the_likeliest_token():
    kept = keep_top_p(torch.tensor([0.0, 2.0, 1.0]), 1e-300)
    assert kept.isfinite().tolist() == [False, True, False]
