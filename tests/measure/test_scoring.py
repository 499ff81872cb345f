"""Any model that is a Predictor is measured, and what does not belong together is refused."""

import itertools
import math

import numpy as np
import pytest
import torch
from oracles import log_sum_exp

from lucidlm.errors import ConfigError, DataError, NumbersError, WeightsError
from lucidlm.measure.comparison import compare
from lucidlm.measure.evaluation import evaluate, evaluate_documents
from lucidlm.measure.explanation import explain
from lucidlm.measure.protocol import PROTOCOLS, Protocol
from lucidlm.measure.scoring import Scorer
from lucidlm.text.tokenizer import Tokenizer

BYTES = Tokenizer.bytes()
TEXT = "the cat sat on the mat, and the dog sat on the cat; nobody knew why it was late. "


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
