"""A text prepared in many portions, chunks and shards, by processes that may be killed: the same bytes."""

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import WORDS
from recorded import Recorded

from lucidlm.errors import DataError, RunError
from lucidlm.runtime.leavings import process_lives
from lucidlm.text import leaks, portions, preparation, token_writer
from lucidlm.text.chunks import chunks
from lucidlm.text.corpus import open_corpus, train_documents
from lucidlm.text.formats.decoding import File
from lucidlm.text.formats.packed import zstd
from lucidlm.text.preparation import prepare
from lucidlm.text.reading import READING
from lucidlm.text.split import Pieces
from lucidlm.text.token_file import TokenShards, write_tokens
from lucidlm.text.windows import Windows

SIZES = {"PORTION": 9000, "ENCODED": 11_000, "LOOKED_AT": 7000}


def texts(seed, count):
    draw = random.Random(seed)
    for _ in range(count):
        words = draw.choices(WORDS, k=draw.choice((2, 40, 300)))
        yield "".join(word + draw.choice((" ", " ", ", ", "\n")) for word in words) + draw.choice(
            ("", "é 😀")
        )


def lines(seed, count, **changes):
    return "".join(json.dumps({"text": text}, **changes) + "\n" for text in texts(seed, count))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def sources(tmp_path):
    """Files of several kinds: one that is divided, packed ones, a folder with a file that is no text."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.jsonl").write_text(lines(1, 150, ensure_ascii=False))
    (tmp_path / "windows.jsonl").write_text("\ufeff" + lines(2, 60).replace("\n", "\r\n") + "\n\n")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines(3, 40).encode()))
    (tmp_path / "c.jsonl.zst").write_bytes(zstd.compress(lines(1, 9).encode()))
    (tmp_path / "book.txt").write_text(" ".join(texts(4, 90)))
    for number, text in enumerate(texts(5, 12)):
        (tmp_path / "folder" / f"{number}.txt").write_text(text)
    (tmp_path / "folder" / "a.md").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    names = ("a.jsonl", "windows.jsonl", "b.jsonl.gz", "folder", "c.jsonl.zst", "book.txt")
    return [tmp_path / name for name in names]


@pytest.fixture
def small(monkeypatch):
    """Portions and chunks of some kilobytes."""
    for module, name in ((preparation, "PORTION"), (token_writer, "ENCODED"), (leaks, "LOOKED_AT")):
        monkeypatch.setattr(module, name, SIZES[name])


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


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(sum),
    places=st.lists(st.integers(-30, 30), min_size=2, max_size=2),
    step=st.sampled_from([None, 1, 2, -1]),
)
def test_shards_give_what_the_joined_array_gives(tmp_path_factory, sizes, places, step):
    folder = tmp_path_factory.mktemp("shards")
    ids = np.arange(sum(sizes), dtype=np.uint16)
    parts = np.split(ids, np.cumsum(sizes)[:-1])
    for number, part in enumerate(parts):
        write_tokens(folder / f"{number}.npy", [part], 100)
    shards = TokenShards([folder / f"{number}.npy" for number in range(len(parts))], 100)
    assert len(shards) == len(ids)
    where = slice(*places, step)
    assert np.array_equal(shards[where], ids[where])
    inside = [place for place in places if -len(ids) <= place < len(ids)]
    assert np.array_equal(shards[inside], ids[inside])
    assert shards[-1] == ids[-1]
    with pytest.raises(IndexError):
        shards[len(ids)]


def test_a_shard_is_checked_like_a_file(tmp_path):
    write_tokens(tmp_path / "0.npy", [np.arange(5)], 100)
    write_tokens(tmp_path / "1.npy", [np.arange(5)], 1 << 17)
    with pytest.raises(DataError, match=r"1\.npy: holds uint32, the shard before it uint16"):
        TokenShards([tmp_path / "0.npy", tmp_path / "1.npy"])
    with pytest.raises(DataError, match=r"0\.npy: token id 4"):
        TokenShards([tmp_path / "0.npy"], 3)
    shards = TokenShards([tmp_path / "0.npy"])
    os.truncate(tmp_path / "0.npy", 130)
    with pytest.raises(DataError, match=r"0\.npy: 130 bytes"):
        shards[2]


@settings(max_examples=80, deadline=None)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=30), size=st.integers(1, 50))
def test_chunks_cover_a_part_once_in_order_and_cut_only_what_is_long(lengths, size):
    ends = np.cumsum(lengths).astype(np.uint64)
    part = Pieces(np.arange(len(lengths)), ends - np.array(lengths, np.uint64), ends, 0)
    found = list(chunks(part, size, lambda start, end: iter(range(start + 3, end, 3))))
    rows = [row for chunk in found for row in zip(*(values.tolist() for values in chunk.stretches))]
    assert [start for _, start, _ in rows] == [0, *(end for *_, end in rows[:-1])]
    assert rows[-1][2] == sum(lengths)
    cut = {document for chunk in found if not chunk.begins for document in chunk.stretches.documents.tolist()}
    assert all(lengths[document] > size for document in cut)
    assert all(chunk.bytes < 2 * size + 3 + max(lengths) * (chunk.bytes > size + 3) for chunk in found)
    before = [-1, *(int(chunk.stretches.documents[-1]) for chunk in found[:-1])]
    assert [chunk.before for chunk in found] == before


def test_a_file_is_divided_at_lines_and_only_where_its_parts_can_be_read_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    data = lines(7, 100).encode()
    path.write_bytes(data)

    def spans(file):
        lengths, size = [path.stat().st_size], len(data) // 5
        found = portions.portions([file], lengths, READING, size=size, whole=frozenset())
        return [portion.files[0].span for portion in found]

    divided = spans(File(path, "a.jsonl", "jsonl"))
    assert len(divided) == 5
    assert [start for start, _ in divided] == [0, *(end for _, end in divided[:-1])]
    assert all(data[end - 1 : end] == b"\n" for _, end in divided)
    assert spans(File(path, "a.jsonl", "jsonl", ("gz",))) == [None]
    assert spans(File(path, "a.jsonl", "csv")) == [None]
    path.write_bytes(data.replace(b"\n", b" "))
    assert spans(File(path, "a.jsonl", "jsonl")) == [None]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "damage", ["{no json", '["caf\\xe9", 1]', '{"text": 5}', "\r", '{"text": "caf\udce9"}']
)
def test_a_bad_line_of_a_divided_file_gives_the_error_of_the_whole_file(tmp_path, monkeypatch, damage):
    rows = lines(1, 150).splitlines()
    rows[111] = damage
    path = tmp_path / "a.jsonl"
    path.write_bytes("\n".join(rows).encode("utf-8", "surrogateescape"))

    def outcome(workers=1):
        try:
            prepare(path, tmp_path / "out", tokenizer="bytes", workers=workers)
        except DataError as error:
            return str(error)
        files = contents(tmp_path / "out")
        shutil.rmtree(tmp_path / "out")
        return files

    divided = outcome(workers=2 if damage in ("\r", "{no json") else 1)
    monkeypatch.setattr(preparation, "PORTION", 1 << 26)
    assert divided == outcome()
    assert isinstance(divided, dict) == (damage == "\r")  # the end of a line, so this is a blank one


@pytest.mark.usefixtures("small")
def test_the_first_bad_file_is_told_by_many_processes_too_and_what_was_read_is_kept(sources, tmp_path):
    good = (tmp_path / "windows.jsonl").read_bytes()
    for name in ("windows.jsonl", "book.txt"):
        (tmp_path / name).write_bytes(b"\xff\xfe\xff not text")
    said = []
    for workers in (1, 2):
        with pytest.raises(DataError) as caught:
            prepare(sources, tmp_path / "out", tokenizer="bytes", workers=workers)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "windows.jsonl" in said[0]
    assert not (tmp_path / "out").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / ".out.parts").glob("read-*.text")}
    assert len(kept) >= 3
    (tmp_path / "windows.jsonl").write_bytes(good)
    (tmp_path / "book.txt").write_text("mended " * 900)
    seen = {}

    def look(stage):
        if stage == "looking for copies" and not seen:
            seen.update((path.name, path.stat().st_mtime_ns) for path in (tmp_path / ".out.parts").iterdir())

    prepare(sources, tmp_path / "out", tokenizer="bytes", progress=Recorded(at=look))
    again = [name for name, time in kept.items() if seen.get(name) == time]
    assert len(again) >= 3
    assert not list(tmp_path.glob(".*"))


PROGRAM = """
import sys
from lucidlm.cli import main
from lucidlm.text import leaks, preparation, token_writer
preparation.PORTION, token_writer.ENCODED, leaks.LOOKED_AT = {PORTION}, {ENCODED}, {LOOKED_AT}
sys.exit(main(sys.argv[1:]))
""".format(**SIZES)


def started(sources, out, workers=2):
    command = ["prepare", *map(str, sources), "--out", str(out), "--tokenizer", "bpe:400"]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *command, "--workers", str(workers)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def children_of(number):
    try:
        return [int(child) for child in Path(f"/proc/{number}/task/{number}/children").read_text().split()]
    except OSError:
        return []


def is_worker(child):
    """Other tests leave children too, such as the server that forks the processes of a world."""
    return b"lucidlm.text.processes" in Path(f"/proc/{child}/cmdline").read_bytes()


def until(true, seconds=30.0):
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


linux = pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="looks for processes in /proc")


@linux
def test_ctrl_c_ends_all_processes_says_how_to_go_on_and_the_next_call_gives_the_same_bytes(
    sources, tmp_path
):
    prepare(sources, tmp_path / "whole", tokenizer="bpe:400")
    parts = tmp_path / ".out.parts"
    with started(sources, tmp_path / "out") as program:
        until(lambda: len(list(parts.glob("read-*.json"))) > 2)
        children = children_of(program.pid)
        program.send_signal(signal.SIGINT)
        _, said = program.communicate(timeout=30)
    assert program.returncode == 130
    assert f"what is done is kept in {parts}: run the same command again, or delete that folder" in said
    assert len(children) == 2
    until(lambda: not any(map(process_lives, children)))
    assert not (tmp_path / "out").exists()
    assert list(parts.glob("read-*.json"))
    prepare(sources, tmp_path / "out", tokenizer="bpe:400")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


@linux
@pytest.mark.parametrize("large", [True, False])
def test_a_worker_that_is_killed_is_named_and_the_advice_works(sources, tmp_path, monkeypatch, large):
    if large:
        monkeypatch.setattr(preparation, "PORTION", SIZES["PORTION"])
    killed, parts = [], tmp_path / ".out.parts"

    def kill(stage):
        if stage == "encoding" and not killed:
            workers = [child for child in children_of(os.getpid()) if is_worker(child)]
            killed.append(workers[0])
            os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(RunError, match=r"worker process \d+ was ended by signal 9") as caught:
        prepare(sources, tmp_path / "out", tokenizer="bytes", workers=2, progress=Recorded(at=kill))
    assert str(caught.value).count("; what is done is kept: run the same command again") == large
    assert str(caught.value).endswith("run the same command again, with fewer --workers if memory is short")
    assert parts.exists() == large
    corpus = prepare(sources, tmp_path / "out", tokenizer="bytes", workers=1)
    assert corpus.status == "new"
    assert not list(tmp_path.glob(".*"))


@linux
@pytest.mark.torture
def test_killed_at_twenty_moments_and_run_again_the_folder_is_bitwise_the_same(sources, tmp_path):
    prepare(sources, tmp_path / "whole", tokenizer="bpe:400")
    whole = contents(tmp_path / "whole")
    began = time.monotonic()
    with started(sources, tmp_path / "timed") as program:
        assert program.wait(120) == 0
    seconds = time.monotonic() - began
    draw, done, redone = random.Random(30), 0, []
    for moment in range(20):
        out = tmp_path / f"out{moment}"
        parts = tmp_path / f".out{moment}.parts"
        for turn in range(draw.choice((1, 1, 2, 3))):
            with started(sources, out, workers=1 + (moment + turn) % 3) as program:
                time.sleep(draw.uniform(0.3, 1.0) * seconds)
                children = children_of(program.pid)
                program.kill()
                done += program.wait(30) == 0
            until(lambda children=children: not any(map(process_lives, children)))
        # A part is never taken for the whole.
        if out.exists():
            assert contents(out) == whole
        kept = {path.name: path.read_bytes() for path in parts.glob("*.json")} if parts.exists() else {}
        with started(sources, out) as program:
            _, said = program.communicate(timeout=120)
        assert program.returncode == 0, said
        assert contents(out) == whole
        redone.append(len(kept))
        assert not list(tmp_path.glob(f".out{moment}*"))
    print(f"20 kills, {done} of them after the end; {min(redone)} to {max(redone)} pieces were kept")
    assert max(redone) > 3
