"""Pages in the system's own Chromium, and what must not happen on them."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page


def visited(browser: Browser, address: str) -> Iterator[Page]:
    """A page that must end without an error in the console or a request to another host."""
    context = browser.new_context(base_url=address, viewport={"width": 1000, "height": 800})
    context.set_default_timeout(60_000)
    page, faults = context.new_page(), []
    # The browser notes every request that is refused; what a view makes of it is tested.
    refused = "Failed to load resource: the server responded with a status of 400"
    page.on(
        "console",
        lambda message: (
            faults.append(message.text)
            if message.type == "error" and not message.text.startswith(refused)
            else None
        ),
    )
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda asked: faults.append(asked.url) if not local(asked.url) else None)
    yield page
    context.close()
    assert faults == []


def local(url: str) -> bool:
    return urlsplit(url).hostname in ("127.0.0.1", None)
