"""Models and settings come in, the ASGI app of the server goes out."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from lucidlm import __version__
from lucidlm.errors import ConfigError, LucidError
from lucidlm.serve.docs_page import docs_page
from lucidlm.serve.documents import Documents
from lucidlm.serve.documents_api import documents_routes
from lucidlm.serve.engine import Engine
from lucidlm.serve.faults import answer_error, answer_wrong_form
from lucidlm.serve.guards import Guard, Settings
from lucidlm.serve.jobs import Served
from lucidlm.serve.openai_api import openai_routes
from lucidlm.serve.own_api import own_routes
from lucidlm.serve.page_api import page_routes
from lucidlm.serve.planning import Plans
from lucidlm.serve.run_baselines import baselines_routes
from lucidlm.serve.run_models import Loading, RunModels
from lucidlm.serve.runs_api import runs_routes
from lucidlm.serve.runs_folder import Runs

LOCAL, LOADING = Settings(), Loading()


def check_names(names: Iterable[str]) -> None:
    """ConfigError where two models have one name."""
    names = list(names)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"two models are called {twice}; rename the folder of one of them")


def make_app(
    models: Iterable[Served],
    settings: Settings = LOCAL,
    *,
    runs: Path | None = None,
    loading: Loading = LOADING,
) -> Guard:
    """The app for these models; ConfigError where two have one name, or there is neither model nor runs.

    Its engine starts and stops with it (ASGI's lifespan). With the folder `runs`, the runs below it are
    shown, and trainings can be started there: they end with the app. `loading` says how runs that a page asks
    for compute.
    """
    models = list(models)
    check_names([each.name for each in models])
    if not models and runs is None:
        raise ConfigError("there is no model to serve; give at least one, or a folder of runs")
    served = {each.name: each for each in models}
    engine, documents = Engine(served, settings.limits), Documents(settings.limits)
    shown, plans = None if runs is None else Runs(runs, documents), Plans(documents)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        engine.start()
        try:
            yield
        finally:
            engine.stop()
            documents.close()
            plans.close()
            if shown is not None:
                await asyncio.to_thread(shown.close)

    app = FastAPI(
        title="lucidlm", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan,
        redirect_slashes=False,
    )  # fmt: skip
    app.include_router(openai_routes(engine))
    app.include_router(own_routes(engine, runs=shown is not None))
    app.include_router(page_routes(engine))
    app.include_router(baselines_routes(engine))
    if shown is not None:
        app.include_router(runs_routes(shown, plans, RunModels(engine, shown, loading), settings.limits))
        app.include_router(documents_routes(documents))
    app.add_exception_handler(LucidError, answer_error)
    app.add_exception_handler(HTTPException, answer_error)
    app.add_exception_handler(RequestValidationError, answer_wrong_form)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(docs_page(app.openapi(), engine.served, settings.limits))

    app.state.engine, app.state.runs = engine, shown
    return Guard(app, settings, () if shown is None else (shown.begin_to_close,))
