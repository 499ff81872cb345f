import lzma
import re
import shutil
import sqlite3
import subprocess

import pytest
from packed_files import NAMED
from written_files import accounted, epub, pdf, read_one, refusal, refused, written

from lucidlm.text import reasons
from lucidlm.text.formats.signatures import not_text, packing_of, readable_as


@pytest.mark.parametrize("what", NAMED)
@pytest.mark.parametrize("name", ["a.txt", "a.html", "a.jsonl", "a.unknown"])
def test_what_is_no_text_is_named_by_its_first_bytes(tmp_path, what, name):
    error = refused(written(tmp_path / name, NAMED[what]))
    assert error.reason == reasons.BINARY
    assert what in str(error)


def test_a_database_is_named(tmp_path):
    connection = sqlite3.connect(tmp_path / "a.txt")
    connection.execute("create table texts (text)")
    connection.close()
    assert "an SQLite database" in refusal(tmp_path / "a.txt")


def test_the_first_words_of_a_text_do_not_make_it_another_file(tmp_path):
    for start in (
        "BM",
        "MZ",
        "ORC",
        "PAR1",
        "GIF89a",
        "ID3",
        "FLV",
        "PACK",
        "RIFF    WAVE",
        "OTTO",
        "BZh9",
        "%PDF",
    ):
        text = f"{start} stands at the start of this café's menu.\n"
        assert read_one(written(tmp_path / "a.txt", text))[0] == text
        assert "--encoding cp1252" in refusal(written(tmp_path / "b.txt", text.encode("cp1252")))
    assert packing_of(b"\x1f\x8b") is readable_as(b"PK") is not_text(b"") is None


@pytest.mark.parametrize("name", ["a.txt", "a", "a.md", "a.html", "a.docx", "a.zip"])
def test_what_has_a_reader_is_read_by_its_content_and_that_is_said(tmp_path, name):
    for data, expected in ((pdf("A page."), "A page.\n"), (epub({"a.xhtml": "<p>A page."}), "A page.\n\n")):
        assert accounted(written(tmp_path / name, data)) == (expected, {reasons.BY_CONTENT: 1})


@pytest.mark.parametrize("tool", ["lz4", "gzip"])
def test_what_is_packed_otherwise_can_be_unpacked_as_advised(tmp_path, tool):
    if not shutil.which(tool):
        pytest.skip(f"no {tool} here")
    path = tmp_path / {"lz4": "a.txt.lz4", "gzip": "a.txt.Z"}[tool]
    if tool == "gzip":  # as compress writes it: 9 bits a letter
        letters = sum(letter << 9 * place for place, letter in enumerate(b"one text"))
        path.write_bytes(b"\x1f\x9d\x90" + letters.to_bytes(9, "little"))
    else:
        text = written(tmp_path / "b.txt", "one text")
        subprocess.run([tool, "-q", str(text), "-z", str(path)], check=True)
    command = re.search(r"unpack it first \((.*) FILE\)", refusal(path))[1].split()
    done = subprocess.run([*command, str(path)], check=True, capture_output=True)
    if done.stdout:  # where lz4 writes without a terminal
        written(tmp_path / "a.txt", done.stdout)
    assert read_one(tmp_path / "a.txt")[0] == "one text"


def test_the_older_format_of_xz_is_named(tmp_path):
    path = written(tmp_path / "a.txt", lzma.compress(b"text " * 99, lzma.FORMAT_ALONE))
    assert "(xz -d FILE)" in refusal(path)
