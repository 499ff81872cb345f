"""Requests by the OpenAPI document to the routes of the lens: whatever comes in, nothing fails here."""

from collections import Counter

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from serving import running
from trainings import begun_run

from lucidlm.errors import ServerError
from lucidlm.serve import planning
from lucidlm.serve.run_processes import Trainings

CALM = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None, "derandomize": True}
OPERATIONS = {
    "GET /api/runs": 200,
    "POST /api/runs": 409,
    "GET /api/runs/{id}": 404,
    "GET /api/runs/{id}/events": 404,
    "POST /api/runs/{id}/stop": 404,
    "POST /api/runs/{id}/resume": 404,
    "POST /api/plan": 200,
    "GET /api/documents": 200,
    "POST /api/documents": 400,
    "GET /api/documents/{id}": 404,
    "DELETE /api/documents/{id}": 404,
}
"""Each with a status that some of the requests must have."""


@pytest.fixture
def live(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise ServerError("not in a test", status=409)

    async def answered(asked):
        return {"lines": []}

    monkeypatch.setattr(Trainings, "start", refuse)
    monkeypatch.setattr(planning, "_answered", answered)
    begun_run(str(tmp_path / "runs" / "one"))
    with running(runs=tmp_path / "runs") as server:
        yield server


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_request_by_the_document_is_answered(live, name):
    schema = schemathesis.openapi.from_url(f"{live.address}/openapi.json")
    known = {each.ok().label: each.ok() for each in schema.get_all_operations()}
    assert set(OPERATIONS) <= set(known)
    statuses = Counter()

    @settings(max_examples=25, phases=(Phase.explicit, Phase.generate), **CALM)
    @given(case=known[name].as_strategy())
    def each(case):
        answer = case.call_and_validate(base_url=live.address, checks=[not_a_server_error], timeout=30)
        statuses[answer.status_code] += 1

    each()
    assert statuses[OPERATIONS[name]], statuses
    assert live.ask("GET", "/health").json["status"] == "ok"
