"""Takes the README's pictures from a running demo, with a Chromium that is installed on the machine."""

import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from churn_assets_tests.browser import open_asset_graph, open_browser

HERE = Path(__file__).parent


def main(address: str = "http://127.0.0.1:3000", dashboard: str = "http://127.0.0.1:8501") -> None:
    """Write the pictures of the asset graph and of the dashboard."""
    with sync_playwright() as playwright, open_browser(playwright) as page:
        open_asset_graph(page, address)
        page.screenshot(path=str(HERE / "asset-graph.png"))
    with sync_playwright() as playwright, open_browser(playwright) as page:
        page.set_viewport_size({"width": 1366, "height": 1300})
        _take(page, dashboard, "Do emails keep customers?", "dashboard-overview")
        _take(page, f"{dashboard}/interventions", "Past interventions", "dashboard-interventions")
        page.goto(f"{dashboard}/ask")
        page.get_by_text("Which ten customers are most at risk").click()
        page.get_by_text("From the figures").wait_for()
        page.wait_for_timeout(2_000)
        page.screenshot(path=str(HERE / "dashboard-ask.png"))
        page.goto(f"{dashboard}/customers")
        page.get_by_text("Choose a row to open").wait_for()
        page.wait_for_timeout(2_000)
        table = page.get_by_test_id("stDataFrame").first.bounding_box()
        assert table is not None
        page.mouse.click(table["x"] + 16, table["y"] + 52)
        page.get_by_text("Transactions").first.wait_for()
        page.wait_for_timeout(3_000)
        page.screenshot(path=str(HERE / "dashboard-customer.png"))


def _take(page: Page, address: str, last: str, name: str) -> None:
    page.goto(address)
    page.get_by_text(last).first.wait_for()
    page.wait_for_timeout(3_000)  # charts are drawn after they are there
    page.screenshot(path=str(HERE / f"{name}.png"))


if __name__ == "__main__":
    main(*sys.argv[1:])
