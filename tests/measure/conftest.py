"""Models shared by the tests of losses and of what is made from them, and a file that one compressed."""

import pytest
from models import BYTES, END_OF_TEXT, STORY, TWO_LAYERS, lively, shape, sharp

from lucidlm.measure.compression import compress
from lucidlm.model.gpt import GPT


@pytest.fixture(params=TWO_LAYERS)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(family: str) -> GPT:
    return sharp(TWO_LAYERS[family])


@pytest.fixture
def gpt() -> GPT:
    """For facts that have nothing to do with the model's family."""
    return sharp(TWO_LAYERS["gpt2"])


@pytest.fixture
def byte_gpt() -> GPT:
    """Of bytes, with a prefix before each document."""
    return lively(shape(document_prefix_id=END_OF_TEXT))


@pytest.fixture
def file(byte_gpt: GPT) -> bytes:
    """The story's first bytes, compressed by that model."""
    return compress(byte_gpt, BYTES, STORY.encode()[:40]).file
