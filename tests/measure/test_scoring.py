"""Any model that is a Predictor is measured, and what does not belong together is refused."""

import contextlib
import itertools
import math

import numpy as np
import pytest
import torch
from models import BYTES, END_OF_TEXT, STORY, TWO_LAYERS, sharp
from oracles import log_sum_exp

from lucidlm.errors import ConfigError, DataError, NumbersError, WeightsError
from lucidlm.measure.comparison import compare
from lucidlm.measure.evaluation import evaluate, evaluate_documents
from lucidlm.measure.explanation import explain
from lucidlm.measure.protocol import PROTOCOLS, Protocol
from lucidlm.measure.scoring import Scorer
from lucidlm.model.gpt import GPT
from lucidlm.model.loss import cross_entropy
from lucidlm.text.excerpts import Excerpt

TEXT = "the cat sat on the mat, and the dog sat on the cat; nobody knew why it was late. "
T = 16
"""Context of the models of two layers: three contexts and a bit are few tokens."""
LONGEST = 3 * T + 7
LENGTHS = range(1, LONGEST + 1)
STRIDES = (1, 7, T // 2, T)


class Bigrams:
    """The textbook's model: each byte from the byte before it, by counts of a text plus one."""

    vocab_size, context_length, document_prefix_id, device = 257, 8, 256, torch.device("cpu")

    def __init__(self, text: str) -> None:
        ids = [256, *text.encode()]
        self.counts = torch.ones(257, 257, dtype=torch.float64)
        for before, after in itertools.pairwise(ids):
            self.counts[before, after] += 1

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        return self.counts[ids]

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.log()

    def nats(self, text: str) -> float:
        ids = [256, *text.encode()]
        p = self.counts / self.counts.sum(1, keepdim=True)
        return -sum(math.log(p[a, b]) for a, b in itertools.pairwise(ids))


@pytest.fixture(scope="module")
def bigrams() -> Bigrams:
    return Bigrams(TEXT * 3)


def test_a_model_that_is_no_gpt_is_evaluated_explained_and_compared(bigrams):
    expected = bigrams.nats(TEXT)
    evaluated = evaluate(bigrams, BYTES, TEXT)
    assert evaluated.nats == pytest.approx(expected, rel=1e-12)
    assert (evaluated.tokens_scored, evaluated.protocol.context_length) == (len(TEXT), 8)
    explained = explain(bigrams, BYTES, TEXT)
    assert explained.loss_nats == pytest.approx(expected / len(TEXT), rel=1e-6)
    other = Bigrams("no such text was ever read")
    compared = compare((bigrams, BYTES), (other, BYTES), TEXT)
    assert compared.a.nats == pytest.approx(expected, rel=1e-12)
    assert compared.b.nats == pytest.approx(other.nats(TEXT), rel=1e-12)
    assert compared.bits_per_byte_a < compared.bits_per_byte_b
    assert compare((bigrams, BYTES), (bigrams, BYTES), TEXT).same_model


@pytest.mark.parametrize("name", PROTOCOLS)
def test_each_protocol_gives_a_token_the_cost_that_only_the_byte_before_decides(bigrams, name):
    logits, ids, places = np.log(bigrams.counts.numpy()), [256, *TEXT.encode()], []
    for piece in Scorer(bigrams, BYTES, Protocol(name)).pieces([TEXT]):
        for place, nats in enumerate(piece.nats.tolist(), start=piece.start):
            row = logits[ids[place]]
            assert nats == pytest.approx(log_sum_exp(row) - row[ids[place + 1]], rel=1e-9)
            places.append(place)
    first = {"lucid": 0, "lm-eval": 0, "hf-guide": 1, "batch-mean": 1}[name]
    assert places == list(range(first, first + len(places)))
    # The course drops the last incomplete window, the guide a last window of one.
    assert len(places) == {"batch-mean": 80, "hf-guide": 79}.get(name, len(TEXT))


def test_texts_ids_and_excerpts_are_one_stream(bigrams):
    scorer = Scorer(bigrams, BYTES)
    ids = np.array(BYTES.encode(TEXT))
    for document in (ids, scorer.encoded(TEXT), scorer.encoded(ids)):
        found = evaluate_documents(bigrams, BYTES, [document])
        assert found == evaluate_documents(bigrams, BYTES, [TEXT])


def test_ids_that_are_no_tokens_are_refused(bigrams):
    scorer = Scorer(bigrams, BYTES)
    with pytest.raises(WeightsError, match=r"token id 300.*vocabulary of 257"):
        scorer.encoded(np.array([97, 300]))
    bigrams_of_more = Bigrams(TEXT)
    bigrams_of_more.vocab_size = 320
    with pytest.raises(DataError, match=r"token id 300.*ends at 256"):
        Scorer(bigrams_of_more, BYTES).encoded(np.array([97, 300]))
    no_prefix = Bigrams(TEXT)
    no_prefix.document_prefix_id = 257
    with pytest.raises(WeightsError, match="no id 257"):
        Scorer(no_prefix, BYTES)


def test_a_loss_that_is_no_number_names_its_place(bigrams):
    broken = Bigrams(TEXT)
    broken.counts[ord("m")] = math.nan
    with pytest.raises(NumbersError, match=rf"token {TEXT.index('m') + 1} of document 2 "):
        list(Scorer(broken, BYTES).pieces(["the cat", TEXT]))


@pytest.mark.parametrize(("wrong", "flag"), [
    ({"name": "harness"}, "--protocol harness"),
    ({"prefix": "bos"}, "--prefix bos"),
    ({"batch_size": 0}, "--batch-size 0"),
    ({"name": "batch-mean", "stride": 3}, "--stride 3"),
    ({"name": "lm-eval", "prefix": "none"}, "--prefix none"),
])  # fmt: skip
def test_a_protocol_that_no_model_could_follow_is_refused_before_there_is_a_model(wrong, flag):
    with pytest.raises(ConfigError, match=flag):
        Protocol(**wrong)


@pytest.mark.parametrize(("wrong", "flag"), [
    ({"context_length": 9}, "--context-length 9.*1 to 8"),
    ({"context_length": 0, "name": "batch-mean"}, "--context-length 0"),
    ({"stride": 9}, "--stride 9.*context length 8"),
    ({"dtype": "int8"}, "--dtype int8"),
])  # fmt: skip
def test_windows_that_a_model_cannot_read_are_refused(bigrams, wrong, flag):
    with pytest.raises(ConfigError, match=flag):
        Scorer(bigrams, BYTES, Protocol(**wrong))


def brute_force(model, ids, *, stride, prefix_id, context_length=T):
    """-ln p of each token that can be scored, in float64, one forward pass a token: no batch, no padding.

    Input number j predicts token j + 1 of the sequence. The first window on the grid of the stride that
    reaches it scores it, and it sees everything from that window's start to itself.
    """
    exact = GPT(model.config).double().eval()
    exact.load_state_dict({name: weight.double() for name, weight in model.state_dict().items()})
    sequence = [*([] if prefix_id is None else [prefix_id]), *ids]
    nats = []
    for place in range(len(sequence) - 1):
        start = 0
        while place >= start + context_length:
            start += stride
        with torch.no_grad():
            logits = exact(torch.tensor([sequence[start : place + 1]]))[0, -1].numpy()
        nats.append(log_sum_exp(logits) - float(logits[sequence[place + 1]]))
    return np.array(nats)


def nats_of_each_token(model, document, *, stride, prefix="auto", batch_size=8):
    """{place in the document: nats}; a token that is scored twice is an error."""
    found = {}
    protocol = Protocol(stride=stride, prefix=prefix, batch_size=batch_size)
    ids = document.ids if isinstance(document, Excerpt) else np.asarray(document)
    for piece in Scorer(model, BYTES, protocol).pieces([document if isinstance(document, Excerpt) else ids]):
        torch.testing.assert_close(piece.nats, cross_entropy(piece.logits, piece.targets), rtol=0, atol=0)
        scored = zip(piece.nats.tolist(), piece.targets.tolist(), strict=True)
        for place, (loss, target) in enumerate(scored, start=piece.start):
            assert place not in found
            assert ids[place] == target
            found[place] = loss
    return found


# Against one token at a time.


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("prefix", ["auto", "none"])
def test_in_float64_it_equals_one_token_at_a_time_for_every_length(model, stride, prefix, record_property):
    # The windows do not depend on where a text ends, so the longest text's tokens serve for all lengths.
    text, prefix_id = STORY[:LONGEST], END_OF_TEXT if prefix == "auto" else None
    expected = brute_force(model, BYTES.encode(text), stride=stride, prefix_id=prefix_id)
    double = model.double()
    for length in (
        LENGTHS if stride == 7 else (2, 3, T - 1, T, T + 1, T + 2, 2 * T, 2 * T + 1, 3 * T, LONGEST)
    ):
        n_scored = length if prefix == "auto" else length - 1
        if n_scored == 0:
            continue
        result = evaluate(double, BYTES, text[:length], protocol=Protocol(stride=stride, prefix=prefix))
        assert result.tokens_scored == n_scored
        assert result.nats == pytest.approx(expected[:n_scored].sum(), abs=1e-6)
    nats = nats_of_each_token(double, BYTES.encode(text), stride=stride, prefix=prefix)
    first = 0 if prefix == "auto" else 1
    assert sorted(nats) == list(range(first, LONGEST))
    found = np.array([nats[place] for place in sorted(nats)])
    record_property("difference of a token, nats, float64", float(abs(found - expected).max()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("n_before", [1, 2, T // 2, T - 1, T, T + 1, 3 * T])
def test_a_piece_is_scored_after_what_stands_before_it_one_token_at_a_time(model, stride, n_before):
    ids = np.array(BYTES.encode((STORY * 2)[: n_before + LONGEST]))
    excerpt = Excerpt(ids[n_before:], ids[:n_before])
    context = min(n_before, T - stride + 1)
    # The piece's first window begins with its context, and no prefix stands before that.
    expected = brute_force(model, ids[n_before - context :], stride=stride, prefix_id=None)[context - 1 :]
    model.double()
    found = nats_of_each_token(model, excerpt, stride=stride)
    assert sorted(found) == list(range(LONGEST))
    np.testing.assert_allclose([found[place] for place in range(LONGEST)], expected, rtol=0, atol=1e-6)
    result = evaluate_documents(model, BYTES, [excerpt], protocol=Protocol(stride=stride))
    assert (result.tokens_scored, result.tokens_total, result.bytes_total) == (LONGEST, LONGEST, LONGEST)
    assert result.nats == pytest.approx(expected.sum(), abs=1e-6)


def test_in_the_middle_of_a_long_text_a_piece_costs_what_it_costs_there(model):
    # Cut on the grid of the stride, its windows are those of the whole text.
    ids = np.array(BYTES.encode(STORY[:LONGEST]))
    whole = nats_of_each_token(model.double(), ids, stride=T // 2)
    for start in (T, T + T // 2, 2 * T):
        excerpt = Excerpt(ids[start:], ids[:start])
        result = evaluate_documents(model, BYTES, [excerpt], protocol=Protocol(stride=T // 2))
        assert result.nats == pytest.approx(sum(whole[place] for place in range(start, LONGEST)), abs=1e-9)


def test_the_batch_size_cannot_change_what_pieces_cost(gpt):
    ids = np.array(BYTES.encode(STORY * 3))
    pieces = [Excerpt(ids[start : start + 21], ids[:start]) for start in range(0, 200, 30)]
    for design in ("strata", None):
        results = [
            evaluate_documents(gpt, BYTES, pieces, protocol=Protocol(batch_size=size), design=design)
            for size in (1, 3, 8, None)
        ]
        for result in results:
            assert result.design == (design or "documents")
            assert result.nats == pytest.approx(results[0].nats, rel=1e-6)
            assert result.units.shape == (len(pieces), 3)
            np.testing.assert_allclose(result.units.sum(0), [result.nats, 147, 147], rtol=1e-9)


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("prefix", ["auto", "none"])
def test_in_float32_it_is_within_1e_6_in_the_mean_and_1e_4_a_token(model, stride, prefix, record_property):
    text, prefix_id = STORY[:LONGEST], END_OF_TEXT if prefix == "auto" else None
    expected = brute_force(model, BYTES.encode(text), stride=stride, prefix_id=prefix_id)
    result = evaluate(model, BYTES, text, protocol=Protocol(stride=stride, prefix=prefix))
    assert result.loss_nats == pytest.approx(expected.mean(), abs=1e-6)
    nats = nats_of_each_token(model, BYTES.encode(text), stride=stride, prefix=prefix)
    found = np.array([nats[place] for place in sorted(nats)])
    record_property("difference of the mean, nats, float32", float(abs(result.loss_nats - expected.mean())))
    record_property("difference of a token, nats, float32", float(abs(found - expected).max()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("context_length", [1, 2, 5, T - 1])
def test_a_context_shorter_than_the_models_is_what_each_token_sees(gpt, context_length):
    text, stride = STORY[:40], max(1, context_length // 2)
    result = evaluate(gpt.double(), BYTES, text, protocol=Protocol(context_length=context_length))
    assert (result.protocol.context_length, result.protocol.stride) == (context_length, stride)
    expected = brute_force(
        gpt, BYTES.encode(text), stride=stride, prefix_id=END_OF_TEXT, context_length=context_length
    )
    assert result.nats == pytest.approx(expected.sum(), abs=1e-6)


def test_the_stride_changes_the_number():
    # Otherwise the tests above could pass with a stride that nobody reads.
    gpt = sharp(TWO_LAYERS["gpt2"])
    losses = {evaluate(gpt, BYTES, STORY, protocol=Protocol(stride=stride)).loss_nats for stride in STRIDES}
    assert len({round(loss, 3) for loss in losses}) == len(STRIDES)


def test_the_default_is_the_models_context_and_half_of_it(gpt):
    assert evaluate(gpt, BYTES, STORY) == evaluate(
        gpt, BYTES, STORY, protocol=Protocol(context_length=T, stride=T // 2)
    )


@pytest.mark.parametrize("batch_size", [1, 8])
def test_nats_are_float32_losses_added_in_float64(model, batch_size):
    ids = BYTES.encode(STORY * 2)
    settings = {"stride": T // 2, "batch_size": batch_size}
    losses = nats_of_each_token(model, ids, **settings)
    result = evaluate_documents(model, BYTES, [np.asarray(ids)], protocol=Protocol(**settings))
    # A sum of 16 losses in float32 would be off by 1e-7 already.
    assert result.nats == pytest.approx(math.fsum(losses.values()), rel=1e-12)


# What evaluating leaves as it was.


@pytest.mark.parametrize("protocol", ["lucid", "batch-mean"])
@pytest.mark.parametrize("training", [True, False])
def test_mode_gradients_weights_and_random_numbers_are_left_as_they_were(family, protocol, training):
    model = sharp(TWO_LAYERS[family].changed(drop_rate=0.5)).train(training)
    model(torch.tensor([[1, 2, 3]])).sum().backward()
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    evaluate(model, BYTES, STORY, protocol=Protocol(protocol))
    assert all(module.training == training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert all(torch.equal(parameter.grad, gradients[name]) for name, parameter in model.named_parameters())
    assert torch.is_grad_enabled()
    model(torch.tensor([[1, 2, 3]])).sum().backward()


def test_dropout_is_off(family):
    model = sharp(TWO_LAYERS[family].changed(drop_rate=0.5))
    assert evaluate(model.train(), BYTES, STORY) == evaluate(model.eval(), BYTES, STORY)


def test_training_is_the_same_with_evaluations_in_between(family):
    def trained(evaluations: int) -> dict[str, torch.Tensor]:
        model = sharp(TWO_LAYERS[family].changed(drop_rate=0.2)).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        torch.manual_seed(1)
        ids = torch.tensor([BYTES.encode(STORY[: T + 1])])
        for _ in range(3):
            for _ in range(evaluations):
                evaluate(model, BYTES, STORY)
            cross_entropy(model(ids[:, :-1]), ids[:, 1:]).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return model.state_dict()

    without, between = trained(0), trained(2)
    assert all(torch.equal(between[name], weight) for name, weight in without.items())


def test_the_mode_comes_back_after_an_error_in_the_middle(gpt):
    class Broken(torch.nn.Module):
        def forward(self, hidden):
            raise ArithmeticError

    gpt.train().head = Broken()
    with contextlib.suppress(ArithmeticError):
        evaluate(gpt, BYTES, STORY)
    assert gpt.training
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
