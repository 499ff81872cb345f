"""Manifests of prepared folders with a value that no field expects: refused by the place, or read."""

import copy
import json
from dataclasses import replace

import pytest
from damage import CONFUSING, places_in, with_odd

from lucidlm.errors import DataError
from lucidlm.runtime.manifest import MANIFEST
from lucidlm.text.corpus import held_out_names, open_corpus
from lucidlm.text.described import check_described
from lucidlm.text.preparation import prepare


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "book.txt").write_text("The river ran past a house and nobody knew why.\n" * 20)
    return prepare(tmp_path / "book.txt", tmp_path / "data", tokenizer="bytes")


def test_each_confused_place_is_refused_or_all_that_reads_the_manifest_can(corpus):
    refused = []
    for place in places_in(corpus.manifest):
        for odd in CONFUSING if place else ():
            changed = with_odd(copy.deepcopy(corpus.manifest), place, odd)
            try:
                check_described(corpus.folder, changed)
            except DataError as error:
                refused.append((place[0], str(error)))
                continue
            read = replace(corpus, manifest=changed)
            assert read.design in ("strata", "documents", "end", "given")
            assert isinstance(read.characters + read.train_bytes, int)
            assert all(isinstance(each, str) for each in [*read.notes, *held_out_names(read, 3)])
    assert len(refused) > 200
    manifest = corpus.folder / MANIFEST
    assert all(error.startswith(f"{manifest}: {table}") for table, error in refused)


def test_a_manifest_of_a_former_version_is_refused_by_the_place(corpus):
    manifest = json.loads((corpus.folder / MANIFEST).read_text())
    del manifest["files"][MANIFEST]
    manifest["tokenizer"] = None
    (corpus.folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="tokenizer is damaged; prepare the text again"):
        open_corpus(corpus.folder)
