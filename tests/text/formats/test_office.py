from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_files import STRICT, W, docx, odt, p, packed
from written_files import accounted, reason_of, refusal, written

from lucidlm.text import reasons
from lucidlm.text.formats import office


def read_as(tmp_path, name: str, data: bytes) -> tuple[str, dict[str, int]]:
    return accounted(written(tmp_path / name, data))


@settings(max_examples=30)
@given(st.lists(st.text(st.sampled_from("ab é<&>\t😀"), max_size=12), min_size=1, max_size=5))
def test_paragraphs_are_lines_in_both_formats(tmp_path_factory, paragraphs):
    folder = tmp_path_factory.mktemp("office")
    paragraphs = [*(paragraph.strip() for paragraph in paragraphs), "end"]
    expected = "".join(paragraph + "\n" for paragraph in paragraphs)
    assert read_as(folder, "a.docx", docx("".join(map(p, paragraphs))))[0] == expected
    spaced = [escape(text).replace("\t", "<text:tab/>").replace(" ", "<text:s/>") for text in paragraphs]
    body = "\n".join(f"<text:p>{text}</text:p>" for text in spaced)
    assert read_as(folder, "a.odt", odt(body))[0] == expected


@pytest.mark.parametrize("namespace", [W, STRICT])
def test_a_word_document_as_a_reader_sees_it(tmp_path, namespace):
    body = (
        p("Title")
        + '<w:p><w:pPr><w:rPr><w:b/></w:rPr></w:pPr><w:r><w:t>One</w:t><w:tab/><w:t>two</w:t><w:br/></w:r>'
        '<w:del><w:r><w:delText>gone</w:delText></w:r></w:del>'
        '<w:ins><w:r><w:t>new</w:t></w:r></w:ins>'
        '<w:r><w:rPr><w:vanish/></w:rPr><w:t>unseen</w:t></w:r><w:r><w:footnoteReference w:id="2"/></w:r>'
        '<w:hyperlink><w:r><w:t> link</w:t></w:r></w:hyperlink>'
        '<w:r><w:instrText>PAGE</w:instrText></w:r></w:p><w:tbl><w:tblPr/>'
        '<w:tr><w:tc>' + p("a") + p("b") + '</w:tc><w:tc>' + p("c") + '</w:tc></w:tr></w:tbl>'
        '<w:p><w:moveFrom><w:r><w:t>moved</w:t></w:r></w:moveFrom><w:r><mc:AlternateContent>'
        '<mc:Choice><w:txbxContent>' + p("box") + '</w:txbxContent></mc:Choice>'
        '<mc:Fallback><w:txbxContent>' + p("box") + '</w:txbxContent></mc:Fallback>'
        '</mc:AlternateContent><w:t>last</w:t></w:r></w:p><w:sectPr/>'
    )  # fmt: skip
    unused, used = (
        f'<w:footnote w:id="{n}">{p(text)}</w:footnote>' for n, text in ((1, "x"), (2, "A note."))
    )
    parts = {
        "footnotes": f"<w:footnotes {namespace}>{unused}{used}</w:footnotes>",
        "comments": f"<w:comments {namespace}><w:comment>{p('well')}</w:comment></w:comments>",
        "header1": f"<w:hdr {namespace}>{p('x')}</w:hdr>",
    }
    data = docx(body, namespace, **parts)
    text, counts = read_as(tmp_path, "a.docx", data)
    assert text == "Title\nOne\ttwo\nnew link\na b\tc\nbox\nlast\nA note.\n"
    assert counts == {reasons.DELETED: 2, reasons.HIDDEN: 1, reasons.FRAMES: 1, reasons.COMMENTS: 1}


def test_an_opendocument_text_as_a_reader_sees_it(tmp_path):
    body = (
        "<text:tracked-changes><text:changed-region><text:deletion><text:p>gone</text:p></text:deletion>"
        "</text:changed-region></text:tracked-changes>\n"
        "<text:h>Title</text:h>\n<text:p>One\n  two<text:s text:c='2'/><text:span>three</text:span>"
        "<text:line-break/>four<text:note><text:note-citation>1</text:note-citation>"
        "<text:note-body><text:p>A note.</text:p></text:note-body></text:note> five"
        "<office:annotation><text:p>well</text:p></office:annotation></text:p>"
        "<text:list><text:list-item>\n<text:p>item</text:p></text:list-item></text:list>"
        "<table:table><table:table-row><table:table-cell><text:p>a</text:p><text:p>b</text:p></table:table-cell>"
        "<table:table-cell><text:p>c</text:p></table:table-cell></table:table-row></table:table>"
        "<text:p><draw:frame> <draw:text-box><text:p>box</text:p></draw:text-box></draw:frame>last</text:p>"
    )
    text, counts = read_as(tmp_path, "a.odt", odt(body))
    assert text == "Title\nOne two  three\nfour five\nitem\na b\tc\nbox\nlast\nA note.\n"
    assert counts == {reasons.DELETED: 1, reasons.COMMENTS: 1}


def test_what_is_damaged_encrypted_or_too_large_is_one_line(tmp_path, monkeypatch):
    assert reason_of(written(tmp_path / "b.docx", docx("<w:p>"))) == reasons.DAMAGED
    assert "defines entities" in refusal(written(tmp_path / "c.docx", packed({
        "word/document.xml": '<!DOCTYPE d [<!ENTITY a "b">]><d>&a;</d>'})))  # fmt: skip
    assert reason_of(written(tmp_path / "d.docx", packed({"a.txt": "x"}))) == reasons.DAMAGED
    foreign = '<?xml version="1.0" encoding="x-none"?><d/>'
    assert reason_of(written(tmp_path / "j.docx", packed({"word/document.xml": foreign}))) == reasons.DAMAGED
    locked = odt(
        "x", **{"META-INF/manifest": "<manifest><file-entry><encryption-data/></file-entry></manifest>"}
    )
    assert reason_of(written(tmp_path / "e.odt", locked)) == reasons.ENCRYPTED
    assert (
        reason_of(written(tmp_path / "f.docx", docx("<w:ins>" * 5000 + "</w:ins>" * 5000))) == reasons.DAMAGED
    )
    assert reason_of(written(tmp_path / "g.docx", docx(""))) == reasons.NO_TEXT
    monkeypatch.setattr(office, "_MOST_ELEMENTS", 10)
    assert "more than 10 elements" in refusal(written(tmp_path / "i.docx", docx(p("x") * 20)))
    monkeypatch.setattr(office, "_LARGEST", 100)
    assert "unpacks to more than" in refusal(written(tmp_path / "h.docx", docx(p("x" * 200))))


def test_signs_of_symbol_fonts_soft_hyphens_and_embedded_documents_are_counted(tmp_path):
    run = '<w:r><w:sym w:font="Wingdings" w:char="F04A"/><w:sym w:char="00E9"/><w:softHyphen/></w:r>'
    data = docx(f"<w:p>{run}</w:p><w:altChunk/>" + p("soft\xadly"))
    counts = {reasons.UNKNOWN_GLYPHS: 1, reasons.SOFT_HYPHENS: 2, reasons.EMBEDDED: 1}
    assert read_as(tmp_path, "a.docx", data) == ("\ufffdé\nsoftly\n", counts)
