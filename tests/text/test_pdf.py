from written_files import encrypted, pdf, read, refusal, written


def test_a_pdf_is_read_page_by_page(tmp_path):
    assert read(written(tmp_path / "a.pdf", pdf("First page, caf\xe9", "", "Third"))) == [
        "First page, café\nThird\n"
    ]


def test_a_pdf_without_text_or_damaged_is_refused(tmp_path):
    assert "no text in its 2 pages" in refusal(written(tmp_path / "a.pdf", pdf("", "")))
    assert "not a sound PDF" in refusal(written(tmp_path / "b.pdf", b"%PDF-1.4 and no more"))
    assert "not a sound PDF" in refusal(written(tmp_path / "c.pdf", b""))


def test_an_encrypted_pdf_is_refused_unless_it_opens_without_a_password(tmp_path):
    assert "encrypted" in refusal(written(tmp_path / "a.pdf", encrypted(pdf("secret"), "user")))
    assert read(written(tmp_path / "b.pdf", encrypted(pdf("open to all"), ""))) == ["open to all\n"]
