import codecs
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucidlm.errors import DataError
from lucidlm.text import reasons
from lucidlm.text.account import Account
from lucidlm.text.documents import given_text, read_texts
from lucidlm.text.reading import Reading

FRAMED = (
    "Title: Bücher\n*** START OF THE PROJECT GUTENBERG EBOOK A BOOK ***\n",
    "It was a dark night.\n",
    "*** END OF THE PROJECT GUTENBERG EBOOK A BOOK ***\nTerms of use.\n",
)
TEXTS = {
    "plain": "one\ntwo é\n",
    "CRLF": "one\r\ntwo\r\n",
    "lone CR": "one\rtwo\r\r\n",
    "mark": "\ufeffone\r\n",
    "two marks": "\ufeff\ufeffone",
    "other ends": "one\u2028two\x85three\x0c\u2029\x0b",
    "frame": "".join(FRAMED).replace("\n", "\r\n"),
    "white": " \n",
}


def read(path, **options) -> tuple[list[str], Account]:
    """The texts at a path, and the account of reading them: which must add up."""
    account = Account()
    texts = [text for _, text in read_texts([path], account, **options)]
    assert account.text == sum(len(text.encode()) for text in texts)
    assert account.text + account.left_out.total() == account.read
    return texts, account


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_is_kept_and_what_is_left_out_is_the_whole_file(tmp_path, text):
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    (found,), account = read(path)
    assert account.read == account.stored == path.stat().st_size == len(text.encode())
    assert len(found.encode()) + sum(account.to_dict()["bytes_left_out"].values()) == path.stat().st_size


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_text_that_is_given_is_the_text_of_its_file(tmp_path, text):
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    (found,), of_file = read(path)
    given = Account()
    assert given_text(text, given) == found
    assert (given.read, given.left_out, given.seen) == (of_file.read, of_file.left_out, of_file.seen)
    assert given.to_dict()["bytes_of_files"] is None


@given(
    lines=st.lists(
        st.one_of(
            st.text(st.sampled_from("ab é\r\n\ufeff😀\u2028"), max_size=12).map(
                lambda text: json.dumps({"id": 3, "text": text}, ensure_ascii=len(text) % 2 == 0)
            ),
            st.sampled_from(["", "  ", '{"text": "\\ud83d"}', '{"text": ""}']),
        ),
        max_size=6,
    ),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    mark=st.booleans(),
)
def test_the_lines_of_a_jsonl_file_add_up_to_the_file(tmp_path_factory, lines, end, mark):
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    lines = [*lines, '{"text": "last\\r\\n"}', "", '{"text": ""}']
    path.write_bytes(codecs.BOM_UTF8 * mark + end.join(lines).encode())
    texts, account = read(path)
    expected = [json.loads(line)["text"] for line in lines if line.strip()]
    assert account.read == account.stored == path.stat().st_size
    assert account.seen["empty_documents"] == expected.count("")
    assert account.documents[""] == len(texts) == len(expected) - expected.count("")
    dropped = sum(text.count("\r\n") for text in expected) + (end == "\r\n") * (len(lines) - 1)
    assert account.left_out["carriage_returns"] == dropped
    assert account.left_out["byte_order_marks"] == 3 * mark


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1", "utf-8-sig"])
def test_bytes_of_another_encoding_and_those_of_utf8_are_both_said(tmp_path, encoding):
    path = tmp_path / "a.txt"
    path.write_bytes("Käse\r\n".encode(encoding))
    (found,), account = read(path, reading=Reading(encoding=encoding))
    marked = encoding in ("utf-16", "utf-32", "utf-8-sig")
    assert found == "Käse\n"
    assert account.stored == path.stat().st_size
    assert account.read == 7 + 3 * marked
    assert account.left_out == {"carriage_returns": 1} | ({"byte_order_marks": 3} if marked else {})
    said = " ".join(account.other_lines())
    if encoding == "utf-8-sig":
        assert (account.stored, said) == (account.read, "")
    else:
        assert f"{account.stored} bytes of the file gave {account.read} bytes of UTF-8" in said


def test_a_packed_file_says_both_sizes(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"one\r\n" * 50))
    _, account = read(path)
    assert (account.packed, account.read) == (path.stat().st_size, 250)
    left_out, how = account.lines()
    assert left_out == "left out 50 of 250 bytes of UTF-8: carriage returns of line ends"
    assert how == (
        f"{account.packed} bytes of the file gave 250 bytes of UTF-8 ({account.packed} bytes are packed)"
    )


def test_a_page_has_bytes_of_its_own_and_its_text_others(tmp_path):
    path = tmp_path / "a.html"
    path.write_bytes(codecs.BOM_UTF8 + b"<p>one</p>\r\n<p>two</p>")
    (found,), account = read(path)
    assert found == "one\n\ntwo\n"
    assert (account.read, account.left_out) == (9, {})
    assert account.to_dict()["extracted_from"] == {"html": path.stat().st_size}
    assert "text extracted from" in account.lines()[0]


def test_a_folder_says_in_how_many_documents(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_bytes(b"one\r\n" if name != "c" else codecs.BOM_UTF8 + b"x")
    _, account = read(tmp_path)
    a, c = tmp_path / "a.txt", tmp_path / "c.txt"
    assert account.lines() == [
        f"left out 5 of the files' 14 bytes: 2 carriage returns of line ends ({a} and 1 more document), "
        f"3 of a byte order mark ({c})"
    ]


@pytest.mark.parametrize(("text", "line"), [
    ("\ufeffone", "3 of the text's 6 bytes: a byte order mark"),
    ("one\r\n", "1 of the text's 5 bytes: a carriage return of a line end"),
    ("one\r\ntwo\r\n", "2 of the text's 10 bytes: carriage returns of line ends"),
    ("\ufeffone\r\n", "4 of the text's 8 bytes: 3 of a byte order mark, 1 carriage return of a line end"),
])  # fmt: skip
def test_a_number_is_said_once_where_there_is_one_reason(text, line):
    given_text(text, account := Account())
    assert account.left_out_line() == line


def test_json_around_texts_is_one_reason_and_several_marks_are_marks(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
    assert read(tmp_path / "a.jsonl")[1].left_out_line() == (
        "13 of the file's 16 bytes: JSON around the texts"
    )
    (tmp_path / "marks").mkdir()
    for name in "ab":
        (tmp_path / "marks" / f"{name}.txt").write_bytes(codecs.BOM_UTF8 + b"x")
    assert "6 of the files' 8 bytes: byte order marks (" in read(tmp_path / "marks")[1].left_out_line()


def test_a_given_text_that_is_nothing_but_a_mark_is_refused():
    with pytest.raises(DataError, match=r"text is empty .* bytes: a byte order mark"):
        given_text("\ufeff", Account())


def test_files_that_were_passed_over_are_counted_by_reason_with_the_first_name_and_survive_merging():
    one, two, all_of_them = Account(), Account(), Account()
    one.pass_over(reasons.OTHER_KINDS, "b.log", 2)
    two.pass_over(reasons.DAMAGED, "c.pdf")
    two.pass_over(reasons.OTHER_KINDS, "d.log")
    two.pass_over(reasons.DAMAGED, "nothing", 0)
    all_of_them.add(one, "one")
    all_of_them.add(two, "two")
    assert all_of_them.lines() == [
        "skipped 3 files of other kinds (b.log and 2 more)",
        "skipped 1 damaged file (c.pdf)",
    ]
    assert all_of_them.to_dict()["passed_over"] == {
        "other_kinds": {"count": 3, "first": "b.log"},
        "damaged": {"count": 1, "first": "c.pdf"},
    }
    two.clear()  # before a second reading, which counts again
    assert two.lines() == []


def test_one_byte_is_one_in_every_line():
    account = Account(files=1, stored=1, packed=1, read=1)
    account.decoded["cp1252"] = account.extracted["html"] = 1
    account.leave_out("carriage_returns", 1)
    account.saw("lone_surrogates")
    account.pass_over(reasons.OTHER_KINDS, "a")
    assert account.lines() == [
        "left out 1 of the file's 1 byte: a carriage return of a line end",
        "skipped 1 file of another kind (a)",
        "1 lone surrogate replaced by U+FFFD",
        "1 byte of the file gave 1 byte of UTF-8 "
        "(text extracted from 1 byte of HTML; 1 byte is cp1252; 1 byte is packed)",
    ]
