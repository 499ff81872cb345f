import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lucidlm.model import attention as attention_module
from lucidlm.model.attention import (
    CausalSelfAttention,
    KVCache,
    attention_by_matmuls,
    attention_row_by_row,
    rotate,
    rotation_table,
    textbook_attention,
)
from lucidlm.model.config import GPTConfig
from lucidlm.model.dropout import Dropout, Tape

SHAPES = [(4, 4), (4, 2), (4, 1), (6, 3)]  # heads, heads of keys and values


def queries_keys_values(heads: int, groups: int, *, length: int = 9, dtype=torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(heads * 10 + groups)
    sizes = [(2, count, length, 8) for count in (heads, groups, groups)]
    return [1.5 * torch.randn(size, generator=generator, dtype=dtype) for size in sizes]


def layer(config: GPTConfig, *, seed: int = 0) -> CausalSelfAttention:
    """A layer whose weights are so large that its heads look at single tokens."""
    torch.manual_seed(seed)
    attention = CausalSelfAttention(config)
    with torch.no_grad():
        for name, parameter in attention.named_parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(1 + 0.3 * noise if "norm" in name else 0.4 * noise)
    return attention.eval()


def run(attention: CausalSelfAttention, x: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
    return attention(x, rotation=rotation, cache=None, mask=None, layer=0)


@pytest.mark.parametrize(("heads", "groups"), SHAPES)
def test_textbook_attention_is_the_formula_written_as_loops(heads, groups):
    q, k, v = queries_keys_values(heads, groups, dtype=torch.float64)
    np.testing.assert_allclose(
        textbook_attention(q, k, v), oracles.attention(q.numpy(), k.numpy(), v.numpy()), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(("heads", "groups"), SHAPES)
def test_textbook_attention_and_the_fused_kernel_agree_with_gradients(heads, groups):
    tensors = queries_keys_values(heads, groups)
    upstream = torch.randn_like(tensors[0])
    found = []
    for attend in (
        textbook_attention,
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=heads != groups),
    ):
        q, k, v = (tensor.clone().requires_grad_() for tensor in tensors)
        mixed = attend(q, k, v)
        mixed.backward(upstream)
        found.append((mixed, q.grad, k.grad, v.grad))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 33])
def test_the_first_token_sees_itself_alone_at_any_length(length):
    q, k, v = queries_keys_values(4, 2, length=length)
    mixed = textbook_attention(q, k, v)
    assert mixed.shape == (2, 4, length, 8)
    torch.testing.assert_close(mixed[:, :, 0], v[:, :, 0].repeat_interleave(2, dim=1))


def test_heads_that_share_keys_are_neighbours():
    q, k, v = queries_keys_values(4, 2)
    for head in range(4):
        alone = [q[:, head : head + 1], k[:, head // 2 : head // 2 + 1], v[:, head // 2 : head // 2 + 1]]
        torch.testing.assert_close(
            textbook_attention(q, k, v)[:, head : head + 1], textbook_attention(*alone)
        )


def test_the_layer_is_textbook_attention_between_its_matrices_with_gradients(tiny_config):
    attention = layer(tiny_config)
    x = torch.randn(2, 13, tiny_config.emb_dim)
    rotation = rotation_table(tiny_config, torch.arange(13)) if tiny_config.family == "modern" else None
    upstream = torch.randn_like(x)

    def by_hand(x: Tensor) -> Tensor:
        q, k, v = attention.split(x)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        return attention.out(textbook_attention(q, k, v).transpose(1, 2).flatten(2))

    found = []
    for function in (lambda x: run(attention, x, rotation), by_hand):
        attention.zero_grad()
        inputs = x.clone().requires_grad_()
        mixed = function(inputs)
        mixed.backward(upstream)
        found.append([mixed.detach(), inputs.grad, *(p.grad.clone() for p in attention.parameters())])
    for mine, theirs in zip(*found, strict=True):
        # Weights of 0.4 make outputs of about 10 and gradients of some 100: 1e-5 of the largest.
        torch.testing.assert_close(mine, theirs, atol=1e-5 * theirs.abs().max().item(), rtol=0)


@pytest.mark.parametrize("bias", [False, True])
def test_the_layer_equals_the_formula_in_numpy(bias):
    config = GPTConfig(emb_dim=24, n_heads=3, qkv_bias=bias)
    attention = layer(config).double()
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    w = {name: value.numpy() for name, value in attention.state_dict().items()}
    heads = []
    for part in range(3):  # query, key, value: one below the other in the fused matrix
        rows = slice(part * 24, (part + 1) * 24)
        y = x.numpy() @ w["qkv.weight"][rows].T + (w["qkv.bias"][rows] if bias else 0)
        heads.append(y.reshape(2, 7, 3, 8).transpose(0, 2, 1, 3))
    mixed = oracles.attention(*heads).transpose(0, 2, 1, 3).reshape(2, 7, 24)
    wanted = mixed @ w["out.weight"].T + w["out.bias"]
    np.testing.assert_allclose(run(attention, x, None).detach(), wanted, rtol=0, atol=1e-11)


@pytest.mark.parametrize("size", [64, 30, 6])
def test_one_fused_matrix_draws_the_numbers_that_three_in_a_row_draw(size):
    torch.manual_seed(123)
    three = [nn.Linear(size, size, bias=False) for _ in range(3)]
    torch.manual_seed(123)
    fused = CausalSelfAttention(GPTConfig(emb_dim=size, n_heads=2)).qkv.weight
    assert torch.equal(fused, torch.cat([linear.weight for linear in three]))


def test_queries_and_keys_are_normed_in_the_modern_family_and_values_never():
    attention = layer(GPTConfig(family="modern", emb_dim=64, n_heads=4, n_kv_heads=2, head_dim=16))
    x = 50 * torch.randn(1, 5, 64)
    q, k, v = attention.split(x)
    assert (q.shape, k.shape, v.shape) == ((1, 4, 5, 16), (1, 2, 5, 16), (1, 2, 5, 16))
    for normed, norm in ((q, attention.q_norm), (k, attention.k_norm)):
        scale = (normed / norm.weight).square().mean(-1)
        torch.testing.assert_close(scale, torch.ones_like(scale), atol=1e-4, rtol=0)
    torch.testing.assert_close(v.transpose(1, 2).flatten(2), (x @ attention.qkv.weight.T)[..., -32:])


@pytest.mark.parametrize("theta", [10_000.0, 1e6])
def test_rotation_turns_each_pair_by_its_positions_angle(theta):
    config = GPTConfig(family="modern", emb_dim=64, n_heads=4, head_dim=16, rope_theta=theta)
    x = torch.randn(2, 4, 40, 16)
    turned = rotate(x, rotation_table(config, torch.arange(40)))
    wanted = oracles.rope(x.double().numpy(), oracles.turns(40, 16, theta=theta))
    # An angle near 40 in float32 is 2e-6 off at worst; the channels reach 4.
    np.testing.assert_allclose(turned, wanted, rtol=0, atol=2e-5)


def test_rotation_knows_each_rows_own_positions():
    config = GPTConfig(family="modern", emb_dim=64, n_heads=4, head_dim=16)
    positions = torch.tensor([[0, 1, 2], [7, 8, 9]])
    cos, sin = rotation_table(config, positions)
    assert cos.shape == sin.shape == (2, 3, 16)
    for row, places in enumerate(positions):
        torch.testing.assert_close((cos[row], sin[row]), rotation_table(config, places), atol=0, rtol=0)


def test_rotation_keeps_lengths_and_makes_products_depend_on_the_distance_alone():
    config = GPTConfig(family="modern", emb_dim=64, n_heads=4, head_dim=16)
    q, k = torch.randn(16), torch.randn(16)
    rotation = rotation_table(config, torch.arange(60))
    turned_q, turned_k = rotate(q.expand(60, 16), rotation), rotate(k.expand(60, 16), rotation)
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(60))
    torch.testing.assert_close(turned_q[0], q)
    products = turned_q @ turned_k.T
    for distance in (-31, 0, 5, 58):
        same = products.diagonal(distance)
        torch.testing.assert_close(same, same[:1].expand_as(same), atol=2e-5, rtol=0)


def cache_of(lengths: list[int], *, layers: int = 2) -> KVCache:
    """A cache whose keys are numbered row.token, the values minus that."""
    config = GPTConfig(
        family="modern", emb_dim=8, n_heads=2, n_kv_heads=1, head_dim=2, n_layers=layers, context_length=8
    )
    cache = KVCache(config, len(lengths), device=torch.device("cpu"), dtype=torch.float32)
    longest = max(lengths)
    numbers = torch.arange(len(lengths))[:, None] + torch.arange(longest) / 10
    k = numbers[:, None, :, None].expand(-1, 1, -1, 2)
    for each in range(layers):
        cache.append(each, k, -k)
    cache.advance(longest)
    cache.truncate(lengths)
    return cache


def test_an_empty_cache_holds_context_length_tokens_a_row():
    config = GPTConfig(
        family="modern", emb_dim=8, n_heads=4, n_kv_heads=2, head_dim=6, n_layers=3, context_length=5
    )
    cache = KVCache(config, 7, device=torch.device("cpu"), dtype=torch.bfloat16)
    assert [tuple(keys.shape) for keys in cache.keys + cache.values] == [(7, 2, 5, 6)] * 6
    assert {keys.dtype for keys in cache.keys + cache.values} == {torch.bfloat16}
    assert (cache.capacity, cache.lengths, cache.ragged) == (5, [0] * 7, False)


def test_append_returns_all_keys_and_values_so_far_and_advance_counts_them():
    cache = cache_of([2, 2])
    k = torch.full((2, 1, 3, 2), 9.0)
    keys, values = cache.append(1, k, 2 * k)
    assert keys[1, 0, :, 0].tolist() == pytest.approx([1.0, 1.1, 9, 9, 9])
    assert values[0, 0, :, 0].tolist() == pytest.approx([0, -0.1, 18, 18, 18])
    assert cache.lengths == [2, 2]
    cache.advance(3)
    assert cache.lengths == [5, 5]
    assert cache.keys[0][0, 0, 2, 0] == 0  # the other layer has not stored its own yet


def test_ragged_rows_append_behind_their_own_last_token():
    cache = cache_of([3, 1, 2])
    assert cache.ragged
    assert cache.positions(2).tolist() == [[3, 4], [1, 2], [2, 3]]
    k = torch.tensor([70.0, 71.0])[None, None, :, None].expand(3, 1, 2, 2)
    keys, values = cache.append(0, k, -k)
    assert keys.shape == values.shape == (3, 1, 5, 2)
    for row, length in enumerate([3, 1, 2]):
        wanted = [row + token / 10 for token in range(length)] + [70, 71]
        assert keys[row, 0, : length + 2, 0].tolist() == pytest.approx(wanted)
        assert values[row, 0, : length + 2, 1].tolist() == pytest.approx([-number for number in wanted])


@pytest.mark.parametrize("lengths", [[0, 0], [3, 3], [3, 1], [0, 5], [4, 4]])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_mask_shows_each_token_what_its_own_row_holds_and_itself(lengths, count):
    cache = cache_of(lengths) if max(lengths) else cache_of([1, 1])
    cache.truncate(lengths)
    seen = max(lengths) + count
    mask = cache.mask(count)
    if mask is None:
        mask = torch.ones(1, 1, count, seen, dtype=torch.bool)
    mask = mask.expand(2, 1, count, seen)
    for row, length in enumerate(lengths):
        for new in range(count):
            assert mask[row, 0, new].tolist() == [place <= length + new for place in range(seen)]


def test_replace_row_takes_the_other_caches_text_and_leaves_the_other_rows():
    cache, other = cache_of([3, 1, 2]), cache_of([5])
    other.keys[1] += 40
    cache.replace_row(1, other)
    assert cache.lengths == [3, 5, 2]
    assert cache.keys[1][1, 0, :5, 0].tolist() == pytest.approx([40, 40.1, 40.2, 40.3, 40.4])
    assert cache.keys[1][2, 0, :2, 0].tolist() == pytest.approx([2.0, 2.1])
    other.keys[1].zero_()
    assert cache.keys[1][1, 0, 0, 0] == 40


def test_keep_rows_drops_the_others_and_keeps_the_asked_order():
    cache = cache_of([3, 1, 2])
    cache.keep_rows([2, 0])
    assert cache.lengths == [2, 3]
    for each in range(2):
        assert cache.keys[each].shape == cache.values[each].shape == (2, 1, 8, 2)
        assert cache.keys[each][:, 0, 1, 0].tolist() == pytest.approx([2.1, 0.1])
        assert cache.values[each][:, 0, 1, 0].tolist() == pytest.approx([-2.1, -0.1])


def test_truncate_takes_a_copy_of_the_lengths():
    cache, lengths = cache_of([4, 4]), [4, 2]
    cache.truncate(lengths)
    lengths[0] = 1
    assert cache.lengths == [4, 2]


@pytest.mark.parametrize("largest", [10**9, 2 * 4 * 81, 1], ids=["at once", "in halves", "one by one"])
@pytest.mark.parametrize(("heads", "groups"), SHAPES)
def test_attention_by_matmuls_is_the_textbooks_with_its_gradients(monkeypatch, heads, groups, largest):
    monkeypatch.setattr(attention_module, "LARGEST_SCORES", largest)
    tensors = [torch.cat([each, each.flip(0)]) for each in queries_keys_values(heads, groups)]
    upstream = torch.randn_like(tensors[0])
    found = []
    for attend in (textbook_attention, attention_by_matmuls):
        q, k, v = (tensor.double().requires_grad_() for tensor in tensors)
        mixed = attend(q, k, v)
        mixed.backward(upstream.double())
        found.append((mixed, q.grad, k.grad, v.grad))
    for book, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, book, atol=1e-12, rtol=0)


@pytest.mark.parametrize("largest", [10**9, 1], ids=["at once", "one by one"])
def test_attention_by_matmuls_drops_weights_after_softmax(monkeypatch, largest):
    monkeypatch.setattr(attention_module, "LARGEST_SCORES", largest)
    tape = Tape(0.4, dtype=torch.float64, longest=4096, seed=0)
    dropout = Dropout(0.4).train()
    dropout.places = tape.places(5)
    q, k, v = (each.double().requires_grad_() for each in queries_keys_values(4, 4))
    mixed = attention_by_matmuls(q, k, v, dropout=dropout)
    mixed.sum().backward()
    found = [mixed, q.grad, k.grad, v.grad]
    places = tape.places(5)
    shape = (4, 9, 9)
    if largest == 1:
        factors = torch.cat([places.mask(torch.Size((1, *shape))) for _ in range(2)])
    else:
        factors = places.mask(torch.Size((2, *shape)))
    q, k, v = (each.detach().requires_grad_() for each in (q, k, v))
    later = torch.ones(9, 9, dtype=torch.bool).triu(1)
    weights = (q @ k.mT / 8**0.5).masked_fill(later, -torch.inf).softmax(-1)
    expected = (weights * factors) @ v
    expected.sum().backward()
    for ours, book in zip(found, [expected, q.grad, k.grad, v.grad], strict=True):
        torch.testing.assert_close(ours, book, atol=1e-12, rtol=0)


def test_a_layer_gives_the_same_by_matmuls(tiny_config):
    attention = layer(tiny_config)
    x = torch.randn(2, 12, tiny_config.emb_dim)
    rotation = rotation_table(tiny_config, torch.arange(12)) if tiny_config.family == "modern" else None
    plain = run(attention, x, rotation)
    attention.by_matmuls = True
    torch.testing.assert_close(run(attention, x, rotation), plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("heads", "groups"), SHAPES)
def test_attention_row_by_row_is_the_kernels_and_idle_rows_get_zeros(heads, groups):
    q, k, v = queries_keys_values(heads, groups, dtype=torch.float64)
    q = q[:, :, :1]
    mask = (torch.arange(9) < torch.tensor([[3], [9]]))[:, None, None]
    kernel = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=heads != groups)
    torch.testing.assert_close(attention_row_by_row(q, k, v, [2, 8]), kernel, rtol=0, atol=1e-12)
    kernel[0] = 0
    torch.testing.assert_close(attention_row_by_row(q, k, v, [0, 8]), kernel, rtol=0, atol=1e-12)


def test_attentions_own_dropout_is_on_in_training_and_off_in_eval():
    attention = layer(GPTConfig(emb_dim=64, n_heads=4, drop_rate=0.5))
    x = torch.randn(2, 12, 64)
    calm = run(attention, x, None)
    torch.testing.assert_close(run(attention, x, None), calm, atol=0, rtol=0)
    attention.train()
    assert not torch.allclose(run(attention, x, None), calm)
    # A weight is dropped or doubled: the mean of many draws comes back to the calm one.
    mean = torch.stack([run(attention, x, None) for _ in range(400)]).mean(0)
    noise = torch.stack([run(attention, x, None) for _ in range(50)]).std(0) / 400**0.5
    assert ((mean - calm).abs() < 6 * noise + 1e-6).all()


def test_the_modern_family_drops_no_attention_weights():
    config = GPTConfig(family="modern", emb_dim=64, n_heads=4, drop_rate=0.5)
    attention = layer(config)
    x, rotation = torch.randn(2, 12, 64), rotation_table(config, torch.arange(12))
    calm = run(attention, x, rotation)
    torch.testing.assert_close(run(attention.train(), x, rotation), calm, atol=0, rtol=0)


@pytest.mark.parametrize("cached", [False, True])
def test_attention_runs_under_bfloat16_autocast_near_its_float32_result(tiny_config, cached):
    attention = layer(tiny_config)
    x = torch.randn(2, 12, tiny_config.emb_dim)
    rotation = rotation_table(tiny_config, torch.arange(12)) if tiny_config.family == "modern" else None
    plain = run(attention, x, rotation)
    cache = KVCache(tiny_config, 2, device=x.device, dtype=torch.float32) if cached else None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mixed = attention(x, rotation=rotation, cache=cache, mask=cache and cache.mask(12), layer=0)
    # bfloat16 keeps 8 bits; heads that look at single tokens may sway between two of them.
    assert (mixed - plain).norm() < 0.05 * plain.norm()


def test_heads_may_be_wider_together_than_the_stream():
    config = GPTConfig(family="modern", emb_dim=24, n_heads=4, n_kv_heads=2, head_dim=32)
    attention, x = layer(config), torch.randn(2, 5, 24)
    assert attention.qkv.weight.shape == ((4 + 2 + 2) * 32, 24)
    assert run(attention, x, rotation_table(config, torch.arange(5))).shape == (2, 5, 24)
