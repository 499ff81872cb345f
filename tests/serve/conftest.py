"""One server for all tests that leave it as it was, with two models."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from models import BYTES
from playwright.sync_api import Browser, sync_playwright
from serving import Apart, Running, apart, running, served
from trainings import begun_run

from lucidlm.weights.huggingface import save_model


@pytest.fixture(scope="session")
def tiny():
    """The model that is served as "tiny"."""
    return served()


@pytest.fixture(scope="session")
def server(tiny) -> Iterator[Running]:
    with running(tiny, served("other", "modern")) as live:
        yield live


@pytest.fixture(scope="session")
def client(server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0, timeout=20) as each:
        yield each


@pytest.fixture(scope="module")
def live(tmp_path_factory) -> Iterator[Running]:
    """A server with a folder of runs, where trainings can be started and texts be uploaded."""
    with running(runs=tmp_path_factory.mktemp("live") / "runs") as server:
        yield server


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """The one run of `real`'s folder."""
    return begun_run(str(tmp_path_factory.mktemp("real") / "runs" / "one"))


@pytest.fixture(scope="session")
def real(run) -> Iterator[Apart]:
    """The server in a process of its own, as `lucidlm serve` starts it; "tiny" reads 4,096 tokens."""
    folder = run.parents[1]
    save_model(served(context_length=4096).model, BYTES, folder / "tiny")
    with apart(folder / "tiny", runs=run.parent) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's own Chromium: nothing is downloaded."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.fail("no Chromium: install one (apt-get install chromium), or set CHROMIUM to its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
