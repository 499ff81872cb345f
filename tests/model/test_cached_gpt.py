"""The model with a cache of keys and values against the same model without one."""

import pytest
import torch
from torch import Tensor

from lucidlm.errors import ConfigError
from lucidlm.model.gpt import GPT


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[1] * 64, [64], [16] * 4, [5, 1, 1, 20, 37], [63, 1], [1, 63]])
def test_any_pieces_through_the_cache_give_the_logits_of_the_whole(lively_gpt, random_ids, pieces):
    ids = random_ids(lively_gpt, length=64, batch_size=3)
    cache = lively_gpt.new_cache(3)
    found = torch.cat([lively_gpt(part, cache) for part in ids.split(pieces, dim=1)], dim=1)
    assert cache.lengths == [64] * 3
    torch.testing.assert_close(found, lively_gpt(ids), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_pieces_through_the_cache_of_a_float64_model_agree_to_the_last_places(lively_gpt, random_ids):
    model, ids = lively_gpt.double(), random_ids(lively_gpt, length=40, batch_size=2)
    cache = model.new_cache(2)
    assert cache.keys[0].dtype == torch.float64
    found = torch.cat([model(part, cache) for part in ids.split([7, 1, 32], dim=1)], dim=1)
    torch.testing.assert_close(found, model(ids), atol=1e-12, rtol=0)


def prefilled(model: GPT, texts: list[Tensor]) -> tuple:
    """A cache that holds texts of different lengths, padded on the right for the model and cut again."""
    lengths = [len(text) for text in texts]
    padded = torch.stack([torch.cat((t, t.new_full((max(lengths) - len(t),), 250))) for t in texts])
    cache = model.new_cache(len(texts))
    logits = model(padded, cache)
    cache.truncate(lengths)
    return cache, [logits[row, :length] for row, length in enumerate(lengths)]


def check_rows(model: GPT, cache, texts: list[Tensor], more: Tensor) -> list[Tensor]:
    """The texts with `more` added, after the cache has given its logits as each whole text alone does."""
    found = model(more, cache)
    longer = [torch.cat((text, row)) for text, row in zip(texts, more, strict=True)]
    assert cache.lengths == [len(text) for text in longer]
    for row, text in enumerate(longer):
        wanted = model(text[None])[0, -more.shape[1] :]
        torch.testing.assert_close(found[row], wanted, atol=1e-5, rtol=1e-5)
    return longer


@torch.no_grad()
@pytest.mark.parametrize("steps", [[1, 1, 1], [3], [1, 4, 1, 2]])
def test_ragged_rows_in_one_cache_equal_each_text_alone(lively_gpt, random_ids, steps):
    texts = [random_ids(lively_gpt, length=n, seed=n)[0] for n in (9, 1, 30, 16)]
    cache, logits = prefilled(lively_gpt, texts)
    for row, text in enumerate(texts):
        torch.testing.assert_close(logits[row], lively_gpt(text[None])[0], atol=1e-5, rtol=1e-5)
    for step, count in enumerate(steps):
        more = random_ids(lively_gpt, length=count, batch_size=4, seed=100 + step)
        texts = check_rows(lively_gpt, cache, texts, more)


@torch.no_grad()
def test_a_ragged_cache_may_be_filled_to_the_context_by_its_longest_row(lively_gpt, random_ids):
    texts = [random_ids(lively_gpt, length=n, seed=n)[0] for n in (62, 3)]
    cache, _ = prefilled(lively_gpt, texts)
    check_rows(lively_gpt, cache, texts, random_ids(lively_gpt, length=2, batch_size=2, seed=7))
    with pytest.raises(ConfigError, match="65 tokens"):
        lively_gpt(torch.zeros(2, 1, dtype=torch.long), cache)


@torch.no_grad()
def test_rows_may_be_replaced_and_dropped_in_between(lively_gpt, random_ids):
    texts = [random_ids(lively_gpt, length=n, seed=n)[0] for n in (9, 4, 30)]
    cache, _ = prefilled(lively_gpt, texts)
    texts = check_rows(lively_gpt, cache, texts, random_ids(lively_gpt, length=1, batch_size=3, seed=50))

    newcomer = random_ids(lively_gpt, length=40, seed=60)[0]
    alone, _ = prefilled(lively_gpt, [newcomer])
    cache.replace_row(1, alone)
    texts[1] = newcomer
    texts = check_rows(lively_gpt, cache, texts, random_ids(lively_gpt, length=2, batch_size=3, seed=51))

    cache.keep_rows([2, 0])
    texts = check_rows(
        lively_gpt, cache, [texts[2], texts[0]], random_ids(lively_gpt, length=1, batch_size=2, seed=52)
    )

    short, _ = prefilled(lively_gpt, [newcomer[:2]])
    cache.replace_row(0, short)  # what the longer text left behind its two tokens must not be seen
    texts = [newcomer[:2], texts[1]]
    texts = check_rows(lively_gpt, cache, texts, random_ids(lively_gpt, length=1, batch_size=2, seed=53))

    cache.keep_rows([0])
    assert not cache.ragged
    check_rows(lively_gpt, cache, texts[:1], random_ids(lively_gpt, length=5, batch_size=1, seed=54))


@torch.no_grad()
def test_a_truncated_cache_goes_on_as_if_the_rest_had_never_been(lively_gpt, random_ids):
    ids = random_ids(lively_gpt, length=40, batch_size=2)
    for length in (0, 1, 17):
        cache = lively_gpt.new_cache(2)
        lively_gpt(ids, cache)
        cache.truncate([length] * 2)
        texts = list(ids[:, :length])
        check_rows(lively_gpt, cache, texts, random_ids(lively_gpt, length=3, batch_size=2, seed=9))


@torch.no_grad()
def test_the_cache_is_kept_in_float32_under_bfloat16_autocast_and_agrees_with_no_cache(tiny_gpt, random_ids):
    ids = random_ids(tiny_gpt, length=24, batch_size=2)
    cache = tiny_gpt.new_cache(2)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.cat([tiny_gpt(part, cache) for part in ids.split([10, 1, 13], dim=1)], dim=1)
        whole = tiny_gpt(ids)
    assert found.dtype == torch.bfloat16
    # Logits of about 0.2 in eight bits, after two layers of roundings.
    torch.testing.assert_close(found.float(), whole.float(), atol=1e-2, rtol=0)


@torch.no_grad()
def test_a_full_cache_refuses_one_token_more_and_stays_as_it_was(tiny_gpt, random_ids):
    ids = random_ids(tiny_gpt, length=61)
    cache = tiny_gpt.new_cache(1)
    tiny_gpt(ids[:, :60], cache)
    keys = cache.keys[0].clone()
    with pytest.raises(ConfigError, match="65 tokens"):
        tiny_gpt(ids[:, :5], cache)
    assert cache.lengths == [60]
    assert torch.equal(cache.keys[0], keys)
    tiny_gpt(ids[:, 60:], cache)
    assert cache.lengths == [61]


def test_a_cache_is_as_long_as_asked_and_never_longer_than_the_context(tiny_gpt):
    assert tiny_gpt.new_cache(1).capacity == 64
    assert tiny_gpt.new_cache(2, 10).capacity == 10
    assert tiny_gpt.new_cache(2, 1000).capacity == 64
