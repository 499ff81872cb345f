from written_files import read_one, refusal, written

from lucidlm.text.reading import Reading


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
    assert visible(tmp_path, "<p>Käse".encode("latin-1"), reading=Reading(encoding="latin-1")) == "Käse\n"


def test_deep_nesting_and_a_large_page_are_read(tmp_path):
    assert visible(tmp_path, "<div>" * 5_000 + "deep") == "deep\n"
    assert visible(tmp_path, "<p>word word\n" * 20_000) == "\n".join(["word word\n"] * 20_000)


def test_gutenbergs_frame_is_removed_from_html_too(tmp_path):
    start = "*** START OF THE PROJECT GUTENBERG EBOOK A BOOK ***"
    end = "*** END OF THE PROJECT GUTENBERG EBOOK A BOOK ***"
    page = f"<div>Licence<div>{start}</div></div><p>Story</p><section><div>{end}</div>more</section>"
    assert visible(tmp_path, page).strip() == "Story"
