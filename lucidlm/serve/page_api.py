"""Routes of the lens: its files, and what its views ask for beside the routes for programs."""

import asyncio
import base64
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from pydantic import Field
from starlette.responses import Response

from lucidlm.errors import ServerError
from lucidlm.measure.compared import Comparison
from lucidlm.measure.compared import page_values as comparison_values
from lucidlm.measure.explanation import Explanation, speller, whole_page
from lucidlm.measure.explanation import page_values as explanation_values
from lucidlm.pages.page import render
from lucidlm.serve.engine import Engine
from lucidlm.serve.faults import Answer
from lucidlm.serve.forms import FAULTS, ExplainForm, Form, ModelOfOurs
from lucidlm.serve.jobs import Job
from lucidlm.serve.orders import served_as
from lucidlm.serve.own_api import explained
from lucidlm.serve.page_jobs import Compares, Logits, PlaceLogits
from lucidlm.serve.ticket import Ticket
from lucidlm.text.account import Account
from lucidlm.text.documents import given_text

VIEWS = ("", "explain", "train", "generate", "compare", "data", "learn", "guess")
KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
NAMED = 40
"""Tokens of a place that come with their texts: the likeliest ones."""


class LogitsForm(ModelOfOurs):
    """POST /api/logits."""

    text: str
    place: int = Field(ge=0, description="Which of the predicted tokens of the text, from 0.")


class CompareForm(Form):
    """POST /api/compare."""

    a: str = Field(description="A name of /api/models.")
    b: str = Field(description="Another one.")
    text: Annotated[str, Field(min_length=1)]


def page_routes(engine: Engine) -> APIRouter:
    """The routes of the lens."""
    router = APIRouter(tags=["The lens"], responses=FAULTS)
    files = dict(lens_files())
    for view in VIEWS:
        router.add_api_route(f"/{view}", lambda: _file(files, "index.html"), include_in_schema=False)

    @router.get("/lens/plotly.js", include_in_schema=False)
    async def plotly() -> Response:
        return Response(await asyncio.to_thread(_plotly), media_type="text/javascript; charset=utf-8")

    @router.get("/lens/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        return _file(files, name)

    @router.post("/api/explain/part")
    async def explain_part(form: ExplainForm, request: Request) -> Response:
        """The explanation of texts as HTML: coloured tokens, and from the targets to the perplexity."""
        explanation = await explained(engine, form, request)
        return await asyncio.to_thread(_explanation_part, explanation)

    @router.post("/api/explain/page")
    async def explain_page(form: ExplainForm, request: Request) -> Response:
        """What `lucidlm explain --html` writes: a page that holds all that it shows."""
        explanation = await explained(engine, form, request)
        name = served_as(engine.served, form.model).name
        page = await asyncio.to_thread(lambda: render("explanation.html", **whole_page(explanation, name)))
        return HTMLResponse(page)

    @router.post("/api/logits")
    async def logits(form: LogitsForm, request: Request) -> Response:
        """The logits of one place, float32 in base64 (little-endian), and texts of the likeliest tokens."""
        served = served_as(engine.served, form.model)
        text = given_text(form.text, Account(), "the text")
        ticket = Ticket(engine, request)
        job = Logits(served, ticket.deliver(0), text, form.place)
        found = await _result(ticket, job)
        assert isinstance(found, PlaceLogits)
        order = found.logits.argsort(descending=True, stable=True)[:NAMED].tolist()
        spell = speller(served.tokenizer)
        return Answer({
            "id": found.target,
            "logits": base64.b64encode(found.logits.numpy().astype("<f4").tobytes()).decode("ascii"),
            "names": [(id, spell(id)) for id in dict.fromkeys([*order, found.target])],
        })  # fmt: skip

    @router.post("/api/compare")
    async def compare(form: CompareForm, request: Request) -> Response:
        """What `lucidlm compare A B --json` prints for a text, by the same function."""
        return Answer((await _compared(engine, form, request)).to_dict())

    @router.post("/api/compare/part")
    async def compare_part(form: CompareForm, request: Request) -> Response:
        """The comparison as HTML: the difference, its interval, and the text as a heat map."""
        comparison = await _compared(engine, form, request)
        return await asyncio.to_thread(_comparison_part, comparison)

    return router


def _explanation_part(explanation: Explanation) -> Response:
    return HTMLResponse(render("explanation_part.html", explained=explanation_values(explanation)))


def _comparison_part(comparison: Comparison) -> Response:
    return HTMLResponse(render("comparison_part.html", **comparison_values(comparison)))


@cache
def _plotly() -> bytes:
    """The script of charts, from its Python package."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().encode("utf-8")


def lens_files() -> Iterator[tuple[str, bytes]]:
    """The files of the lens by name, with those that it shares with the pages that stand alone."""
    for file in resources.files("lucidlm.serve").joinpath("lens").iterdir():
        yield file.name, file.read_bytes()
    shared = resources.files("lucidlm.pages").joinpath("templates")
    yield "look.css", shared.joinpath("look.css").read_bytes()
    # On those pages the script stands by itself; here it is a module.
    yield "tokens.js", shared.joinpath("tokens.js").read_bytes() + b"export {lucidExplained};\n"
    yield "losses.js", shared.joinpath("losses.js").read_bytes()


def _file(files: dict[str, bytes], name: str) -> Response:
    """A file of the lens. A name is a key here, never a path."""
    if name not in files:
        raise ServerError(f"the lens has no {name[:80]}", "open /", status=404)
    kind = KINDS[name.rpartition(".")[2]]
    return Response(files[name], media_type=f"{kind}; charset=utf-8" if kind.startswith("text") else kind)


async def _compared(engine: Engine, form: CompareForm, request: Request) -> Comparison:
    a, b = served_as(engine.served, form.a), served_as(engine.served, form.b)
    account = Account()
    text = given_text(form.text, account, "the text")
    ticket = Ticket(engine, request)
    found = await _result(ticket, Compares(a, b, ticket.deliver(0), text))
    assert isinstance(found, Comparison)
    return replace(found, account=account)


async def _result(ticket: Ticket, job: Job) -> object:
    """What a job with one result hands on."""
    ticket.submit([job])
    (found,) = [event async for _, event in ticket.events()]
    return found
