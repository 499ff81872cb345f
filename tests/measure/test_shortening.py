"""What bfloat16 changes in a loss, against evaluations in both dtypes."""

import numpy as np
import pytest
from models import BYTES, FOREIGN, STORY

from lucidlm.measure import scoring
from lucidlm.measure.evaluation import evaluate_documents
from lucidlm.measure.protocol import Protocol
from lucidlm.text.excerpts import as_excerpt


def documents_of(texts):
    return [np.asarray(BYTES.encode(text)) for text in texts]


def test_what_bfloat16_changes_is_measured_on_a_sample_of_the_windows(model, monkeypatch):
    monkeypatch.setattr(scoring, "SAMPLED_EVERY", 3)
    documents = documents_of([STORY * 3])
    exact = evaluate_documents(model, BYTES, documents)
    assert exact.rounding is None
    short = evaluate_documents(model, BYTES, documents, protocol=Protocol(dtype="bfloat16"))
    windows = list(scoring.Scorer(model, BYTES).windows(map(as_excerpt, documents)))
    assert short.rounding.windows == len(windows[::3])
    assert short.rounding.tokens == sum(len(each.ids) - 1 - each.first for each in windows[::3])
    # A third of the tokens: the mean of all of them is within a few standard errors.
    whole = short.loss_nats - exact.loss_nats
    assert 0 < short.rounding.of_a_token < 0.1
    assert abs(short.rounding.nats - whole) <= 4 * short.rounding.standard_error
    assert short.to_dict()["rounding"]["tokens"] == short.rounding.tokens
    assert "bfloat16 adds" in str(short)


def test_the_sample_of_every_window_has_the_whole_difference(model, monkeypatch):
    monkeypatch.setattr(scoring, "SAMPLED_EVERY", 1)
    exact, short = (
        evaluate_documents(
            model, BYTES, documents_of([STORY, "a", FOREIGN]), protocol=Protocol(dtype=dtype, batch_size=1)
        )
        for dtype in ("float32", "bfloat16")
    )
    assert short.rounding.tokens == short.tokens_scored
    assert short.rounding.nats == pytest.approx(short.loss_nats - exact.loss_nats, abs=1e-6)


def test_one_window_has_no_standard_error(model):
    short = evaluate_documents(model, BYTES, documents_of(["abc"]), protocol=Protocol(dtype="bfloat16"))
    assert short.rounding.windows == 1
    assert short.rounding.standard_error is None
