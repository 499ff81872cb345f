"""Routes of the view Train: runs are listed, followed, started, stopped and resumed."""

import asyncio

from fastapi import APIRouter, Request
from fastapi.sse import EventSourceResponse
from pydantic import Field
from starlette.responses import Response

from lucidlm.errors import ServerError
from lucidlm.serve.faults import Answer
from lucidlm.serve.forms import FAULTS, Form
from lucidlm.serve.limits import Limits
from lucidlm.serve.own_api import described
from lucidlm.serve.planning import Plans
from lucidlm.serve.run_events import events_of
from lucidlm.serve.run_forms import NoForm, PlanForm, TrainForm
from lucidlm.serve.run_models import RunModels
from lucidlm.serve.runs_folder import Runs

PATH = "/api/runs"


class RunForm(Form):
    """POST /api/models."""

    run: str = Field(description="An id of /api/runs.")
    step: int | None = Field(
        None, ge=0, lt=2**63, description="A step of its checkpoints; without it, the best weights."
    )


def runs_routes(runs: Runs, plans: Plans, models: RunModels, limits: Limits) -> APIRouter:
    """The routes of the view Train."""
    router = APIRouter(tags=["The lens"], responses=FAULTS)
    watched = Watched(limits.watchers)

    @router.get(PATH)
    async def listed() -> Response:
        """The runs, the latest first: what `lucidlm runs --json` says of each, with its id."""
        rows = await asyncio.to_thread(runs.rows)
        return Answer({"folder": str(runs.folder), "runs": rows})

    @router.post(PATH)
    async def start(form: TrainForm) -> Response:
        """Starts a training in a process of its own; one at a time. The answer is its row."""
        return Answer(await asyncio.to_thread(runs.start, form))

    @router.post("/api/plan")
    async def plan(form: PlanForm) -> Response:
        """What a training by this form would do, and what it should reach; takes a few seconds."""
        return Answer(await plans.plan(form))

    @router.post("/api/models")
    async def serve(form: RunForm) -> Response:
        """Serves weights of a run from now on, read again where they have changed."""
        return Answer(described(await asyncio.to_thread(models.serve, form.run, form.step)))

    @router.get(PATH + "/{id}")
    async def state(id: str) -> Response:
        """A run: its row, curves of [step, nats per token, tokens, seconds], baselines, samples, speed."""
        return Answer(await asyncio.to_thread(runs.state, id))

    @router.get(PATH + "/{id}/events")
    async def events(id: str, request: Request) -> Response:
        """A stream: "state" with all, then "news" about once a second, "end" with all; then [DONE]."""
        await asyncio.to_thread(runs.find, id)  # an unknown one is an answer, not a part of a stream
        watched.enter(request)
        return EventSourceResponse(events_of(runs, id))

    @router.post(PATH + "/{id}/stop")
    async def stop(id: str, form: NoForm) -> Response:
        """Asks a training that this server started to save a checkpoint and end."""
        return Answer(await asyncio.to_thread(runs.stop, id))

    @router.post(PATH + "/{id}/resume")
    async def resume(id: str, form: NoForm) -> Response:
        """Goes on with an interrupted run, with the settings of its run.toml."""
        return Answer(await asyncio.to_thread(runs.resume, id))

    return router


class Watched:
    """How many clients follow runs."""

    def __init__(self, most: int) -> None:
        self.most, self.count = most, 0

    def enter(self, request: Request) -> None:
        """One more until its request ends, however it does; ServerError where there are too many."""
        if self.count >= self.most:
            raise ServerError(
                f"{self.most} clients follow runs already", "close a page", status=429, retry_s=10
            )
        self.count += 1
        request.state.at_end.append(self._leave)

    def _leave(self) -> None:
        self.count -= 1
