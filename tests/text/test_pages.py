import gzip
import io
import random
import zipfile
from pathlib import Path

import pytest
from pypdf import PdfWriter

from lucidlm.errors import DataError
from lucidlm.text import pages as module
from lucidlm.text.documents import read_documents


def read(*sources, **options):
    return [document.text() for document in read_documents([str(source) for source in sources], **options)]


def read_one(source, **options):
    (document,) = read_documents([source], **options)
    return document.text(), document.notes


def refusal(*sources, **options) -> str:
    with pytest.raises(DataError) as caught:
        read(*sources, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def written(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def visible(tmp_path, page: str | bytes, name="a.html", **options) -> str:
    return read_one(written(tmp_path / name, page), **options)[0]


def test_html_gives_what_a_reader_sees(tmp_path):
    page = """<!DOCTYPE html><html><head><title>Not seen</title><style>p {}</style></head><body>
    <script>var x = "<p>no</p>";</script><!-- nor this -->
    <h1>The   Title</h1><p>One <b>bold</b>
      word,<i> and</i> <em> more</em>.<p>Caf&eacute; &amp; &lt;tea&gt; &#x1F600;<br>new line<br><br>verse
    <ul><li>first<li>second <span>item</span></ul><div>a<div>b</div>c</div>
    <p hidden>hidden</p><p style="display: none">hidden</p><noscript>no</noscript>
    <table><tr><th>x<th>y<tr><td>1<td>2</table><pre>  kept
    as<br>  is</pre><svg><text>no</text></svg>end</body></html>"""
    assert visible(tmp_path, page) == (
        "The Title\n\nOne bold word, and more.\n\nCafé & <tea> 😀\nnew line\n\nverse\n\n"
        "first\nsecond item\n\na\nb\nc\n\nx\ty\n1\t2\n\n  kept\n    as\n  is\n\nend\n"
    )


def test_html_without_a_body_a_head_or_an_end(tmp_path):
    assert visible(tmp_path, "just <b>words") == "just words\n"
    assert visible(tmp_path, "<html><p>x") == "x\n"
    assert "empty" in refusal(written(tmp_path / "a.html", "<html><frameset><frame></frameset></html>"))
    assert "empty" in refusal(written(tmp_path / "a.html", "<script>all of it</script>"))
    assert "empty" in refusal(written(tmp_path / "a.html", ""))


def test_xhtml_may_close_elements_at_once(tmp_path):
    page = (
        '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title/>'
        '<script src="a>b"/></head><body><p>seen<a id="x"/> too</p></body></html>'
    )
    assert visible(tmp_path, page, "a.xhtml") == "seen too\n"


def test_a_page_is_read_in_the_encoding_that_it_names(tmp_path):
    page = '<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-1"><p>„Käse“'.encode(
        "cp1252"
    )
    text, notes = read_one(written(tmp_path / "a.html", page))
    assert text == "„Käse“\n"
    assert notes == [
        f"{len(page)} bytes of the file gave {len(text.encode())} bytes of UTF-8 "
        f"(text extracted from {len(page)} bytes of HTML; {len(page)} bytes are cp1252)"
    ]
    assert visible(tmp_path, '<meta charset="iso-8859-1"><p>Käse'.encode()) == "Käse\n"
    assert "is 0xe4" in refusal(written(tmp_path / "b.html", "<p>Käse".encode("latin-1")))
    assert "is 0xe4" in refusal(written(tmp_path / "c.html", b'<meta charset="no-such"><p>K\xe4se'))
    assert visible(tmp_path, "<p>Käse".encode("latin-1"), encoding="latin-1") == "Käse\n"


def test_deep_nesting_and_a_large_page_are_read(tmp_path):
    assert visible(tmp_path, "<div>" * 5_000 + "deep") == "deep\n"
    assert visible(tmp_path, "<p>word word\n" * 20_000) == "\n".join(["word word\n"] * 20_000)


def test_gutenbergs_frame_is_removed_from_html_too(tmp_path):
    start = "*** START OF THE PROJECT GUTENBERG EBOOK A BOOK ***"
    end = "*** END OF THE PROJECT GUTENBERG EBOOK A BOOK ***"
    page = f"<div>Licence<div>{start}</div></div><p>Story</p><section><div>{end}</div>more</section>"
    assert visible(tmp_path, page).strip() == "Story"


def epub(pages: dict[str, str | bytes], spine=None, folder="OEBPS/", hrefs=None, extra=None) -> bytes:
    """An EPUB of `pages`, in the order of `spine`."""
    hrefs = hrefs or {}
    names = list(pages)
    items = "".join(
        f'<item id="i{names.index(name)}" href="{hrefs.get(name, name)}" media-type="application/xhtml+xml"/>'
        for name in names
    )
    order = "".join(f'<itemref idref="i{names.index(name)}"/>' for name in spine or names)
    package = (
        '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0">'
        f'<manifest>{items}<item id="pic" href="a.png" media-type="image/png"/></manifest>'
        f'<spine>{order}<itemref idref="pic"/></spine></package>'
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        f'<rootfile full-path="{folder}content.opf"/></rootfiles></container>'
    )
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr("META-INF/container.xml", container)
        archive.writestr(f"{folder}content.opf", package)
        for name, page in pages.items():
            archive.writestr(folder + name, page)
        for name, data in (extra or {}).items():
            archive.writestr(name, data)
    return file.getvalue()


def encryption(*names: str) -> str:
    data = "".join(f'<CipherData><CipherReference URI="{name}"/></CipherData>' for name in names)
    return f'<encryption xmlns="http://www.w3.org/2001/04/xmlenc#">{data}</encryption>'


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


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_epub_or_pdf_is_read_or_refused_in_one_line(tmp_path, seed):
    chance = random.Random(seed)
    for name, whole in {"a.epub": epub({"a.xhtml": "<p>word " * 50}), "a.pdf": pdf("word " * 20)}.items():
        for _ in range(40):
            data = bytearray(whole)
            for _ in range(chance.randint(1, 8)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            path = written(tmp_path / name, data[: chance.choice([len(data), chance.randrange(len(data))])])
            message = outcome(path)
            assert message is None or (message.startswith(str(path)) and "\n" not in message)


def outcome(path: Path) -> str | None:
    try:
        read(path)
    except DataError as problem:
        return str(problem)
    return None


def pdf(*pages: str) -> bytes:
    """A PDF with one line of text a page, built by hand."""
    count = len(pages)
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(count))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for n, page in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({page}) Tj ET" if page else ""
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * n} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    data, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(objects) + 1
    return data + (
        f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\n"
        f"startxref\n{len(data)}\n%%EOF\n"
    ).encode("latin-1")


def test_a_pdf_is_read_page_by_page(tmp_path):
    assert read(written(tmp_path / "a.pdf", pdf("First page, caf\xe9", "", "Third"))) == [
        "First page, café\nThird\n"
    ]


def test_a_pdf_without_text_or_damaged_is_refused(tmp_path):
    assert "no text in its 2 pages" in refusal(written(tmp_path / "a.pdf", pdf("", "")))
    assert "not a sound PDF" in refusal(written(tmp_path / "b.pdf", b"%PDF-1.4 and no more"))
    assert "not a sound PDF" in refusal(written(tmp_path / "c.pdf", b""))


def encrypted(data: bytes, user: str) -> bytes:
    writer = PdfWriter(clone_from=io.BytesIO(data))
    writer.encrypt(user_password=user, owner_password="owner", algorithm="RC4-128")
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def test_an_encrypted_pdf_is_refused_unless_it_opens_without_a_password(tmp_path):
    assert "encrypted" in refusal(written(tmp_path / "a.pdf", encrypted(pdf("secret"), "user")))
    assert read(written(tmp_path / "b.pdf", encrypted(pdf("open to all"), ""))) == ["open to all\n"]


def test_a_page_an_epub_and_a_pdf_may_be_gzipped(tmp_path):
    assert read(written(tmp_path / "a.html.gz", gzip.compress(b"<p>one"))) == ["one\n"]
    assert read(written(tmp_path / "b.epub.gz", gzip.compress(epub({"a.xhtml": "<p>two"})))) == ["two\n\n"]
    assert read(written(tmp_path / "c.pdf.gz", gzip.compress(pdf("three")))) == ["three\n"]


def test_what_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_WHOLE", 1 << 20)
    assert "too much" in refusal(written(tmp_path / "a.html.gz", gzip.compress(b"x" * (2 << 20))))
    assert "too much" in refusal(written(tmp_path / "a.epub", epub({"a.xhtml": "x" * (2 << 20)})))
    many = {f"{n}.xhtml": "x" * 300_000 for n in range(4)}
    assert "too much" in refusal(written(tmp_path / "b.epub", epub(many)))
