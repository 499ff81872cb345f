"""OpenAI's interface: GET /v1/models, POST /v1/completions, and a clear no for chat."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from lucidlm.errors import ServerError
from lucidlm.serve.choices import Choices, joined
from lucidlm.serve.engine import Engine
from lucidlm.serve.faults import Answer
from lucidlm.serve.forms import FAULTS, CompletionAnswer, CompletionForm, ErrorAnswer, ModelCard, ModelList
from lucidlm.serve.orders import Order, order_of, served_as
from lucidlm.serve.streams import event_stream
from lucidlm.serve.ticket import Ticket


def openai_routes(engine: Engine) -> APIRouter:
    """The routes of OpenAI's interface."""
    router = APIRouter(prefix="/v1", tags=["OpenAI's interface"], responses=FAULTS)
    started = int(time.time())

    def card(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": started, "owned_by": "lucidlm"}

    @router.get("/models", response_model=ModelList)
    async def models() -> Response:
        """The models that are served."""
        return Answer({"object": "list", "data": [card(name) for name in engine.served]})

    @router.get("/models/{name:path}", response_model=ModelCard)
    async def model(name: str) -> Response:
        """One model; its name is a key, never a path."""
        return Answer(card(served_as(engine.served, name).name))

    @router.post("/completions", response_model=CompletionAnswer)
    async def completions(form: CompletionForm, request: Request) -> Response:
        """Texts that continue prompts.

        Log-probabilities are the model's own, before bias, temperature and filters. Those of an echoed prompt
        are the numbers of `lucidlm explain --prefix none`. Usage counts every token that was generated,
        end-of-text and the tokens of a stop string too. A stream ends with [DONE].
        """
        # A long prompt takes a while to encode: other requests are answered in between.
        order = await asyncio.to_thread(order_of, form, engine.served, engine.limits)
        head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": order.served.name,
        }
        if not form.stream:
            return await _whole(engine, order, head, request)
        counted = form.stream_options is not None and form.stream_options.include_usage
        return _stream(engine, order, head, request, counted=counted)

    @router.post("/chat/completions", status_code=400, response_model=ErrorAnswer)
    async def chat(form: dict[str, Any]) -> Response:
        """Refused: no model here has a chat template."""
        raise ServerError("no model here has a chat template", "use /v1/completions with a prompt")

    return router


async def _whole(engine: Engine, order: Order, head: dict[str, Any], request: Request) -> Response:
    choices, ticket, parts = Choices(order), Ticket(engine, request), list[dict[str, Any]]()
    ticket.submit(choices.jobs(ticket))
    async for key, happened in ticket.events():
        parts += choices.take(key, happened)
    parts += choices.echoes()
    return Answer(head | {"choices": joined(parts), "usage": choices.usage()})


def _stream(
    engine: Engine, order: Order, head: dict[str, Any], request: Request, *, counted: bool
) -> Response:
    choices, ticket = Choices(order), Ticket(engine, request)
    ticket.submit(choices.jobs(ticket))  # a full queue is an answer, not a part of a stream

    async def parts() -> AsyncIterator[dict[str, Any]]:
        usage: dict[str, Any] = {"usage": None} if counted else {}
        async for key, happened in ticket.events():
            for part in choices.take(key, happened):
                yield head | {"choices": [part]} | usage
        for part in choices.echoes():
            yield head | {"choices": [part]} | usage
        if counted:
            yield head | {"choices": [], "usage": choices.usage()}

    return event_stream(parts(), request, engine.limits)
