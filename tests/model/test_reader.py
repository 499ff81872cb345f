"""The copy of a model that reads in bfloat16, against float32, float64 and autocast."""

import pytest
import torch
from models import BYTES, made_up_text, shape, sharp

from lucidlm.measure.protocol import Protocol
from lucidlm.measure.scoring import Scorer
from lucidlm.model import reader as reader_module
from lucidlm.model.gpt import GPT
from lucidlm.model.linear import Form, PackedLinear, for_generation
from lucidlm.model.reader import Reader, reader_of

pytestmark = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bfloat16 on this CPU"
)


def logits_of(model: GPT | Reader, ids: torch.Tensor) -> torch.Tensor:
    """Logits (B, T, V) less those of token 0."""
    if isinstance(model, Reader):
        rows = model.hidden(ids).flatten(0, 1)
        logits = model.logits(rows, torch.zeros(len(rows), dtype=torch.int64)).unflatten(0, ids.shape).float()
    else:
        with torch.inference_mode():
            logits = model(ids)
    return logits - logits[..., :1]


def test_its_logits_are_near_those_in_float32(lively_gpt, random_ids):
    ids = random_ids(lively_gpt, length=50, batch_size=3)
    exact = logits_of(lively_gpt, ids)
    found = logits_of(Reader(lively_gpt), ids)
    assert not torch.equal(found, exact)
    assert (found - exact).square().mean().sqrt() < 0.02 * exact.std()


def test_it_shares_the_weights_and_leaves_the_model_as_it_is(tiny_gpt, random_ids):
    tiny_gpt.train()
    ids, names = random_ids(tiny_gpt), [*map(str, tiny_gpt.modules())]
    reader = Reader(tiny_gpt)
    assert {each.data_ptr() for each in reader.copy.parameters()} == {
        each.data_ptr() for each in tiny_gpt.parameters()
    }
    before = logits_of(reader, ids)
    assert [*map(str, tiny_gpt.modules())] == names
    assert tiny_gpt.training
    assert not reader.copy.training
    assert all(each.dtype == torch.float32 for each in tiny_gpt.parameters())
    with torch.no_grad():
        tiny_gpt.token_embedding.weight.mul_(2)
    assert not torch.equal(logits_of(reader, ids), before)


def test_a_later_token_cannot_change_an_earlier_logit(lively_gpt, random_ids):
    ids = random_ids(lively_gpt, length=40)
    changed = ids.clone()
    changed[0, 21] = (ids[0, 21] + 1) % lively_gpt.vocab_size
    reader = Reader(lively_gpt)
    one, other = logits_of(reader, ids), logits_of(reader, changed)
    assert torch.equal(one[:, :21], other[:, :21])
    assert not torch.equal(one[:, 21], other[:, 21])


def test_logits_less_the_targets_are_rounded_after_the_subtraction(monkeypatch):
    """Logits near -100, as GPT-2's: steps of 0.5, where the differences to the target have small ones."""
    monkeypatch.setattr(reader_module, "HEAD_TOKENS", 7)  # pieces, of which the last is short
    model = GPT(shape(vocab_size=40, emb_dim=24))
    with torch.no_grad():
        model.head.weight.sub_(1.0)
    hidden, targets = (5 + torch.randn(6, 24)).bfloat16(), torch.tensor([0, 6, 7, 13, 38, 39])
    logits = hidden.double() @ model.head.weight.bfloat16().double().T
    wanted = logits - logits.gather(1, targets[:, None])
    assert (logits < -80).all()
    found = Reader(model).logits(hidden, targets).double()
    found = found - found.gather(1, targets[:, None])
    # Half a step of 8 bits, and of the target's own small rest.
    torch.testing.assert_close(found, wanted, rtol=2**-8, atol=2**-8)
    assert (logits.bfloat16() - logits).abs().max() > 0.2


@pytest.mark.parametrize("family", ["gpt2", "modern"])
def test_losses_are_as_near_to_float32_as_autocasts(family, monkeypatch):
    model = sharp(shape(family=family, context_length=64, emb_dim=64, n_layers=3))
    text = made_up_text(sentences=40)
    found = {}
    for name, dtype in (("exact", "float32"), ("ours", "bfloat16"), ("autocast", "bfloat16")):
        if name == "autocast":
            monkeypatch.setattr("lucidlm.measure.scoring.reader_of", lambda model: None)
        pieces = Scorer(model, BYTES, Protocol(dtype=dtype)).pieces([text])
        found[name] = torch.cat([piece.exact_nats for piece in pieces])
    ours, autocast = ((found[name] - found["exact"]).square().mean().sqrt() for name in ("ours", "autocast"))
    assert 0 < ours < 1.1 * autocast


@pytest.mark.parametrize("first", [0, 1, 30, 39])
def test_the_states_from_a_place_on_are_those_of_the_whole(lively_gpt, random_ids, first):
    ids, reader = random_ids(lively_gpt, length=40, batch_size=2), Reader(lively_gpt)
    part = reader.hidden(ids, first=first)
    assert part.shape == (2, 40 - first, lively_gpt.config.emb_dim)
    torch.testing.assert_close(part, reader.hidden(ids)[:, first:])


def test_there_is_none_for_weights_that_are_short_already(tiny_gpt):
    assert isinstance(reader_of(tiny_gpt), Reader)
    assert reader_of(for_generation(tiny_gpt, Form("bfloat16", PackedLinear))) is None
    assert reader_of(tiny_gpt.bfloat16()) is None
    assert reader_of(GPT.empty(tiny_gpt.config)) is None


def test_scoring_in_float32_takes_the_model_itself(tiny_gpt):
    assert Scorer(tiny_gpt, BYTES).reader is None
    assert isinstance(Scorer(tiny_gpt, BYTES, Protocol(dtype="bfloat16")).reader, Reader)
