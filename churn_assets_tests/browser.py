"""The Dagster UI in a Chromium that is installed on the machine, as the browser test and the screenshots open it."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from urllib.parse import quote

from playwright.sync_api import Page, Playwright

GROUPS = ("ledgers", "features", "predictions", "interventions", "model", "serving", "maintenance")
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
        page = browser.new_page(viewport={"width": 2400, "height": 1800})
        page.set_default_timeout(PATIENCE_MS)
        yield page
    finally:
        browser.close()


def open_asset_graph(page: Page, address: str) -> None:
    """Show the graph of all assets with every group unfolded."""
    page.set_viewport_size({"width": 2600, "height": 3000})  # what lies outside of the window is not drawn
    unfolded = ",".join(f"global@global:{group}" for group in GROUPS)
    page.goto(f"{address}/asset-groups?expanded={quote(unfolded, safe='')}")
    page.get_by_text("retention_emails").first.wait_for()
    page.wait_for_timeout(6_000)  # the graph is laid out and its states are loaded after the names are there
