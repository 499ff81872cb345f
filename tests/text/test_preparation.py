"""Texts become a prepared folder: split, copies, vocabulary, and what happens to one that is there."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from models import WORDS
from recorded import Recorded

from lucidlm.errors import ConfigError, DataError, RunError
from lucidlm.runtime.locks import lock
from lucidlm.runtime.progress import SILENT
from lucidlm.text import preparation as module
from lucidlm.text import split, staged_text
from lucidlm.text.corpus import open_corpus, train_documents, validation_documents
from lucidlm.text.excerpts import ids_of
from lucidlm.text.formats.decoding import File
from lucidlm.text.kept import Kept
from lucidlm.text.portions import Portion
from lucidlm.text.preparation import prepare
from lucidlm.text.reading import READING
from lucidlm.text.tokenizer import Tokenizer


def words(seed, count):
    return " ".join(random.Random(seed).choices(WORDS, k=count)) + "."


def write_jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def decoded(corpus):
    """Both parts as texts, document by document."""
    return tuple(
        [corpus.tokenizer.decode(ids) for ids in ids_of(documents(corpus))]
        for documents in (train_documents, validation_documents)
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(
        "\n\n".join(words(seed, 60) for seed in range(40)) + " Ende: größer 😀 als zuvor.", "utf-8"
    )
    return path


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


# The split


def test_twenty_documents_or_more_are_split_whole_by_their_content_alone(tmp_path):
    texts = [words(seed, 30) for seed in range(100)]
    corpus = prepare(write_jsonl(tmp_path / "a.jsonl", texts), tmp_path / "a", tokenizer="bytes")
    train, validation = decoded(corpus)
    assert [text for text in texts if text in {*train}] == train
    assert sorted(train + validation) == sorted(texts)
    assert 3 <= len(validation) <= 20  # 10 expected, three standard deviations
    more = [words(seed, 30) for seed in range(1000, 1200)]
    shuffled = random.Random(0).sample(texts + more, k=300)
    larger = decoded(prepare(write_jsonl(tmp_path / "b.jsonl", shuffled), tmp_path / "b", tokenizer="bytes"))
    assert {*validation} <= {*larger[1]}
    assert {*train} <= {*larger[0]}
    assert corpus.manifest["train"]["documents"] == len(train)


def test_files_of_a_folder_are_documents_and_are_split_alike(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for seed in range(25):
        (folder / f"{seed}.txt").write_text(words(seed, 30))
    from_folder = decoded(prepare(folder, tmp_path / "a", tokenizer="bytes"))
    lines = write_jsonl(tmp_path / "a.jsonl", [words(seed, 30) for seed in range(25)])
    from_lines = decoded(prepare(lines, tmp_path / "b", tokenizer="bytes"))
    assert [sorted(part) for part in from_folder] == [sorted(part) for part in from_lines]


def test_equal_documents_fall_on_one_side(tmp_path):
    texts = [words(seed % 15, 30) for seed in range(60)]
    train, validation = decoded(
        prepare(write_jsonl(tmp_path / "a.jsonl", texts), tmp_path / "a", tokenizer="bytes")
    )
    assert not {*train} & {*validation}
    assert len(train) + len(validation) == 60


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
def test_neither_side_is_left_without_a_document(tmp_path, fraction):
    texts = [words(seed, 30) for seed in range(20)]
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    corpus = prepare(path, tmp_path / "a", tokenizer="bytes", validation_fraction=fraction)
    assert sorted(map(len, decoded(corpus))) == [1, 19]


def test_documents_that_are_all_the_same_cannot_be_split(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["the same"] * 30)
    with pytest.raises(DataError, match=r"30 documents are the same text.*--val"):
        prepare(path, tmp_path / "a")
    alone = write_jsonl(tmp_path / "b.jsonl", [words(0, 300)])
    with pytest.raises(DataError, match=r"only one document: use --split pieces or end, or give --val"):
        prepare(alone, tmp_path / "b", split="documents")


def test_the_validation_part_is_bounded_by_halving_the_fraction(tmp_path, monkeypatch):
    text = "x" * 100_000
    (tmp_path / "a.txt").write_text(text)
    texts = [words(seed, 30) for seed in range(400)]
    lines = write_jsonl(tmp_path / "a.jsonl", texts)
    before = decoded(prepare(lines, tmp_path / "c", tokenizer="bytes"))[1]
    monkeypatch.setattr(split, "LARGEST_VALIDATION", 3000)
    corpus = prepare(tmp_path / "a.txt", tmp_path / "e", tokenizer="bytes")
    assert (corpus.design, corpus.validation_bytes) == ("strata", 2500)
    corpus = prepare(tmp_path / "a.txt", tmp_path / "a", tokenizer="bytes", split="end")
    assert corpus.validation_bytes == 2500
    assert corpus.notes[0] == "held out: the last 2.5 % of the text"
    corpus = prepare(lines, tmp_path / "b", tokenizer="bytes")
    assert 0 < corpus.validation_bytes <= 3000
    assert {*decoded(corpus)[1]} < {*before}


def test_validation_sources_of_their_own_are_the_validation_part(book, tmp_path):
    (tmp_path / "val.txt").write_text(words(999, 400))
    corpus = prepare(book, tmp_path / "out", tokenizer="bytes", validation=[tmp_path / "val.txt"])
    assert decoded(corpus) == ([book.read_text("utf-8")], [words(999, 400)])
    assert corpus.manifest["validation_sources"][0]["path"].endswith("val.txt")


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 2, float("nan")])
def test_a_fraction_that_leaves_nothing_is_an_error(book, tmp_path, fraction):
    with pytest.raises(ConfigError, match="validation fraction"):
        prepare(book, tmp_path / "out", validation_fraction=fraction)


@pytest.mark.parametrize("text", ["a", "ab", "abcdefghijklm"])
def test_a_text_too_short_for_two_parts_is_an_error_or_works(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    if len(text) < 2:
        with pytest.raises(DataError, match="1 character leaves no validation text; add text or give --val"):
            prepare(tmp_path / "a.txt", tmp_path / "out")
        assert not (tmp_path / "out").exists()
    else:
        corpus = prepare(tmp_path / "a.txt", tmp_path / "out", split="end")
        assert "".join(map("".join, decoded(corpus))) == text
        assert any("only 1 token:" in note or "only 2 tokens" in note for note in corpus.notes)


# Text in both parts


def test_a_planted_copy_in_the_validation_text_is_taken_out_of_training_and_named(tmp_path):
    texts = [words(seed, 50) for seed in range(10)]
    train = write_jsonl(tmp_path / "train.jsonl", texts)
    validation = write_jsonl(tmp_path / "val.jsonl", [texts[3], words(77, 50)])
    corpus = prepare(train, tmp_path / "out", tokenizer="bytes", validation=validation)
    assert decoded(corpus) == (texts[:3] + texts[4:], [texts[3], words(77, 50)])
    assert any("1 training document" in note and "train.jsonl:4" in note for note in corpus.notes)


def test_a_validation_text_that_is_the_training_text_is_an_error(book, tmp_path):
    with pytest.raises(DataError, match="the training text is also"):
        prepare(book, tmp_path / "out", validation=book)


def test_the_manifest_and_the_notes_name_a_copy(tmp_path):
    texts = [words(seed, 300) for seed in range(8)]
    changed = texts[5].split()
    changed[100] = changed[200] = "altered"
    validation = write_jsonl(tmp_path / "val.jsonl", [words(500, 300), " ".join(changed)])
    train = write_jsonl(tmp_path / "train.jsonl", texts)
    corpus = prepare(train, tmp_path / "out", tokenizer="bytes", validation=validation)
    (leak,) = corpus.manifest["leaks"]["documents"]
    assert (leak["validation"], leak["train"]) == (f"{validation}:2", f"{train}:6")
    assert 0.9 <= leak["overlap"] <= 1
    assert any(f"{validation}:2" in note and "its loss is too low" in note for note in corpus.notes)


def test_a_validation_text_of_few_tokens_is_a_warning(book, tmp_path):
    corpus = prepare(book, tmp_path / "out", tokenizer="gpt2")
    assert corpus.validation_tokens < 1000
    assert f"the held-out text is only {corpus.heldout_tokens} tokens: its loss is uncertain" in corpus.notes


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
    monkeypatch.setattr(module, "TRAINING_SAMPLE", 2000)
    monkeypatch.setattr(staged_text, "BLOCK", 100)
    kept = Kept(tmp_path)
    portion = Portion((File(book, "book", "text"),))
    record = staged_text.stage(portion, READING, {}, kept, "book", progress=SILENT)
    segment = staged_text.Segment("book", record["documents"], record["bytes"])
    staged = staged_text.StagedText(tmp_path, [segment], [1, 0])
    part = split.Documents(staged, lambda numbers, rows: np.ones(len(rows), bool))
    sample = list(module._sample(staged, part))
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


# Once prepared


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


TESTS = Path(__file__).parent.parent
KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[4])
from recorded import Recorded
from lucidlm.text import preparation
steps = 0
def step(stage):
    global steps
    steps += 1
    if steps == int(sys.argv[3]):
        os._exit(9)
if sys.argv[3] == "-1":
    preparation.write_manifest = lambda *a, **k: os._exit(9)
if sys.argv[3] == "-2":
    import lucidlm.runtime.files as files
    files._sync_tree = lambda folder: os._exit(9)
preparation.prepare(sys.argv[1], sys.argv[2], tokenizer="bpe:300", progress=Recorded(at=step))
os._exit(0)
"""


@pytest.mark.parametrize("old", [False, True])
def test_killed_at_any_moment_it_gives_the_same_when_run_again(book, tmp_path, old):
    prepare(book, tmp_path / "whole", tokenizer="bpe:300")
    whole, out = contents(tmp_path / "whole"), tmp_path / "out"
    for moment in (1, 3, 5, -1, -2):
        if old:
            prepare(book, out, tokenizer="bytes")
        before = contents(out) if old else None
        command = [sys.executable, "-c", KILLED, str(book), str(out), str(moment), str(TESTS)]
        assert subprocess.run(command, timeout=60, check=False).returncode == 9
        if old:
            assert contents(out) == before
        else:
            assert not out.exists()
            with pytest.raises(DataError, match=r"manifest\.json"):
                open_corpus(out)
        assert prepare(book, out, tokenizer="bpe:300").status == (
            "redone: the text or a setting has changed" if old else "new"
        )
        assert contents(out) == whole
        for path in out.iterdir():
            path.unlink()
        out.rmdir()


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
    grown = int(subprocess.run(command, capture_output=True, check=True, timeout=100).stdout)
    assert grown * (1 if sys.platform == "darwin" else 1024) < os.path.getsize(tmp_path / "large.txt")


def test_many_documents_are_quick(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [words(seed, 12) for seed in range(2000)])
    start = time.process_time()
    corpus = prepare(path, tmp_path / "out", tokenizer="gpt2")
    assert time.process_time() - start < 5  # about half a second on an idle machine
    assert sum(1 for _ in train_documents(corpus)) == corpus.manifest["train"]["documents"]
    assert len(corpus.manifest["documents"]) == 1000
