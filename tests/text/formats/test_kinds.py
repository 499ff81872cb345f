import pytest
from written_files import accounted, pdf, read_one, refusal, refused, written

from lucidlm.text import reasons
from lucidlm.text.formats.kinds import kind_of

MARKED = {
    "a.rtf": (r"{\rtf1 text}", "rtf"),
    "b.txt": (r"{\rtf1 text}", "rtf"),
    "a.xml": ("<?xml version='1.0'?><doc>text</doc>", "xml"),
    "a.fb2": ("<FictionBook/>", "xml"),
    "a.ipynb": ('{"cells": []}', "notebook"),
    "a.tex": (r"\section{One}", "latex"),
    "c.txt": (r"\documentclass{book}", "latex"),
    "a.yaml": ("a: 1\n", "yaml"),
    "a.log": ("12:00 start\n", "log"),
    "a.eml": ("From: me\n\ntext", "mail"),
    "a.mht": ("From: me\n\ntext", "mail"),
    "i.txt": ("From: me\nMIME-Version: 1.0\n\ntext", "mail"),
    "m.txt": ("From me Mon\nSubject: x\nMIME-Version: 1.0\n\ntext", "mail"),
    "a.sbv": ("0:00:01.000,0:00:02.000\ntext\n", "subtitles"),
    "j.txt": ("[Script Info]\nDialogue: 0,text\n", "subtitles"),
    "d.txt": ("<!-- saved -->\n<!DOCTYPE html><p>text", "html"),
    "e": ("\ufeff<html><body>text", "html"),
    "f.txt": ('{"text": "one"}\n{"text": "two"}\n', "json"),
    "h.txt": ('[\n {"text": "one"}]', "json"),
    "k.txt": ('id,text\n1,"one, two"\n2,three\n', "table"),
    "l": ("id\ttext\n1\tone\n2\ttwo\n", "table"),
    "g.txt": ("%!PS-Adobe-3.0\n(text) show", "postscript"),
}


@pytest.mark.parametrize("name", MARKED)
def test_markup_that_is_read_as_plain_text_is_said_once(tmp_path, name):
    text, what = MARKED[name]
    found, counts = accounted(written(tmp_path / name, text))
    assert found == text.removeprefix("\ufeff")
    assert counts == {reasons.MARKUP + what: 1}


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.py", "a", "README"])
def test_plain_text_has_no_note(tmp_path, name):
    for text in (
        "# A title\n\n<b>bold</b> {words}\n",
        "{one, two}\n",
        "1\nline\n",
        "<3\n",
        "Sun, moon\nDay, night\nRed, blue\n",
    ):
        assert read_one(written(tmp_path / name, text)) == (text, [])


def test_an_xml_file_that_is_a_web_page_is_read_as_one(tmp_path):
    page = "<?xml version='1.0' encoding='utf-8'?>\n<html xmlns='http://www.w3.org/1999/xhtml'><body><p>Seen</p></body></html>"
    assert read_one(written(tmp_path / "a.xml", page))[0] == "Seen\n"


def test_a_name_tells_kind_and_packing():
    assert kind_of("A.HTML.GZ") == ("html", ("gz",))
    assert kind_of("a.txt.xz") == kind_of("a.xz") == ("text", ("xz",))
    assert kind_of("a.tgz") == ("tar", ("gz",))
    assert kind_of("a.tar.bz2") == ("tar", ("bz2",))
    assert kind_of("a.csv", unknown="") == ("csv", ())
    for name in ("a.zip", "a.csv", "a.json", "a.xml", ".gz"):
        assert kind_of(name, unknown="", in_folder=True)[0] == ""


def test_the_advice_for_a_page_and_for_json_lines_gives_their_texts(tmp_path):
    assert ".html" in read_one(written(tmp_path / "a.txt", "<html><p>Seen"))[1][0]
    assert read_one(written(tmp_path / "a.html", "<html><p>Seen"))[0] == "Seen\n"
    assert ".jsonl or .json" in read_one(written(tmp_path / "b.txt", '{"text": "one"}'))[1][0]
    for name in ("b.json", "b.jsonl"):
        assert read_one(written(tmp_path / name, '{"text": "one"}'))[0] == "one"


def test_token_ids_may_begin_as_a_packed_file_does(tmp_path):
    assert "gzip" not in refusal(written(tmp_path / "a.bin", b"\x1f\x8b\x08"))


def test_a_flag_that_is_not_for_a_file_is_said(tmp_path):
    text = written(tmp_path / "a.txt", "one\n")
    assert accounted(text, field="body")[1] == {reasons.FIELD_UNUSED: 1}
    page = written(tmp_path / "a.pdf", pdf("A page."))
    assert accounted(page, encoding="cp1252")[1] == {reasons.ENCODING_UNUSED: 1}


@pytest.mark.parametrize("name", ["a.docx", "a.odt", "a.epub", "a.pdf", "a.zip", "a.tar"])
def test_what_lies_under_the_name_of_another_format_is_called_what_it_is(tmp_path, name):
    for data, suffix in (("one text\n" * 9, ".txt"), ("<html><p>one", ".html"), (r"{\rtf1 one}", ".rtf")):
        error = refused(written(tmp_path / name, data))
        assert error.reason == reasons.DAMAGED
        assert f" {suffix} " in str(error)
        assert "one" in read_one(written(tmp_path / f"b{suffix}", data))[0]
    for data, what in ((b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "a Microsoft Office file"),
                       (b"x" * 60 + b"BOOKMOBI" + bytes(9), "a Mobipocket or Kindle book")):  # fmt: skip
        assert what in refusal(written(tmp_path / name, data))
