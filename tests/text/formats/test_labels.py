import codecs
import itertools

import pytest
import webencodings
from hypothesis import given, settings
from hypothesis import strategies as st

from lucidlm.errors import DataError
from lucidlm.text.account import Account
from lucidlm.text.formats.decoding import decode_page, known_encoding
from lucidlm.text.formats.labels import browser_errors, codec_of_label, declared_codec

CHINESE = "朱镕基说，喆字和堃字不在旧表里。"  # 镕, 喆 and 堃 are in GBK, not in GB 2312
SAMPLES = {
    "gb2312": ("gb18030", CHINESE),
    "GB_2312-80": ("gb18030", CHINESE),
    "shift_jis": ("cp932", "①は髙島屋の㈱マークです"),
    "x-sjis": ("cp932", "〜から∥まで".replace("〜", "～")),
    "euc-kr": ("cp949", "펲시콜라와 똠방각하"),
    "ks_c_5601-1987": ("cp949", "똠방각하"),
    "big5": ("big5hkscs", "香港嘅嘢食㗎"),
    "iso-8859-1": ("cp1252", "„Käse“ – 5 €"),
    "us-ascii": ("cp1252", "“quoted”"),
    "iso-8859-9": ("cp1254", "“İstanbul”"),
    "tis-620": ("cp874", "“ภาษาไทย”"),
    "windows-1251": ("cp1251", "Привет"),
    "koi8-r": ("koi8-r", "Привет"),
    "iso-2022-jp": ("iso2022_jp_ext", "日本語のテキスト"),
    "macintosh": ("mac-roman", "Œuvre “été”"),
    "iso-8859-8-i": ("iso8859-8", "שלום"),
}


def page(data: bytes, encoding: str = "utf-8") -> tuple[str, str, dict]:
    account = Account()
    text, used = decode_page(data, "a.html", encoding, account)
    return text, used, dict(account.seen)


@pytest.mark.parametrize("label", SAMPLES)
@pytest.mark.parametrize(
    "head", ['<meta charset="{}">', '<META content="text/html; charset={}" http-equiv=Content-Type>']
)
def test_a_page_is_read_as_browsers_read_its_label(label, head):
    codec, text = SAMPLES[label]
    whole = head.format(label) + "<p>" + text
    assert page(whole.encode(codec)) == (whole, codec, {})
    assert codec_of_label(f" {label.upper()}\n") == codec


def test_every_label_of_the_standard_has_a_codec_that_python_has():
    for label, name in webencodings.LABELS.items():
        codec = codec_of_label(label)
        if name != "replacement":
            assert "a<p>".encode(codec).decode(codec) == "a<p>"
        assert (codec is None) == (label in ("iso-2022-cn", "iso-2022-cn-ext", "replacement", "csiso2022cn"))
    assert codec_of_label("utf-7") is codec_of_label("base64") is codec_of_label("") is None
    assert codec_of_label("cp437") == "cp437"  # no label of the standard: Python's own


@pytest.mark.parametrize(("head", "codec"), [
    (b"<!-- <meta charset=koi8-r> --><meta charset=cp1251>", "cp1251"),
    (b"<!--><meta charset=cp1251>", "cp1251"),
    (b"<!-- <meta charset=koi8-r>", None),
    (b'<p title="<meta charset=koi8-r>"><meta charset=cp1251>', "cp1251"),
    (b"<?php charset=koi8-r ?><meta charset=cp1251>", "cp1251"),
    (b"<meta name=x content='text/html; charset=koi8-r'>", None),
    (b"<meta http-equiv=content-type content='text/html; charset=\"koi8-r\"'>", "koi8-r"),
    (b"<meta content=text/html;charset=koi8-r http-equiv=content-type>", "koi8-r"),
    (b"<meta/charset='koi8-r'/>", "koi8-r"),
    (b"<meta charset=no-such><meta charset=koi8-r>", "koi8-r"),
    (b"<meta charset=utf-16>", "utf-8"),
    (b"<meta charset=x-user-defined>", "cp1252"),
    (b"<metadata charset=koi8-r>", None),
    (b"</meta charset=koi8-r>", None),
    (b"<a =charset charset = koi8-r><meta a=1 charset\n=\n'koi8-r' charset=cp1251>", "koi8-r"),
    (b"<?xml version='1.0' encoding='koi8-r'?><meta charset=cp1251>", "cp1251"),
    (b"<?xml version='1.0' encoding='koi8-r'?><p xmlns='http://www.w3.org/1999/xhtml'/><meta charset=cp1251>",
     "koi8-r"),
    (b'\n<?xml version="1.0" encoding="koi8-r" standalone="yes"?><p>', "koi8-r"),
    ("<?xml version='1.0'?>".encode("utf-16-be"), "utf-16-be"),
    ("<?xml version='1.0'?>".encode("utf-16-le"), "utf-16-le"),
    (b"charset=koi8-r", None),
    (b"<meta charset='koi8-r", None),
    (b"<meta" + b" a=1" * 1000 + b" charset=koi8-r>", "koi8-r"),
])  # fmt: skip
def test_what_a_page_declares_is_found_as_the_standard_has_it(head, codec):
    assert declared_codec(head) == codec


@settings(max_examples=40)
@given(
    st.lists(
        st.sampled_from(
            [b"<", b"meta", b" ", b"charset", b"=", b"'", b'"', b"/", b">", b"<!--", b"-->", b"x"]
        )
    )
)
def test_any_head_of_a_page_can_be_looked_at(parts):
    assert declared_codec(b"".join(parts)) is None


def test_looking_at_a_head_takes_linear_time():
    for head in (
        b"<" * 20_000,
        b"<!--" * 5_000,
        b"<meta a" * 4_000,
        b"<meta charset='" * 2_000,
        b"<meta =" * 3_000,
    ):
        assert declared_codec(head) is None


def test_a_byte_order_mark_comes_before_everything():
    for encoding, mark in itertools.product(("utf-8", "cp1251"), ("utf-8-sig", "utf-16", "utf-32")):
        assert page("<meta charset=koi8-r>Käse".encode(mark), encoding)[0] == "<meta charset=koi8-r>Käse"
    assert page(codecs.BOM_UTF16_BE + "Käse".encode("utf-16-be"))[:2] == ("Käse", "utf-16")


def test_utf8_is_read_whatever_the_page_declares_and_that_is_said():
    data = "<meta charset=iso-8859-1>Käse".encode()
    assert page(data) == (data.decode(), "utf-8", {"pages_in_utf8_that_declare_another_encoding": 1})
    assert page(b"<meta charset=iso-8859-1>Cheese")[1:] == ("utf-8", {})


def test_the_flag_comes_before_what_the_page_declares_and_is_a_label_too():
    data = b"<meta charset=utf-8>" + CHINESE.encode("gbk")
    assert page(data, known_encoding("gb2312"))[0].endswith(CHINESE)
    with pytest.raises(DataError, match=r"a\.html: byte"):
        page(data)


def test_labels_that_python_does_not_know_are_encodings_for_the_flag():
    assert known_encoding("x-sjis") == "cp932"
    assert known_encoding("x-cp1251") == "cp1251"
    assert known_encoding("windows-874") == "cp874"
    assert known_encoding("gb2312") == "gb2312"  # Python's, exactly
    assert b"a\x80\xff".decode(known_encoding("x-user-defined")) == "a\uf780\uf7ff"


def test_bytes_that_browsers_tables_have_and_pythons_have_not():
    assert b"\x81\x93".decode("cp1252", browser_errors()) == "\x81“"
    assert b"5 \x80".decode("gb18030", browser_errors()) == "5 €"
    assert b"\xad\xa1\xa4\xa2\xfc\xe2".decode("euc_jp", browser_errors()) == "①あ髙"
    rows = [
        row
        for row in range(0x21, 0x7F)
        if row not in (*range(0x29, 0x2D), *range(0x2E, 0x30), *range(0x75, 0x79))
    ]
    for row, cell in itertools.product(rows, range(0x21, 0x7F)):
        euc = bytes([row | 0x80, cell | 0x80])
        with_windows = ("\x1b$B" + chr(row) + chr(cell)).encode("ascii")
        try:
            there = with_windows.decode("iso2022_jp")
        except UnicodeDecodeError:
            continue
        assert euc.decode("euc_jp", browser_errors()) == there
    for data, codec in (
        (b"\xae", "iso8859-7"),
        (b"\xff", "gb18030"),
        (b"\xa1", "euc_jp"),
        (b"\xa9\xa1", "euc_jp"),
    ):
        with pytest.raises(UnicodeDecodeError):
            data.decode(codec, browser_errors())


@pytest.mark.parametrize("label", ["gb2312", "shift_jis", "euc-kr", "big5"])
def test_a_wrong_byte_of_a_page_is_replaced_and_counted_and_many_are_refused(label):
    codec, text = SAMPLES[label]
    head = f"<meta charset={label}>".encode()
    line = (text + "\n").encode(codec)
    wrong = b"\x81\n" if label == "shift_jis" else b"\xff\n"  # half a character; no character
    found, used, seen = page(head + line * 10 + wrong)
    assert found.endswith(text + "\n\ufffd\n")
    assert (used, seen) == (codec, {"characters_not_in_the_encoding": 1})
    with pytest.raises(DataError, match=r"a\.html: byte"):
        page(head + line + wrong * 9)


def test_a_replacement_character_of_the_page_itself_is_not_counted():
    data = "<p>Все счастливые семьи \ufffd похожи друг на друга, каждая несчастливая семья</p>" * 2
    assert page(data.encode())[2] == {}
    assert page(data.encode() + b"\xff")[2] == {"characters_not_in_the_encoding": 1}
