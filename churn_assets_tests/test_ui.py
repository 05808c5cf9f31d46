"""The Dagster UI of a running demo in a real browser: `make test-ui`."""

import pytest
from playwright.sync_api import sync_playwright

from churn_assets_tests.browser import open_asset_graph, open_browser
from churn_assets_tests.test_end_to_end import Demo, committed

pytestmark = pytest.mark.ui


def test_a_person_finds_the_graph_an_email_and_its_checks_in_the_browser(tmp_path):
    demo = Demo(tmp_path / "home")
    try:
        demo.wait_until(lambda s: s["emails"]["total"] > 0 and committed(s) > 0)
        with sync_playwright() as playwright, open_browser(playwright) as page:
            open_asset_graph(page, demo.address)
            # Where the whole graph is shown, long names are cut.
            for asset in ("bank_transactions", "dim_customers", "customer_day", "retention_emails"):
                page.get_by_text(asset, exact=True).first.wait_for()

            page.goto(f"{demo.address}/assets/retention_emails?view=checks")
            page.get_by_text("one_email_in_7_days").first.wait_for()

            page.goto(f"{demo.address}/assets/dyn_churn_predictions?view=overview")
            page.get_by_text("reason_codes").first.wait_for()
        assert demo.stop() == 0
    finally:
        demo.kill()
