"""A served run and a text come in; what counting the run's own training text would have cost goes out."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter
from starlette.responses import Response

from lucidlm.errors import LucidError
from lucidlm.measure.baseline import NAMES
from lucidlm.measure.ngrams import fit_orders, nats_of_documents
from lucidlm.runs.data import corpus_of_run
from lucidlm.serve.engine import Engine
from lucidlm.serve.faults import Answer
from lucidlm.serve.forms import FAULTS, TokenizeForm
from lucidlm.serve.jobs import Served
from lucidlm.serve.orders import served_as
from lucidlm.text.account import Account
from lucidlm.text.documents import given_text
from lucidlm.weights.whole import run_of

ORDERS = {1: NAMES["unigram_tokens"], 5: f"{NAMES['ngram_tokens']}, order 5"}
"""Counted: single tokens, and each token after up to four others."""
LARGEST_BYTES = 5_000_000
"""Training text that is counted while somebody waits: a few seconds."""
KINDS = ("run", "checkpoint")


def baselines_routes(engine: Engine) -> APIRouter:
    """The route of the game's marks."""
    router = APIRouter(tags=["The lens"], responses=FAULTS)
    turn = asyncio.Semaphore(1)

    @router.post("/api/baselines")
    async def baselines(form: TokenizeForm) -> Response:
        """Nats of each token of a text by counts of the training text of a run; [] for any other model."""
        served = served_as(engine.served, form.model)
        text = given_text(form.text, Account(), "the text")
        async with turn:
            found, why = await asyncio.to_thread(counted, served, text)
        return Answer({"baselines": found, "why": why})

    return router


def counted(served: Served, text: str) -> tuple[list[dict[str, Any]], str]:
    """Each baseline with the nats of all tokens; where there are none, why."""
    if served.kind not in KINDS:
        return [], "the model is no run, so its training text is not known"
    tokenizer = served.tokenizer
    try:
        corpus = corpus_of_run(run_of(Path(served.source)))
        ids = np.asarray(tokenizer.encode(text), np.int64)
        if corpus.train_bytes > LARGEST_BYTES:
            return [], f"its training text has over {LARGEST_BYTES:,} bytes, too many to count now"
        if corpus.tokenizer.vocab_size != tokenizer.vocab_size:
            return [], "its training text has other tokens"
        train = np.asarray(corpus.train[:])
    except (LucidError, OSError) as error:
        return [], str(error)
    found = []
    for order, name in ORDERS.items():
        orders = fit_orders(train, order, tokenizer.vocab_size, start_id=tokenizer.end_of_text)
        nats = nats_of_documents(orders, [ids], tokenizer.vocab_size, prefix_id=tokenizer.end_of_text)
        found.append({"name": name, "nats": nats.tolist()})
    return found, ""
