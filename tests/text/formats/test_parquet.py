"""Parquet files: one column, a row a document, in pieces; and what is said where that cannot be."""

import sys

import pytest
from written_files import accounted, read, reason_of, refusal, refused, written

from lucidlm.errors import ConfigError
from lucidlm.text import reasons
from lucidlm.text.account import Account
from lucidlm.text.documents import read_documents
from lucidlm.text.reading import Reading

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

TEXTS = ["one", "two é 😀\r\nlines", "", None, "three"]


def table(path, **columns):
    parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
    return path


def test_each_row_is_a_document_and_nulls_and_empty_texts_are_counted(tmp_path):
    path = table(tmp_path / "a.parquet", text=TEXTS, id=[1, 2, 3, 4, 5])
    account = Account()
    found = []
    for document in read_documents([path], account):
        found.append((document.source, document.text()))
        document.add_to(account)
    texts = ["one", "two é 😀\nlines", "three"]
    assert found == [(f"{path}:{number}", text) for number, text in zip((1, 2, 5), texts)]
    assert account.seen[reasons.EMPTY_LINES] == 2
    assert account.extracted == {"parquet": path.stat().st_size}
    assert account.text == sum(len(text.encode()) for text in texts)


@pytest.mark.parametrize(
    "kind",
    [pyarrow.large_string(), pyarrow.string_view(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())],
)
def test_other_kinds_of_strings_and_another_column_are_read(tmp_path, kind):
    values = pyarrow.array(["a", "b", "a"]).cast(kind)
    path = table(tmp_path / "a.parquet", body=values, text=[1, 2, 3])
    assert read(path, reading=Reading(field="body")) == ["a", "b", "a"]


def test_a_column_that_is_not_there_or_holds_no_strings_is_refused_with_those_that_do(tmp_path):
    path = table(tmp_path / "a.parquet", body=["a"], number=[1], title=["b"])
    said = "choose one with --field: 'body', 'title'"
    assert said in refusal(path)
    assert "holds int64, not strings" in refusal(path, reading=Reading(field="number"))
    assert reason_of(path) == reasons.NO_FIELD
    assert read(path, reading=Reading(field="body")) == ["a"]


def test_it_is_known_by_its_first_bytes_and_a_damaged_one_is_refused(tmp_path):
    data = table(tmp_path / "a.parquet", text=["one"]).read_bytes()
    assert accounted(written(tmp_path / "b.txt", data))[0] == "one"
    for damaged in (data[:-3], data[: len(data) // 2], data[:4] + bytes(len(data) - 4)):
        assert reason_of(written(tmp_path / "c.parquet", damaged)) == reasons.DAMAGED
    assert "this is text, not parquet" in refusal(written(tmp_path / "d.parquet", "plain text"))


def test_without_the_package_the_extra_is_named_and_no_file_of_a_folder_is_skipped(tmp_path, monkeypatch):
    table(tmp_path / "a.parquet", text=["one"])
    written(tmp_path / "b.txt", "two")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    error = refused(tmp_path)
    assert isinstance(error, ConfigError)
    assert "pip install 'lucidlm[parquet]'" in str(error)
