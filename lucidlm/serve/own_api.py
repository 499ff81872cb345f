"""Routes of our own: explanations, tokens, generation with its distributions, the state of the server."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import iterate_in_threadpool
from starlette.responses import Response, StreamingResponse

from lucidlm.measure.explanation import Explanation
from lucidlm.measure.protocol import Protocol
from lucidlm.serve.engine import Engine
from lucidlm.serve.faults import Answer
from lucidlm.serve.forms import FAULTS, ExplainForm, GenerateForm, TokenizeForm
from lucidlm.serve.jobs import Completion, Scores, Served
from lucidlm.serve.orders import served_as, wanted_steps
from lucidlm.serve.streams import event_stream
from lucidlm.serve.ticket import Ticket
from lucidlm.serve.transcript import Piece, Written, spelled
from lucidlm.text.account import Account
from lucidlm.text.documents import given_text
from lucidlm.text.tokenizer import Tokenizer

LINES = 256
"""Lines of an explanation's JSON that are sent at once."""


def own_routes(engine: Engine, *, runs: bool = False) -> APIRouter:
    """The routes of our own; `runs`: whether there is a folder of runs, with routes of its own."""
    router = APIRouter(tags=["Own routes"], responses=FAULTS)

    @router.get("/health")
    async def health() -> Response:
        """That the server answers, and how much it does."""
        return Answer(
            {"status": "ok", "running": engine.running, "waiting": engine.waiting, "places": engine.places}
        )

    @router.get("/api/models")
    async def models() -> Response:
        """The models that are served, with their shapes, and whether there is a folder of runs."""
        return Answer({"models": [described(each) for each in engine.served.values()], "runs": runs})

    @router.post("/api/explain")
    async def explain(form: ExplainForm, request: Request) -> Response:
        """What `lucidlm explain MODEL TEXT ... --json` prints, by the same function in float32."""
        lines = _several((await explained(engine, form, request)).json_lines())
        return StreamingResponse(iterate_in_threadpool(lines), media_type="application/json")

    @router.post("/api/tokenize")
    async def tokenize(form: TokenizeForm) -> Response:
        """The tokens of a text: id, text and bytes of each."""
        tokenizer = served_as(engine.served, form.model).tokenizer
        ids = await asyncio.to_thread(tokenizer.encode, form.text)
        return await asyncio.to_thread(_tokens, tokenizer, ids)

    @router.post("/api/generate")
    async def generate(form: GenerateForm, request: Request) -> Response:
        """A stream: for each token its probability and the distributions before and after the filters.

        The likeliest tokens of each step have their probability in `model` (temperature 1, no filter), in
        `before` (with the temperature) and in `after` (with top-k, top-p and min-p too); `cut_off` is the
        probability that these remove.
        """
        served = served_as(engine.served, form.model)
        prompt, wanted = await asyncio.to_thread(wanted_steps, form, served)
        ticket = Ticket(engine, request)
        ticket.submit([Completion(served, ticket.deliver(0), prompt, wanted)])

        async def steps() -> AsyncIterator[dict[str, Any]]:
            async for _, piece in ticket.events():
                assert isinstance(piece, Piece)
                yield shown(served, piece) | {"seed": wanted.seed}

        return event_stream(steps(), request, engine.limits)

    return router


async def explained(engine: Engine, form: ExplainForm, request: Request) -> Explanation:
    """The explanation that a form asks for."""
    served, account = served_as(engine.served, form.model), Account()
    protocol = Protocol(context_length=form.context_length, stride=form.stride, prefix=form.prefix)
    texts = [given_text(text, account, f"text {number}") for number, text in enumerate(form.texts, 1)]
    ticket = Ticket(engine, request)
    ticket.submit([Scores(served, ticket.deliver(0), texts, top_k=form.top_k, protocol=protocol)])
    (explanation,) = [happened async for _, happened in ticket.events()]
    assert isinstance(explanation, Explanation)
    return replace(explanation, account=account)


def _tokens(tokenizer: Tokenizer, ids: list[int]) -> Response:
    rows = [{"id": id, "text": spelled(tokenizer, id), "bytes": len(tokenizer.token_bytes(id))} for id in ids]
    return Answer({"tokenizer": tokenizer.name, "count": len(ids), "tokens": rows})


def described(served: Served) -> dict[str, Any]:
    """A model, as /api/models shows it."""
    config = served.model.config
    return {
        "name": served.name,
        "source": served.source or served.name,
        "kind": served.kind,
        "parameters": served.model.n_parameters,
        "family": config.family,
        "context_length": config.context_length,
        "vocab_size": config.vocab_size,
        "tokenizer": served.tokenizer.name,
        "dtype": served.dtype,
        "device": str(served.model.device),
        "document_prefix_id": config.document_prefix_id,
    }


def shown(served: Served, piece: Piece) -> dict[str, Any]:
    """One event of /api/generate."""
    return {
        "text": piece.text,
        "tokens": [_shown_token(served, token) for token in piece.tokens],
        "finish_reason": piece.finish_reason,
        "generated": piece.generated,
    }


def _shown_token(served: Served, token: Written) -> dict[str, Any]:
    step = token.step or {}
    columns = ("ids", "model", "before", "after")
    rows = zip(*(step.get(name, ()) for name in columns), strict=True)
    return {
        "id": token.id,
        "text": spelled(served.tokenizer, token.id),
        "log_probability": token.log_probability,
        "cut_off": step.get("cut_off"),
        "kept": step.get("kept"),
        "distribution": [
            {
                "id": id,
                "text": spelled(served.tokenizer, id),
                "model": model,
                "before": before,
                "after": after,
            }
            for id, model, before, after in rows
        ],
    }


def _several(lines: Iterable[str]) -> Iterator[bytes]:
    """The lines, some at a time."""
    left = iter(lines)
    while several := list(islice(left, LINES)):
        yield "\n".join([*several, ""]).encode("utf-8", errors="backslashreplace")
