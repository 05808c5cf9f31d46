"""The Dagster UI of a running demo in a real browser: `make test-ui`."""

import shutil

import pytest
from playwright.sync_api import Page, sync_playwright

from churn_assets_tests.test_end_to_end import Demo, committed

pytestmark = pytest.mark.ui
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SECONDS = 1000


@pytest.fixture
def page():
    path = next(path for name in ("chromium", "google-chrome", "chromium-browser") if (path := shutil.which(name)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser.new_page(viewport={"width": 1920, "height": 1000})
        browser.close()


def test_a_person_finds_an_email_and_its_checks_in_the_browser(tmp_path, page: Page):
    demo = Demo(tmp_path / "home")
    try:
        demo.wait_until(lambda s: s["emails"]["total"] > 0 and committed(s) > 0)
        page.goto(f"{demo.address}/asset-groups", timeout=60 * SECONDS)
        for asset in ("bank_transactions", "fact_transaction_ledger", "dyn_customer_features", "retention_emails"):
            page.get_by_text(asset, exact=True).first.wait_for(timeout=60 * SECONDS)

        page.goto(f"{demo.address}/assets/retention_emails?view=checks", timeout=60 * SECONDS)
        page.get_by_text("one_email_in_7_days").first.wait_for(timeout=60 * SECONDS)

        page.goto(f"{demo.address}/assets/dyn_churn_predictions?view=overview", timeout=60 * SECONDS)
        page.get_by_text("reason_codes").first.wait_for(timeout=60 * SECONDS)
        assert demo.stop() == 0
    finally:
        demo.kill()
