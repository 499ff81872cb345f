import pytest
from hypothesis import given
from hypothesis import strategies as st
from written_files import accounted, read_one, refusal, written

from lucidlm.text.formats import markup as module
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
    as<br>  is</pre><svg><title>no</title></svg>end</body></html>"""
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


SHOWN = {
    # Formulas: what is shown is the first of several spellings (MathML Core).
    "<math><semantics><mi>x</mi><annotation>TEX</annotation></semantics></math>": "x",
    "<math><semantics><mi>x</mi><annotation-xml encoding=text/html><p>XML</semantics></math>": "x",
    "<math><semantics><mi>x</mi><mi>OTHER</mi></semantics></math>": "x",
    "<math><maction> <mi>x</mi><mi>OTHER</mi></maction><mphantom>GAP</mphantom></math>": "x",
    # The rendering section of HTML.
    "x<datalist><option>LIST</datalist><noscript>NO</noscript>": "x",
    "x<audio>A</audio><video>V</video><canvas>C</canvas><iframe>I</iframe><progress>P</progress>": "x",
    "x<object data=a.svg>FALLBACK</object><object> y</object>": "x y",
    "x<dialog>CLOSED</dialog><dialog open>open": "x\nopen",
    "x<p popover>CLOSED</p><p hidden>H<p hidden=until-found>U<p hidden style=display:block>y": "x\n\ny",
    "<details><summary>More</summary>inside": "More\ninside",
    "<ruby>漢<rp>(</rp><rt>kan</rt><rp>)</rp></ruby>": "漢(kan)",
    "<select><option>a<option selected>b<option>c</select>": "b",
    "<select><option disabled>a<option>b</select>": "b",
    "<select size=2><option>a<option>b</select>": "a b",
    "<select multiple><optgroup><option>a<option>b</select>": "a b",
    "<input value=v> <input type=submit value=Go> <input type=hidden value=N><input type=radio>": "v Go",
    "<textarea>typed &amp; text</textarea>": "typed & text",
    "<img alt=ALT>x<wbr>y&shy;z&nbsp;!": "xyz\xa0!",
    "<p aria-hidden=true>x": "x",
    "x<template>T<p>T</template>": "x",
    # Styles: the last valid declaration counts, or an important one.
    "x<p style='DISPLAY :none'>N</p><p style='display:none;display:block'>y": "x\n\ny",
    "x<p style='display:none;display:what'>N<p style='display:none!important;display:block'>N": "x",
    "x<p style='/* display:none */ color:red'>y<p style='-x-display:none'>z": "x\n\ny\n\nz",
    "x<p style='visibility:hidden'>N<b style='visibility:visible'>y</b>": "x\n\ny",
    "x<p style='content-visibility:hidden'>N": "x",
    # Drawings: their texts, and HTML in them.
    "<svg><title>T</title><desc>D</desc>G<text>x<tspan>y</tspan></text><defs><text>N</text></svg>": "xy",
    "<svg><foreignObject><p>x</p></foreignObject></svg>": "x",
    "<table><tr><td>a<td><!-- C -->b<tr hidden><td>N</table>": "a\tb",
    "<pre>  a\n b</pre><xmp><b></xmp>": "a\n b\n\n<b>",
    "x<title>T</title><style>S</style><script>S</script>": "x",
}


@pytest.mark.parametrize("page", SHOWN)
def test_what_browsers_show_is_the_text_and_what_they_hide_is_counted(tmp_path, page):
    text, counts = accounted(written(tmp_path / "a.html", page))
    assert text.strip("\n ") == SHOWN[page]
    if "\xad" in text or "&shy;" in page:
        assert counts.pop("soft_hyphens") == 1
    assert set(counts) <= {"characters_of_hidden_text"}


def test_hidden_text_is_counted_in_characters_without_white_space(tmp_path):
    page = (
        "<noscript><p>no body yet</noscript><p>x<p hidden>four <b>and\n  six</b></p>"
        "<noscript><i>5char</i></noscript><script>12345</script>"
    )
    assert accounted(written(tmp_path / "a.html", page)) == ("x\n", {"characters_of_hidden_text": 4 + 6 + 5})


def test_control_characters_are_dropped_and_counted(tmp_path):
    page = "<p>a\0b\x01c&#2;d\x7f\x9be\tf" + " " * 64 * 3
    assert accounted(written(tmp_path / "a.html", page)) == ("abcde f\n", {"control_characters": 5})
    assert "--encoding utf-16-le" in refusal(written(tmp_path / "b.html", "<p>text".encode("utf-16-le")))


PART = st.sampled_from(
    [
        ("<p>{}</p>", True),
        ("<div><span>{}</span></div>", True),
        ("<table><tr><td>{}</table>", True),
        ("<details>{}</details>", True),
        ("<pre>{}</pre>", True),
        ("<svg><text>{}</text></svg>", True),
        ("<p><math><mi>{}</mi></math></p>", True),
        ("<ul><li>{}", True),
        ("<p hidden>{}</p>", False),
        ("<div style='display:none'><p>{}</div>", False),
        ("<math><semantics><mi></mi><annotation>{}</annotation></semantics></math>", False),
        ("<noscript>{}</noscript>", False),
        ("<datalist><option>{}</datalist>", False),
        ("<dialog>{}</dialog>", False),
        ("<svg><desc>{}</desc></svg>", False),
        ("<p style='visibility:hidden'>{}</p>", False),
    ]
)


@given(parts=st.lists(PART, min_size=1, max_size=12), xhtml=st.booleans())
def test_a_random_page_gives_its_visible_parts_and_the_count_of_the_others(tmp_path_factory, parts, xhtml):
    words = [f"word{number:03}" for number in range(len(parts))]
    page = "".join(part.format(word) for (part, _), word in zip(parts, words, strict=True))
    head = '<html xmlns="http://www.w3.org/1999/xhtml"><head><title/></head>' if xhtml else ""
    path = written(tmp_path_factory.mktemp("page") / "a.html", f"{head}<p>start</p>{page}")
    text, counts = accounted(path)
    seen = [word for (_, shown), word in zip(parts, words, strict=True) if shown]
    assert text.split() == ["start", *seen]
    assert (
        counts == {"characters_of_hidden_text": 7 * (len(words) - len(seen))} if seen != words else not counts
    )


def test_too_many_tags_are_refused_before_they_are_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_TAGS", 1000)
    assert "more than 1,000 tags" in refusal(written(tmp_path / "a.html", "<p>x" * 1001))


def test_a_large_page_is_read(tmp_path):
    assert visible(tmp_path, "<p>word word\n" * 20_000) == "\n".join(["word word\n"] * 20_000)


def test_gutenbergs_frame_is_removed_from_html_too(tmp_path):
    start = "*** START OF THE PROJECT GUTENBERG EBOOK A BOOK ***"
    end = "*** END OF THE PROJECT GUTENBERG EBOOK A BOOK ***"
    page = f"<div>Licence<div>{start}</div></div><p>Story</p><section><div>{end}</div>more</section>"
    assert visible(tmp_path, page).strip() == "Story"
