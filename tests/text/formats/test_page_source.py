import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from lucidlm.text.account import Account
from lucidlm.text.formats.page_source import DEPTH, readable_source

NESTED = {
    "divs": "<div>",
    "spans": "<span>",
    "lists": "<ul><li>",
    "definitions": "<dl><dd>",
    "tables": "<table><tr><td>",
    "divs around open tables": "<div><table></div>",
    "formats around divs": "<b><div></b>",
    "formats with styles around divs": "<b style=x><div></b>",
    "list items around sections": "<li><section><li>",
    "spans around divs": "<span><div></span>",
    "headings": "<h1>",
    "forms": "<form>",
    "buttons": "<button><p>",
    "drawings": "<svg><g>",
    "formulas": "<math><mi>",
    "objects": "<object>",
    "ruby": "<ruby><rt>",
    "quotes": "<blockquote x='>'>",
}


def depth_and_size(page: str) -> tuple[int, int]:
    """How deep a page is nested once it is parsed, and how many nodes it has."""
    deepest, nodes, waiting = 0, 0, [(LexborHTMLParser(page).root, 0)]
    while waiting:
        node, depth = waiting.pop()
        deepest, nodes = max(deepest, depth), nodes + 1
        waiting.extend((child, depth + 1) for child in node.iter(include_text=True))
    return deepest, nodes


@pytest.mark.parametrize("kind", NESTED)
def test_the_work_of_a_deep_page_grows_as_its_length(kind):
    # The parser looks at the open elements for each tag, so that depth times tags bounds its work.
    account, tag = Account(), NESTED[kind]
    page = readable_source(tag * 2000 + "end", account)
    depth, nodes = depth_and_size(page)
    assert depth <= DEPTH * 4 / 3 + 30  # a table gets an element that the page has not
    assert nodes <= 5 * 2000 * tag.count("<")
    assert page.endswith("end")


def test_what_was_ignored_is_counted_and_its_text_is_kept():
    account = Account()
    page = readable_source("<div>" * 1000 + "deep" + "</div>" * 1000 + "<p>after", account)
    assert account.seen == {"deeply_nested_tags": 2 * (1000 - DEPTH)}
    body = LexborHTMLParser(page).body
    assert body is not None
    assert body.text() == "deepafter"
    assert body.last_child.tag == "p"


def test_each_block_opens_few_formats_anew():
    page = "".join(f"<p><b style=a:{n}>x" for n in range(1000))
    assert depth_and_size(readable_source(page, Account()))[1] < 30 * 1000
    assert depth_and_size(readable_source(page.replace("style", "id"), Account()))[1] < 3 * 1000


def test_a_tag_keeps_256_attributes_and_a_list_4096_options():
    tag = "<p " + " ".join(f"a{n}=1" for n in range(1000)) + ">x"
    body = LexborHTMLParser(readable_source(tag, Account())).body
    assert body is not None
    assert list(body.css_first("p").attributes) == [f"a{n}" for n in range(256)]
    options = readable_source("<select>" + "<option>x" * 5000, Account())
    assert options.count("<option>") == 4096


PARTS = """
<p> </p> <div> </div> <b> </b> </a> <i_hidden> </i> <br> <ul> <li> </ul> <table> <tr> <td> </td> </table>
<h1> </h1> <svg> </svg> <text> <script> </script> <textarea> </textarea> <!-- --> <!--> <![CDATA[ ]]> <title>
</title> &am p; < > </ <x_y=" ' " /> <em_title=it's> </em> <select> <option> </select>
<math> <mi> </math> <font_color=red> </font> <span> </span> <a_href='x>y'> one_ two_ three_
"""
TAGS = PARTS.split()


@given(st.lists(st.sampled_from(TAGS), max_size=30))
def test_a_page_that_is_not_deep_has_the_same_text_before_and_after(parts):
    page = "<body>" + "".join(parts).replace("_", " ")
    assert text_of(readable_source(page, Account())) == text_of(page)


@pytest.mark.torture
@settings(max_examples=5000, deadline=None)
@given(st.lists(st.sampled_from(TAGS), max_size=120))
def test_a_larger_page_that_is_not_deep_has_the_same_text_before_and_after(parts):
    page = "<body>" + "".join(parts).replace("_", " ")
    assert text_of(readable_source(page, Account())) == text_of(page)


def text_of(page: str) -> str:
    body = LexborHTMLParser(page).body
    return body.text() if body else ""


XHTML = '<html xmlns="http://www.w3.org/1999/xhtml"{}><body>{}</body></html>'


@pytest.mark.parametrize(
    ("inside", "text"),
    [
        ("<p hidden='hidden'/>seen", "seen"),
        ("<title/><script src='a>b'/><textarea/>seen", "seen"),
        ("<![CDATA[1 < 2 &amp; <b>]]>", "1 < 2 &amp; <b>"),
        ("a<br></br>b", "ab"),
        ("<![CDATA[open", "open</body></html>"),
    ],
)
def test_xhtml_is_read_by_the_rules_of_xml(inside, text):
    assert text_of(readable_source(XHTML.format("", inside), Account())) == text


def test_xhtml_may_have_prefixes_and_a_document_type_of_its_own():
    page = '<!DOCTYPE h:html [<!ENTITY x "y">]><h:html xmlns:h="http://www.w3.org/1999/xhtml"><h:p>a</h:p></h:html>'
    assert "<p>a</p>" in readable_source(page, Account())
    assert text_of(readable_source(page, Account())) == "a"
