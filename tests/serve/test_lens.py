"""The lens in a real browser, used as a person would: each number is compared with the command line's."""

import math
import re
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import visited
from models import BYTES
from playwright.sync_api import Page, expect

from lucidlm.measure.comparison import compare
from lucidlm.measure.explanation import explain

TEXT = "The old lamp burned low, and nobody came."
VIEWS = ("explain", "learn", "guess", "generate", "compare")


@pytest.fixture
def page(browser, server) -> Iterator[Page]:
    """A page of the shared server."""
    yield from visited(browser, server.address)


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


def explained(page: Page, text: str = TEXT) -> None:
    """Types a text and waits for the steps of the token that is chosen first."""
    page.goto("/explain")
    page.get_by_label("Text to explain").fill(text)
    page.keyboard.press("Control+Enter")
    page.locator(".chain b.nats").wait_for()


def chosen(page: Page, place: int) -> None:
    """Chooses a token and waits for its steps."""
    page.locator(".explanation .tokens > i").nth(place).click()
    expect(page.locator(".chain li").nth(5)).to_contain_text(f"Over the {place + 1} target")


def test_a_token_shows_what_explain_says_of_it(page, tiny):
    explained(page)
    wanted = explain(tiny.model, tiny.tokenizer, TEXT).tokens
    for place in (0, 7, 20, len(wanted) - 1):
        token = wanted[place]
        chosen(page, place)
        assert float(page.locator(".chain b.p").inner_text()) == pytest.approx(token.probability, rel=1e-4)
        assert number(page.locator(".chain b.nats").inner_text()) == pytest.approx(token.nats, abs=6e-5)
        steps = page.locator(".chain").inner_text()
        assert f"id {token.id} of 257" in steps
        likelier = {1: "No token was likelier", 2: "One token was likelier"}
        assert likelier.get(token.rank, f"{token.rank - 1} tokens were likelier") in steps
        mean, perplexity = re.search(r"e\^([\d.]+) = ([\d.,]+):", steps).groups()
        assert number(mean) == pytest.approx(token.running_loss_nats, abs=6e-5)
        assert number(perplexity) == pytest.approx(math.exp(token.running_loss_nats), rel=1e-2)
        panel = page.locator(".panel").inner_text()
        assert f"{token.nats:.4f}" in panel
        assert f"{token.entropy:.4f} nats" in panel
    loss = explain(tiny.model, tiny.tokenizer, TEXT).loss_nats
    expect(page.locator(".answers")).to_contain_text(f"{loss:.4f} nats per token")


def test_the_keyboard_alone_reaches_a_token_and_moves_on(page):
    page.goto("/explain")
    expect(page.get_by_label("Text to explain")).to_be_focused()
    page.keyboard.type("abc abd")
    page.keyboard.press("Control+Enter")
    page.locator(".chain b.nats").wait_for()
    kinds = lambda: [  # noqa: E731
        each.get_attribute("class").split() for each in page.locator(".explanation .tokens > i").all()
    ]
    at = lambda: [place for place, classes in enumerate(kinds()) if "at" in classes]  # noqa: E731
    page.locator(".explanation .tokens").focus()
    for _ in "abc abd":
        page.keyboard.press("ArrowLeft")
    assert at() == [0]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert at() == [2]
    page.keyboard.press("ArrowLeft")
    assert at() == [1]
    expect(page.locator(".chain li").nth(5)).to_contain_text("Over the 2 targets")


def test_temperature_moves_the_softmax_and_not_the_loss(page):
    explained(page)
    chosen(page, 10)
    shares = lambda: page.locator(".chain .softmax tbody tr td:nth-child(3)").all_inner_texts()  # noqa: E731
    loss, at_one = page.locator(".chain b.nats").inner_text(), shares()
    page.locator("#temperature").fill("0.5")
    expect(page.locator(".chain .slider output")).to_have_text("0.5")
    assert shares() != at_one
    assert page.locator(".chain b.nats").inner_text() == loss
    page.locator("#temperature").fill("1")
    assert shares() == at_one


def test_the_address_of_a_view_shows_the_same_again(page):
    explained(page)
    chosen(page, 9)
    expect(page).to_have_url(re.compile(r"at=9"))
    said = page.locator(".chain").inner_text()
    page.reload()
    expect(page.locator(".chain li").nth(5)).to_contain_text("Over the 10 target")
    assert page.locator(".chain").inner_text() == said
    page.get_by_role("link", name="Generate").click()
    page.go_back()
    expect(page.locator(".chain li").nth(5)).to_contain_text("Over the 10 target")


def test_a_long_text_is_in_the_address_too(page):
    text = "The old lamp burned low, number " + " ".join(str(number**3) for number in range(520))
    assert len(text) > 4000
    page.goto("/guess")
    page.get_by_label("Text", exact=True).fill(text)
    page.get_by_role("button", name="Play").click()
    page.locator("#answer").wait_for()
    expect(page).to_have_url(re.compile(r"/guess\?model=tiny#z=[\w-]+$"))
    page.reload()
    page.locator("#answer").wait_for()
    expect(page.locator("#game")).to_contain_text(f"Round 1 of {len(text) - 6:,}")
    page.goto(page.url[:-9])
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("The text of this address is damaged")


def test_a_loss_is_read_in_nats_or_in_bits(page, tiny):
    explained(page)
    chosen(page, 9)
    wanted = explain(tiny.model, tiny.tokenizer, TEXT).tokens[9]
    page.locator(".unit").select_option("bits")
    bits = wanted.running_loss_nats / math.log(2)
    expect(page.locator(".chain li").nth(5)).to_contain_text(f"the mean is {bits:.4f} bits")
    expect(page.locator(".chain li").nth(6)).to_contain_text(f"2^{bits:.4f} = ")
    assert f"{wanted.entropy / math.log(2):.3f} bits" in page.locator(".panel").inner_text()
    expect(page.locator(".key")).to_contain_text("surprisal in bits, below in nats")
    expect(page).to_have_url(re.compile("unit=bits"))
    page.reload()
    expect(page.locator(".chain li").nth(6)).to_contain_text(f"2^{bits:.4f} = ")


def test_a_view_leads_back_to_its_lesson(page):
    page.goto("/learn?lesson=3")
    page.get_by_role("link", name="open the view").click()
    page.locator(".chain b.nats").wait_for()
    page.get_by_role("link", name="back to lesson 3: Softmax").click()
    expect(page.locator(".lesson h2")).to_have_text("3. Softmax")


def test_three_rounds_of_guessing_are_scored_beside_the_model(page, tiny):
    page.goto("/guess")
    page.get_by_label("Text", exact=True).fill(TEXT)
    page.get_by_role("button", name="Play").click()
    page.locator("#answer").wait_for()
    assert "null" not in page.locator("#game").inner_text()
    tokens = explain(tiny.model, tiny.tokenizer, TEXT).tokens
    bits = []
    for place, (answer, certainty) in enumerate([(tokens[6].text, 0.9), ("~", 0.25), ("~", 0.5)], start=6):
        page.get_by_label("The next token is").fill(answer)
        page.locator("#certainty").fill(str(certainty))
        page.get_by_role("button", name="Reveal").click()
        right = answer == tokens[place].text
        bits.append(-math.log2(certainty if right else (1 - certainty) / 256))
        said = page.locator("#round").inner_text()
        assert said.startswith("Right" if right else "It was")
        assert f"You: {bits[-1]:.2f} bits" in said
        assert f"{tokens[place].bits:.2f} bits." in said
        page.get_by_role("button", name="Next").click()
    mean = lambda who: number(page.locator(f".score tr[data-who={who}] td:nth-child(2)").inner_text())  # noqa: E731
    assert mean("you") == pytest.approx(sum(bits) / 3, abs=0.006)
    assert mean("model") == pytest.approx(sum(token.bits for token in tokens[6:9]) / 3, abs=0.006)
    assert mean("uniform") == pytest.approx(math.log2(257), abs=0.006)


def characters(page: Page, texts: list[str]) -> list[str]:
    """What the lens shows of these tokens."""
    return page.evaluate("async texts => (await import('/lens/dom.js')).characters(texts)", texts)


def written(page: Page) -> list[str]:
    return page.locator(".written > i").all_inner_texts()


def generated(page: Page, *, seed: int = 7, tokens: int = 20) -> list[str]:
    page.goto(f"/generate?length={tokens}")
    page.get_by_label("Prompt").fill("The old")
    page.locator("#seed").fill(str(seed))
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#said")).to_contain_text(f"Seed {seed}")
    page.locator("#step table").wait_for()
    return written(page)


def test_a_text_is_the_same_for_a_seed_and_goes_on_from_an_alternative(page, server):
    first = generated(page)
    assert len(first) == 20
    assert generated(page) == first
    expect(page).to_have_url(re.compile("seed=7"))
    page.reload()  # the address makes the same text again
    page.locator("#step table").wait_for()
    assert written(page) == first
    reply = server.ask("POST", "/api/generate", {
        "prompt": "The old", "max_new_tokens": 20, "seed": 7, "temperature": 0.8, "min_p": 0,
    })  # fmt: skip
    tokens = [token["text"] for event in reply.events for token in event["tokens"]]
    assert first == [text.replace("\n", "↵\n") for text in characters(page, tokens)]
    page.locator(".written > i").nth(5).click()
    other = page.locator("#step .alternative:enabled").first
    text = other.inner_text().removeprefix("“").removesuffix("”")
    other.click()
    expect(page.locator(".written > i.picked")).to_have_count(1)
    expect(page.locator("#said")).to_contain_text("20 tokens")
    branched = written(page)
    assert branched[:5] == first[:5]
    assert branched[5] == text
    page.locator(".branches button").click()
    assert written(page) == first
    page.locator(".branches button").click()
    assert written(page) == branched


def test_another_model_gets_the_same_text(page):
    page.goto("/explain")
    page.get_by_label("Text to explain").fill("Half typed")
    page.get_by_label("model").select_option("other")
    page.locator(".chain b.nats").wait_for()
    assert page.get_by_label("Text to explain").input_value() == "Half typed"
    expect(page).to_have_url(re.compile("model=other"))


def test_a_model_that_is_not_served_is_named(page):
    page.goto("/explain?model=runs%2Fgone&text=abc")
    expect(page.get_by_role("alert")).to_contain_text("runs/gone is not served now. This is tiny.")


def test_characters_of_several_tokens_are_read(page):
    page.goto("/generate")
    texts = ["a", r"bytes:\xc3", r"bytes:\xa9", "b", r"bytes:\xe2\x82", r"bytes:\xff", "bytes:"]
    assert characters(page, texts) == ["a", "é", "", "b", r"\xe2\x82", r"\xff", ""]


def test_the_filters_are_seen_in_the_distribution(page):
    page.goto("/generate?length=3&top_k=2")
    page.get_by_label("Prompt").fill("The old")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#step")).to_contain_text("The filters kept 2 tokens")
    after = page.locator("#step tbody tr td:nth-child(4)").all_inner_texts()
    assert after[2:] == ["cut off"] * len(after[2:])
    shares = [float(each.removesuffix(" %")) for each in after[:2]]
    assert sum(shares) == pytest.approx(100, abs=0.2)


def test_two_models_are_compared_as_on_the_command_line(page, server):
    text = TEXT * 4
    page.goto("/compare")
    page.get_by_label("Text", exact=True).fill(text)
    page.get_by_role("button", name="Compare").click()
    page.locator("#result .tokens").wait_for()
    models = [(each.model, each.tokenizer) for each in server.engine.served.values()]
    wanted = compare(*models, text, names=tuple(server.engine.served))
    said = page.locator("#result").inner_text()
    assert wanted.verdict in said
    assert f"{wanted.bits_per_byte_a:.4f}" in said
    assert f"{wanted.bits_per_byte_b:.4f}" in said


def test_errors_say_what_to_do(page):
    page.goto("/explain")
    page.get_by_role("button", name="Explain", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("Type one above")
    page.goto("/generate")
    page.get_by_label("Prompt").fill("x" * 80)
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert")).to_contain_text("give a shorter prompt")
    page.goto("/guess")
    page.get_by_label("Text", exact=True).fill("a")
    page.get_by_role("button", name="Play").click()
    expect(page.get_by_role("alert")).to_contain_text("Give a longer one")


def test_text_of_a_model_or_a_user_is_never_html(page):
    page.goto(f"/explain?text={quote('<img src=x onerror=alert(1)><b>bold</b>')}")
    page.locator(".chain b.nats").wait_for()
    assert page.locator("#result img, #result .tokens b").count() == 0
    assert "".join(page.locator(".explanation .tokens > i").all_inner_texts()).startswith("<img")


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_views_are_accessible_and_fit(browser, server, width, scheme):
    context = browser.new_context(
        base_url=server.address, viewport={"width": width, "height": 800}, color_scheme=scheme
    )
    page = context.new_page()
    fill: dict[str, tuple[str, str]] = {
        "explain": (f"text={quote(TEXT)}", ".chain b.nats"),
        "learn": ("lesson=3", ".formula"),
        "guess": (f"text={quote(TEXT)}", "#answer"),
        "generate": ("", "#prompt"),
        "compare": (f"b=other&text={quote(TEXT)}", "#result .tokens"),
    }
    assert tuple(fill) == VIEWS
    for name, (values, awaited) in fill.items():
        page.goto(f"/{name}?{values}")
        page.locator(awaited).wait_for()
        if name == "generate":
            generated(page)
        faults = [
            (name, fault["id"], fault["nodes"][0]["html"])
            for fault in Axe().run(page).response["violations"]
            if fault["impact"] in ("serious", "critical")
        ]
        assert faults == []
        assert page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0, name
    context.close()


def test_bytes_of_a_model_of_bytes_are_named_as_explain_names_them(page):
    page.goto(f"/explain?text={quote('né')}")
    page.locator(".chain b.nats").wait_for()
    chosen(page, 2)
    assert "\\xa9" in page.locator("#steps h2").inner_text()
    assert BYTES.encode("é") == [0xC3, 0xA9]


def test_the_page_of_an_explanation_can_be_kept(page, tmp_path):
    explained(page)
    with page.expect_download() as waited:
        page.get_by_role("button", name="download HTML").click()
    waited.value.save_as(tmp_path / "kept.html")
    loss = page.locator(".answers").inner_text()
    kept = (tmp_path / "kept.html").read_text(encoding="utf-8")
    assert "This page holds all that it shows" in kept
    assert re.search(r"[\d.]+ nats per token", loss)[0] in kept
