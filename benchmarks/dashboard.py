"""How long a person waits for the dashboard, in a real browser: the first paint and each tab, over a bank of 100,000 customers.

`make benchmark-dashboard ARGS="--customers 100000 --rounds 5"`. Each round is a new browser, so nothing is in its cache; the
server runs on, as it does for the second visitor of a morning. Before each step something is written, so that no result can be
taken from the server's cache. Beside it stands a page of Streamlit with one figure and no query, which no page can be faster
than. `--home` takes a home that is there already.
"""

import statistics
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from playwright.sync_api import Page, sync_playwright

from churn_assets.clock import utc_now
from churn_assets.operations.lake import deploy
from churn_assets.retention.emails import write_emails
from churn_assets.retention.queue import fill_queue
from churn_assets.serving.risk_trend import count_risk
from churn_assets.settings import Settings, load_settings
from churn_assets.simulator.seeding import new_bank, seed
from churn_assets.wiring import make_email_run, open_lake
from churn_assets_tests.browser import open_browser
from churn_assets_tests.dashboard.served import served, served_dashboard


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
        lake = open_lake(settings.lake_path)
        counted = lake.query("SELECT count(*) AS n FROM dyn_churn_predictions")["n"][0].as_py()
        empty = Path(folder) / "empty.py"
        empty.write_text('import streamlit as st\nst.metric("At high risk", 0)\n')
        streamlit = [sys.executable, "-m", "streamlit", "run", str(empty), "--server.headless=true"]
        streamlit += ["--browser.gatherUsageStats=false", "--server.fileWatcherType=none", "--server.port"]
        waits: dict[str, list[float]] = {}
        with (
            served_dashboard(settings) as address,
            served(streamlit, {}) as empty_page,
            sync_playwright() as playwright,
        ):
            for number in range(rounds + 1):
                with open_browser(playwright) as page:
                    page.set_viewport_size({"width": 1440, "height": 900})
                    for step, seconds in _round(page, address, empty_page, lambda: count_risk(lake, utc_now())):
                        if number:  # the first visitor after the server's start also waits for connections
                            waits.setdefault(step, []).append(seconds)
    print(f"{counted:,} customers on the books, {rounds} browsers, seconds: median, largest")  # noqa: T201
    for step, seconds in waits.items():
        print(f"  {step:62} {statistics.median(seconds):5.2f} {max(seconds):5.2f}")  # noqa: T201


def _round(
    page: Page, address: str, empty_page: str, write: Callable[[], object]
) -> Generator[tuple[str, float], None, None]:
    def timed(act: Callable[[], object], shown: str) -> float:
        write()
        began = time.monotonic()
        act()
        page.get_by_text(shown).first.wait_for()
        return time.monotonic() - began

    def opened(place: str) -> Callable[[], object]:
        return lambda: page.goto(place, wait_until="commit")

    def tab(name: str) -> Callable[[], object]:
        return page.get_by_role("link", name=name).first.click

    yield "an empty page of Streamlit, browser that was never here", timed(opened(empty_page), "At high risk")
    yield "an empty page of Streamlit, browser that was here before", timed(opened(empty_page), "At high risk")
    yield "first meaningful paint, browser that was never here", timed(opened(address), "At high risk")
    yield "first meaningful paint, browser that was here before", timed(opened(address), "At high risk")
    yield "Customers", timed(tab("Customers"), "Choose a row to open the customer")
    yield "Interventions", timed(tab("Interventions"), "Past interventions")
    yield "Overview, all of it", timed(tab("Overview"), "Do emails keep customers?")
    yield "Ask", timed(tab("Ask"), "Ask for figures on")
    page.get_by_label("Question").fill("How many customers are in each class of risk?")
    yield "a question", timed(page.get_by_role("button", name="Ask").click, "From the figures")
    yield "one customer, by its address", timed(opened(f"{address}/customers?customer=C00000001"), "Transactions")


def _make_bank(settings: Settings, customers: int, days: int) -> None:
    lake, now = open_lake(settings.lake_path), utc_now()
    lake.deploy()
    seed(
        lake,
        new_bank(customers, days, 1, now),
        now,
        lambda ledger, rows: print(f"  {ledger}: {rows:,}", file=sys.stderr),  # noqa: T201
    )
    deploy(settings, lake, lambda _: None)
    lake.transact(lambda tx: fill_queue(tx, now))
    write_emails(lake, make_email_run(settings, lake), now.date(), now)


if __name__ == "__main__":
    typer.run(main)
