"""Takes the README's picture of the asset graph from a running demo, with a Chromium that is installed on the machine."""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from churn_assets_tests.browser import open_asset_graph, open_browser


def main(address: str = "http://127.0.0.1:3000") -> None:
    """Write `docs/asset-graph.png`."""
    with sync_playwright() as playwright, open_browser(playwright) as page:
        page.set_viewport_size({"width": 2400, "height": 2300})  # the whole graph, in letters that can be read
        open_asset_graph(page, address)
        page.screenshot(path=str(Path(__file__).parent / "asset-graph.png"))


if __name__ == "__main__":
    main(*sys.argv[1:])
