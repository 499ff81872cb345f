import dataclasses
import json

import numpy as np
from models import BYTES, FOREIGN, STORY

from lucidlm.measure.evaluation import evaluate, evaluate_documents
from lucidlm.measure.protocol import Protocol
from lucidlm.text.excerpts import Excerpt

T = 16


def test_its_dictionary_is_json_with_stable_keys(gpt):
    result = evaluate(gpt, BYTES, FOREIGN)
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    promised = {"loss_nats", "perplexity", "bits_per_byte", "nats", "tokens_scored", "tokens_total"}
    promised |= {"bytes_scored", "bytes_total", "protocol"}
    assert promised <= values.keys()
    assert values["loss_nats"] == result.loss_nats
    assert values["protocol"] == {
        "name": "lucid",
        "context_length": T,
        "stride": T // 2,
        "prefix": "end-of-text",
        "dtype": "float32",
        "device": "cpu",
        "in_pieces": False,
        "difference": "",
    }


def test_as_a_string_it_says_the_numbers_and_how_they_were_counted(gpt):
    shown = str(evaluate(gpt, BYTES, STORY))
    result = evaluate(gpt, BYTES, STORY)
    for part in (
        f"{result.loss_nats:.4f} nats per token",
        f"{result.perplexity:,.2f}",
        f"{result.bits_per_byte:.4f}",
        f"{len(STORY)} of {len(STORY)} tokens, {len(STORY)} of {len(STORY)} bytes, 1 document",
        "protocol lucid: context 16, stride 8, the first token of a document is predicted from the "
        "end-of-text token, float32 on cpu",
    ):
        assert part in shown
    assert "the first token of a document is not scored" in str(
        evaluate(gpt, BYTES, STORY, protocol=Protocol(prefix="none"))
    )


def test_a_notebook_shows_each_number_and_why_there_is_no_interval(gpt):
    result = evaluate(gpt, BYTES, STORY)
    shown = result._repr_html_()
    assert result.no_interval
    for part in (f"{result.loss_nats:.4f} nats", f"{result.bits_per_byte:.4f}", str(result.no_interval)):
        assert part in shown


def test_pieces_are_counted_as_pieces(gpt):
    ids = np.array(BYTES.encode(STORY))
    pieces = [Excerpt(ids[start : start + 20], ids[:start]) for start in (10, 40, 70)]
    shown = str(evaluate_documents(gpt, BYTES, pieces, design="strata"))
    assert "60 of 60 bytes, 3 pieces" in shown
    assert "each piece is scored with the text before it as context" in shown


def test_few_tokens_are_said_beside_each_number_and_a_sample_with_its_size(gpt):
    few = evaluate(gpt, BYTES, STORY)
    assert few.caution == f"only {len(STORY)} tokens"
    enough = evaluate(gpt, BYTES, STORY * 11)
    assert enough.tokens_scored > 1000
    assert enough.caution == ""
    sample = dataclasses.replace(enough, sample_of=5000)
    assert sample.caution == f"sample: {enough.tokens_scored:,} of 5,000 tokens"
    assert sample.to_dict()["sample_of"] == 5000
    for result in (few, sample):
        rows = {name: value for name, value, _ in result.rows()}
        for name in ("loss", "perplexity", "bits per byte", "accuracy", "calibration"):
            assert rows[name].endswith(f"({result.caution})")
    assert "(" not in dict(row[:2] for row in enough.rows())["loss"]
