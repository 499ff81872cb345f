import codecs
import gzip
import io
import json
import os
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfWriter

from lucidlm.errors import ConfigError, DataError, LucidError
from lucidlm.text import decoding, documents, pages
from lucidlm.text.documents import read_documents


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


# Plain text


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
    assert notes == ["byte order mark dropped", "CRLF line ends read as LF", "CR line ends read as LF"]
    assert read_one(path, raw=True) == (text, notes)


def test_notes_are_not_doubled_by_a_second_reading(tmp_path):
    (document,) = read_documents([written(tmp_path / "a.txt", b"one\r\n")])
    document.text()
    document.text()
    assert document.notes == ["CRLF line ends read as LF"]


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(st.sampled_from("a\r\n😀é\ufeff"), min_size=1, max_size=30),
    block=st.integers(1, 5),
    encoding=st.sampled_from(["utf-8", "utf-16-le", "utf-16"]),
)
def test_where_blocks_are_cut_changes_nothing(tmp_path_factory, text, block, encoding):
    path = written(tmp_path_factory.mktemp("cut") / "a.txt", text.encode(encoding))
    expected = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "_BLOCK", block)
        if expected:
            assert read(path, encoding=encoding) == [expected]
        else:
            assert "empty" in refusal(path, encoding=encoding)


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
    assert read(written(tmp_path / "a.txt", "„Käse“".encode("cp1252")), encoding="cp1252") == ["„Käse“"]
    wide = written(tmp_path / "b.txt", "Käse\r\n".encode("utf-16"))
    assert read(wide, encoding="utf-16") == ["Käse\n"]


def test_utf16_says_how_to_read_it(tmp_path):
    for encoding in ("utf-16", "utf-32"):
        message = refusal(written(tmp_path / "a.txt", "Käse".encode(encoding)))
        assert f"--encoding {encoding}" in message
    assert "binary" in refusal(written(tmp_path / "a.txt", "Kase".encode("utf-16-le")))
    assert "BOM" in refusal(written(tmp_path / "a.txt", b"K\0a\0"), encoding="utf-16")


@pytest.mark.parametrize("name", ["utf-9", "base64", "rot13", "", "a\0b"])
def test_an_unknown_encoding_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="try utf-8"):
        read(written(tmp_path / "a.txt", "x"), encoding=name)


@pytest.mark.parametrize("place", [0, 1, 2**20 - 1, 2**20, 2**20 + 1, 2**21 + 5])
def test_an_invalid_byte_is_named_with_its_place(tmp_path, place):
    path = written(tmp_path / "a.txt", b"x" * place + b"\xe9 caf")
    message = refusal(path)
    assert str(path) in message
    assert f"byte {place} is 0xe9" in message
    assert "--encoding latin-1" in message
    packed = written(tmp_path / "a.txt.gz", gzip.compress(path.read_bytes(), 1))
    assert f"byte {place} of the unpacked file is 0xe9" in refusal(packed)


def test_the_place_is_right_when_the_bad_character_began_in_the_block_before(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "_BLOCK", 4)
    path = written(tmp_path / "a.txt", b"abc\xe2\x82 tail")  # the euro sign without its last byte
    assert "byte 3 is 0xe2" in refusal(path)
    path = written(tmp_path / "b.txt", b"abcdefg\xe2\x82")
    assert "byte 7 is 0xe2" in refusal(path)
    assert "--encoding cp1252" in refusal(written(tmp_path / "c.txt", b"it\x92s"))


def test_ascii_control_bytes_are_text_but_nul_bytes_are_not(tmp_path):
    assert read(written(tmp_path / "a.txt", "\x01\x7f\x1b[0m")) == ["\x01\x7f\x1b[0m"]
    message = refusal(written(tmp_path / "b.bin", b"\x7fELF\x02\0\0\xff"))
    assert "looks like a binary file (byte 5 is 0x00)" in message


@pytest.mark.parametrize("data", [b"", codecs.BOM_UTF8])
def test_a_text_of_no_characters_is_refused(tmp_path, data):
    assert "empty (0 characters)" in refusal(written(tmp_path / "a.txt", data))
    assert "empty (0 characters)" in refusal(written(tmp_path / "a.txt.gz", gzip.compress(data)))


def test_white_space_is_a_text(tmp_path):
    assert read(written(tmp_path / "a.txt", " \n")) == [" \n"]


# Files, folders, patterns, stdin


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


def test_a_file_that_cannot_be_opened_is_one_line(tmp_path, monkeypatch):
    path = written(tmp_path / "a.txt", "x")

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", denied)
    assert (
        refusal(path) == f"{path}: cannot be read (Permission denied); allow reading it, or give another file"
    )


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


# gz


def test_gz_is_unpacked_of_every_kind(tmp_path):
    assert read(written(tmp_path / "a.txt.gz", gzip.compress(b"one\r\n"))) == ["one\n"]
    assert read(written(tmp_path / "b.gz", gzip.compress(b"two"))) == ["two"]
    lines = written(tmp_path / "c.jsonl.gz", gzip.compress(b'{"text": "three"}\n'))
    assert [d.source for d in read_documents([lines])] == [f"{lines}:1"]
    assert read(written(tmp_path / "d.epub.gz", gzip.compress(epub({"a.xhtml": "<p>four</p>"})))) == [
        "four\n\n"
    ]
    assert read(written(tmp_path / "e.pdf.gz", gzip.compress(pdf("five")))) == ["five\n"]
    joined = written(tmp_path / "f.gz", gzip.compress(b"six ") + gzip.compress(b"seven"))
    assert read(joined) == ["six seven"]


def test_a_gz_cut_off_damaged_or_not_one_is_refused(tmp_path):
    packed = gzip.compress(os.urandom(0) + b"all of it " * 1000)
    assert "cut off" in refusal(written(tmp_path / "a.txt.gz", packed[: len(packed) // 2]))
    assert "cut off" in refusal(written(tmp_path / "b.txt.gz", packed[:-4]))
    assert "not a sound .gz" in refusal(written(tmp_path / "c.txt.gz", b"plain text"))
    assert "not a sound .gz" in refusal(written(tmp_path / "d.txt.gz", packed[:-8] + b"\0" * 8))
    assert "not a sound .gz" in refusal(
        written(tmp_path / "e.txt.gz", packed[:12] + b"\xff" * 9 + packed[21:])
    )


def test_what_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "_WHOLE", 1 << 20)
    assert "too much" in refusal(written(tmp_path / "a.html.gz", gzip.compress(b"x" * (2 << 20))))
    assert "too much" in refusal(written(tmp_path / "a.epub", epub({"a.xhtml": "x" * (2 << 20)})))
    many = {f"{n}.xhtml": "x" * 300_000 for n in range(4)}
    assert "too much" in refusal(written(tmp_path / "b.epub", epub(many)))


# Project Gutenberg

HEADER = """The Project Gutenberg eBook of A Book

This eBook is for the use of anyone anywhere.

Title: A Book

"""
LICENCE = "\n\nUpdated editions will replace the previous one.\n" + "Section 1. Terms of use.\n" * 700
STORY = "\n\nProduced by somebody\n\nCHAPTER I\n\nIt was a ***dark*** night; START OF it.\n\n"
STARTS = [
    "*** START OF THE PROJECT GUTENBERG EBOOK A BOOK ***\n",
    "***START OF THIS PROJECT GUTENBERG EBOOK A BOOK***\n",
    "*** START OF THIS PROJECT GUTENBERG EBOOK, A BOOK ***\n",
    "*** START OF THE PROJECT GUTENBERG EBOOK 1342 ***\n",
    "*** START OF THE PROJECT GUTENBERG EBOOK A VERY LONG\nTITLE, OR: THE MODERN\nPROMETHEUS ***\n",
    "***START OF PROJECT GUTENBERG ETEXT\n",
    "*** Start of the Project Gutenberg EBook A Book ***\n",
    "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n",
    "*END THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n",
    "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*\n\n*** START OF THE PROJECT GUTENBERG EBOOK A ***\n",
    "*** START OF THE PROJECT GUTENBERG EBOOK A ***\n\nsmall\n*END*THE SMALL PRINT!*END*\n",
]
ENDS = [
    "*** END OF THE PROJECT GUTENBERG EBOOK A BOOK ***\n",
    "***END OF THIS PROJECT GUTENBERG EBOOK A BOOK***\n",
    "End of the Project Gutenberg EBook of A Book, by B\n\n*** END OF THIS PROJECT GUTENBERG EBOOK A ***\n",
    "End of Project Gutenberg's A Book, by B\n",
    "End of The Project Gutenberg Etext of A Book\n",
]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("end", ENDS)
def test_gutenbergs_frame_is_removed_and_said(tmp_path, start, end):
    frame = len(HEADER + start) + len(end + LICENCE)
    path = written(tmp_path / "book.txt", HEADER + start + STORY + end + LICENCE)
    text, notes = read_one(path)
    assert text == STORY
    assert notes == [f"Project Gutenberg header and footer removed ({frame:,} characters)"]


def test_raw_leaves_gutenbergs_frame(tmp_path):
    whole = HEADER + STARTS[0] + STORY + ENDS[0] + LICENCE
    assert read_one(written(tmp_path / "book.txt", whole), raw=True) == (whole, [])


@pytest.mark.parametrize("block", [1, 7, 64, 1000, 4096])
def test_a_frame_cut_over_pieces_is_removed_all_the_same(tmp_path, monkeypatch, block):
    long_line = "no line end for long " * 300 + ENDS[0]  # the mark is not at the start of its line
    story = STORY + long_line + "more\n"
    whole = HEADER + STARTS[4] + story + ENDS[2] + LICENCE[:3000]
    path = written(tmp_path / "book.txt", whole.replace("\n", "\r\n"))
    monkeypatch.setattr(decoding, "_BLOCK", block)
    text, notes = read_one(path)
    assert text == story
    assert notes[0] == "CRLF line ends read as LF"


def test_a_start_without_an_end_and_an_end_without_a_start(tmp_path):
    text, notes = read_one(written(tmp_path / "a.txt", HEADER + STARTS[0] + STORY))
    assert text == STORY
    assert notes == [
        f"Project Gutenberg header removed ({len(HEADER + STARTS[0]):,} characters); no footer was found"
    ]
    text, notes = read_one(written(tmp_path / "b.txt", STORY + ENDS[0] + LICENCE))
    assert text == STORY
    assert notes[0].endswith("no header was found")
    assert read_one(written(tmp_path / "c.txt", STORY + ENDS[0].rstrip()))[0] == STORY


def test_several_books_in_one_file_lose_their_frames_alone(tmp_path):
    book = HEADER + STARTS[0] + STORY + "x\n" * 50_000 + ENDS[0] + LICENCE
    text, notes = read_one(written(tmp_path / "a.txt", book * 3))
    assert text == (STORY + "x\n" * 50_000) * 3
    assert notes[0].startswith("3 Project Gutenberg headers and 3 footers removed")


def test_a_frame_in_the_middle_of_a_corpus_does_not_take_the_rest_with_it(tmp_path):
    before, after = "other text\n" * 10_000, "and more text\n" * 10_000
    corpus = before + HEADER + STARTS[0] + STORY + ENDS[0] + LICENCE + after
    assert read_one(written(tmp_path / "a.txt", corpus)) == (corpus, [])


def test_a_mention_of_gutenberg_is_text(tmp_path):
    text = "I read it at Project Gutenberg.\nEnd of the Project Gutenberg was near.\n* END OF LIST\n"
    assert read_one(written(tmp_path / "a.txt", text)) == (text, [])


def test_nothing_left_after_the_frame_is_an_error_that_says_so(tmp_path):
    message = refusal(written(tmp_path / "a.txt", HEADER + STARTS[0] + ENDS[0] + LICENCE))
    assert "empty (0 characters) after: Project Gutenberg header and footer removed" in message


def test_many_end_lines_take_linear_time(tmp_path):
    path = written(tmp_path / "a.txt", (ENDS[0] + "text\n" * 5) * 8_000 + "x\n" * 50_000)
    text, _ = read_one(path)
    assert text == path.read_text()


# jsonl


def test_every_line_of_jsonl_is_a_document(tmp_path):
    lines = b'{"text": "one\\r\\ntwo"}\r\n\r\n  \n{"id": 3, "text": "\\ud83d\\ude00"}\n{"text": ""}\n'
    lines += b'{"text": "last"}'
    path = written(tmp_path / "a.jsonl", codecs.BOM_UTF8 + lines)
    told = []
    found = [(d.source, d.text(), d.notes) for d in read_documents([path], progress=told.append)]
    assert found == [
        (f"{path}:1", "one\ntwo", ["CRLF line ends read as LF"]),
        (f"{path}:4", "😀", []),
        (f"{path}:6", "last", []),
    ]
    assert told == [f"{path}: 1 lines with an empty 'text' skipped"]
    written(path, '{"body": "x"}\n')
    assert read(path, field="body") == ["x"]


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
    assert notes == ["1 lone surrogates replaced by U+FFFD"]


# html


def visible(tmp_path, page: str | bytes, name="a.html", **options) -> str:
    return read_one(written(tmp_path / name, page), **options)[0]


def test_html_gives_what_a_reader_sees(tmp_path):
    page = """<!DOCTYPE html><html><head><title>Not seen</title><style>p {}</style></head><body>
    <script>var x = "<p>no</p>";</script><!-- nor this -->
    <h1>The   Title</h1><p>One <b>bold</b>
      word,<i> and</i> <em> more</em>.<p>Caf&eacute; &amp; &lt;tea&gt; &#x1F600;<br>new line<br><br>verse
    <ul><li>first<li>second <span>item</span></ul><div>a<div>b</div>c</div>
    <p hidden>hidden</p><p style="display: none">hidden</p><noscript>no</noscript>
    <table><tr><th>x<th>y<tr><td>1<td>2</table><pre>  kept
    as  is</pre><svg><text>no</text></svg>end</body></html>"""
    assert visible(tmp_path, page) == (
        "The Title\n\nOne bold word, and more.\n\nCafé & <tea> 😀\nnew line\n\nverse\n\n"
        "first\nsecond item\n\na\nb\nc\n\nx\ty\n1\t2\n\n  kept\n    as  is\n\nend\n"
    )


def test_html_without_a_body_a_head_or_an_end(tmp_path):
    assert visible(tmp_path, "just <b>words") == "just words\n"
    assert visible(tmp_path, "<html><p>x") == "x\n"
    assert "empty" in refusal(written(tmp_path / "a.html", "<html><frameset><frame></frameset></html>"))
    assert "empty" in refusal(written(tmp_path / "a.html", "<script>all of it</script>"))
    assert "empty" in refusal(written(tmp_path / "a.html", ""))


def test_xhtml_may_close_elements_at_once(tmp_path):
    page = (
        '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title/>'
        '<script src="a>b"/></head><body><p>seen<a id="x"/> too</p></body></html>'
    )
    assert visible(tmp_path, page, "a.xhtml") == "seen too\n"


def test_a_page_is_read_in_the_encoding_that_it_names(tmp_path):
    page = '<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-1"><p>„Käse“'.encode(
        "cp1252"
    )
    text, notes = read_one(written(tmp_path / "a.html", page))
    assert text == "„Käse“\n"
    assert notes == ["read as cp1252, as the page says"]
    assert visible(tmp_path, '<meta charset="iso-8859-1"><p>Käse'.encode()) == "Käse\n"
    assert "is 0xe4" in refusal(written(tmp_path / "b.html", "<p>Käse".encode("latin-1")))
    assert "is 0xe4" in refusal(written(tmp_path / "c.html", b'<meta charset="no-such"><p>K\xe4se'))
    assert visible(tmp_path, "<p>Käse".encode("latin-1"), encoding="latin-1") == "Käse\n"


def test_deep_nesting_and_a_large_page_are_read(tmp_path):
    assert visible(tmp_path, "<div>" * 5_000 + "deep") == "deep\n"
    assert visible(tmp_path, "<p>word word\n" * 20_000) == "\n".join(["word word\n"] * 20_000)


def test_gutenbergs_frame_is_removed_from_html_too(tmp_path):
    start, end = STARTS[0].strip(), ENDS[0].strip()
    page = f"<div>Licence<div>{start}</div></div><p>Story</p><section><div>{end}</div>more</section>"
    assert visible(tmp_path, page).strip() == "Story"


# epub


def epub(pages: dict[str, str | bytes], spine=None, folder="OEBPS/", hrefs=None, extra=None) -> bytes:
    """An EPUB of `pages`, in the order of `spine`."""
    hrefs = hrefs or {}
    names = list(pages)
    items = "".join(
        f'<item id="i{names.index(name)}" href="{hrefs.get(name, name)}" media-type="application/xhtml+xml"/>'
        for name in names
    )
    order = "".join(f'<itemref idref="i{names.index(name)}"/>' for name in spine or names)
    package = (
        '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0">'
        f'<manifest>{items}<item id="pic" href="a.png" media-type="image/png"/></manifest>'
        f'<spine>{order}<itemref idref="pic"/></spine></package>'
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        f'<rootfile full-path="{folder}content.opf"/></rootfiles></container>'
    )
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr("META-INF/container.xml", container)
        archive.writestr(f"{folder}content.opf", package)
        for name, page in pages.items():
            archive.writestr(folder + name, page)
        for name, data in (extra or {}).items():
            archive.writestr(name, data)
    return file.getvalue()


def encryption(*names: str) -> str:
    data = "".join(f'<CipherData><CipherReference URI="{name}"/></CipherData>' for name in names)
    return f'<encryption xmlns="http://www.w3.org/2001/04/xmlenc#">{data}</encryption>'


def test_an_epub_is_read_in_the_order_of_its_spine(tmp_path):
    pages = {
        "b.xhtml": "<p>second",
        "a.xhtml": "<p>first</p><p>&copy;",
        "c.xhtml": "<p>Käse".encode("utf-16"),
    }
    book = epub(pages, spine=["a.xhtml", "b.xhtml", "c.xhtml"])
    assert read(written(tmp_path / "a.epub", book)) == ["first\n\n©\n\nsecond\n\nKäse\n\n"]
    assert read(written(tmp_path / "b.epub", epub(pages, folder="")))[0].startswith("second")


def test_an_epub_with_percent_encoded_names(tmp_path):
    pages = {"chapter one ä.xhtml": "<p>one", "50%25.xhtml": "<p>two"}
    hrefs = {"chapter one ä.xhtml": "chapter%20one%20%C3%A4.xhtml#top"}
    assert read(written(tmp_path / "a.epub", epub(pages, hrefs=hrefs))) == ["one\n\ntwo\n\n"]


def test_an_epub_that_points_outside_misses_a_page_or_is_none_is_refused(tmp_path):
    page = {"a.xhtml": "<p>x"}
    for href in ("../../etc/passwd", "%2E%2E/%2e%2e/passwd", "/etc/passwd"):
        outside = written(tmp_path / "a.epub", epub(page, hrefs={"a.xhtml": href}))
        assert "points outside" in refusal(outside)
    assert "is missing" in refusal(written(tmp_path / "b.epub", epub(page, hrefs={"a.xhtml": "no.xhtml"})))
    assert "not a sound EPUB" in refusal(written(tmp_path / "c.epub", b"plain"))
    assert "not a sound EPUB" in refusal(written(tmp_path / "d.epub", epub(page)[:-30]))
    assert "empty" in refusal(written(tmp_path / "e.epub", epub({"a.xhtml": ""})))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x", "y")
    assert "not an EPUB" in refusal(written(tmp_path / "f.epub", file.getvalue()))
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa">]><encryption>&a;</encryption>'
    locked = written(tmp_path / "g.epub", epub(page, extra={"META-INF/encryption.xml": bomb}))
    assert "defines entities" in refusal(locked)


def test_a_copy_protected_epub_is_refused_but_scrambled_fonts_are_not(tmp_path):
    page = {"a b.xhtml": "<p>x"}
    locked = epub(page, extra={"META-INF/encryption.xml": encryption("OEBPS/a%20b.xhtml", "OEBPS/f.otf")})
    assert "copy-protected (DRM: 1 of 1 pages" in refusal(written(tmp_path / "a.epub", locked))
    fonts = epub(page, extra={"META-INF/encryption.xml": encryption("OEBPS/f.otf")})
    assert read(written(tmp_path / "b.epub", fonts)) == ["x\n\n"]


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_epub_or_pdf_is_read_or_refused_in_one_line(tmp_path, seed):
    import random

    chance = random.Random(seed)
    for name, whole in {"a.epub": epub({"a.xhtml": "<p>word " * 50}), "a.pdf": pdf("word " * 20)}.items():
        for _ in range(40):
            data = bytearray(whole)
            for _ in range(chance.randint(1, 8)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            path = written(tmp_path / name, data[: chance.choice([len(data), chance.randrange(len(data))])])
            message = outcome(path)
            assert message is None or (message.startswith(str(path)) and "\n" not in message)


def outcome(path: Path) -> str | None:
    try:
        read(path)
    except DataError as problem:
        return str(problem)
    return None


# pdf


def pdf(*pages: str) -> bytes:
    """A PDF with one line of text a page, built by hand."""
    count = len(pages)
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(count))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for n, page in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({page}) Tj ET" if page else ""
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * n} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    data, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(objects) + 1
    return data + (
        f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\n"
        f"startxref\n{len(data)}\n%%EOF\n"
    ).encode("latin-1")


def test_a_pdf_is_read_page_by_page(tmp_path):
    assert read(written(tmp_path / "a.pdf", pdf("First page, caf\xe9", "", "Third"))) == [
        "First page, café\nThird\n"
    ]


def test_a_pdf_without_text_or_damaged_is_refused(tmp_path):
    assert "no text in its 2 pages" in refusal(written(tmp_path / "a.pdf", pdf("", "")))
    assert "not a sound PDF" in refusal(written(tmp_path / "b.pdf", b"%PDF-1.4 and no more"))
    assert "not a sound PDF" in refusal(written(tmp_path / "c.pdf", b""))


def encrypted(data: bytes, user: str) -> bytes:
    writer = PdfWriter(clone_from=io.BytesIO(data))
    writer.encrypt(user_password=user, owner_password="owner", algorithm="RC4-128")
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def test_an_encrypted_pdf_is_refused_unless_it_opens_without_a_password(tmp_path):
    assert "encrypted" in refusal(written(tmp_path / "a.pdf", encrypted(pdf("secret"), "user")))
    assert read(written(tmp_path / "b.pdf", encrypted(pdf("open to all"), ""))) == ["open to all\n"]


# Addresses: the transfer itself is tested in tests/runtime/test_download.py


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """Puts `data` where download() would, with what the server said."""

    def put(data: bytes, **said: str) -> None:
        path = written(tmp_path / "cache" / "file", data)
        path.with_name("file.json").write_text(json.dumps({"url": "http://x", **said}))
        monkeypatch.setattr(documents, "download", lambda url, folder, *, progress: path)

    return put


def test_the_kind_of_an_address_is_its_suffix_else_what_the_server_says(fetched):
    fetched(b"<p>x", content_type="text/html; charset=utf-8")
    assert read_one("https://example.org/wiki/Page?a=b.txt") == ("x\n", [])
    assert read_one("https://example.org/page.html") == ("x\n", [])
    fetched(b"<p>x", content_type="text/plain")
    assert read_one("https://example.org/ebooks/1342.txt.utf-8") == ("<p>x", [])
    assert read_one("https://example.org/a.html#top") == ("x\n", [])
    fetched(gzip.compress(b"x"), content_type="text/plain", content_encoding="gzip")
    assert read_one("https://example.org/a.txt") == ("x", [])
    fetched(gzip.compress(b"x"), content_type="application/gzip")
    (document,) = read_documents(["https://example.org/a.txt.gz"])
    assert (document.source, document.text()) == ("https://example.org/a.txt.gz", "x")


def test_a_web_page_in_place_of_a_text_is_refused(fetched):
    fetched(b"<p>Sign in", content_type="text/html")
    assert "sent a web page instead" in refusal("https://example.org/a.txt")
