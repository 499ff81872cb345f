"""The cost of rounded weights against an evaluation of both models."""

import numpy as np
import pytest
import torch
from models import BYTES, lively, shape

from lucidlm.errors import DataError
from lucidlm.measure import rounding
from lucidlm.measure.evaluation import evaluate
from lucidlm.measure.rounding import rounding_cost
from lucidlm.model.linear import Form, ShortLinear, for_generation
from lucidlm.text.excerpts import Excerpt


def two_models():
    model = lively(shape(emb_dim=32, n_layers=2), seed=3, noise=0.1)
    return model, for_generation(model, Form("bfloat16", ShortLinear))


def test_the_cost_is_the_difference_of_two_evaluations_of_the_beginning(monkeypatch):
    monkeypatch.setattr(rounding, "SAMPLE_TOKENS", (12, 12))
    exact, rounded = two_models()
    cost = rounding_cost(exact, rounded, BYTES, ["It was late. It rained."], "a text")
    wanted = [evaluate(model, BYTES, "It was late.").bits_per_byte for model in (exact, rounded)]
    assert [cost.exact_bits_per_byte, cost.rounded_bits_per_byte] == pytest.approx(wanted, abs=1e-6)
    assert cost.to_dict()["bits_per_byte"] == cost.rounded_bits_per_byte - cost.exact_bits_per_byte != 0
    assert cost.sample_bytes == evaluate(exact, BYTES, "It was late.").bytes_scored


def test_the_sample_goes_on_with_the_next_documents_and_keeps_the_context_of_pieces(monkeypatch):
    monkeypatch.setattr(rounding, "SAMPLE_TOKENS", (8, 8))
    exact, rounded = two_models()
    ids = np.frombuffer(b"the river ran past", np.uint8).astype(np.int64)
    pieces = [Excerpt(ids[4:9], ids[:4]), Excerpt(ids[9:])]
    same = [Excerpt(ids[4:9], ids[:4]), Excerpt(ids[9:12])]
    found, wanted = (rounding_cost(exact, rounded, BYTES, each, "pieces") for each in (pieces, same))
    assert found == wanted
    assert not torch.is_inference_mode_enabled()


def test_without_text_there_is_no_cost():
    exact, rounded = two_models()
    with pytest.raises(DataError, match="--val"):
        rounding_cost(exact, rounded, BYTES, [], "nothing")
