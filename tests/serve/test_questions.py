"""Twelve questions on the loss: for each, the page that answers it says so to a person who looks at it."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import visited
from playwright.sync_api import Page, expect
from serving import running

QUESTIONS = tomllib.loads((Path(__file__).parent / "questions.toml").read_text(encoding="utf-8"))["question"]


@pytest.fixture(scope="module")
def page(browser, tiny, tmp_path_factory) -> Iterator[Page]:
    with running(tiny, runs=tmp_path_factory.mktemp("questions") / "runs") as server:
        yield from visited(browser, server.address)


def test_there_are_twelve_and_no_two_have_one_answer():
    assert len({each["answer"] for each in QUESTIONS}) == len(QUESTIONS) == 12


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question["ask"][:40])
def test_the_page_that_answers_a_question_says_so(page, question):
    page.goto(question["view"])
    page.locator("main h1").wait_for()
    if "waits" in question:
        page.locator(question["waits"]).wait_for()
    if "opens" in question:
        page.locator("summary", has_text=question["opens"]).first.click()
    for words in question["says"]:
        # As it is drawn: what is folded away is not seen.
        expect(page.locator("main")).to_contain_text(words, use_inner_text=True)
