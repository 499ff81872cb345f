import numpy as np
import pytest
from written_files import reason_of, refused

from lucidlm.text import reasons
from lucidlm.text.documents import read_documents
from lucidlm.text.formats.bin_files import LLM_C_MAGIC
from lucidlm.text.preparation import prepare
from lucidlm.text.tokenizer import Tokenizer

GPT2 = Tokenizer.gpt2()
TEXTS = ["The tide came in.\n\nAnna wrote it down.", "Größe, 猫 🙂", "the end"]


def ids_of(texts: list[str]) -> np.ndarray:
    """As both trainers write them: an end of text by each document."""
    return np.array([id for text in texts for id in (50256, *GPT2.encode(text))], "<u2")


def llm_c(ids: np.ndarray, *, count: int | None = None, version: int = 1) -> bytes:
    header = np.zeros(256, "<i4")
    header[:3] = LLM_C_MAGIC, version, len(ids) if count is None else count
    return header.tobytes() + ids.tobytes()


def texts_in(path) -> list[str]:
    return [document.text() for document in read_documents([path])]


@pytest.mark.parametrize("form", ["nanoGPT", "llm.c"])
def test_documents_come_back_as_they_were(tmp_path, form):
    ids = ids_of(TEXTS)
    (tmp_path / "train.bin").write_bytes(ids.tobytes() if form == "nanoGPT" else llm_c(ids))
    assert texts_in(tmp_path / "train.bin") == TEXTS
    sources = [document.source for document in read_documents([tmp_path / "train.bin"])]
    assert sources == [f"{tmp_path / 'train.bin'}:{number}" for number in (1, 2, 3)]


def test_end_of_text_may_stand_behind_or_nowhere(tmp_path):
    ids = GPT2.encode(TEXTS[0])
    for layout in ([*ids, 50256], ids, [50256, 50256, *ids, 50256]):
        (tmp_path / "val.bin").write_bytes(np.array(layout, "<u2").tobytes())
        assert texts_in(tmp_path / "val.bin") == TEXTS[:1]


def test_documents_longer_than_what_is_read_at_once_are_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("lucidlm.text.formats.bin_files._AT_ONCE", 3)
    (tmp_path / "train.bin").write_bytes(ids_of(TEXTS).tobytes())
    assert texts_in(tmp_path / "train.bin") == TEXTS


def test_prepared_with_gpt2_the_ids_are_those_of_the_file(tmp_path):
    texts = [f"{number}. {TEXTS[number % 3]}" for number in range(40)]
    (tmp_path / "train.bin").write_bytes(ids_of(texts).tobytes())
    corpus = prepare([tmp_path / "train.bin"], tmp_path / "data", tokenizer="gpt2")
    found = np.concatenate([corpus.train[:], corpus.validation[:]])
    assert sorted(found.tolist()) == sorted(ids_of(texts).tolist())
    other = prepare([tmp_path / "train.bin"], tmp_path / "bytes", tokenizer="bytes")
    assert other.train_bytes + other.validation_bytes == sum(len(text.encode()) for text in texts)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"\1bc", "3 bytes"),
        (b"", "0 bytes"),
        (np.array([60000, 3], "<u2").tobytes(), "60000"),
        (np.array([50256] * 4, "<u2").tobytes(), "end-of-text"),
        (ids_of(TEXTS).astype("<u4").tobytes(), "32 bits"),
        (llm_c(ids_of(TEXTS), count=5), "5 tokens"),
        (llm_c(ids_of(TEXTS), count=-5), "-5 tokens"),
        (llm_c(ids_of(TEXTS), version=2), "version 2"),
    ],
)
def test_what_is_no_such_file_is_named(tmp_path, data, named):
    (tmp_path / "train.bin").write_bytes(data)
    error = refused(tmp_path / "train.bin")
    assert error.reason == reasons.NO_TOKENS
    assert named in str(error)


def test_a_vocabulary_in_a_pickle_is_never_read(tmp_path):
    (tmp_path / "train.bin").write_bytes(ids_of(TEXTS).tobytes())
    (tmp_path / "meta.pkl").write_bytes(b"")
    assert reason_of(tmp_path / "train.bin") == reasons.NO_TOKENS


def test_a_gzipped_one_is_to_be_unpacked_first(tmp_path):
    (tmp_path / "train.bin.gz").write_bytes(b"x")
    assert reason_of(tmp_path / "train.bin.gz") == reasons.NO_TOKENS


@pytest.mark.parametrize("text", ["MIT License", "Größe\n", "x" * 70_000])
def test_a_text_that_is_named_bin_is_refused_with_what_to_do(tmp_path, text):
    (tmp_path / "a.bin").write_text(text, encoding="utf-8")
    error = refused(tmp_path / "a.bin")
    assert error.reason == reasons.NO_TOKENS
    assert ".txt" in str(error)
    (tmp_path / "a.bin").rename(tmp_path / "a.txt")
    assert texts_in(tmp_path / "a.txt") == [text]


@pytest.mark.parametrize("ids", [range(65), range(256)])
def test_ids_of_characters_or_bytes_are_no_ids_of_gpt2(tmp_path, ids):
    np.array([*ids] * 8, "<u2").tofile(tmp_path / "a.bin")
    assert reason_of(tmp_path / "a.bin") == reasons.NO_TOKENS


def test_tokens_that_spell_no_utf8_are_counted(tmp_path):
    ids = [*Tokenizer.gpt2().encode("A \ufffd of its own, and then "), 127, 1000]  # 127 is the byte 0xe9's
    np.array(ids, "<u2").tofile(tmp_path / "a.bin")
    (document,) = read_documents([tmp_path / "a.bin"])
    assert document.text().count("\ufffd") == 2
    assert document.account.seen == {"bytes_that_are_no_utf8": 1}


@pytest.mark.parametrize("byte", [b"\0", b"\x20\x01"])
def test_a_blank_file_holds_no_tokens(tmp_path, byte):
    path = tmp_path / "a.bin"
    path.write_bytes(byte * 4096)
    assert reason_of(path) == reasons.NO_TOKENS
