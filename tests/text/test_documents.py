import codecs
import gzip
import json
import tracemalloc

import pytest
from written_files import accounted, read, read_one, reason_of, refusal, refused, written

from lucidlm.errors import ConfigError
from lucidlm.text import documents, reasons
from lucidlm.text.account import Account
from lucidlm.text.documents import read_documents
from lucidlm.text.formats import decoding
from lucidlm.text.reading import Reading


def test_text_comes_back_as_it_stands_and_can_be_read_again(tmp_path):
    text = "  Éa\n\n\tzwei 😀\u2028\x0c\u00a0\ufeff end without line end"
    (document,) = read_documents([written(tmp_path / "a.txt", text)])
    assert document.text() == document.text() == text
    assert document.account.seen == document.account.left_out == {}
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
    assert refusal(packed).startswith(f"{packed}: byte 3 of the decompressed file is 0xe9")


@pytest.mark.parametrize("data", [b"", codecs.BOM_UTF8])
def test_a_text_of_no_characters_is_refused(tmp_path, data):
    assert reason_of(written(tmp_path / "a.txt", data)) == reasons.NO_TEXT
    assert reason_of(written(tmp_path / "a.txt.gz", gzip.compress(data))) == reasons.NO_TEXT


def test_white_space_is_a_text_and_is_counted(tmp_path):
    assert accounted(written(tmp_path / "a.txt", " \n")) == (" \n", {reasons.BLANK: 1})


def test_a_single_path_is_not_taken_apart_into_letters(tmp_path):
    path = written(tmp_path / "a.txt", "x")
    assert [document.text() for document in read_documents(str(path))] == ["x"]


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
    ("line", "reason", "named"),
    [
        ('{"text": "x"', reasons.DAMAGED, "(Expecting ',' delimiter at character 13)"),
        ('["x"]', reasons.NO_FIELD, "a list"),
        ('{"data": {}}', reasons.NO_FIELD, "('data': an object)"),
        ("3", reasons.NO_FIELD, "a number"),
        ('{"body": "x", "title": "y"}', reasons.NO_FIELD, "--field: 'body', 'title'"),
        ("{}", reasons.NO_FIELD, "empty"),
        ('{"text": 3}', reasons.NO_FIELD, "a number"),
        ("[" * 100_000, reasons.DAMAGED, "JSON"),
    ],
)
def test_a_bad_line_of_jsonl_is_named(tmp_path, line, reason, named):
    path = written(tmp_path / "a.jsonl", '{"text": "good"}\n\n' + line + "\n")
    error = refused(path)
    assert error.reason == reason
    assert str(error).startswith(f"{path}:3: ")
    assert named in str(error)


def test_jsonl_without_any_text_is_refused(tmp_path):
    assert reason_of(written(tmp_path / "a.jsonl", "\n\n")) == reasons.NO_TEXT
    assert reason_of(written(tmp_path / "a.jsonl", '{"text": ""}')) == reasons.NO_TEXT


def test_half_a_surrogate_pair_is_replaced_and_said(tmp_path):
    counts = {"lone_surrogates": 1}
    assert accounted(written(tmp_path / "a.jsonl", '{"text": "a\\ud83db"}')) == ("a\ufffdb", counts)


BAD_FILES = {
    "binary": ("picture.txt", b"\x89PNG\r\n\x1a\n\0\0"),
    "other_encoding": ("latin.txt", "Größe".encode("latin-1")),
    "no_field": ("events.jsonl", b'{"text": "x"}\n{"event": "click"}\n'),
    "damaged": ("broken.pdf", b"%PDF-1.7 broken"),
    "no_text": ("empty.txt.gz", gzip.compress(b"")),
    "no_tokens": ("LICENSE.bin", b"MIT License, with all rights."),
}


@pytest.mark.parametrize("reason", BAD_FILES)
def test_a_file_that_does_not_fit_is_passed_over_in_a_folder_and_refused_where_it_is_named(tmp_path, reason):
    name, data = BAD_FILES[reason]
    bad = written(tmp_path / "texts" / name, data)
    written(tmp_path / "texts" / "a.txt", "one")
    written(tmp_path / "texts" / "z.jsonl", '{"text": "two"}')
    for source in (bad.parent, bad.parent / "*"):
        for _ in range(2):  # it is the same in each reading
            account = Account()
            assert [document.text() for document in read_documents([source], account)] == ["one", "two"]
            assert (account.passed, account.first_passed) == ({reason: 1}, {reason: str(bad)})
    assert refusal(bad).startswith(f"{bad}")
    (bad.parent / "a.txt").unlink()
    (bad.parent / "z.jsonl").unlink()
    assert refusal(bad.parent).startswith(f"{bad.parent}: its only file cannot be used as text: {bad}")


def test_where_no_file_of_a_folder_fits_the_first_says_why(tmp_path):
    for name, data in BAD_FILES.values():
        written(tmp_path / "texts" / name, data)
    written(tmp_path / "a.txt", "one")
    message = refusal(tmp_path / "a.txt", tmp_path / "texts")
    assert message.startswith(f"{tmp_path / 'texts'}: none of its 6 files can be used as text; the first: ")


@pytest.mark.parametrize("kept", [0, 3, 1 << 24])
def test_a_file_of_a_folder_is_given_out_alike_whether_its_text_was_kept_or_not(tmp_path, monkeypatch, kept):
    monkeypatch.setattr(documents, "KEPT_CHARACTERS", kept)
    written(tmp_path / "a.txt", codecs.BOM_UTF8 + b"one\r\n")
    written(tmp_path / "b.jsonl", '{"text": "a\\r\\n"}\n\n{"text": ""}\n{"text": "four"}\n')
    account = Account()
    texts = []
    for document in read_documents([tmp_path]):
        texts.append(document.text())
        assert document.text() == texts[-1]
        document.add_to(account)
    assert texts == ["one\n", "a\n", "four"]
    assert account.read == account.stored == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert account.text == len("one\na\nfour")
    assert account.seen == {"empty_documents": 1}
