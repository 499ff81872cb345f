import gzip
import random
from pathlib import Path

import pytest
from written_files import epub, pdf, read, refusal, written

from lucidlm.errors import DataError
from lucidlm.text.formats import epub as epub_reader
from lucidlm.text.formats import markup, whole_files


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_epub_or_pdf_is_read_or_refused_in_one_line(tmp_path, seed):
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


def test_a_page_an_epub_and_a_pdf_may_be_gzipped(tmp_path):
    assert read(written(tmp_path / "a.html.gz", gzip.compress(b"<p>one"))) == ["one\n"]
    assert read(written(tmp_path / "b.epub.gz", gzip.compress(epub({"a.xhtml": "<p>two"})))) == ["two\n\n"]
    assert read(written(tmp_path / "c.pdf.gz", gzip.compress(pdf("three")))) == ["three\n"]


def test_what_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    for module in (markup, epub_reader):
        monkeypatch.setattr(module, "LARGEST_PAGE", 1 << 20)
    monkeypatch.setattr(whole_files, "LARGEST_FILE", 1 << 20)
    assert " 1 MiB" in refusal(written(tmp_path / "a.pdf.gz", gzip.compress(b"x" * (2 << 20))))
    assert " 1 MiB" in refusal(written(tmp_path / "a.html.gz", gzip.compress(b"x" * (2 << 20))))
    assert " 1 MiB" in refusal(written(tmp_path / "a.epub", epub({"a.xhtml": "x" * (2 << 20)})))
    many = {f"{n}.xhtml": "x" * 300_000 for n in range(4)}
    assert " 1 MiB" in refusal(written(tmp_path / "b.epub", epub(many)))
