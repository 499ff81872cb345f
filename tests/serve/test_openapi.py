"""Requests that schemathesis makes of the OpenAPI document: whatever comes in, nothing fails here."""

import json
import random
from collections import Counter

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance
from serving import running, served

CALM = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None, "derandomize": True}
PHASES = (Phase.explicit, Phase.generate)


@pytest.fixture(scope="module")
def live():
    with running(served(), served("other", "modern")) as each:
        yield each


def examine(live, operation_name, examples):
    schema = schemathesis.openapi.from_url(f"{live.address}/openapi.json")
    (operation,) = [each.ok() for each in schema.get_all_operations() if each.ok().label == operation_name]

    @settings(max_examples=examples, phases=PHASES, **CALM)
    @given(case=operation.as_strategy())
    def each(case):
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = "tiny"  # else nearly all of them ask for a model that is not there
        if isinstance(case.body, dict) and isinstance(case.body.get("a"), str):
            case.body |= {"a": "tiny", "b": "tiny"}
        if isinstance(case.body, dict) and type(case.body.get("place")) is int:
            case.body["place"] %= 4  # texts are short
        answer = case.call_and_validate(
            base_url=live.address, checks=[not_a_server_error, response_schema_conformance], timeout=30
        )
        statuses[answer.status_code] += 1

    statuses = Counter()
    each()
    assert (
        statuses[400 if operation_name == "POST /v1/chat/completions" else 200] or "{name}" in operation_name
    )
    assert live.ask("GET", "/health").json["status"] == "ok"


OPERATIONS = [
    "GET /v1/models",
    "GET /v1/models/{name}",
    "POST /v1/completions",
    "POST /v1/chat/completions",
    "GET /health",
    "GET /api/models",
    "POST /api/explain",
    "POST /api/tokenize",
    "POST /api/generate",
    "POST /api/explain/part",
    "POST /api/explain/page",
    "POST /api/logits",
    "POST /api/compare",
    "POST /api/compare/part",
    "POST /api/baselines",
]


def test_these_are_all_operations(live):
    schema = schemathesis.openapi.from_url(f"{live.address}/openapi.json")
    assert [each.ok().label for each in schema.get_all_operations()] == OPERATIONS


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_request_by_the_document_is_answered_by_it(live, operation):
    examine(live, operation, 25)


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_500_requests_by_the_document_are_answered_by_it(live, operation):
    examine(live, operation, 500)


def mutated(draw, body):
    """A body with some bytes changed, removed or doubled."""
    data = bytearray(body)
    for _ in range(draw.choice((1, 1, 2, 5, 20))):
        place = draw.randrange(len(data) + 1)
        kind = draw.randrange(4)
        if kind == 0:
            data[place:place] = bytes([draw.randrange(256)])
        elif kind == 1:
            del data[place : place + draw.choice((1, 1, 5))]
        elif kind == 2:
            data[place:place] = data[place : place + 9]
        else:
            data[place : place + 1] = draw.choice(
                [b"null", b"[]", b"1e99", b"-1", b'"', b"{}", b"true", b"\\ud800"]
            )
    return bytes(data)


BODIES = {
    "/v1/completions": {
        "model": "tiny", "prompt": "The old", "max_tokens": 3, "n": 2, "stop": ["a"], "logprobs": 2,
        "echo": True, "logit_bias": {"65": 1}, "seed": 1, "temperature": 0.5, "top_p": 0.9, "top_k": 3,
        "stream": False,
    },
    "/api/explain": {"model": "tiny", "texts": ["The old", "clock"], "top_k": 2, "prefix": "none"},
    "/api/tokenize": {"model": "tiny", "text": "The old"},
    "/api/generate": {"model": "tiny", "prompt": [1, 2], "max_new_tokens": 3, "min_p": 0.1},
}  # fmt: skip


def send_mutated(live, count):
    draw = random.Random(3)
    for number in range(count):
        path = draw.choice(sorted(BODIES))
        body = mutated(draw, json.dumps(BODIES[path]).encode())
        reply = live.ask("POST", path, body)
        assert reply.status < 500, (path, body, reply.body)
        if number % 50 == 0:
            assert live.ask("GET", "/health").status == 200


def test_mutated_bodies_are_answered_without_a_fault_of_ours(live):
    send_mutated(live, 200)


@pytest.mark.torture
@pytest.mark.timeout(1800)
def test_2000_mutated_bodies_are_answered_without_a_fault_of_ours(live):
    send_mutated(live, 2000)
