"""Runs come in; pictures of the lens's views, at three widths, light and dark, go out: docs/lens/*.png.

python benchmarks/lens_pictures.py RUN OTHER [--runs FOLDER]: needs Chromium, playwright and Pillow.
"""

import argparse
import contextlib
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from urllib.parse import quote

from PIL import Image
from playwright.sync_api import Page, sync_playwright
from tables import ROOT

WIDTHS = {400: 800, 900: 800, 1600: 1000}
"""Width: height, in pixels."""
COLOURS = 64
"""Of a picture: text and flat colours need no more, and the file has a third of the size."""
TEXT = "ROMEO:\nBut, soft! what light through yonder window breaks?\nIt is the east, and Juliet is the sun."


@contextlib.contextmanager
def server(models: list[str], runs: str | None) -> Generator[str]:
    """The address of a server that runs meanwhile."""
    call = [sys.executable, "-m", "lucidlm", "serve", *models, "--port", "0"]
    call += [] if runs is None else ["--runs", runs]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    yield found[0]
                    break
        finally:
            process.terminate()


def explain(page: Page) -> None:
    """A text, with a token chosen that surprised the model."""
    page.goto(f"/explain?text={quote(TEXT)}")
    page.locator(".chain b.nats").wait_for()


def learn(page: Page) -> None:
    """A lesson."""
    page.goto("/learn?lesson=3")
    page.locator(".formula").wait_for()


def guess(page: Page) -> None:
    """After a round of the game."""
    page.goto(f"/guess?text={quote(TEXT)}")
    page.get_by_label("The next token is").fill("light")
    page.get_by_role("button", name="Reveal").click()
    page.locator("#round").wait_for()


def generate(page: Page) -> None:
    """A text with the distribution of one of its tokens."""
    page.goto("/generate?prompt=ROMEO%3A&seed=7&length=60&top_p=0.9")
    page.get_by_role("button", name="Generate").click()
    page.locator("#step table").wait_for()
    page.locator(".written > i").nth(8).click()


def compare(page: Page) -> None:
    """Two models on one text."""
    page.goto(f"/compare?text={quote(TEXT * 3)}")
    page.get_by_role("button", name="Compare").click()
    page.locator("#result .tokens").wait_for()


def train(page: Page) -> None:
    """The curves of the latest run."""
    page.goto("/train")
    page.locator("#curves .main-svg").first.wait_for()
    page.wait_for_timeout(500)


def data(page: Page) -> None:
    """A file that was read."""
    page.goto("/data")
    page.locator("#file").set_input_files(ROOT / "lucidlm" / "text" / "assets" / "story.txt")
    page.locator("#split").wait_for()


VIEWS: dict[str, Callable[[Page], None]] = {
    "explain": explain, "learn": learn, "guess": guess, "generate": generate, "compare": compare,
    "train": train, "data": data,
}  # fmt: skip


def main() -> None:
    """Writes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs=2)
    parser.add_argument("--runs")
    given = parser.parse_args()
    folder = ROOT / "docs" / "lens"
    folder.mkdir(exist_ok=True)
    with server(given.models, given.runs) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for scheme in ("light", "dark"):
            for width, height in WIDTHS.items():
                context = browser.new_context(
                    base_url=address, viewport={"width": width, "height": height}, color_scheme=scheme
                )
                page = context.new_page()
                for name, show in VIEWS.items():
                    show(page)
                    page.evaluate("() => scrollTo(0, 0)")
                    picture = Image.open(io.BytesIO(page.screenshot()))
                    small = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
                    small.save(folder / f"{name}-{width}-{scheme}.png", optimize=True)
                context.close()
        browser.close()


if __name__ == "__main__":
    main()
