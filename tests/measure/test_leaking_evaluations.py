"""An evaluation that sees what it predicts is refused: no file of the bits that it claims can be decoded."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compressed_files import HEADER, sealed
from models import BYTES, END_OF_TEXT
from recorded import Recorded

from lucidlm.errors import DataError, NumbersError
from lucidlm.measure.coder import encode
from lucidlm.measure.compression import compress, decompress
from lucidlm.measure.evaluation import evaluate_documents
from lucidlm.measure.scoring import Scorer
from lucidlm.model import attention
from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT


def leak(monkeypatch):
    """A causal mask that lets the next token through, in every forward pass over a whole window."""
    right = F.scaled_dot_product_attention

    def leaking(q, k, v, *, is_causal=False, attn_mask=None, **how):
        if is_causal:
            attn_mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril(1)
        return right(q, k, v, attn_mask=attn_mask, **how)

    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", leaking)


LETTERS = random.Random(0).choices(range(97, 123), k=320)


@pytest.fixture(scope="module")
def peeking_state() -> dict:
    """Weights that learnt under the leak, on random letters, to say what comes next."""
    torch.manual_seed(0)
    model = GPT(PEEKING)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with pytest.MonkeyPatch.context() as patch:
        leak(patch)
        for _ in range(150):
            ids = torch.randint(97, 123, (32, 17))
            loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.state_dict()


PEEKING = GPTConfig(vocab_size=257, context_length=16, emb_dim=32, n_layers=1, n_heads=2)


@pytest.fixture
def peeking(peeking_state) -> GPT:
    model = GPT(PEEKING).eval()
    model.load_state_dict(peeking_state)
    model.config = model.config.changed(document_prefix_id=END_OF_TEXT)
    return model


def test_a_leaking_evaluation_looks_wonderful_and_is_refused(peeking, monkeypatch):
    data = bytes(LETTERS)
    honest = compress(peeking, BYTES, data)
    leak(monkeypatch)
    evaluated = evaluate_documents(peeking, BYTES, [np.array(LETTERS)])
    # 26 letters at random cannot be told in less than log2 26 bits each.
    assert evaluated.bits_per_byte < 0.3 * math.log2(26)
    assert honest.bits_per_byte > math.log2(26)
    with pytest.raises(NumbersError, match=r"too good to be true.*do not trust") as refusal:
        compress(peeking, BYTES, data)
    assert f"{evaluated.nats / math.log(2):,.0f}" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_refused_text_is_not_coded_to_its_end(peeking, monkeypatch):
    leak(monkeypatch)
    seen = Recorded()
    with pytest.raises(NumbersError):
        compress(peeking, BYTES, bytes(LETTERS), progress=seen)
    assert seen.stages[-1][1] < seen.stages[-1][2] == len(LETTERS)


def test_an_evaluation_whose_targets_are_its_inputs_is_refused(monkeypatch):
    copier = GPT(PEEKING).eval()
    with torch.no_grad():
        copier.head.weight.copy_(100 * copier.token_embedding.weight)  # it says what it was given
    copier.config = copier.config.changed(document_prefix_id=END_OF_TEXT)
    sequence = torch.tensor([END_OF_TEXT, *LETTERS])

    pieces = Scorer.pieces

    def shifted(*arguments, **named):
        for piece in pieces(*arguments, **named):
            targets = sequence[piece.start :][: len(piece.targets)]
            nats = F.cross_entropy(piece.logits, targets, reduction="none")
            yield replace(piece, targets=targets, nats=nats)

    monkeypatch.setattr(Scorer, "pieces", shifted)
    assert evaluate_documents(copier, BYTES, [np.array(LETTERS)]).loss_nats < 1
    with pytest.raises(NumbersError, match="too good to be true"):
        compress(copier, BYTES, bytes(LETTERS))


def test_what_was_encoded_with_the_whole_text_in_sight_cannot_be_decoded(peeking, monkeypatch):
    data = bytes(LETTERS[:16])
    file = compress(peeking, BYTES, data).file
    leak(monkeypatch)
    with torch.no_grad():
        whole = peeking(torch.tensor([[END_OF_TEXT, *data[:-1]]]))[0].double().numpy()
    words = encode(data, (row for row in whole))
    assert 4 * len(words) < len(file) - HEADER.size
    cheated = sealed(file[: HEADER.size] + words.astype("<u4").tobytes())
    with pytest.raises(DataError, match="not what was compressed"):
        decompress(peeking, BYTES, cheated)
