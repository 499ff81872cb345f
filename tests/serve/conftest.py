"""One server for all tests that leave it as it was, with two models."""

import os
import shutil
from collections.abc import Iterator

import openai
import pytest
from playwright.sync_api import Browser, sync_playwright
from serving import Running, running, served


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
def browser() -> Iterator[Browser]:
    """The system's own Chromium: nothing is downloaded."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.fail("no Chromium: install one (apt-get install chromium), or set CHROMIUM to its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
