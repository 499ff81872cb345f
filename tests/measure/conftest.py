"""A model of each family, shared by the tests of losses and of what is made from them."""

import pytest
from models import TWO_LAYERS, sharp

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
