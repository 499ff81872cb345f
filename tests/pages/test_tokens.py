"""The page of an explanation holds each token with its colour, its numbers and what could have come."""

import base64
import gzip
import json
import math
import re

import numpy as np
import pytest
from models import BYTES, FOREIGN, STORY, lively, shape
from selectolax.lexbor import LexborHTMLParser

from lucidlm.measure.explained import DIGITS, written
from lucidlm.measure.explanation import explain_texts
from lucidlm.pages.page import LEVELS, colour_level
from lucidlm.pages.tokens import WRITTEN_TOKENS, colour_edges, short_probabilities

ODD = "<b>&amp;\t</script>\n"


@pytest.fixture(scope="module")
def model():
    return lively(shape(emb_dim=32, document_prefix_id=256), noise=0.5)


@pytest.fixture(scope="module")
def explained(model):
    return explain_texts(model, BYTES, [STORY, ODD, FOREIGN], top_k=3)


@pytest.fixture(scope="module")
def page(explained, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    explained.write_html(path)
    return path.read_text(encoding="utf-8")


def sent(page: str) -> list[dict]:
    """The columns of each text, read as tokens.js reads them."""
    texts = []
    for node in LexborHTMLParser(page).css("section script"):
        data = json.loads(node.text())
        planes, n, at = gzip.decompress(base64.b64decode(data["packed"])), data["tokens"], 0

        def column(type, count, planes=planes):
            nonlocal at
            size = np.dtype(type).itemsize
            planar = np.frombuffer(planes[at : at + size * count], np.uint8).reshape(size, count)
            at += size * count
            return np.ascontiguousarray(planar.T).view(type)[:, 0]

        names = {"id": "<i4", "rank": "<i4", "probability": "<f4", "log_probability": "<f4", "entropy": "<f4"}
        columns = {name: column(type, n) for name, type in names.items()}
        k = (len(planes) - at) // 6 // n
        columns["alternative_ids"] = column("<i4", n * k).reshape(n, k)
        columns["alternative_codes"] = column("<u2", n * k).reshape(n, k)
        assert at == len(planes)
        texts.append(data | columns)
    return texts


def test_a_page_holds_each_token_with_its_alternatives_and_fetches_nothing(explained, page):
    spans = [node.text() for node in LexborHTMLParser(page).css("section:nth-of-type(-n+2) .tokens > i")]
    assert "".join(spans).replace("↵", "").replace("→", "") == STORY + ODD
    assert not re.search(r"https?://|src=|@import|url\(", page)
    for text, columns in zip(explained.texts, sent(page), strict=True):
        for name in ("id", "rank", "probability", "log_probability", "entropy", "alternative_ids"):
            assert np.array_equal(columns[name], text.tokens.columns[name]), name
        for token, ids in zip(text.tokens, columns["alternative_ids"].tolist(), strict=True):
            assert [columns["spell"][str(id)] for id in ids] == [other.text for other in token.alternatives]
        assert columns["spell"][str(columns["given"])] == text.tokens[0].given


def test_the_panel_rounds_the_very_numbers_that_the_table_rounds(explained, page):
    # Sent with five digits, -10.3796 came out as -10.3800 beside the table's -10.3796.
    given = re.search(r'data-digits="([^"]*)"', page)[1].replace("&#34;", '"')
    assert json.loads(given) == DIGITS
    for text, columns in zip(explained.texts, sent(page), strict=True):
        # The running loss as tokens.js adds it up.
        running = np.cumsum(-columns["log_probability"].astype(float)) / np.arange(1, columns["tokens"] + 1)
        for place, token in enumerate(text.tokens):
            assert written("nats", running[place]) == written("nats", token.running_loss_nats)
            assert written("probability", columns["probability"][place]) == written(
                "probability", token.probability
            )


def test_probabilities_of_alternatives_keep_three_digits():
    draw = np.random.default_rng(0).random(20_000) ** 9
    of = np.concatenate([draw, [1.0, 0.9996, 0.09996, 1e-38, 0.1, 0.001]]).astype(np.float32)
    codes = short_probabilities(of)
    read = (100 + codes % 900) / 100 * 10.0 ** -(codes // 900)
    assert [f"{p:.2e}" for p in read] == [f"{p:.2e}" for p in of.astype(float)]
    assert codes.max() < 0xFFFF
    assert short_probabilities(np.zeros(1))[0] == 0xFFFF


def test_the_stronger_a_tokens_colour_the_more_it_cost(explained, page):
    nats = np.concatenate([text.tokens.nats for text in explained.texts])
    levels = []
    for node in LexborHTMLParser(page).css(".tokens > i"):
        levels += [int(node.attributes["class"][1:])] * len(node.text().replace("↵", "").replace("→", ""))
    cost = nats[: len(STORY) + len(ODD)]  # there a character is a token
    assert levels[: len(cost)] == [colour_level(each, math.log(257)) for each in cost.tolist()]
    assert len(set(levels)) >= 3


def test_levels_are_those_of_the_terminal_where_tokens_differ_widely():
    nats = np.linspace(0, 12, 500)
    edges = colour_edges(nats, math.log(50257))
    levels = np.searchsorted(edges, nats, side="right")
    assert levels.tolist() == [colour_level(each, math.log(50257)) for each in nats.tolist()]


def test_six_tokens_of_random_weights_have_six_colours():
    """Those of the lecture: on the scale of a trained model all are the strongest."""
    nats = np.array([9.5042, 10.3796, 11.3677, 11.4798, 9.7764, 12.2561])
    edges = colour_edges(nats, math.log(50257))
    levels = np.searchsorted(edges, nats, side="right")
    assert len(set(levels.tolist())) == 6
    assert np.array_equal(np.argsort(levels), np.argsort(nats))
    assert levels.max() < LEVELS
    many = np.random.default_rng(0).uniform(10.2, 10.9, 8000)
    counts = np.bincount(np.searchsorted(colour_edges(many, math.log(50257)), many, side="right"))
    assert counts.tolist() == [1000] * LEVELS


def test_a_long_text_takes_little_room_and_is_coloured_by_the_script(model, tmp_path):
    text = (STORY + " ") * (1 + WRITTEN_TOKENS // len(STORY))
    explained = explain_texts(model, BYTES, [text])
    explained.write_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    (span,) = LexborHTMLParser(page).css(".tokens > i")
    assert span.text() == text
    explain_texts(model, BYTES, [STORY]).write_html(tmp_path / "short.html")
    longer = len(page) - len((tmp_path / "short.html").read_text(encoding="utf-8"))
    assert longer < 38 * len(text)  # 2 MB for 52 KB; random weights are the worst case


def test_a_notebook_shows_the_same_with_its_style(explained):
    cell = explained._repr_html_()
    assert "<style>" in cell
    assert "lucid-explained" in cell


def test_the_script_knows_every_way_to_colour_and_both_kinds_of_parts(page):
    document = LexborHTMLParser(page)
    script = document.css("script")[-1].text()
    for select, values in ((".by", {"nats", "rank", "entropy"}), (".parts", {"tokens", "words"})):
        offered = {option.attributes["value"] for option in document.css(f"{select} option")}
        assert offered == values
    assert all(re.search(rf"^ +{name}: {{value:", script, re.M) for name in ("nats", "rank", "entropy"))
    assert not re.search(r"toFixed\((?!2\) \+ \"em\")|FractionDigits: \d[^ ]|toExponential\(\d", script)
