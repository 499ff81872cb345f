import codecs
import gzip
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from lucidlm.errors import ConfigError, DataError, LucidError
from lucidlm.text import decoding, documents
from lucidlm.text.account import Account
from lucidlm.text.documents import read_documents
from lucidlm.text.reading import Reading


def read(*sources, **options):
    return [document.text() for document in read_documents([str(source) for source in sources], **options)]


def read_one(source, **options):
    (document,) = read_documents([source], **options)
    return document.text(), document.notes


def refusal(*sources, **options) -> str:
    with pytest.raises(LucidError) as caught:
        read(*sources, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def written(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_text_comes_back_as_it_stands_and_can_be_read_again(tmp_path):
    text = "  Éa\n\n\tzwei 😀\u2028\x0c\u00a0\ufeff end without line end"
    (document,) = read_documents([written(tmp_path / "a.txt", text)])
    assert document.text() == document.text() == text
    assert document.notes == []
    assert document.source == str(tmp_path / "a.txt")


@pytest.mark.parametrize("name", ["README", "a.md", "a.unknown", "A.TXT"])
def test_a_file_of_an_unknown_kind_is_text(tmp_path, name):
    assert read(written(tmp_path / name, "# so *it* is\n")) == ["# so *it* is\n"]


def test_line_ends_and_byte_order_mark_are_normalised_and_said(tmp_path):
    path = written(tmp_path / "a.txt", codecs.BOM_UTF8 + b"one\r\ntwo\rthree\nfour\r")
    text, notes = read_one(path)
    assert text == "one\ntwo\nthree\nfour\n"
    assert notes == [
        "left out 4 of the file's 23 bytes: 3 of a byte order mark, 1 carriage return of a line end",
        "2 carriage returns read as line feeds",
    ]
    assert read_one(path, reading=Reading(raw=True)) == (text, notes)


def test_notes_are_not_doubled_by_a_second_reading(tmp_path):
    (document,) = read_documents([written(tmp_path / "a.txt", b"one\r\n")])
    document.text()
    document.text()
    assert (document.account.read, document.account.left_out) == (5, {"carriage_returns": 1})


def test_a_large_file_is_read_in_little_memory(tmp_path):
    line = "The quick brown fox jumps over the lazy dog, é.\n"
    path = written(tmp_path / "large.txt", line * 400_000)
    (document,) = read_documents([path])
    tracemalloc.start()
    try:
        longest = count = 0
        for piece in document.pieces():
            longest, count = max(longest, len(piece)), count + len(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == len(line) * 400_000
    assert longest <= 1.1 * 2**20
    assert peak < 16e6  # the file has 20 MB


def test_another_encoding_is_read_when_named(tmp_path):
    assert read(
        written(tmp_path / "a.txt", "„Käse“".encode("cp1252")), reading=Reading(encoding="cp1252")
    ) == ["„Käse“"]
    wide = written(tmp_path / "b.txt", "Käse\r\n".encode("utf-16"))
    assert read(wide, reading=Reading(encoding="utf-16")) == ["Käse\n"]
    with pytest.raises(ConfigError, match="try utf-8"):
        read(wide, reading=Reading(encoding="utf-9"))


def test_an_invalid_byte_is_named_with_its_place_and_file(tmp_path):
    path = written(tmp_path / "a.txt", b"caf\xe9")
    assert refusal(path).startswith(f"{path}: byte 3 is 0xe9, not utf-8")
    packed = written(tmp_path / "a.txt.gz", gzip.compress(path.read_bytes()))
    assert refusal(packed).startswith(f"{packed}: byte 3 of the unpacked file is 0xe9")


@pytest.mark.parametrize("data", [b"", codecs.BOM_UTF8])
def test_a_text_of_no_characters_is_refused(tmp_path, data):
    assert "empty (0 characters)" in refusal(written(tmp_path / "a.txt", data))
    assert "empty (0 characters)" in refusal(written(tmp_path / "a.txt.gz", gzip.compress(data)))


def test_white_space_is_a_text(tmp_path):
    assert read(written(tmp_path / "a.txt", " \n")) == [" \n"]


def test_a_missing_file_suggests_the_nearest_name(tmp_path):
    written(tmp_path / "the-verdict.txt", "x")
    message = refusal(tmp_path / "the-verdikt.txt")
    assert f"did you mean {tmp_path / 'the-verdict.txt'}?" in message
    assert "no folder" in refusal(tmp_path / "nowhere" / "a.txt")
    assert "no such file" in refusal(tmp_path / "zzz")


def test_all_sources_are_found_before_the_first_is_read(tmp_path):
    good = written(tmp_path / "a.txt", "x")
    with pytest.raises(DataError, match="missing"):
        next(read_documents([good, tmp_path / "missing.txt"]))


def test_no_source_an_empty_one_and_an_impossible_one_are_refused():
    assert "no text to read" in refusal()
    assert "empty" in refusal("")
    assert refusal("a\0b")
    assert refusal("x" * 5000)


def test_a_single_path_is_not_taken_apart_into_letters(tmp_path):
    path = written(tmp_path / "a.txt", "x")
    assert [document.text() for document in read_documents(str(path))] == ["x"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path):
    path = written(tmp_path / "a.txt", "x")
    path.chmod(0)
    assert "Permission denied" in refusal(path)


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path):
    for name in ("b.txt", "a/z.md", "a.txt", "a/b/c.txt", "Z.TXT", "page.html.gz"):
        data = b"<p>page" if "html" in name else name.encode()
        written(tmp_path / name, gzip.compress(data) if name.endswith("gz") else data)
    for name in ("picture.png", "script.py", "README"):
        written(tmp_path / name, "no")
    for name in (".hidden.txt", ".git/x.txt", "a/.x/y.txt"):
        written(tmp_path / name, "hidden")
    written(tmp_path / "empty.txt", "")
    told = []
    assert read(tmp_path, progress=told.append) == [
        "Z.TXT", "a/b/c.txt", "a/z.md", "a.txt", "b.txt", "page\n"
    ]  # fmt: skip
    assert told == [f"{tmp_path}: 6 files taken, 3 of other kinds and 1 empty skipped"]


def test_a_folder_without_text_is_refused(tmp_path):
    written(tmp_path / "a.png", "x")
    assert "no text in this folder (1 of other kinds)" in refusal(tmp_path)


def test_a_link_that_leads_back_ends(tmp_path):
    written(tmp_path / "a" / "a.txt", "x")
    try:
        (tmp_path / "a" / "back").symlink_to(tmp_path, target_is_directory=True)
    except OSError:
        pytest.skip("no links here")
    assert read(tmp_path) == ["x"]


def test_a_pattern_is_expanded_sorted_and_must_match(tmp_path):
    for name in ("b", "a", "c"):
        written(tmp_path / f"{name}.txt", name)
    assert read(tmp_path / "*.txt") == ["a", "b", "c"]
    assert "no file matches" in refusal(tmp_path / "*.md")
    assert read(written(tmp_path / "[a].txt", "literal")) == ["literal"]


def test_stdin_can_be_read_twice_and_leaves_nothing_behind(tmp_path):
    program = (
        "from lucidlm.text.documents import read_documents\n"
        "for _ in range(2):\n"
        "    (d,) = read_documents(['-'])\n"
        "    print(d.source, repr(d.text()), repr(d.text()))\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path), "TMP": str(tmp_path), "TEMP": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        input="Käse\r\n".encode(),
        capture_output=True,
        env=environment,
        check=True,
    )
    assert done.stdout.decode().split("\n")[:2] == ["stdin 'Käse\\n' 'Käse\\n'"] * 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_can_be_read_twice(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = subprocess.Popen(
        [sys.executable, "-c", "import sys; open(sys.argv[1], 'w').write('once')", str(pipe)]
    )
    (document,) = read_documents([pipe])
    assert document.text() == document.text() == "once"
    assert writer.wait() == 0


def test_gz_is_unpacked(tmp_path):
    assert read(written(tmp_path / "a.txt.gz", gzip.compress(b"one\r\n"))) == ["one\n"]
    assert read(written(tmp_path / "b.gz", gzip.compress(b"two"))) == ["two"]
    lines = written(tmp_path / "c.jsonl.gz", gzip.compress(b'{"text": "three"}\n'))
    assert [d.source for d in read_documents([lines])] == [f"{lines}:1"]
    joined = written(tmp_path / "d.gz", gzip.compress(b"six ") + gzip.compress(b"seven"))
    assert read(joined) == ["six seven"]


FRAMED = (
    "Title: A Book\n*** START OF THE PROJECT GUTENBERG EBOOK A BOOK ***\n",
    "It was a dark night.\n",
    "*** END OF THE PROJECT GUTENBERG EBOOK A BOOK ***\nTerms of use.\n",
)


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_gutenbergs_frame_is_removed_and_said(tmp_path, monkeypatch, block):
    monkeypatch.setattr(decoding, "_BLOCK", block)
    header, story, footer = FRAMED
    text, notes = read_one(written(tmp_path / "book.txt", "".join(FRAMED).replace("\n", "\r\n")))
    assert text == story
    (note,) = notes
    frame = f"{len(header + footer)} of Project Gutenberg's headers and footers"
    assert note.endswith(f": 5 carriage returns of line ends, {frame}")


def test_raw_leaves_gutenbergs_frame(tmp_path):
    whole = "".join(FRAMED)
    assert read_one(written(tmp_path / "book.txt", whole), reading=Reading(raw=True)) == (whole, [])


def test_nothing_left_after_the_frame_is_an_error_that_says_so(tmp_path):
    message = refusal(written(tmp_path / "a.txt", FRAMED[0] + FRAMED[2]))
    assert "empty (0 characters) after: left out" in message
    assert "Project Gutenberg" in message


def test_every_line_of_jsonl_is_a_document(tmp_path):
    lines = b'{"text": "one\\r\\ntwo"}\r\n\r\n  \n{"id": 3, "text": "\\ud83d\\ude00"}\n{"text": ""}\n'
    lines += b'{"text": "last"}'
    path = written(tmp_path / "a.jsonl", codecs.BOM_UTF8 + lines)
    account, found = Account(), []
    for document in read_documents([path]):
        found.append((document.source, document.text(), document.account.left_out))
        document.add_to(account)
    assert found == [
        (f"{path}:1", "one\ntwo", {"carriage_returns": 1}),
        (f"{path}:4", "😀", {}),
        (f"{path}:6", "last", {}),
    ]
    assert account.seen == {"empty_documents": 1}
    written(path, '{"body": "x"}\n')
    assert read(path, reading=Reading(field="body")) == ["x"]


def test_lines_of_jsonl_may_be_cut_anywhere(tmp_path, monkeypatch):
    texts = ["a\u2028b\x85c", "é" * 40, "z\n" * 9]
    monkeypatch.setattr(decoding, "_BLOCK", 3)
    path = written(
        tmp_path / "a.jsonl", "\n".join(json.dumps({"text": t}, ensure_ascii=False) for t in texts)
    )
    assert read(path) == texts


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"text": "x"', "not JSON (Expecting ',' delimiter at character 13)"),
        ('["x"]', "this is a list"),
        ("3", "this is a number"),
        ('{"body": "x", "title": "y"}', "no field 'text'; there are 'body', 'title': choose one by --field"),
        ("{}", "there are none"),
        ('{"text": null}', "the field 'text' is a null"),
        ('{"text": 3}', "the field 'text' is a number"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_line_of_jsonl_is_named(tmp_path, line, expected):
    path = written(tmp_path / "a.jsonl", '{"text": "good"}\n\n' + line + "\n")
    message = refusal(path)
    assert message.startswith(f"{path}:3: ")
    assert expected in message


def test_jsonl_without_any_text_is_refused(tmp_path):
    assert "no text in this file" in refusal(written(tmp_path / "a.jsonl", "\n\n"))
    assert "no text in this file" in refusal(written(tmp_path / "a.jsonl", '{"text": ""}'))


def test_half_a_surrogate_pair_is_replaced_and_said(tmp_path):
    text, notes = read_one(written(tmp_path / "a.jsonl", '{"text": "a\\ud83db"}'))
    assert text == "a\ufffdb"
    assert notes[1:] == ["1 lone surrogate replaced by U+FFFD"]


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """Puts `data` where download() would, with what the server said; the transfer has tests of its own."""

    def put(data: bytes, **said: str) -> None:
        path = written(tmp_path / "cache" / "file", data)
        path.with_name("file.json").write_text(json.dumps({"url": "http://x", **said}))
        monkeypatch.setattr(documents, "download", lambda url, folder, *, progress: path)

    return put


def test_the_kind_of_an_address_is_its_suffix_else_what_the_server_says(fetched):
    fetched(b"<p>x", content_type="text/html; charset=utf-8")
    assert read_one("https://example.org/wiki/Page?a=b.txt")[0] == "x\n"
    assert read_one("https://example.org/page.html")[0] == "x\n"
    fetched(b"<p>x", content_type="text/plain")
    assert read_one("https://example.org/ebooks/1342.txt.utf-8") == ("<p>x", [])
    assert read_one("https://example.org/a.html#top")[0] == "x\n"
    fetched(gzip.compress(b"x"), content_type="text/plain", content_encoding="gzip")
    assert read_one("https://example.org/a.txt")[0] == "x"
    fetched(gzip.compress(b"x"), content_type="application/gzip")
    (document,) = read_documents(["https://example.org/a.txt.gz"])
    assert (document.source, document.text()) == ("https://example.org/a.txt.gz", "x")


def test_a_web_page_in_place_of_a_text_is_refused(fetched):
    fetched(b"<p>Sign in", content_type="text/html")
    assert "sent a web page instead" in refusal("https://example.org/a.txt")
