"""A part is written as token files: a large one in shards, which are read as one file."""

import errno
import os
import shutil

import numpy as np
import pytest
from made_texts import contents

from lucidlm.errors import DataError
from lucidlm.text import token_writer
from lucidlm.text.corpus import open_corpus, train_documents
from lucidlm.text.preparation import prepare
from lucidlm.text.windows import Windows


@pytest.mark.usefixtures("small")
def test_the_tokens_of_a_large_part_are_in_shards_that_are_read_as_one_file(sources, tmp_path, monkeypatch):
    whole = prepare(sources, tmp_path / "whole", tokenizer="bytes")
    monkeypatch.setattr(token_writer, "ONE_FILE", 60_000)
    corpus = prepare(sources, tmp_path / "shards", tokenizer="bytes")
    names = corpus.manifest["train"]["shards"]
    assert len(names) > 3
    assert {*names} <= {*corpus.manifest["files"]}
    assert "train.npy" not in contents(corpus.folder)
    assert (corpus.folder / "validation.npy").exists()
    assert (len(corpus.train), corpus.validation_tokens) == (whole.train_tokens, whole.validation_tokens)
    assert np.array_equal(corpus.train[:], whole.train[:])
    assert all(map(np.array_equal, train_documents(corpus), train_documents(whole)))
    one, many = (Windows(each.train, 64).batch_at(seed=3, step=9, batch_size=40) for each in (whole, corpus))
    assert all(map(np.array_equal, one, many))
    assert prepare(sources, tmp_path / "shards", tokenizer="bytes").status == "reused"
    # A part is not taken for the whole.
    (corpus.folder / names[1]).unlink()
    with pytest.raises(DataError, match=names[1]):
        open_corpus(corpus.folder)


def test_where_a_disk_has_no_links_a_copy_is_made_and_a_full_disk_names_the_file(book, tmp_path, monkeypatch):
    whole = prepare(book, tmp_path / "whole", tokenizer="bytes")

    def no_links(*_):
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", no_links)
    copied = prepare(book, tmp_path / "copied", tokenizer="bytes")
    assert contents(copied.folder) == contents(whole.folder)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space") as caught:
        prepare(book, tmp_path / "full", tokenizer="bytes")
    assert caught.value.filename == str(tmp_path / "full" / "train.npy")
    assert caught.value.filename2 is None


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("place", [0, 20])
def test_kept_tokens_that_were_damaged_are_named_and_the_advice_works(sources, tmp_path, place):
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_writer, "_join", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(sources, tmp_path / "out", tokenizer="bytes")
    parts = tmp_path / ".out.parts"
    kept = sorted(parts.glob("*.npy"))
    assert len(kept) > 1
    for path in kept:
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(data)
    with pytest.raises(DataError, match=rf"\.npy: .*; delete {parts} and run the same command again$"):
        prepare(sources, tmp_path / "out", tokenizer="bytes")
    shutil.rmtree(parts)
    assert prepare(sources, tmp_path / "out", tokenizer="bytes").status == "new"
