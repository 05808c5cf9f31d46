"""The Dagster UI in a Chromium that is installed on the machine, as the browser test and the screenshots open it."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager

from playwright.sync_api import Page, Playwright

GROUPS = ("ledgers", "features", "predictions", "interventions")
PATIENCE_MS = 90_000
_BROWSERS = ("chromium", "google-chrome", "chromium-browser")
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def open_browser(playwright: Playwright) -> Generator[Page]:
    """A page of a headless browser."""
    path = next(path for name in _BROWSERS if (path := shutil.which(name)))
    browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
    try:
        page = browser.new_page(viewport={"width": 1920, "height": 1000})
        page.set_default_timeout(PATIENCE_MS)
        yield page
    finally:
        browser.close()


def open_asset_graph(page: Page, address: str) -> None:
    """Show the graph of all assets with every group unfolded."""
    page.goto(f"{address}/asset-groups", timeout=PATIENCE_MS)
    for group in GROUPS:
        page.locator("svg").get_by_text(group, exact=True).first.click()
        page.wait_for_timeout(2_000)  # the graph is laid out anew
    page.get_by_text("retention_emails").first.wait_for()
    page.wait_for_timeout(4_000)
