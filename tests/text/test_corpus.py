"""A prepared folder is opened: one that is damaged or of something else is refused."""

import json

import numpy as np
import pytest
from models import made_up_text

from lucidlm.errors import DataError
from lucidlm.text.corpus import PLACES, open_corpus, validation_documents
from lucidlm.text.preparation import prepare


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(made_up_text())
    return path


@pytest.mark.parametrize("damage", ["kind", "version", "tokenizer", "files"])
def test_a_manifest_of_something_else_is_refused(book, tmp_path, damage):
    prepare(book, tmp_path / "out", tokenizer="bytes")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text("utf-8"))
    manifest[damage] = {"fingerprint": "0"} if damage == "tokenizer" else {} if damage == "files" else "other"
    (tmp_path / "out/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="prepare the text again"):
        open_corpus(tmp_path / "out")


def test_places_of_another_shape_are_named_not_unpacked(book, tmp_path):
    corpus = prepare(book, tmp_path / "data", tokenizer="bytes")
    np.save(corpus.folder / PLACES, np.load(corpus.folder / PLACES)[:, 0])
    with pytest.raises(DataError, match="prepare the text again"):
        list(validation_documents(corpus))
