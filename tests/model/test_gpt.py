"""The model's logits, weights and gradients against the textbook in NumPy."""

import math
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import oracles
import pytest
import torch
from torch import Tensor, nn

from lucidlm.errors import ConfigError
from lucidlm.model.config import GPTConfig
from lucidlm.model.dropout import Dropout
from lucidlm.model.gpt import GPT
from lucidlm.model.linear_loss import linear_cross_entropy
from lucidlm.model.loss import cross_entropy
from lucidlm.text.windows import IGNORE_INDEX

FAMILIES = ["gpt2", "modern"]


def by_the_formula(model: GPT, ids: Tensor, turns: np.ndarray | None = None) -> np.ndarray:
    """The model's logits by NumPy, from nothing but its weights and its configuration."""
    config = model.config
    weights = {name: value.double().numpy() for name, value in model.state_dict().items()}
    if config.family == "gpt2":
        return oracles.gpt2_logits(weights, ids.numpy(), n_heads=config.n_heads)
    if turns is None:
        turns = oracles.turns(ids.shape[1], config.head_dim, theta=config.rope_theta)
    return oracles.qwen3_logits(
        weights, ids.numpy(), turns, n_heads=config.n_heads, n_kv_heads=config.n_kv_heads
    )


# Against the formulas


@torch.no_grad()
def test_logits_equal_the_textbook_in_numpy(lively_gpt, random_ids):
    ids = random_ids(lively_gpt, length=32, batch_size=2)
    wanted = by_the_formula(lively_gpt, ids)
    assert 0.5 < wanted.std() < 5  # neither flat nor so large that rounding decides
    np.testing.assert_allclose(lively_gpt(ids), wanted, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_logits_of_a_float64_model_equal_the_textbook_to_the_last_places(lively_gpt, random_ids):
    model, ids = lively_gpt.double(), random_ids(lively_gpt, length=32, batch_size=2)
    np.testing.assert_allclose(model(ids), by_the_formula(model, ids), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "config",
    [
        GPTConfig(emb_dim=24, n_heads=3, n_layers=1, vocab_size=50, context_length=20, hidden_dim=17),
        GPTConfig(
            emb_dim=24, n_heads=1, n_layers=3, vocab_size=50, context_length=20, qkv_bias=True, init="torch"
        ),
        GPTConfig(
            family="modern",
            emb_dim=24,
            n_heads=4,
            n_kv_heads=1,
            head_dim=10,
            n_layers=3,
            vocab_size=50,
            rope_theta=1e6,
        ),
        GPTConfig(family="modern", emb_dim=24, n_heads=2, n_layers=1, vocab_size=50, tied_head=True),
    ],
)
@torch.no_grad()
def test_other_shapes_equal_the_textbook_too(config):
    torch.manual_seed(3)
    model = GPT(config).eval()
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    ids = torch.randint(config.vocab_size, (3, 11))
    np.testing.assert_allclose(model(ids), by_the_formula(model, ids), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_every_weight_shows_in_the_logits(lively_gpt, random_ids):
    ids = random_ids(lively_gpt, length=64)
    before = lively_gpt(ids)
    for name, parameter in lively_gpt.named_parameters():
        kept = parameter.clone()
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        assert (lively_gpt(ids) - before).abs().max() > 1e-3, name
        parameter.copy_(kept)


def test_forward_is_the_head_over_hidden_and_returns_logits_alone(tiny_gpt, random_ids):
    ids = random_ids(tiny_gpt, length=9, batch_size=2)
    logits, hidden = tiny_gpt(ids), tiny_gpt.hidden(ids)
    assert hidden.shape == (2, 9, 64)
    assert logits.shape == (2, 9, 257)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(hidden @ tiny_gpt.head.weight.T, logits)


# What a token may know


@torch.no_grad()
@pytest.mark.parametrize("place", [0, 1, 9, 62, 63])
def test_a_later_token_cannot_change_an_earlier_logit(lively_gpt, random_ids, place):
    ids = random_ids(lively_gpt, length=64)
    changed = ids.clone()
    changed[0, place] = (ids[0, place] + 1) % lively_gpt.config.vocab_size
    before, after = lively_gpt(ids), lively_gpt(changed)
    torch.testing.assert_close(before[:, :place], after[:, :place], atol=0, rtol=0)
    different = (before - after).abs().amax(-1)[0, place:]
    assert (different > 1e-4).all()  # and it does change its own and all later ones


def test_an_earlier_logit_has_no_gradient_from_a_later_token(lively_gpt, random_ids):
    ids = random_ids(lively_gpt, length=12)
    embedded: list[Tensor] = []

    def keep(module: nn.Module, args: tuple, output: Tensor) -> None:
        output.retain_grad()
        embedded.append(output)

    lively_gpt.token_embedding.register_forward_hook(keep)
    lively_gpt.hidden(ids)[0, 5].sum().backward()
    sizes = embedded[0].grad[0].abs().amax(-1)
    assert (sizes[:6] > 0).all()
    assert not sizes[6:].any()


@torch.no_grad()
def test_rows_of_a_batch_do_not_see_each_other(lively_gpt, random_ids):
    ids = random_ids(lively_gpt, length=20, batch_size=5)
    together = lively_gpt(ids)
    for row in range(5):
        torch.testing.assert_close(
            together[row : row + 1], lively_gpt(ids[row : row + 1]), atol=1e-5, rtol=1e-5
        )


@torch.no_grad()
def test_the_order_of_earlier_tokens_matters(lively_gpt, random_ids):
    ids = random_ids(lively_gpt, length=10)
    swapped = ids.clone()
    swapped[0, [2, 3]] = ids[0, [3, 2]]
    assert (lively_gpt(ids)[0, -1] - lively_gpt(swapped)[0, -1]).abs().max() > 1e-3


# Limits


@torch.no_grad()
def test_a_full_context_is_taken_and_one_token_more_is_one_line_that_names_both(tiny_gpt, random_ids):
    assert tiny_gpt(random_ids(tiny_gpt, length=64)).shape == (1, 64, 257)
    with pytest.raises(ConfigError, match=r"65 tokens .* 64") as caught:
        tiny_gpt(random_ids(tiny_gpt, length=65))
    assert "\n" not in str(caught.value)


@torch.no_grad()
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (1, 1)])
def test_empty_and_single_batches_have_the_shape_that_follows(tiny_gpt, shape):
    assert tiny_gpt(torch.zeros(shape, dtype=torch.long)).shape == (*shape, 257)


# Initialisation


def course_layout(config: GPTConfig) -> list[Tensor]:
    """All random weights in the order in which the course makes its modules: query, key and value apart."""
    width = config.emb_dim
    made: list[nn.Module] = [
        nn.Embedding(config.vocab_size, width),
        nn.Embedding(config.context_length, width),
    ]
    for _ in range(config.n_layers):
        made += [nn.Linear(width, width, bias=False) for _ in range(3)]
        made += [nn.Linear(width, width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)]
    made.append(nn.Linear(width, config.vocab_size, bias=False))
    return [parameter.detach() for module in made for parameter in module.parameters()]


def test_the_course_and_the_model_draw_the_same_numbers_from_a_seed():
    config = GPTConfig(emb_dim=48, n_heads=3, n_layers=3, vocab_size=101, context_length=10, init="torch")
    torch.manual_seed(123)
    course = iter(course_layout(config))
    torch.manual_seed(123)
    model = GPT(config)
    wanted = [next(course), next(course)]
    found = [model.token_embedding.weight, model.position_embedding.weight]
    for block in model.blocks:
        wanted += [torch.cat([next(course) for _ in range(3)]), *(next(course) for _ in range(6))]
        found.append(block.attention.qkv.weight)
        for linear in (block.attention.out, block.feed_forward.inner, block.feed_forward.out):
            found += [linear.weight, linear.bias]
    wanted.append(next(course))
    found.append(model.head.weight)
    assert next(course, None) is None
    for mine, theirs in zip(found, wanted, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("init", ["torch", "scaled"])
def test_a_seed_decides_all_weights(tiny_config, init):
    states = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        states.append(GPT(tiny_config.changed(init=init, tied_head=False)).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["token_embedding.weight"], states[2]["token_embedding.weight"])


def test_scaled_weights_have_their_deviations_and_biases_and_gains_start_at_nothing(tiny_gpt):
    damped = 0.02 / math.sqrt(2 * 2)
    for name, parameter in tiny_gpt.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif parameter.dim() == 1:
            assert (parameter == 1).all(), name
        else:
            residual = ".attention.out." in name or ".feed_forward.out." in name
            assert parameter.std().item() == pytest.approx(damped if residual else 0.02, rel=0.06), name
            assert abs(parameter.mean().item()) < 5 * 0.02 / math.sqrt(parameter.numel()), name


@torch.no_grad()
@pytest.mark.parametrize("tied", [False, True])
def test_the_loss_at_initialisation_is_the_logarithm_of_the_vocabulary(
    tiny_config, tied, random_ids, record_property
):
    torch.manual_seed(0)
    model = GPT(tiny_config.changed(tied_head=tied)).eval()
    ids = random_ids(model, length=64, batch_size=16)
    targets = random_ids(model, length=64, batch_size=16, seed=1)
    off = abs(cross_entropy(model(ids), targets).mean().item() - math.log(257))
    record_property("distance from ln V at initialization, nats", off)
    assert off < 0.1


@torch.no_grad()
@pytest.mark.parametrize("init", ["torch", "scaled"])
def test_the_loss_at_initialisation_is_above_that_by_half_the_variance_of_the_logits(
    tiny_config, init, random_ids
):
    torch.manual_seed(0)
    model = GPT(tiny_config.changed(tied_head=False, init=init)).eval()
    ids = random_ids(model, length=64, batch_size=16)
    targets = random_ids(model, length=64, batch_size=16, seed=1)
    logits = model(ids)
    # ln of the mean of e^x for normal x is half its variance; 1024 targets of deviation 0.6 give 0.02.
    wanted = math.log(257) + logits.var(-1).mean().item() / 2
    assert cross_entropy(logits, targets).mean().item() == pytest.approx(wanted, abs=0.05)


def test_a_tied_head_is_the_token_embedding_itself(tiny_config):
    tied, apart = (GPT(tiny_config.changed(tied_head=flag)) for flag in (True, False))
    assert tied.head.weight is tied.token_embedding.weight
    assert apart.head.weight is not apart.token_embedding.weight
    assert apart.n_parameters - tied.n_parameters == 257 * 64
    assert (tied.n_parameters, apart.n_parameters) == (tied.config.n_parameters, apart.config.n_parameters)


# Training


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_is_on_in_training_and_off_in_eval(family):
    torch.manual_seed(0)
    model = GPT(
        GPTConfig(family=family, vocab_size=257, context_length=64, emb_dim=64, n_heads=4, drop_rate=0.3)
    )
    ids = torch.arange(20)[None]
    assert model.training
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    calm = model(ids)
    assert torch.equal(model(ids), calm)
    state = model.state_dict()
    without = GPT(model.config.changed(drop_rate=0.0)).train()
    without.load_state_dict(state)
    torch.testing.assert_close(without(ids), calm, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_falls_on_the_embeddings_and_on_both_branches_of_each_block(family, random_ids):
    config = GPTConfig(family=family, vocab_size=257, emb_dim=64, n_layers=2, n_heads=4, drop_rate=0.3)
    model = GPT(config).train()
    dropped = []

    def share(module: nn.Module, args: tuple, output: Tensor) -> None:
        dropped.append(((output == 0).float().mean().item(), (output / args[0])[output != 0].mean().item()))

    for module in model.modules():
        if isinstance(module, Dropout):
            module.register_forward_hook(share)
    model(random_ids(model, length=64, batch_size=4))
    assert len(dropped) == 1 + 2 * 2
    for zeros, gain in dropped:
        assert zeros == pytest.approx(0.3, abs=0.02)  # 16,384 numbers: a deviation of 0.004
        assert gain == pytest.approx(1 / 0.7, rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_dropout_training_and_eval_are_the_same(family, random_ids):
    model = GPT(
        GPTConfig(family=family, vocab_size=257, context_length=64, emb_dim=64, n_layers=2, n_heads=4)
    )
    ids = random_ids(model, length=20)
    assert torch.equal(model.train()(ids), model.eval()(ids))


@pytest.mark.parametrize("tied", [False, True])
def test_one_batch_is_learnt_by_heart(tiny_config, tied, random_ids):
    torch.manual_seed(0)
    model = GPT(tiny_config.changed(tied_head=tied))
    ids = random_ids(model, length=17, batch_size=4)
    ids[:, 0] = torch.arange(4)  # no two texts begin alike: nothing is left to guess
    inputs, targets = ids[:, :-1], ids[:, 1:]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        loss = cross_entropy(model(inputs), targets).mean()
        if loss.item() < 0.01:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01


def ragged_batch(model: GPT, random_ids: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """8 texts of 32 tokens with from 32 down to no target at all."""
    ids, targets = (random_ids(model, length=32, batch_size=8, seed=seed) for seed in (0, 1))
    for row, kept in enumerate([32, 5, 17, 1, 0, 30, 9, 2]):
        targets[row, kept:] = IGNORE_INDEX
    return ids, targets


def loss_and_gradients(
    model: GPT, ids: Tensor, targets: Tensor, *, micro_batch: int
) -> tuple[float, list[Tensor]]:
    """The mean loss of the kept targets and its gradients, summed over micro-batches and divided once."""
    tokens = int((targets != IGNORE_INDEX).sum())
    model.zero_grad()
    nats = 0.0
    for part, wanted in zip(ids.split(micro_batch), targets.split(micro_batch), strict=True):
        total = linear_cross_entropy(
            model.hidden(part).flatten(0, 1), model.head.weight, wanted.flatten(), chunk=24
        )
        (total / tokens).backward()
        nats += total.item()
    return nats / tokens, [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("micro_batch", [4, 2, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_micro_batches_of_ragged_texts_give_the_loss_and_gradients_of_the_whole(
    tiny_gpt, random_ids, micro_batch, dtype
):
    model = tiny_gpt.to(dtype).train()
    ids, targets = ragged_batch(model, random_ids)
    whole_loss, whole = loss_and_gradients(model, ids, targets, micro_batch=8)
    loss, gradients = loss_and_gradients(model, ids, targets, micro_batch=micro_batch)
    loss_limit, limit = (1e-6, 2e-6) if dtype == torch.float32 else (1e-12, 1e-12)
    assert abs(loss - whole_loss) <= loss_limit * whole_loss
    everything, together = (torch.cat([g.flatten() for g in each]) for each in (whole, gradients))
    assert (together - everything).norm() <= limit * everything.norm()
    names = [name for name, _ in model.named_parameters()]
    for name, part, all_at_once in zip(names, gradients, whole, strict=True):
        if not name.endswith("qkv.bias"):  # the keys' bias has no true gradient: softmax does not see it
            assert (part - all_at_once).norm() <= limit * all_at_once.norm(), name


def test_the_lean_loss_gives_the_whole_model_the_gradients_of_the_plain_one(tiny_gpt, random_ids):
    model = tiny_gpt.double()
    ids, targets = ragged_batch(model, random_ids)
    lean_loss, lean = loss_and_gradients(model, ids, targets, micro_batch=8)
    model.zero_grad()
    plain = cross_entropy(model(ids), targets).sum() / (targets != IGNORE_INDEX).sum()
    plain.backward()
    assert lean_loss == pytest.approx(plain.item(), rel=1e-13)
    for parameter, slope in zip(model.parameters(), lean, strict=True):
        torch.testing.assert_close(slope, parameter.grad, atol=1e-14, rtol=1e-10)


def test_a_batch_without_a_target_gives_zero_gradients(tiny_gpt, random_ids):
    ids = random_ids(tiny_gpt, length=8, batch_size=2)
    hidden = tiny_gpt.hidden(ids).flatten(0, 1)
    linear_cross_entropy(hidden, tiny_gpt.head.weight, torch.full((16,), IGNORE_INDEX)).backward()
    for name, parameter in tiny_gpt.named_parameters():
        assert not parameter.grad.any(), name


# Without memory


def test_an_empty_model_has_shapes_and_no_numbers(tiny_config):
    empty = GPT.empty(tiny_config)
    assert {parameter.device.type for parameter in empty.parameters()} == {"meta"}
    full = GPT(tiny_config).state_dict()
    assert {name: weight.shape for name, weight in empty.state_dict().items()} == {
        name: weight.shape for name, weight in full.items()
    }
    assert empty.n_parameters == tiny_config.n_parameters


def test_an_empty_model_needs_no_compiler():
    """PyTorch's is imported where something is drawn on "meta": a second of every start."""
    work = (
        "import sys; from lucidlm.model.gpt import GPT; from lucidlm.model.presets import preset; "
        "GPT.empty(preset('gpt2-124m').shape); GPT.empty(preset('lecture').shape); "
        "GPT.empty(preset('modern-1m').shape); "
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", work], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
