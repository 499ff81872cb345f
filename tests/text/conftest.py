"""What the tests of texts share: a small vocabulary, a book, sources of several kinds, small portions."""

import gzip

import pytest
from made_texts import SIZES, lines, texts, words
from models import MANY_SCRIPTS

from lucidlm.text import leaks, preparation, token_writer
from lucidlm.text.formats.packed import zstd
from lucidlm.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def trained() -> Tokenizer:
    """Byte-pair encoding with 400 tokens, learnt from a few sentences."""
    return Tokenizer.train([MANY_SCRIPTS * 3, "the lighthouse and the ferry " * 20], 400)


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(
        "\n\n".join(words(seed, 60) for seed in range(40)) + " Ende: größer 😀 als zuvor.", "utf-8"
    )
    return path


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
