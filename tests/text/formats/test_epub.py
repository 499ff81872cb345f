import io
import random
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from written_files import (
    CONTAINER,
    accounted,
    encryption,
    epub,
    package,
    read,
    read_one,
    reason_of,
    refusal,
    refused,
    written,
    zipped,
)

from lucidlm.text import reasons
from lucidlm.text.account import Account
from lucidlm.text.documents import read_texts
from lucidlm.text.formats import epub as module

PAGES = {"a.xhtml": "<p>first", "b.xhtml": "<p>second"}
GERMAN = "Im März fuhr die Käserin früh über die Brücke, und schöne Äpfel lagen für die Gäste da."
BOTH = "first\n\nsecond\n\n"


def book(members=PAGES, opf=None, *, place="OEBPS/content.opf", container=CONTAINER, **named) -> bytes:
    """An EPUB of pages beside its package, or of members at places of their own."""
    folder = place.rpartition("/")[0] + "/"
    opf = package({name: name for name in members}, list(members)) if opf is None else opf
    return zipped({
        "META-INF/container.xml": container.format(place),
        place: opf,
        **{folder + name: data for name, data in members.items()},
        **named.get("also", {}),
    })  # fmt: skip


def counts(tmp_path, data: bytes, **options) -> tuple[str, dict[str, int]]:
    return accounted(written(tmp_path / "a.epub", data), **options)


def test_an_epub_is_read_in_the_order_of_its_spine(tmp_path):
    pages = {
        "b.xhtml": "<p>second",
        "a.xhtml": "<p>first</p><p>&copy;",
        "c.xhtml": "<p>Käse".encode("utf-16"),
    }
    data = epub(pages, spine=["a.xhtml", "b.xhtml", "c.xhtml"])
    assert counts(tmp_path, data) == ("first\n\n©\n\nsecond\n\nKäse\n\n", {})
    assert counts(tmp_path, epub(pages, folder=""))[0].startswith("second")


def test_names_are_found_as_nearly_as_they_are_there(tmp_path):
    pages = {"Chapter one ä.xhtml": "<p>first", "50%25.xhtml": "<p>second"}
    for hrefs in (
        ["Chapter%20one%20%C3%A4.xhtml#top", "50%25.xhtml"],
        ["Chapter one ä.xhtml", "50%2525.xhtml"],
        ["/OEBPS/Chapter one ä.xhtml", "/OEBPS/50%25.xhtml"],
        ["CHAPTER ONE A\u0308.XHTML", "./50%25.XHTML"],
        ["..\\OEBPS\\Chapter one ä.xhtml", "sub\\..\\50%25.xhtml"],
        ["OEBPS/Chapter one ä.xhtml", "../../OEBPS/50%25.xhtml"],
    ):
        data = epub(pages, hrefs=dict(zip(pages, hrefs, strict=True)))
        assert counts(tmp_path, data) == (BOTH, {}), hrefs
    there = {"OEBPS\\a.xhtml": "<p>first", "OEBPS\\b.xhtml": "<p>second"}
    opf = package({"a": "a.xhtml", "b": "b.xhtml"}, ["a", "b"])
    assert counts(tmp_path, book({}, opf, also=there)) == (BOTH, {})


def test_what_a_spine_names_and_nobody_has_is_counted(tmp_path):
    items = {"a": "a.xhtml", "b": "b.xhtml", "gone": "gone.xhtml", "far": "https://x.org/c.xhtml"}
    opf = package(items, ["gone", "a", "unknown", "b", "a", "far", "b"])
    assert counts(tmp_path, book(PAGES, opf)) == (
        BOTH,
        {"pages_missing": 2, "pages_not_in_manifest": 1, "repeated_pages": 2},
    )
    outside = book(PAGES, package({"a": "a.xhtml", "x": "../../etc/passwd", "b": "b.xhtml"}, ["a", "x", "b"]))
    assert counts(tmp_path, outside) == (BOTH, {"pages_missing": 1})


def test_the_first_page_that_was_left_out_is_named_with_its_book(tmp_path):
    path = written(tmp_path / "a.epub", book(PAGES, package({"a": "a.xhtml", "x": "x.xhtml"}, ["x", "a"])))
    account = Account()
    list(read_texts([path], account))
    assert account.first_passed[reasons.MISSING_PAGES] == f"x.xhtml in {path}"


def test_a_name_that_a_book_chose_is_one_line_and_not_too_long(tmp_path):
    items = {"a": "a.xhtml", "esc": "x&#27;[2J&#10;y.xhtml", "long": "z" * 100_000}
    path = written(tmp_path / "a.epub", book(PAGES, package(items, ["a", "esc", "long"])))
    note = read_one(path)[1][0]
    assert f"(x\\x1b[2J\\ny.xhtml in {path} and 1 more)" in note
    long = written(tmp_path / "b.epub", book(PAGES, package(items, ["a", "long"])))
    assert len(read_one(long)[1][0]) < 300 + len(str(long))


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "text/x-oeb1-document",
        "application/xml",
        "text/xml",
        "application/x-dtbook+xml",
        "",
        "x/y",
    ],
)
def test_pages_are_read_by_what_they_hold_and_not_by_their_media_type(tmp_path, kind):
    items = {"a": "a.xhtml", "b": "b.xhtml"}
    opf = package(items, ["a", "b"], {"a": kind, "b": kind})
    assert counts(tmp_path, book(PAGES, opf)) == (BOTH, {})


def test_plain_text_dtbook_and_svg_are_text(tmp_path):
    pages = {
        "a.txt": "1 < 2 & <b>\r\n  kept\r\n",
        "b.xml": '<?xml version="1.0"?><dtbook><level1><h1>Head</h1><p>Body</p></level1></dtbook>',
        "c.svg": '<svg xmlns="http://www.w3.org/2000/svg"><title>no</title><text>drawn</text></svg>',
    }
    assert counts(tmp_path, book(pages)) == (
        "1 < 2 & <b>\n  kept\n\nHead\n\nBody\n\ndrawn\n\n",
        {},
    )


def test_a_picture_in_the_spine_gives_way_to_its_fallback_or_is_counted(tmp_path):
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
    opf = (
        '<package><manifest><item id="p" href="p.png" media-type="image/png" fallback="q"/>'
        '<item id="q" href="q.png" media-type="image/png" fallback="a"/><item id="a" href="a.xhtml"/>'
        '<item id="r" href="r.png" fallback="r"/></manifest>'
        '<spine><itemref idref="p"/><itemref idref="r"/></spine></package>'
    )
    members = {**PAGES, "p.png": png, "q.png": png, "r.png": png}
    assert counts(tmp_path, book(members, opf)) == (
        "first\n\n",
        {"pages_of_another_kind": 1, "pages_not_in_spine": 1},
    )


@pytest.mark.parametrize(
    "damage", ["blank", "mark", "namespace", "prefix", "entity", "latin", "utf16", "tags"]
)
def test_a_package_and_a_container_are_read_as_they_are(tmp_path, damage):
    opf = package({"a": "a.xhtml", "b": "b.xhtml"}, ["a", "b"])
    inside = "<metadata><title/><x>Käse</x></metadata><manifest>"
    opf = opf.replace("<manifest>", inside)

    def damaged(xml: str) -> bytes:
        match damage:
            case "blank":
                return b"\n \xef\xbb\xbf\n" + xml.encode()
            case "mark":
                return b"\xef\xbb\xbf" + xml.encode()
            case "namespace":
                return (
                    xml.replace("http://www.idpf.org/2007/opf", "urn:x")
                    .replace("xmlns=", "xmlns:y=")
                    .encode()
                )
            case "prefix":
                return (
                    xml.replace("</", "<!")
                    .replace("<", "<o:")
                    .replace("<o:!", "</o:")
                    .replace("<o:?", "<?")
                    .encode()
                )
            case "entity":
                return xml.replace("Käse", "K&auml;se & &nix; <![CDATA[<x>]]>").encode()
            case "latin":
                return xml.encode("latin-1")
            case "utf16":
                return xml.encode("utf-16")
        return xml.replace("</spine></package>", "").encode()

    data = zipped({
        "META-INF/container.xml": damaged(CONTAINER.format("c.opf")),
        "c.opf": damaged(opf),
        **PAGES,
    })  # fmt: skip
    assert counts(tmp_path, data) == (BOTH, {})


def test_a_book_without_container_package_or_spine_is_read_and_that_is_said(tmp_path):
    opf = package(
        {"b": "b.xhtml", "a": "a.xhtml", "css": "x.css", "i": "i.svg"},
        [],
        {"css": "text/css", "i": "image/svg+xml"},
    )
    second_first = "second\n\nfirst\n\n"
    assert counts(tmp_path, book(PAGES, opf)) == (second_first, {"epubs_without_spine": 1})
    no_container = zipped({"x/c.opf": package({"b": "b.xhtml"}, ["b"]), "x/b.xhtml": "<p>second"})
    assert counts(tmp_path, no_container) == ("second\n\n", {"epubs_without_container": 1})
    assert counts(tmp_path, zipped(PAGES)) == (BOTH, {"epubs_without_package": 1})
    assert counts(tmp_path, book(PAGES, "")) == (BOTH, {"epubs_without_package": 1})
    of_no_use = package({"b": "b.xhtml", "a": "a.xhtml"}, ["x"])
    assert counts(tmp_path, book(PAGES, of_no_use)) == (
        second_first,
        {"epubs_without_spine": 1, "pages_not_in_manifest": 1},
    )


def test_of_several_versions_the_first_package_is_read(tmp_path):
    container = CONTAINER.replace(
        "<rootfiles>", '<rootfiles><rootfile full-path="a.pdf" media-type="application/pdf"/>'
    ).replace(
        "</rootfiles>",
        '<rootfile full-path="two.opf" media-type="application/oebps-package+xml"/></rootfiles>',
    )
    also = {"a.pdf": b"%PDF\0", "two.opf": package({"b": "OEBPS/b.xhtml"}, ["b"])}
    data = book(PAGES, container=container, also=also)
    assert counts(tmp_path, data) == (BOTH, {"other_versions": 2})


def test_pages_outside_of_the_reading_order_are_counted_and_notes_are_not(tmp_path):
    opf = package({"a": "a.xhtml", "b": "b.xhtml", "nav": "nav.xhtml"}, ["a", "b"]).replace(
        'idref="b"', 'idref="b" linear="no"'
    )
    data = book({**PAGES, "nav.xhtml": "<p>contents"}, opf)
    assert counts(tmp_path, data) == (BOTH, {"pages_not_in_spine": 1})


def test_pages_without_text_with_odd_markup_or_damaged_do_not_stop_a_book(tmp_path):
    pages = {
        "cover.xhtml": '<html><body><img src="x.png" alt="cover"/></body></html>',
        "empty.xhtml": "",
        "a.xhtml": "<p>fir&shy;st &unknown; <b>&",
        "cdata.xhtml": '<html xmlns="http://www.w3.org/1999/xhtml"><title/><p><![CDATA[1 < 2]]></p></html>',
        "prefix.xhtml": '<h:html xmlns:h="http://www.w3.org/1999/xhtml"><h:p>one</h:p><h:p>two</h:p></h:html>',
        "dtd.xhtml": '<!DOCTYPE html [<!ENTITY x "y">]>\n<html xmlns="http://www.w3.org/1999/xhtml"><p>in</p></html>',
    }
    pages["bare.xhtml"] = "<html><head><title/><script/></head><body>bare</body></html>"
    data = epub(pages)
    assert counts(tmp_path, data) == (
        "first &unknown; &\n\n1 < 2\n\none\n\ntwo\n\nin\n\nbare\n\n",
        {"pages_without_text": 2, "soft_hyphens": 1},
    )
    nuls = {"a.xhtml": "<p>fir\0st</p>        \0", "x.xhtml": "x" * 2000 + "\0" * 999, "y.xhtml": "\0\1\2\3"}
    assert counts(tmp_path, epub({**nuls, "b.xhtml": "<p>second"})) == (
        BOTH,
        {"control_characters": 2, "pages_of_another_kind": 2},
    )
    broken = bytearray(epub({"a.xhtml": "<p>first", "z.xhtml": "<p>" + "lost " * 50, "b.xhtml": "<p>second"}))
    with zipfile.ZipFile(io.BytesIO(broken)) as archive:
        place = archive.getinfo("OEBPS/z.xhtml").header_offset + 30 + len("OEBPS/z.xhtml")
    broken[place + 3] ^= 0xFF
    assert counts(tmp_path, bytes(broken)) == (BOTH, {"damaged_pages": 1})


def test_an_encoding_is_for_the_pages_that_are_not_what_they_declare(tmp_path):
    pages = {
        "a.xhtml": f'<?xml version="1.0" encoding="utf-8"?><p>{GERMAN}'.encode("latin-1"),
        "b.xhtml": "<p>Käse ж",
    }
    path = written(tmp_path / "a.epub", epub(pages))
    message = refusal(path)
    assert "OEBPS/a.xhtml" in message
    advised = message.rpartition("--encoding ")[2].split()[0]
    assert accounted(path, encoding=advised) == (
        f"{GERMAN}\n\nKäse ж\n\n",
        {"pages_in_the_encoding_asked_for": 1},
    )
    declared = {"a.xhtml": '<?xml version="1.0" encoding="iso-8859-1"?><p>сыр'.encode("cp1251")}
    assert counts(tmp_path, epub(declared), encoding="cp1251")[0] == "сыр\n\n"


def test_bytes_before_or_behind_the_archive_and_a_padded_mimetype_do_no_harm(tmp_path):
    data = zipped(
        {"mimetype": "application/epub+zip\r\n  ", **PAGES, "c.opf": package({"a": "a.xhtml"}, ["a"])}
    )
    assert counts(tmp_path, b"x" * 1000 + data)[0] == "first\n\n"
    assert counts(tmp_path, data + b"\0" * 100_000)[0] == "first\n\n"


def test_what_is_no_epub_or_holds_no_text_is_refused(tmp_path):
    assert reason_of(written(tmp_path / "d.epub", epub(PAGES)[:-30])) == reasons.DAMAGED
    assert reason_of(written(tmp_path / "f.epub", zipped({"x": "y"}))) == reasons.DAMAGED
    nothing = refused(written(tmp_path / "e.epub", epub({"a.xhtml": ""})))
    gone = refused(written(tmp_path / "g.epub", book({}, package({"a": "a.xhtml"}, ["a"]))))
    for error, page in ((nothing, "OEBPS/a.xhtml"), (gone, "a.xhtml")):
        assert error.reason == reasons.NO_TEXT
        assert page in str(error)


def test_entities_are_not_unpacked(tmp_path):
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
    data = book(PAGES, bomb + package({"a": "a.xhtml", "b": "&b;.xhtml"}, ["a", "b"]))
    assert counts(tmp_path, data) == ("first\n\n", {"pages_missing": 1, "pages_not_in_spine": 1})


def test_a_copy_protected_epub_is_refused_but_scrambled_fonts_are_not(tmp_path):
    page = {"a b.xhtml": "<p>x"}
    locked = epub(page, extra={"META-INF/encryption.xml": encryption("OEBPS/a%20b.xhtml", "OEBPS/f.otf")})
    assert reason_of(written(tmp_path / "a.epub", locked)) == reasons.ENCRYPTED
    fonts = epub(page, extra={"META-INF/encryption.xml": encryption("OEBPS/f.otf")})
    assert counts(tmp_path, fonts) == ("x\n\n", {})
    some = epub(
        {**PAGES, "c.xhtml": b"\1\2\xff"}, extra={"META-INF/encryption.xml": encryption("OEBPS/c.xhtml")}
    )
    assert counts(tmp_path, some) == (BOTH, {"encrypted_pages": 1})


def test_a_page_that_is_listed_many_times_is_read_once(tmp_path, monkeypatch):
    data = book(PAGES, package({"a": "a.xhtml"}, ["a"] * 20_000))
    assert counts(tmp_path, data) == ("first\n\n", {"repeated_pages": 19_999, "pages_not_in_spine": 1})
    monkeypatch.setattr(module, "_LARGEST_PACKAGE", 1 << 18)
    assert reason_of(written(tmp_path / "b.epub", data)) == reasons.UNFIT


KINDS = ("page", "picture", "blank", "missing", "unknown", "unlisted", "encrypted", "twice")


@given(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=12), seed=st.integers(0, 9))
def test_counts_are_what_was_left_out_of_a_random_book(tmp_path_factory, kinds, seed):
    check_random_book(tmp_path_factory.mktemp("book"), kinds, random.Random(seed))


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(300))
def test_counts_are_what_was_left_out_of_larger_random_books(tmp_path, seed):
    chance = random.Random(seed)
    check_random_book(tmp_path, chance.choices(KINDS, k=chance.randrange(1, 300)), chance)


def check_random_book(folder, kinds, chance):
    kinds = ["page", *kinds, "page"] + ["page"] * kinds.count("encrypted")
    items, spine, members, seen = {}, [], {}, []
    for number, kind in enumerate(kinds):
        name, word = f"p{number}.xhtml", f"word{number}"
        if kind != "unknown":
            items[name] = chance.choice([name, f"/x/{name}", name.upper(), f"../x/{name}#f"])
        if kind != "unlisted":
            spine += [name] * (2 if kind == "twice" else 1)
        if kind not in ("missing", "unknown"):
            blank, picture = kind == "blank", kind == "picture"
            text = "<p> </p>" if blank else b"\x89PNG\0" if picture else f"<html><p>{word}<p hidden>no</html>"
            members[f"x/{name}"] = text
        if kind in ("page", "twice"):
            seen.append(word)
    locked = [f"x/p{n}.xhtml" for n, kind in enumerate(kinds) if kind == "encrypted"]
    data = zipped({
        "META-INF/container.xml": CONTAINER.format("x/c.opf"),
        "META-INF/encryption.xml": encryption(*locked),
        "x/c.opf": package(items, spine, {"": chance.choice(["application/xhtml+xml", "text/plain"])}),
        **members,
    })  # fmt: skip
    text, found = counts(folder, data)
    assert text == "".join(f"{word}\n\n" for word in seen)
    expected = {
        "pages_of_another_kind": kinds.count("picture"),
        "pages_without_text": kinds.count("blank"),
        "pages_missing": kinds.count("missing"),
        "pages_not_in_manifest": kinds.count("unknown"),
        "pages_not_in_spine": kinds.count("unlisted"),
        "encrypted_pages": kinds.count("encrypted"),
        "repeated_pages": kinds.count("twice"),
        "characters_of_hidden_text": 2 * len(seen),
    }
    assert found == {key: count for key, count in expected.items() if count}
    assert read(folder / "a.epub") == [text]


def test_a_page_of_the_archive_that_no_package_lists_is_counted(tmp_path):
    members = {**PAGES, "c.xhtml": "<p>third", "notes.html": "<p>note", "__MACOSX/._a.html": "x"}
    twice = package({"a": "a.xhtml", "b": "b.xhtml?page=1"}, ["a", "b"]).replace(
        "</manifest>", '<item id="b" href="c.xhtml" media-type="application/xhtml+xml"/></manifest>'
    )
    assert counts(tmp_path, book(members, twice)) == (BOTH, {"pages_not_in_spine": 2})
