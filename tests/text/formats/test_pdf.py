import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from written_files import accounted, encrypted, pdf, read, read_one, reason_of, refusal, written

from lucidlm.errors import DataError
from lucidlm.text import reasons
from lucidlm.text.account import Account
from lucidlm.text.documents import read_texts
from lucidlm.text.formats.pdf import cleaned


def test_a_pdf_is_read_page_by_page(tmp_path):
    assert read(written(tmp_path / "a.pdf", pdf("First page, caf\xe9", "", "Third"))) == [
        "First page, café\nThird\n"
    ]


def test_a_pdf_without_text_or_damaged_is_refused(tmp_path):
    assert reason_of(written(tmp_path / "a.pdf", pdf("", ""))) == reasons.NO_TEXT
    assert reason_of(written(tmp_path / "b.pdf", b"%PDF-1.4 and no more")) == reasons.DAMAGED
    assert reason_of(written(tmp_path / "c.pdf", b"")) == reasons.DAMAGED


GLYPHS = {
    "A": ("\0", "\ufffd", "unknown_glyphs"),
    "B": ("\x02", "\ufffd", "unknown_glyphs"),
    "C": ("\x7f", "\ufffd", "unknown_glyphs"),
    "D": ("\x9b", "\ufffd", "unknown_glyphs"),
    "E": ("\ue000", "\ufffd", "unknown_glyphs"),
    "F": ("\uf0b7", "\ufffd", "unknown_glyphs"),
    "G": ("\U000f0001", "\ufffd", "unknown_glyphs"),
    "H": ("\ud83d", "\ufffd", "lone_surrogates"),
    "I": ("\ufb00", "ff", "letter_forms"),
    "J": ("\ufb03", "ffi", "letter_forms"),
    "K": ("\ufb06", "st", "letter_forms"),
    "L": ("\ufb13", "մն", "letter_forms"),
    "N": ("\xad", "", "soft_hyphens"),
    "O": ("é", "é", ""),
    "P": ("\u200d", "\u200d", ""),
    "Q": ("½", "½", ""),
}


@pytest.mark.parametrize("code", GLYPHS)
def test_what_a_font_calls_a_glyph_becomes_text_or_is_counted(tmp_path, code):
    said, text, key = GLYPHS[code]
    data = pdf(f"o{code} o{code}x", glyphs={code: said})
    assert accounted(written(tmp_path / "a.pdf", data)) == (f"o{text} o{text}x\n", {key: 2} if key else {})


@given(st.text(st.sampled_from("".join(said for said, _, _ in GLYPHS.values()) + "ab-\n \t"), max_size=30))
def test_counts_are_what_was_mended_of_random_text(text):
    account = Account()
    sound = cleaned(text, account)
    assert sound.count("\ufffd") == account.seen["unknown_glyphs"]
    assert account.seen["unknown_glyphs"] == sum(said in text and text.count(said) for said in UNKNOWN)
    assert account.seen["letter_forms"] == sum(text.count(said) for said in "\ufb00\ufb03\ufb06\ufb13")
    assert account.seen["soft_hyphens"] == text.count("\xad")
    assert not set(sound) & {"\xad", "\0", *UNKNOWN}
    assert cleaned(sound, Account()) == sound


UNKNOWN = [said for said, _, key in GLYPHS.values() if key == "unknown_glyphs"]


def test_a_soft_hyphen_goes_with_the_line_end_behind_it_and_another_hyphen_stays():
    account = Account()
    assert cleaned("exam\xad\nple, well-\nknown, co\xadop", account) == "example, well-\nknown, coop"
    assert account.seen == {"soft_hyphens": 2}
    assert cleaned("\ufee1\ufee2 \ufb2a \ufe70", Account()) == "\u0645\u0645 \u05e9\u05c1 \ufe70"


def test_broken_blank_and_repeated_pages_do_not_stop_a_book(tmp_path):
    data = pdf(
        "one", "broken", "", "two", stream="/Filter /Nix", kids="4 0 R 6 0 R 8 0 R 4 0 R 10 0 R 99 0 R"
    )
    path = written(tmp_path / "a.pdf", data)
    text, counts = accounted(path)
    assert text == "one\ntwo\n"
    assert (counts.pop("damaged_pages"), counts.pop("pages_without_text"), counts) == (
        1,
        1,
        {"repeated_pages": 1},
    )
    account = Account()
    list(read_texts([path], account))
    assert account.first_passed[reasons.DAMAGED_PAGES] == f"page 2 in {path}"
    assert reason_of(written(tmp_path / "b.pdf", pdf("broken", stream="/Filter /Nix"))) == reasons.DAMAGED


def test_a_count_of_pages_is_not_believed(tmp_path):
    data = pdf("one").replace(b"/Count 1", b"/Count 2000000000")
    assert accounted(written(tmp_path / "a.pdf", data)) == ("one\n", {})


@pytest.mark.torture
def test_streams_and_trees_that_unpack_to_too_much_are_passed_over_or_refused(tmp_path):
    bomb = zlib.compress(b"(x) Tj " * 20_000_000, 9).decode("latin-1")
    line = "BT /F1 12 Tf 72 720 Td (broken) Tj ET"
    data = (
        pdf("one", "broken", stream="/Filter /FlateDecode")
        .replace(line.encode(), bomb.encode("latin-1"))
        .replace(f"/Length {len(line)} /Filter".encode(), f"/Length {len(bomb)} /Filter".encode())
    )
    assert accounted(written(tmp_path / "a.pdf", data)) == ("one\n", {"damaged_pages": 1})
    filters = "/Filter [" + "/ASCIIHexDecode " * 1000 + "]"
    assert accounted(written(tmp_path / "b.pdf", pdf("one", "broken", stream=filters)))[0] == "one\n"
    deep = pdf("one", "broken", stream="/X " + "[" * 100_000 + "]" * 100_000)
    assert outcome(written(tmp_path / "c.pdf", deep)) in (None, "refused")
    cycle = pdf("one", kids="4 0 R 2 0 R 2 0 R")
    assert outcome(written(tmp_path / "d.pdf", cycle)) in (None, "refused")
    wide = pdf("one", kids="4 0 R " * 99_000)
    assert accounted(written(tmp_path / "e.pdf", wide)) == ("one\n", {"repeated_pages": 98_999})


def outcome(path) -> str | None:
    try:
        accounted(path)
    except DataError:
        return "refused"
    return None


def test_an_encrypted_pdf_is_refused_unless_it_opens_without_a_password(tmp_path):
    assert reason_of(written(tmp_path / "a.pdf", encrypted(pdf("secret"), "user"))) == reasons.ENCRYPTED
    assert read(written(tmp_path / "b.pdf", encrypted(pdf("open to all"), ""))) == ["open to all\n"]


def test_numbers_of_glyphs_are_not_taken_for_characters(tmp_path):
    font = (
        b"/Type0 /BaseFont /X /Encoding /Identity-H /DescendantFonts [<< /Type /Font /Subtype /CIDFontType2 "
        b"/CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> >>]"
    )
    plain = pdf("Hello", "world")
    numbered = plain.replace(b"/Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding", font)
    assert "ocrmypdf -f" in refusal(written(tmp_path / "a.pdf", numbered))
    unicode = numbered.replace(b"(Identity)", b"(UCS)").replace(b"(Hello)", b"(\\000H\\000i)")
    assert "Hi" in read_one(written(tmp_path / "b.pdf", unicode))[0]


def test_notes_on_a_page_are_counted_and_links_are_not(tmp_path):
    notes = (
        "[<< /Subtype /FreeText /Contents (note) >> << /Subtype /Link /Contents (x) >> << /Subtype /Text >>]"
    )
    data = pdf("Hello").replace(b"/MediaBox", f"/Annots {notes} /MediaBox".encode())
    assert "1 comment left out" in read_one(written(tmp_path / "a.pdf", data))[1]
