"""How long a person waits for the dashboard, in a real browser: the first paint and each tab, over a bank of 100,000 customers.

`make benchmark-dashboard ARGS="--customers 100000 --rounds 5"`. Each round is a new browser, so nothing is in its cache; the
server runs on, as it does for the second visitor of a morning. Before each round one row is written, so that no result can be
taken from the server's cache. `--home` takes a home that is there already.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from playwright.sync_api import Page, sync_playwright

from churn_assets.analyst.risk_trend import count_risk
from churn_assets.clock import utc_now
from churn_assets.deployment import deploy
from churn_assets.retention.desk import make_desk
from churn_assets.retention.emails import write_emails
from churn_assets.retention.queue import fill_queue
from churn_assets.settings import Settings, load_settings
from churn_assets.simulator.seeding import new_bank, seed
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.browser import open_browser
from churn_assets_tests.dashboard.served import served_dashboard


def main(
    customers: Annotated[int, typer.Option(help="Customers of the bank.")] = 100_000,
    days: Annotated[int, typer.Option(help="Days of its history.")] = 60,
    rounds: Annotated[int, typer.Option(min=1, help="New browsers.")] = 5,
    home: Annotated[Path | None, typer.Option(help="A home with a bank, instead of a new one.")] = None,
) -> None:
    """Print the median and the largest wait for each step, in seconds."""
    with TemporaryDirectory(prefix="churn-dashboard-") as folder:
        settings = load_settings(CHURN_HOME=home or Path(folder))
        if home is None:
            _make_bank(settings, customers, days)
        lake = LakeWarehouse(settings.lake_path)
        counted = lake.query("SELECT count(*) AS n FROM dyn_churn_predictions")["n"][0].as_py()
        waits: dict[str, list[float]] = {}
        with served_dashboard(settings) as address, sync_playwright() as playwright:
            for number in range(rounds + 1):
                count_risk(lake, utc_now())
                with open_browser(playwright) as page:
                    page.set_viewport_size({"width": 1440, "height": 900})
                    for step, seconds in _round(page, address):
                        # The first visitor after the server's start also waits for connections to be opened.
                        waits.setdefault(f"{step}, first visitor" if number == 0 else step, []).append(seconds)
    print(f"{counted:,} customers on the books, {rounds} browsers, seconds: median, largest")  # noqa: T201
    for step, seconds in waits.items():
        print(f"  {step:45} {statistics.median(seconds):5.2f} {max(seconds):5.2f}")  # noqa: T201


def _round(page: Page, address: str) -> list[tuple[str, float]]:
    def timed(act: Callable[[], object], until: Callable[[], object]) -> float:
        began = time.monotonic()
        act()
        until()
        return time.monotonic() - began

    def shows(text: str) -> Callable[[], object]:
        return page.get_by_text(text).first.wait_for

    def tab(name: str) -> Callable[[], object]:
        return page.get_by_role("link", name=name).first.click

    found = [
        (
            "first meaningful paint (figures)",
            timed(lambda: page.goto(address, wait_until="commit"), shows("At high risk")),
        )
    ]
    found.append(("Overview, all of it", found[0][1] + timed(lambda: None, shows("Do emails keep customers?"))))
    found.append(("Customers", timed(tab("Customers"), shows("Choose a row to open the customer"))))
    page.get_by_test_id("stDataFrame").first.wait_for()
    found.append(("Interventions", timed(tab("Interventions"), shows("What was done"))))
    found.append(("Ask", timed(tab("Ask"), lambda: page.get_by_label("Question").wait_for())))
    page.get_by_label("Question").fill("How many customers are in each class of risk?")
    found.append(
        ("a question", timed(lambda: page.get_by_role("button", name="Ask").click(), shows("Went to the figures")))
    )
    customer = f"{address}/customers?customer=C00000001"
    found.append(
        ("one customer, by its address", timed(lambda: page.goto(customer, wait_until="commit"), shows("Transactions")))
    )
    return found


def _make_bank(settings: Settings, customers: int, days: int) -> None:
    lake, now = LakeWarehouse(settings.lake_path), utc_now()
    lake.deploy()
    seed(
        lake,
        new_bank(customers, days, 1, now),
        now,
        lambda ledger, rows: print(f"  {ledger}: {rows:,}", file=sys.stderr),  # noqa: T201
    )
    deploy(settings, lake, lambda _: None)
    lake.transact(lambda tx: fill_queue(tx, now))
    write_emails(lake, make_desk(settings), now.date(), now)


if __name__ == "__main__":
    typer.run(main)
