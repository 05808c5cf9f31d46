"""Takes the README's picture of the asset graph from a running demo, with a Chromium that is installed on the machine."""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

BROWSERS = ("chromium", "google-chrome", "chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def main(address: str = "http://127.0.0.1:3000") -> None:
    """Write `docs/asset-graph.png`."""
    browser_path = next(path for name in BROWSERS if (path := shutil.which(name)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
        page = browser.new_page(viewport={"width": 1920, "height": 1000})
        page.goto(f"{address}/asset-groups")
        page.get_by_text("retention_emails").first.wait_for(timeout=60_000)
        page.wait_for_timeout(5_000)  # the graph is laid out and its states are loaded after the names are there
        page.screenshot(path=str(Path(__file__).parent / "asset-graph.png"))
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
