"""Texts become a prepared folder: tokens, vocabulary, progress, memory; by many processes the same."""

import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest
from made_texts import SIZES, contents, decoded, words, write_jsonl
from recorded import Recorded

from lucidlm.errors import ConfigError
from lucidlm.runtime.progress import SILENT
from lucidlm.text import leaks, preparation, split, staged_text, token_writer
from lucidlm.text.corpus import train_documents
from lucidlm.text.formats.decoding import File
from lucidlm.text.kept import Kept
from lucidlm.text.portions import Portion
from lucidlm.text.preparation import prepare
from lucidlm.text.reading import READING
from lucidlm.text.tokenizer import Tokenizer


@pytest.mark.parametrize("tokenizer", ["gpt2", "bytes", "bpe:300"])
def test_one_text_is_cut_near_its_end_by_characters_and_nothing_is_lost(book, tmp_path, tokenizer):
    corpus = prepare(book, tmp_path / "out", tokenizer=tokenizer, split="end")
    text = book.read_text("utf-8")
    cut = int(len(text) * 0.9)
    assert decoded(corpus) == ([text[:cut]], [text[cut:]])
    assert corpus.tokenizer.name == tokenizer
    assert (corpus.train_bytes, corpus.validation_bytes) == (
        len(text[:cut].encode()),
        len(text[cut:].encode()),
    )
    assert (corpus.characters, corpus.manifest["train"]["characters"]) == (len(text), cut)
    assert corpus.status == "new"
    assert corpus.notes[0] == "held out: the last 10 % of the text"


@pytest.mark.parametrize("characters", range(100, 130))
def test_the_cut_falls_between_characters_however_many_bytes_they_have(tmp_path, characters, monkeypatch):
    monkeypatch.setattr(staged_text, "BLOCK", 7)
    text = "".join(random.Random(characters).choices("aé東😀\n", k=characters))
    (tmp_path / "a.txt").write_bytes(text.encode())
    corpus = prepare(
        tmp_path / "a.txt", tmp_path / "out", tokenizer="bytes", validation_fraction=0.3, split="end"
    )
    cut = int(characters * 0.7)
    assert decoded(corpus) == ([text[:cut]], [text[cut:]])


def test_end_of_text_stands_before_each_document_and_not_after_the_last(tmp_path):
    texts = [words(seed, 30) for seed in range(5)]
    lines = write_jsonl(tmp_path / "a.jsonl", texts)
    corpus = prepare(lines, tmp_path / "out", tokenizer="bytes", split="end")
    for file, part in ((corpus.train, slice(0, -1)), (corpus.validation, slice(-1, None))):
        expected = []
        for text in texts:
            cut = int(len(text) * 0.9)
            expected += [256, *(text[:cut] if part.start == 0 else text[cut:]).encode()]
        assert file[:].tolist() == expected
    assert corpus.train_tokens == len(corpus.train)
    assert corpus.validation_tokens == len(corpus.validation)


def test_without_sources_the_bundled_story_is_prepared(tmp_path):
    corpus = prepare([], tmp_path / "out")
    assert corpus.manifest["sources"][0]["path"] == "the bundled story"
    assert corpus.manifest["documents"][0]["source"] == "the bundled story"
    assert corpus.characters > 10_000
    assert corpus.manifest["tokenizer"]["reason"].startswith(
        f"{corpus.manifest['train']['characters']:,} characters: "
    )


# The tokenizer


def test_a_vocabulary_is_learnt_from_the_training_part_alone(tmp_path):
    secret = "zyxwvut "
    (tmp_path / "a.txt").write_text(words(1, 1200) + " " + secret * 60)
    corpus = prepare(tmp_path / "a.txt", tmp_path / "out", tokenizer="bpe:400", split="end")
    assert secret in decoded(corpus)[1][0]
    assert not any(b"zyx" in corpus.tokenizer.token_bytes(id) for id in range(corpus.tokenizer.vocab_size))
    assert corpus.tokenizer.vocab_size < 400
    assert any("400" in note for note in corpus.notes)


def test_a_large_text_is_sampled_evenly_for_the_vocabulary(book, tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "TRAINING_SAMPLE", 2000)
    monkeypatch.setattr(staged_text, "BLOCK", 100)
    kept = Kept(tmp_path)
    portion = Portion((File(book, "book", "text"),))
    record = staged_text.stage(portion, READING, {}, kept, "book", progress=SILENT)
    segment = staged_text.Segment("book", record["documents"], record["bytes"])
    staged = staged_text.StagedText(tmp_path, [segment], [1, 0])
    part = split.Documents(staged, lambda numbers, rows: np.ones(len(rows), bool))
    sample = list(preparation._sample(staged, part))
    assert sum(map(len, sample)) == pytest.approx(2000, abs=150)
    places = [book.read_text("utf-8").index(text) for text in sample]
    assert np.diff(places) == pytest.approx(part.bytes / 20, rel=0.3)
    staged.close()


def test_a_tokenizer_of_ones_own_and_a_folder_with_one_are_taken(book, tmp_path):
    own = Tokenizer.train([words(0, 500)], 300)
    (tmp_path / "own").mkdir()
    own.save(tmp_path / "own")
    for number, given in enumerate((own, str(tmp_path / "own"))):
        corpus = prepare(book, tmp_path / f"out{number}", tokenizer=given)
        assert (
            corpus.tokenizer.fingerprint() == corpus.manifest["tokenizer"]["fingerprint"] == own.fingerprint()
        )


@pytest.mark.parametrize("tokenizer", ["gpt5", "bpe:1"])
def test_an_unknown_tokenizer_is_an_error_before_the_text_is_read(tmp_path, tokenizer):
    with pytest.raises(ConfigError):
        prepare(tmp_path / "missing.txt", tmp_path / "out", tokenizer=tokenizer)


def test_control_text_in_a_document_ends_no_document(tmp_path):
    texts = [f"{words(seed, 9)} <|endoftext|> {words(seed + 100, 9)}" for seed in range(30)]
    corpus = prepare(write_jsonl(tmp_path / "a.jsonl", texts), tmp_path / "out", tokenizer="gpt2")
    assert sorted(sum(decoded(corpus), [])) == sorted(texts)  # noqa: RUF017
    assert (corpus.train[:] == 50256).sum() == corpus.manifest["train"]["documents"]


# What is told and what it costs


def test_progress_goes_through_the_stages_and_reaches_the_end(book, tmp_path):
    told = Recorded()
    prepare(book, tmp_path / "out", tokenizer="bpe:300", progress=told)
    reading, *others = told.stages
    assert reading[1] > 0
    names = ["looking for copies", "training the tokenizer", "encoding"]
    assert list(dict.fromkeys(name for name, *_ in others)) == names
    assert all(done == total for _, done, total in others)


def test_notes_of_the_documents_are_passed_on_and_counted(tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    for name in "abc":
        (texts / f"{name}.txt").write_bytes(words(ord(name), 40).replace(" the ", "\r\n").encode())
    corpus = prepare(texts, tmp_path / "out", tokenizer="bytes")
    stored = sum(path.stat().st_size for path in texts.iterdir())
    read = corpus.manifest["read"]
    left_out = stored - corpus.train_bytes - corpus.validation_bytes
    assert (read["bytes_of_files"], read["bytes_as_utf8"]) == (stored, stored)
    assert read["bytes_left_out"] == {"carriage_returns": left_out}
    assert corpus.notes[0] == (
        f"left out {left_out} of the files' {stored:,} bytes: carriage returns of line ends "
        f"({texts / 'a.txt'} and 2 more documents)"
    )


def test_memory_stays_bounded_for_a_text_of_tens_of_megabytes(tmp_path):
    line = (words(1, 2000) + "\n").encode()
    with open(tmp_path / "large.txt", "wb") as file:
        for number in range(3000):
            file.write(b"%d " % number + line)
    code = (
        "import resource, sys\nfrom lucidlm.text.preparation import prepare\n"
        "prepare([], sys.argv[2] + '0', tokenizer='bytes')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "prepare(sys.argv[1], sys.argv[2], tokenizer='bytes')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    pytest.importorskip("resource")
    command = [sys.executable, "-c", code, str(tmp_path / "large.txt"), str(tmp_path / "out")]
    grown = int(subprocess.run(command, capture_output=True, check=True, timeout=300).stdout)
    assert grown * (1 if sys.platform == "darwin" else 1024) < os.path.getsize(tmp_path / "large.txt")


def test_many_documents_are_quick(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [words(seed, 12) for seed in range(2000)])
    start = time.process_time()
    corpus = prepare(path, tmp_path / "out", tokenizer="gpt2")
    assert time.process_time() - start < 5  # about half a second on an idle machine
    assert sum(1 for _ in train_documents(corpus)) == corpus.manifest["train"]["documents"]
    assert len(corpus.manifest["documents"]) == 1000


# In portions and chunks, by many processes


@pytest.mark.parametrize(
    ("design", "tokenizer"), [("auto", "bpe:400"), ("pieces", "bpe:300"), ("end", "bytes")]
)
def test_any_number_of_processes_portions_and_chunks_gives_the_same_bytes(
    sources, tmp_path, monkeypatch, design, tokenizer
):
    prepare(sources, tmp_path / "whole", split=design, tokenizer=tokenizer)
    whole = contents(tmp_path / "whole")
    for module, name in ((preparation, "PORTION"), (token_writer, "ENCODED"), (leaks, "LOOKED_AT")):
        monkeypatch.setattr(module, name, SIZES[name])
    told = Recorded()
    prepare(sources, tmp_path / "one", split=design, tokenizer=tokenizer, progress=told)
    assert contents(tmp_path / "one") == whole
    assert told.stages[0][1] > 0
    assert all(done == total for _, done, total in told.stages[1:])
    if design == "auto":
        prepare(sources, tmp_path / "three", tokenizer=tokenizer, workers=3)
        assert contents(tmp_path / "three") == whole
    assert not list(tmp_path.glob(".*"))
