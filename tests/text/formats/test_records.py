import codecs
import csv
import gzip
import io
import json
import re
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written_files import accounted, read, reason_of, refusal, refused, written

from lucidlm.text import reasons
from lucidlm.text.account import Account
from lucidlm.text.documents import read_texts
from lucidlm.text.reading import Reading

CELL = st.text(st.sampled_from("ab é,;\"\t\n\r'😀|"), max_size=8)
BODY = Reading(field="body")


def counted(path, reading=BODY) -> tuple[list[str], Account]:
    account = Account()
    texts = [text for _, text in read_texts([path], account, reading=reading)]
    assert account.text == sum(len(text.encode()) for text in texts)
    assert account.read == account.stored == path.stat().st_size
    return texts, account


def lf(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


@settings(max_examples=40)
@given(
    rows=st.lists(st.tuples(CELL, CELL), max_size=5),
    delimiter=st.sampled_from(",;\t|"),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    end=st.sampled_from(["\r\n", "\n"]),
    mark=st.booleans(),
)
def test_the_cells_of_a_table_and_what_stands_around_them_are_the_file(
    tmp_path_factory, rows, delimiter, quoting, end, mark
):
    suffix = "tsv" if delimiter == "\t" else "csv"
    path = tmp_path_factory.mktemp("table") / f"a.{suffix}"
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator=end)
    if quoting != csv.QUOTE_ALL:  # Python does not quote a lone CR, nor can it read that
        rows = [(one.replace("\r", ""), body.replace("\r", "")) for one, body in rows]
    rows = [*rows, ("last", "text")]
    writer.writerows([("id", "body"), *rows])
    path.write_bytes(codecs.BOM_UTF8 * mark + file.getvalue().encode())
    texts, account = counted(path)
    assert texts == [lf(body) for _, body in rows if body]
    assert account.seen["empty_documents"] == sum(body == "" for _, body in rows)
    assert account.left_out["byte_order_marks"] == 3 * mark


@settings(max_examples=40)
@given(
    st.lists(st.text(st.sampled_from('ab é\r\n"\\😀\ud83d'), max_size=8), max_size=5),
    st.sampled_from([None, 2]),
)
def test_the_objects_and_strings_of_an_array_add_up_to_the_file(tmp_path_factory, texts, indent):
    path = tmp_path_factory.mktemp("json") / "a.json"
    texts = [*texts, "last"]
    expected = [lf(text).replace("\ud83d", "\ufffd") for text in texts if text]
    for items, reading in (([{"n": 1, "body": text} for text in texts], BODY), (texts, Reading())):
        path.write_bytes(json.dumps(items, indent=indent).encode())
        assert counted(path, reading)[0] == expected


def test_a_record_is_called_by_its_place(tmp_path):
    table = written(tmp_path / "a.csv", 'text,n\n"one\ntwo",1\n\nthree,2\n')
    array = written(tmp_path / "a.json", '[{"text": "one"}, {"text": ""}, {"text": "three"}]')
    sources = [source for path in (table, array) for source, _ in read_texts([path], Account())]
    assert sources == [f"{table}:2", f"{table}:5", f"{array}:1", f"{array}:3"]


def test_one_object_is_one_document_and_json_lines_are_read_under_both_names(tmp_path):
    assert read(written(tmp_path / "a.json", '{"text": "one", "n": [1]}')) == ["one"]
    lines = '{"text": "one"}\n{"text": "two"}\n'
    assert (
        read(written(tmp_path / "b.json", lines))
        == read(written(tmp_path / "b.ndjson", lines))
        == ["one", "two"]
    )
    for name, text in (("c.json", '{"text": "one"}\n{"text": ""}\n'), ("d.jsonl", '\n[\n{"text": "one"}]')):
        assert accounted(written(tmp_path / name, text))[1][reasons.BY_CONTENT] == 1


@pytest.mark.parametrize(("text", "reason", "named"), [
    ("[]", reasons.NO_FIELD, "an empty list"),
    ("3", reasons.NO_FIELD, "a number"),
    ('"text"', reasons.NO_FIELD, "a string"),
    ("null", reasons.NO_FIELD, "null"),
    ('{"texts": ["one"]}', reasons.NO_FIELD, "'texts': a list"),
    ('{"text": {}, "body": "x"}', reasons.NO_FIELD, "--field: 'body'"),
    ('[{"text": 3}]', reasons.NO_FIELD, "a.json:1: the field 'text' is a number"),
    ('["one", 2]', reasons.NO_FIELD, "a.json:2: this is a number"),
    ('[{"text": "one"}', reasons.DAMAGED, "(Expecting ',' delimiter at character 17)"),
    ("[" * 100_000, reasons.DAMAGED, "a.json: "),
])  # fmt: skip
def test_other_json_says_what_it_is(tmp_path, text, reason, named):
    error = refused(written(tmp_path / "a.json", text))
    assert error.reason == reason
    assert named in str(error)


def test_a_field_that_an_object_has_twice_is_read_once_and_said(tmp_path):
    twice = '{"text": "one", "n": {"text": "other"}, "text": "two"}'
    for name, text in (("a.jsonl", twice + "\n"), ("b.json", f"[{twice}]"), ("c.json", twice)):
        texts, account = counted(written(tmp_path / name, text), Reading())
        assert (texts, account.seen) == (["two"], {"fields_that_stand_twice": 1})
    once = '{"text": "\\"text\\"", "n": "text"}'
    assert counted(written(tmp_path / "d.jsonl", once), Reading())[1].seen == {}


def test_records_without_text_are_counted_and_refuse_no_file(tmp_path):
    frame = "*** START OF THE PROJECT GUTENBERG EBOOK A ***\n*** END OF THE PROJECT GUTENBERG EBOOK A ***\n"
    records = [{"text": None}, {"text": frame}, {"text": "one", "n": 3}]
    lines = "\n".join(map(json.dumps, records)).replace("3}", "3" * 5000 + "}")
    for name, text in (("a.jsonl", lines), ("b.json", json.dumps(records))):
        texts, account = counted(written(tmp_path / name, text), Reading())
        assert texts == ["one"]
        assert account.seen["empty_documents"] == 2
        assert account.left_out["gutenberg_frames"] == len(frame)


def test_strings_may_stand_on_lines_of_their_own(tmp_path):
    assert read(written(tmp_path / "a.jsonl", '"one"\n"two"\n')) == ["one", "two"]


def test_the_command_for_json_that_is_not_in_lines_makes_it_readable(tmp_path):
    path = written(tmp_path / "a.jsonl", '{\n "text": "one"\n}\n{"text": "two"}')
    command = re.search(r"\((jq .*?) FILE > NEW", refusal(path))[1].split()
    if shutil.which("jq"):
        mended = subprocess.run([*command, str(path)], capture_output=True, check=True).stdout
        assert read(written(tmp_path / "b.jsonl", mended)) == ["one", "two"]


@pytest.mark.parametrize("first", ["sep=;\n", '"sep=;"\r\n', "SEP=;\n"])
def test_a_first_line_for_spreadsheets_tells_the_delimiter(tmp_path, first):
    texts, account = counted(written(tmp_path / "a.csv", first + "n,m;body\n1;one\n2;two, three\n"))
    assert texts == ["one", "two, three"]
    assert account.left_out["table"] > len("sep=;\n")
    assert "a.csv:3: 1 cell" in refusal(written(tmp_path / "a.csv", first + "n;body\n1\n"), reading=BODY)


def test_an_array_of_strings_has_no_fields(tmp_path):
    assert reason_of(written(tmp_path / "a.json", '["one"]'), reading=BODY) == reasons.NO_FIELD


def test_a_missing_column_is_answered_by_the_columns_there_are(tmp_path):
    path = written(tmp_path / "a.csv", "id;body;n\n1;one, two;3\n2;three;4\n")
    error = refused(path)
    assert error.reason == reasons.NO_FIELD
    assert "'id', 'body', 'n'" in str(error)
    assert "--field NUMBER (1 to 3)" in str(error)
    assert read(path, reading=BODY) == ["one, two", "three"]
    headless = written(tmp_path / "b.csv", '1,"one, two",x\n2,three,y\n')
    assert read(headless, reading=Reading(field="2")) == ["one, two", "three"]
    assert "no column '4'" in refusal(headless, reading=Reading(field="4"))


def test_a_delimiter_in_the_text_does_not_decide(tmp_path):
    table = "n;text\n" + "1;one, two, three\n" * 3 + "2;four\n"
    assert read(written(tmp_path / "a.csv", table)) == ["one, two, three"] * 3 + ["four"]
    assert read(written(tmp_path / "b.csv", "text\none\n")) == ["one"]


def test_a_tsv_without_quoting_may_hold_single_quotes(tmp_path):
    table = 'n\ttext\n1\t"Well, he said.\n2\tA 5" pipe\n3\t"\n'
    assert read(written(tmp_path / "a.tsv", table)) == ['"Well, he said.', 'A 5" pipe', '"']
    assert read(written(tmp_path / "b.tsv", 'n\ttext\n1\t"a ""b""\nc"\n')) == ['a "b"\nc']


@pytest.mark.parametrize(("table", "reason", "named"), [
    ("n,text\n1,one, two\n", reasons.DAMAGED, "a.csv:2: 3 cells instead of 2"),
    ('n,text\n1,"one\n', reasons.DAMAGED, "a.csv:2: "),
    ("text,text\na,b\n", reasons.NO_FIELD, "2 columns are named 'text'"),
    ("n,text\n1,\n", reasons.NO_TEXT, "1 record with an empty 'text'"),
])  # fmt: skip
def test_a_table_with_faults_is_refused_with_the_line(tmp_path, table, reason, named):
    error = refused(written(tmp_path / "a.csv", table))
    assert error.reason == reason
    assert named in str(error)


def test_an_unquoted_delimiter_can_be_mended_as_advised(tmp_path):
    assert read(written(tmp_path / "a.csv", 'n,text\n1,"one, two"\n')) == ["one, two"]


def test_a_long_cell_is_no_fault(tmp_path):
    assert read(written(tmp_path / "a.csv", "text\n" + "x" * 200_000 + "\n")) == ["x" * 200_000]


def test_a_table_may_be_packed_and_in_another_encoding(tmp_path):
    path = written(tmp_path / "a.csv.gz", gzip.compress("text;n\nKäse;1\n".encode("cp1252")))
    assert "--encoding cp1252" in refusal(path)
    assert read(path, reading=Reading(encoding="cp1252")) == ["Käse"]


def test_a_byte_order_mark_of_a_file_that_was_joined_is_no_fault(tmp_path):
    joined = written(tmp_path / "a.jsonl", '{"text": "one"}\n\ufeff{"text": "two"}\n')
    texts, account = counted(joined, Reading())
    assert texts == ["one", "two"]
    assert account.left_out["json"] == len('{"text": ""}\n') * 2 + 3
