"""The coder alone, on logits of any size."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from constriction import stream

from lucidlm.errors import DataError
from lucidlm.measure import coder
from lucidlm.measure.coder import decode, encode


@pytest.mark.parametrize("vocab_size", [1, 2, 257, 5000, 50257])
@pytest.mark.parametrize("spread", [0, 1, 10, 100])
def test_a_token_of_any_probability_costs_its_surprisal(vocab_size, spread):
    draw = np.random.default_rng(0)
    count = 60 if vocab_size > 1000 else 400
    rows = spread * draw.standard_normal((count, vocab_size))
    ids = draw.integers(vocab_size, size=count).tolist()
    words = encode(ids, (row for row in rows))  # ids are drawn, not likely: most are far down the row
    assert list(decode(words, count, (row for row in rows))) == ids
    logits = torch.from_numpy(rows)
    expected = F.cross_entropy(logits, torch.tensor(ids), reduction="sum").item() / math.log(2)
    assert -0.001 * expected - 8 <= 32 * len(words) - expected <= 0.001 * expected + 64


def test_a_likely_token_costs_next_to_nothing():
    row = np.zeros(50257)
    row[7] = 40.0
    words = encode([7] * 200, (row for _ in range(200)))
    assert 32 * len(words) <= 32


def test_no_table_is_so_long_that_its_rounding_shows(monkeypatch):
    lengths = []

    def table(weights, **how):
        lengths.append(len(weights))
        return stream.model.Categorical(weights, **how)

    spied = SimpleNamespace(queue=stream.queue, model=SimpleNamespace(Categorical=table))
    monkeypatch.setattr(coder, "stream", spied)
    vocab_size = 1 << 18  # the largest that a tokenizer of ours has
    rows = np.random.default_rng(0).standard_normal((3, vocab_size))
    encode([0, vocab_size // 2, vocab_size - 1], (row for row in rows))
    assert len(lengths) == 9  # class, group, id
    assert max(lengths) / 2**24 < 1e-4  # each entry takes 2^-24 from the others


def test_words_that_no_encoder_writes_are_data_errors():
    draw = np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        words = draw.integers(1 << 32, size=3, dtype=np.uint32)
        logits = 8 * draw.standard_normal((60, 300))
        try:
            found = list(decode(words, 60, (row for row in logits)))
        except DataError:
            refused += 1
        else:
            assert len(found) == 60
    assert refused
