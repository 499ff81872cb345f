"""A corpus, a model and its assessment, shared by the tests of the assessment and of its page."""

import numpy as np
import pytest
from models import lively, shape

from lucidlm.report.assessment import Background, Effort, HeldOut, assess
from lucidlm.text.corpus import validation_documents
from lucidlm.text.preparation import prepare

LINES = [
    "The tide came in.",
    "Anna wrote it down.",
    "Nobody on the quay looked up.",
    "The lamp went out at nine.",
]


@pytest.fixture(scope="package")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    draw = np.random.default_rng(0)
    (folder / "book.txt").write_text("\n".join(LINES[draw.integers(4)] for _ in range(300)), encoding="utf-8")
    return prepare([folder / "book.txt"], folder / "data", tokenizer="bytes")


@pytest.fixture(scope="package")
def model():
    return lively(shape(context_length=32, document_prefix_id=256), noise=0.0)


@pytest.fixture(scope="package")
def assessed(model, corpus):
    """assessed(documents, design=None, sample_of=None, corpus=corpus, **background): a quick assessment."""

    def make(documents, *, design=None, sample_of=None, corpus=corpus, **background):
        text = HeldOut(documents, design, sample_of=sample_of)
        return assess(
            model, corpus.tokenizer, text, Background(corpus, **background), effort=Effort(generated=0.0)
        )

    return make


@pytest.fixture(scope="package")
def assessment(model, corpus):
    return assess(model, corpus.tokenizer, HeldOut([*validation_documents(corpus)]), Background(corpus))
