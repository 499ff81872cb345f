"""What the tests of tokenizers share: a small vocabulary."""

import pytest
from models import MANY_SCRIPTS

from lucidlm.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def trained() -> Tokenizer:
    """Byte-pair encoding with 400 tokens, learnt from a few sentences."""
    return Tokenizer.train([MANY_SCRIPTS * 3, "the lighthouse and the ferry " * 20], 400)
