import json
import math

import pytest
from models import BYTES, FOREIGN, STORY

from lucidlm.measure.explanation import explain
from lucidlm.measure.protocol import Protocol


@pytest.mark.parametrize("texts", [[STORY], ["ab", FOREIGN, STORY * 3], ["one\r\ntwo"]])
@pytest.mark.parametrize("prefix", ["auto", "none"])
def test_an_explanation_is_that_of_the_command_line_to_the_bit(server, tiny, texts, prefix):
    reply = server.ask(
        "POST", "/api/explain", {"model": "tiny", "texts": texts, "top_k": 3, "prefix": prefix}
    )
    expected = explain(tiny.model, BYTES, texts, top_k=3, protocol=Protocol(prefix=prefix))
    assert reply.status == 200
    assert reply.json == json.loads("".join(expected.json_lines()))


def test_a_window_of_an_explanation_may_be_chosen(server, tiny):
    asked = {"texts": [STORY], "context_length": 16, "stride": 4}
    expected = explain(tiny.model, BYTES, STORY, protocol=Protocol(context_length=16, stride=4))
    assert server.ask("POST", "/api/explain", asked).json["loss_nats"] == expected.loss_nats


@pytest.mark.parametrize(
    "fields",
    [{"texts": []}, {"texts": [""]}, {"texts": ["a"], "prefix": "none"},
     {"texts": ["ab"], "context_length": 65}, {"texts": ["ab"], "stride": 65}, {"texts": ["ab"], "top_k": -1},
     {"texts": "ab"}],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_explained_is_refused(server, fields):
    reply = server.ask("POST", "/api/explain", fields)
    assert (reply.status, reply.fault["type"]) == (400, "invalid_request_error")


def test_the_tokens_of_a_text(server):
    reply = server.ask("POST", "/api/tokenize", {"text": "aö"})
    assert reply.json == {
        "tokenizer": "bytes",
        "count": 3,
        "tokens": [
            {"id": 97, "text": "a", "bytes": 1},
            {"id": 195, "text": "bytes:\\xc3", "bytes": 1},
            {"id": 182, "text": "bytes:\\xb6", "bytes": 1},
        ],
    }


def test_generation_shows_each_steps_distributions(server):
    asked = {
        "model": "tiny",
        "prompt": "The old",
        "max_new_tokens": 5,
        "top_k": 3,
        "temperature": 0.7,
        "seed": 2,
    }
    events = server.ask("POST", "/api/generate", asked).events
    tokens = [token for event in events for token in event["tokens"]]
    assert events[-1]["finish_reason"] in ("length", "stop")
    assert len(tokens) == events[-1]["generated"]
    for token in tokens:
        rows = token["distribution"]
        assert token["kept"] == 3
        assert sum(row["after"] for row in rows) == pytest.approx(1, abs=1e-5)
        assert [row["after"] > 0 for row in rows] == [True] * 3 + [False] * (len(rows) - 3)
        assert 1 - sum(row["before"] for row in rows[:3]) == pytest.approx(token["cut_off"], abs=1e-5)
        (own,) = [row for row in rows if row["id"] == token["id"]]
        assert math.exp(token["log_probability"]) == pytest.approx(own["model"], rel=1e-4)
    again = server.ask("POST", "/api/generate", asked | {"seed": events[0]["seed"]}).events
    assert again == events


def test_the_models_have_their_shapes(server, tiny):
    first, second = server.ask("GET", "/api/models").json["models"]
    assert (first["name"], second["name"]) == ("tiny", "other")
    assert first["parameters"] == tiny.model.n_parameters
    assert (first["context_length"], first["dtype"], first["tokenizer"]) == (64, "float32", "bytes")
