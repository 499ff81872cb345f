"""The copy of a model that reads in bfloat16, against float32, float64 and autocast."""

import pytest
import torch
from models import BYTES, made_up_text, shape, sharp
from torch import nn

from lucidlm.measure.protocol import Protocol
from lucidlm.measure.scoring import Scorer
from lucidlm.model import reader as reader_module
from lucidlm.model.gpt import GPT
from lucidlm.model.linear import Form, PackedLinear, for_generation
from lucidlm.model.reader import ReadHead, for_reading

pytestmark = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bfloat16 on this CPU"
)


def read(model: GPT, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(ids).float()


def test_its_logits_are_near_those_in_float32(lively_gpt, random_ids):
    ids = random_ids(lively_gpt, length=50, batch_size=3)
    exact = read(lively_gpt, ids)
    found = read(for_reading(lively_gpt), ids)
    assert not torch.equal(found, exact)
    assert (found - exact).square().mean().sqrt() < 0.02 * exact.std()


def test_it_shares_the_weights_and_leaves_the_model_as_it_is(tiny_gpt, random_ids):
    tiny_gpt.train()
    ids, names = random_ids(tiny_gpt), [*map(str, tiny_gpt.modules())]
    reader = for_reading(tiny_gpt)
    assert {each.data_ptr() for each in reader.parameters()} == {
        each.data_ptr() for each in tiny_gpt.parameters()
    }
    before = read(reader, ids)
    assert [*map(str, tiny_gpt.modules())] == names
    assert tiny_gpt.training
    assert not reader.training
    assert all(each.dtype == torch.float32 for each in tiny_gpt.parameters())
    with torch.no_grad():
        tiny_gpt.token_embedding.weight.mul_(2)
    assert not torch.equal(read(reader, ids), before)


def test_a_later_token_cannot_change_an_earlier_logit(lively_gpt, random_ids):
    ids = random_ids(lively_gpt, length=40)
    changed = ids.clone()
    changed[0, 21] = (ids[0, 21] + 1) % lively_gpt.vocab_size
    reader = for_reading(lively_gpt)
    one, other = read(reader, ids), read(reader, changed)
    assert torch.equal(one[:, :21], other[:, :21])
    assert not torch.equal(one[:, 21], other[:, 21])


def test_logits_less_the_targets_are_rounded_after_the_subtraction(monkeypatch):
    """Logits near -100, as GPT-2's: steps of 0.5, where the differences to the target have small ones."""
    monkeypatch.setattr(reader_module, "HEAD_TOKENS", 7)  # pieces, of which the last is short
    torch.manual_seed(0)
    linear = nn.Linear(24, 40, bias=False)
    with torch.no_grad():
        linear.weight.sub_(1.0)
    hidden, targets = (5 + torch.randn(6, 24)).bfloat16(), torch.tensor([0, 6, 7, 13, 38, 39])
    logits = hidden.double() @ linear.weight.bfloat16().double().T
    wanted = logits - logits.gather(1, targets[:, None])
    assert (logits < -80).all()
    with torch.inference_mode():
        found = ReadHead(linear).centred(hidden, targets).double()
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
            monkeypatch.setattr("lucidlm.measure.scoring.for_reading", lambda model: None)
        pieces = Scorer(model, BYTES, Protocol(dtype=dtype)).pieces([text])
        found[name] = torch.cat([piece.exact_nats for piece in pieces])
    ours, autocast = ((found[name] - found["exact"]).square().mean().sqrt() for name in ("ours", "autocast"))
    assert 0 < ours < 1.1 * autocast


def test_there_is_none_for_weights_that_are_short_already(tiny_gpt):
    assert for_reading(for_generation(tiny_gpt, Form("bfloat16", PackedLinear))) is None
    assert for_reading(tiny_gpt.bfloat16()) is None
    assert for_reading(GPT.empty(tiny_gpt.config)) is None


def test_scoring_in_float32_takes_the_model_itself(tiny_gpt):
    assert Scorer(tiny_gpt, BYTES).reader is tiny_gpt
    assert Scorer(tiny_gpt, BYTES, Protocol(dtype="bfloat16")).reader is not tiny_gpt
