"""The lens with a folder of runs: lessons, a training from the page, and books that are dropped."""

import json
import random
import re
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from browser import visited
from playwright.sync_api import Page, expect
from serving import Running, running


@pytest.fixture(scope="module")
def laboratory(tiny, tmp_path_factory) -> Iterator[Running]:
    """A server with a folder of runs of its own."""
    with running(tiny, runs=tmp_path_factory.mktemp("lens") / "runs") as live:
        yield live


@pytest.fixture
def bench(browser, laboratory) -> Iterator[Page]:
    """A page of that server."""
    yield from visited(browser, laboratory.address)


def points(page: Page) -> int:
    return int(page.locator("#curves").get_attribute("data-points") or 0)


def test_each_lesson_opens_a_view_that_works(bench):
    page = bench
    page.goto("/learn")
    count = page.locator(".lessons li").count()
    for lesson in range(1, count + 1):
        page.goto(f"/learn?lesson={lesson}")
        expect(page.locator(".lesson h2")).to_contain_text(f"{lesson}. ")
        page.locator(".lesson summary").click()
        assert len(page.locator(".lesson details p").inner_text()) > 10
        page.get_by_role("link", name="open the view").click()
        page.locator("main h1").wait_for()
        expect(page).not_to_have_url(re.compile("/learn"))
        if "text=" in page.url and "/explain" in page.url:
            page.locator(".chain b.nats").wait_for()


def test_a_training_is_started_watched_stopped_and_explained(bench):
    page = bench
    page.goto("/train")
    expect(page.locator("#runs")).to_contain_text("No run yet")
    page.get_by_label("minutes").fill("1")
    page.get_by_label("name").fill("watched")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#facts")).to_contain_text("tokens a second", timeout=60_000)
    page.locator("#curves .main-svg").first.wait_for(timeout=60_000)
    before = points(page)
    expect(page.locator("#curves")).not_to_have_attribute("data-points", str(before), timeout=20_000)
    assert points(page) > before
    page.get_by_role("button", name="Stop and save").click()
    expect(page.locator("#facts")).to_contain_text("interrupted", timeout=30_000)
    expect(page.locator("#detail")).to_contain_text("A held-out sentence")
    page.get_by_label("step of the run").fill("0")
    expect(page.locator("#detail output")).to_contain_text("step 0: held-out")
    expect(page).to_have_url(re.compile("moment=0"))
    page.reload()
    expect(page.locator("#detail output")).to_contain_text("step 0: held-out")
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("#facts")).to_contain_text("left", timeout=30_000)
    page.get_by_role("button", name="Stop and save").click()
    expect(page.locator("#facts")).to_contain_text("interrupted", timeout=30_000)
    page.get_by_role("button", name="explain with it").click()
    expect(page).to_have_url(re.compile(r"/explain\?model=runs%2Fwatched"), timeout=20_000)
    page.get_by_label("Text to explain").fill("The lamp")
    page.keyboard.press("Control+Enter")
    page.locator(".chain b.nats").wait_for()
    page.goto("/train")
    page.get_by_role("button", name="compare its checkpoints").click()
    expect(page).to_have_url(re.compile("/compare"), timeout=20_000)
    assert page.locator("#a").input_value() == "runs/watched"
    assert page.locator("#b").input_value().startswith("runs/watched at step ")
    page.get_by_label("Text", exact=True).fill("The old lamp burned low. " * 4)
    page.get_by_role("button", name="Compare").click()
    page.locator("#result .tokens").wait_for()
    page.get_by_label("another run or checkpoint").select_option("watched: best weights")
    page.get_by_role("button", name="Add").click()
    expect(page.locator("#b")).to_have_value("runs/watched")
    page.goto("/guess?model=runs%2Fwatched&text=" + quote("The old lamp burned low."))
    page.locator("#answer").fill("x")
    page.get_by_role("button", name="Reveal").click()
    expect(page.locator(".score")).to_contain_text("counting the run's own text: unigram of tokens")


def test_a_book_is_dropped_and_its_reading_is_shown(bench, tmp_path):
    page = bench
    book = tmp_path / "büch.txt"
    book.write_text("Das alte Licht brannte still.\r\n" * 200, encoding="utf-8")
    page.goto("/data")
    page.locator("#file").set_input_files(book)
    page.locator("#split li").first.wait_for()
    figures = page.locator("#result .figures").inner_text()
    assert f"{30 * 200:,}" in figures  # characters, after the line ends have become LF
    assert f"{5 * 200:,}" in figures
    assert "held out" in page.locator("#split").inner_text()
    rows = page.locator(".shifted tr")
    inputs, targets = (rows.nth(n).locator("td").all_inner_texts() for n in (0, 1))
    assert inputs[1:] == targets[:-1]
    assert page.locator("#leaks").inner_text() == "No copies were found."  # a line that is everywhere is none
    page.reload()  # the address names the text
    page.locator("#split li").first.wait_for()
    assert page.locator("#result .figures").inner_text() == figures
    page.get_by_role("button", name="Train on it").click()
    expect(page.locator("#start select option:checked")).to_have_text("büch.txt")
    page.get_by_label("name").fill("a-name")  # which a plan has no use for
    page.get_by_label("minutes").fill("0.5")
    page.get_by_label("minutes").press("Tab")
    expect(page.locator(".plan")).to_contain_text("(--minutes 0.5)", timeout=60_000)
    page.get_by_label("minutes").fill("2,5")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#start").get_by_role("alert")).to_contain_text("write it like 2.5")
    page.goto("/train?text=0123456789ab")
    expect(page.locator("#start").get_by_role("alert")).to_contain_text("not on the server any more")
    page.goto("/data")
    page.locator("#kept").get_by_role("button", name="forget").click()
    expect(page.locator("#kept li")).to_have_count(0)


def test_copies_between_training_and_held_out_text_are_shown(bench, tmp_path):
    page, words = (
        bench,
        [
            "over",
            "the",
            "hill",
            "a",
            "lamp",
            "was",
            "lit",
            "and",
            "nobody",
            "saw",
            "who",
            "carried",
            "it",
            "down",
            "to",
            "the",
            "river",
            "again",
        ],
    )
    texts = [
        " ".join(random.Random(number % 30).choices(words, k=150)) + f" number {number}"
        for number in range(60)
    ]
    book = tmp_path / "notes.jsonl"
    book.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    page.goto("/data")
    page.locator("#file").set_input_files(book)
    page.locator("#split li").first.wait_for()
    said = page.locator("#leaks").inner_text()
    share = re.fullmatch(r"([\d.]+) % of its letters are in copied passages or lines.", said)
    assert share, said
    assert float(share[1]) > 50


def test_a_tokenizer_is_seen_at_work(bench):
    page = bench
    page.goto("/data")
    page.get_by_label("Text", exact=True).fill("né 12")
    expect(page.locator("#tokens")).to_contain_text("5 characters, 6 bytes, 6 tokens of bytes")
    expect(page.locator("#tokens")).to_contain_text("ids 110 195 169 32 49 50")
    assert page.locator("#tokens i").all_inner_texts() == ["n", "é \\xc3", "\\xa9", " ", "1", "2"]


def test_a_file_that_cannot_be_read_says_why(bench, tmp_path):
    page = bench
    bad = tmp_path / "picture.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4)
    page.goto("/data")
    page.locator("#file").set_input_files(bad)
    page.locator("#result .problem").wait_for()
    assert "picture.png" in page.locator("#result .problem").inner_text()
