"""A prepared folder is used again, prepared anew, or refused; what is in the way, or changes, is an error."""

import os
from pathlib import Path

import pytest
from made_texts import contents, decoded, words, write_jsonl
from recorded import Recorded

from lucidlm.errors import DataError, RunError
from lucidlm.runtime.locks import lock
from lucidlm.text.corpus import open_corpus
from lucidlm.text.preparation import prepare


def test_the_same_text_and_settings_are_reused_and_others_prepared_anew(book, tmp_path):
    out = tmp_path / "out"
    prepare(book, out, tokenizer="bytes")
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert prepare(book, out, tokenizer="bytes").status == "reused"
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    assert prepare(book, out, tokenizer="bytes", validation_fraction=0.2).status.startswith("redone: ")
    book.write_text(book.read_text("utf-8") + "more", "utf-8")
    again = prepare(book, out, tokenizer="bytes", validation_fraction=0.2)
    assert again.status == "redone: the text or a setting has changed"
    assert decoded(again)[0][0].endswith("more")


def test_a_file_added_to_a_folder_is_noticed(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(words(1, 50))
    out = tmp_path / "texts" / "prepared"  # inside its own source: what is written there is not read
    assert prepare(tmp_path / "texts", out, tokenizer="bytes").status == "new"
    assert prepare(tmp_path / "texts", out, tokenizer="bytes").status == "reused"
    (tmp_path / "texts" / "b.txt").write_text(words(2, 50))
    corpus = prepare(tmp_path / "texts", out, tokenizer="bytes")
    assert corpus.status.startswith("redone")
    assert len(corpus.manifest["documents"]) == 2


def test_a_damaged_folder_is_refused_when_opened_and_prepared_anew(book, tmp_path):
    out = tmp_path / "out"
    prepare(book, out, tokenizer="bytes")
    whole = contents(out)
    data = bytearray(whole["train.npy"])
    for damaged in (data[:-2], data[:-1] + b"\x01", b""):
        (out / "train.npy").write_bytes(damaged)
        with pytest.raises(DataError, match=r"train\.npy"):
            open_corpus(out)
        corpus = prepare(book, out, tokenizer="bytes")
        assert corpus.status.startswith("redone: ")
        assert "train.npy" in corpus.status
        assert contents(out) == whole


def test_preparing_twice_gives_the_same_bytes(book, tmp_path):
    for name in ("a", "b"):
        prepare(book, tmp_path / name, tokenizer="bpe:350")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "book.txt"]


def test_a_folder_that_is_not_ours_or_holds_more_is_never_overwritten(book, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="not a prepared folder"):
        prepare(book, tmp_path / "mine")
    prepare(book, tmp_path / "out", tokenizer="bytes")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"notes\.txt"):
        prepare(book, tmp_path / "out", tokenizer="gpt2")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    assert prepare(book, tmp_path / "empty", tokenizer="bytes").status == "new"


def test_a_folder_in_use_is_an_error(book, tmp_path):
    with lock(tmp_path / "out"), pytest.raises(RunError, match="in use"):
        prepare(book, tmp_path / "out")


def test_what_goes_wrong_while_reading_leaves_nothing_behind(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [words(1, 10)])
    with open(tmp_path / "a.jsonl", "a") as file:
        file.write("not json\n")
    with pytest.raises(DataError, match=r"a\.jsonl:2"):
        prepare(tmp_path / "a.jsonl", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_file_that_changes_while_it_is_read_is_an_error(book, tmp_path):
    def change(stage):
        if stage == "looking for copies":
            book.write_text("changed", "utf-8")

    with pytest.raises(DataError, match=r"book\.txt: changed while"):
        prepare(book, tmp_path / "out", tokenizer="bytes", progress=Recorded(at=change))
    assert not (tmp_path / "out").exists()


PICTURE = b"\x89PNG\r\n\x1a\n\0\0"


@pytest.fixture
def folder(tmp_path):
    """A folder of two texts, and of files that are none."""
    texts = tmp_path / "texts"
    texts.mkdir()
    for name in "ab":
        (texts / f"{name}.txt").write_text(words(ord(name), 200))
    (texts / "id_rsa").write_bytes(b"secret")
    (texts / "app.log").write_bytes(b"started\n")
    return texts


def test_the_manifest_lists_and_the_key_depends_on_what_was_read_alone(folder, tmp_path):
    def prepared():
        corpus = prepare(folder, tmp_path / "out", tokenizer="bytes")
        manifest = {name: corpus.manifest[name] for name in ("key", "sources", "train", "split")}
        return manifest, corpus.manifest["read"]["passed_over"], corpus.status

    manifest, passed, status = prepared()
    assert [Path(entry["path"]).name for entry in manifest["sources"]] == ["a.txt", "b.txt"]
    assert (passed, status) == ({"other_kinds": {"count": 2, "first": str(folder / "app.log")}}, "new")
    (folder / "id_rsa").write_bytes(b"another")
    assert prepared() == (manifest, passed, "reused")
    (folder / "broken.txt").write_bytes(PICTURE)
    again, passed, status = prepared()
    assert (again, status) == (manifest, "redone: the text or a setting has changed")
    assert passed["binary"] == {"count": 1, "first": str(folder / "broken.txt")}
    assert prepared() == (manifest, passed, "reused")
    (folder / "broken.txt").write_text("mended")
    assert len(prepared()[0]["sources"]) == 3


def test_a_file_that_grows_stops_the_work_only_if_it_is_read(folder, tmp_path):
    (folder / "broken.txt").write_bytes(PICTURE)

    def grow(name):
        def more(stage):
            with open(folder / name, "ab") as file:
                file.write(b"\0more")

        return Recorded(at=more)

    for name in ("app.log", "broken.txt"):
        assert prepare(folder, tmp_path / name, tokenizer="bytes", progress=grow(name)).status == "new"
    with pytest.raises(DataError, match=r"a.txt: changed while"):
        prepare(folder, tmp_path / "out", tokenizer="bytes", progress=grow("a.txt"))


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no such names here")
def test_a_name_that_is_no_utf8_stands_in_the_manifest_as_text(folder, tmp_path):
    name = os.fsdecode(b"caf\xe9.txt")
    (folder / name).write_text(words(3, 50))
    manifest = prepare(folder, tmp_path / "out", tokenizer="bytes").manifest
    shown = str(folder / r"caf\udce9.txt")
    assert shown in [entry["path"] for entry in manifest["sources"]]
    assert shown in [entry["source"] for entry in manifest["documents"]]
    alone = prepare(folder / name, tmp_path / "alone", tokenizer="bytes").manifest
    assert alone["sources"][0]["path"] == shown


def test_prepared_text_and_what_is_being_prepared_are_no_texts_of_the_folder_they_are_in(folder, monkeypatch):
    monkeypatch.chdir(folder)
    first = prepare(".", "ready", tokenizer="bytes").manifest
    second = prepare(".", "ready again", tokenizer="bytes").manifest
    assert second["key"] == first["key"]
    assert second["read"]["passed_over"]["own_folders"] == {"count": 1, "first": "ready"}
