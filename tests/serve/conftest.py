"""One server for all tests that leave it as it was, with two models."""

from collections.abc import Iterator

import openai
import pytest
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
