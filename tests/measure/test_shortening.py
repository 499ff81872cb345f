"""What bfloat16 changes in a loss, against evaluations in both dtypes."""

import numpy as np
import pytest
import torch
from models import BYTES, FOREIGN, STORY

from lucidlm.measure import scoring, shortening
from lucidlm.measure.evaluation import evaluate_documents
from lucidlm.measure.protocol import Protocol
from lucidlm.text.excerpts import Excerpt, as_excerpt


def documents_of(texts):
    return [np.asarray(BYTES.encode(text)) for text in texts]


def test_what_bfloat16_changes_is_measured_on_a_sample_of_the_windows(model, monkeypatch):
    monkeypatch.setattr(shortening, "EVERY", 3)
    documents = documents_of([STORY * 3])
    exact = evaluate_documents(model, BYTES, documents)
    assert exact.rounding is None
    short = evaluate_documents(model, BYTES, documents, protocol=Protocol(dtype="bfloat16"))
    windows = list(scoring.Scorer(model, BYTES).windows(map(as_excerpt, documents)))
    sampled = windows[::3][: len(windows) // 3]
    assert short.rounding.windows == len(sampled)
    assert short.rounding.tokens == sum(len(each.ids) - 1 - each.first for each in sampled)
    # A third of the tokens: the mean of all of them is within a few standard errors.
    whole = short.loss_nats - exact.loss_nats
    assert 0 < short.rounding.of_a_token < 0.1
    assert abs(short.rounding.nats - whole) <= 4 * short.rounding.standard_error
    assert short.to_dict()["rounding"]["tokens"] == short.rounding.tokens
    assert "bfloat16 adds" in str(short)


def test_the_sample_of_every_window_has_the_whole_difference(model, monkeypatch):
    monkeypatch.setattr(shortening, "EVERY", 1)
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


def sample_of(scorer, documents):
    sample = shortening.Sample()
    for piece in scorer.pieces(documents):
        sample.add(piece)
    return sample


@pytest.mark.parametrize("every", [1, 2, 5, 64])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_losses_of_the_sample_are_those_of_scoring_its_windows_again(
    model, monkeypatch, every, batch_size
):
    monkeypatch.setattr(shortening, "EVERY", every)
    monkeypatch.setattr(shortening, "FEWEST_TOKENS", 5)
    monkeypatch.setattr(scoring, "PIECE_BYTES", 3 * 4 * model.vocab_size)  # several pieces a window
    scorer = scoring.Scorer(model, BYTES, Protocol(batch_size=batch_size))
    documents = documents_of([STORY, "a", FOREIGN])
    windows = list(scorer.windows(map(as_excerpt, documents)))
    whole = len(windows) // every
    chosen = sample_of(scorer, documents).chosen()
    assert len(chosen) == max(1, whole)
    for (_, window, nats), expected in zip(chosen, windows[::every], strict=False):
        assert (window.document, window.place, window.first) == (
            expected.document,
            expected.place,
            expected.first,
        )
        length = len(expected.ids) if whole else 1 + 5  # no inputs of 64 windows: the fewest tokens
        np.testing.assert_array_equal(window.ids, expected.ids[:length])
        torch.testing.assert_close(nats, scorer.nats_of(window), atol=2e-6, rtol=0)


@pytest.mark.parametrize("repeats", [1, 2, 7, 20])
@pytest.mark.parametrize("before", [0, 16])
def test_the_sample_is_a_small_part_of_the_inputs_however_short_the_text(model, monkeypatch, repeats, before):
    monkeypatch.setattr(shortening, "EVERY", 8)
    monkeypatch.setattr(shortening, "FEWEST_TOKENS", 2)
    scorer = scoring.Scorer(model, BYTES, Protocol())
    ids = np.asarray(BYTES.encode(STORY[:29] * repeats))
    sample = sample_of(scorer, [Excerpt(ids[before:], ids[:before])])
    chosen = sample.chosen()
    inputs = sum(len(window.ids) - 1 for _, window, _ in chosen)
    first = chosen[0][1].first
    assert bool(first) == bool(before)
    assert inputs <= max(first + 2, sample.inputs / 8 * 1.5)  # the first windows are the longest
    assert sum(len(nats) for _, _, nats in chosen) >= 2


def test_what_is_said_of_a_short_text_is_of_its_first_tokens(model, monkeypatch):
    monkeypatch.setattr(shortening, "FEWEST_TOKENS", 7)
    documents = documents_of([STORY])
    short = evaluate_documents(model, BYTES, documents, protocol=Protocol(dtype="bfloat16"))
    in_bfloat16, exact = (
        torch.cat([piece.exact_nats for piece in scoring.Scorer(model, BYTES, protocol).pieces(documents)])
        for protocol in (Protocol(dtype="bfloat16"), Protocol())
    )
    differences = (in_bfloat16 - exact)[:7]
    assert (short.rounding.tokens, short.rounding.windows) == (7, 1)
    assert short.rounding.nats == pytest.approx(differences.mean().item(), abs=2e-6)
    assert short.rounding.of_a_token == pytest.approx(differences.square().mean().sqrt().item(), abs=2e-6)
    assert str(short.rounding).endswith("on the first 7 tokens")
