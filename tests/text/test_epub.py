import io
import zipfile

from written_files import encryption, epub, read, refusal, written


def test_an_epub_is_read_in_the_order_of_its_spine(tmp_path):
    pages = {
        "b.xhtml": "<p>second",
        "a.xhtml": "<p>first</p><p>&copy;",
        "c.xhtml": "<p>Käse".encode("utf-16"),
    }
    book = epub(pages, spine=["a.xhtml", "b.xhtml", "c.xhtml"])
    assert read(written(tmp_path / "a.epub", book)) == ["first\n\n©\n\nsecond\n\nKäse\n\n"]
    assert read(written(tmp_path / "b.epub", epub(pages, folder="")))[0].startswith("second")


def test_an_epub_with_percent_encoded_names(tmp_path):
    pages = {"chapter one ä.xhtml": "<p>one", "50%25.xhtml": "<p>two"}
    hrefs = {"chapter one ä.xhtml": "chapter%20one%20%C3%A4.xhtml#top"}
    assert read(written(tmp_path / "a.epub", epub(pages, hrefs=hrefs))) == ["one\n\ntwo\n\n"]


def test_an_epub_that_points_outside_misses_a_page_or_is_none_is_refused(tmp_path):
    page = {"a.xhtml": "<p>x"}
    for href in ("../../etc/passwd", "%2E%2E/%2e%2e/passwd", "/etc/passwd"):
        outside = written(tmp_path / "a.epub", epub(page, hrefs={"a.xhtml": href}))
        assert "points outside" in refusal(outside)
    assert "is missing" in refusal(written(tmp_path / "b.epub", epub(page, hrefs={"a.xhtml": "no.xhtml"})))
    assert "not a sound EPUB" in refusal(written(tmp_path / "c.epub", b"plain"))
    assert "not a sound EPUB" in refusal(written(tmp_path / "d.epub", epub(page)[:-30]))
    assert "empty" in refusal(written(tmp_path / "e.epub", epub({"a.xhtml": ""})))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x", "y")
    assert "not an EPUB" in refusal(written(tmp_path / "f.epub", file.getvalue()))
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa">]><encryption>&a;</encryption>'
    locked = written(tmp_path / "g.epub", epub(page, extra={"META-INF/encryption.xml": bomb}))
    assert "defines entities" in refusal(locked)


def test_a_copy_protected_epub_is_refused_but_scrambled_fonts_are_not(tmp_path):
    page = {"a b.xhtml": "<p>x"}
    locked = epub(page, extra={"META-INF/encryption.xml": encryption("OEBPS/a%20b.xhtml", "OEBPS/f.otf")})
    assert "copy-protected (DRM: 1 of 1 pages" in refusal(written(tmp_path / "a.epub", locked))
    fonts = epub(page, extra={"META-INF/encryption.xml": encryption("OEBPS/f.otf")})
    assert read(written(tmp_path / "b.epub", fonts)) == ["x\n\n"]
