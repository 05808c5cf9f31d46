"""The page from a raw export to written emails is run as it stands, on an export of a bank whose customers go silent."""

import random
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from churn_assets.clock import utc_now
from churn_assets_tests.docs.pages import Page, command_lines
from churn_assets_tests.repository import REPOSITORY

PAGE = Page(REPOSITORY / "docs" / "your-own-bank.md")
WRITTEN = {"yaml": "mapping.yaml", "toml": "churn.toml"}
CUSTOMERS, WEEKS = 1_200, 30
CODES = {"KA": 6, "GA": 2, "LS": 2, "UE": 1, "GS": 2}


def export(folder: Path, now: datetime) -> int:
    """Three files as the page describes them; returns how many postings are final.

    Customers post a few times a week. Each week some begin to use another bank: three weeks later they are silent.
    """
    luck = random.Random(0)
    customers, accounts, postings = [], [], []
    for number in range(CUSTOMERS):
        since = f"{luck.randint(1, 28):02}.{luck.randint(1, 12):02}.{luck.randint(1955, 2019)}"
        name, segment = luck.choice(("Jörg Weiß", "Anna Groß", "Zoë Müller")), luck.choice(("PRIVAT", "JUNG"))
        customers.append(f"K{number:05};{name};k{number:05}@example.com;{segment};{since}")
        accounts.append(f"DE{number:08};K{number:05};GIRO;{since};aktiv")
        leaves = next((week for week in range(3, WEEKS) if luck.random() < 0.03), WEEKS + 9)
        for week in range(WEEKS):
            left_to_do = 1.0 if week < leaves else (leaves + 3 - week) / 4
            for _ in range(round(luck.uniform(2, 5) * max(0.0, left_to_do))):
                when = now - timedelta(weeks=WEEKS - week - 1, minutes=luck.randint(1, 7 * 24 * 60))
                code = luck.choices(list(CODES), list(CODES.values()))[0]
                amount = f"{luck.uniform(1, 2_000):,.2f}".translate(str.maketrans(",.", ".,"))
                sign, status = "" if code == "GS" else "-", "vorgemerkt" if luck.random() < 0.01 else "gebucht"
                postings.append(f"DE{number:08};{when:%d.%m.%Y %H:%M};{code};{sign}{amount};{status}")
    folder.mkdir()
    for name, header, rows in (
        ("kunden.csv", "Kundennummer;Name;E-Mail;Segment;Kunde seit", customers),
        ("konten.csv", "IBAN;Kundennummer;Produkt;Eröffnet am;Zustand", accounts),
        (
            "umsaetze.csv",
            "Beleg;IBAN;Buchungstag;Art;Betrag (EUR);Status",
            [f"B{number:07};{row}" for number, row in enumerate(postings)],
        ),
    ):
        (folder / name).write_text("\n".join([header, *rows, ""]), encoding="latin-1")
    return sum(row.endswith("gebucht") for row in postings)


def script() -> str:
    """The page as a script: its commands, and its files at the places where it shows them."""
    lines = ["set -e"]
    for block in PAGE.blocks():
        if file := WRITTEN.get(block.language):
            lines += [f"cat > {file} <<'END'", block.code.rstrip(), "END"]
        lines += [f"echo '$ {line.split()[0]}' >&2\n{line}" for _, line in command_lines(block)]
    return "\n".join(lines)


@pytest.mark.slow
def test_every_command_of_the_page_leads_from_an_export_to_written_emails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    final = export(tmp_path / "export", utc_now())
    monkeypatch.delenv("CHURN_HOME")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")

    done = subprocess.run(["bash", "-c", script()], cwd=tmp_path, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{final:,} stored, 0 known already, 0 rejected" in done.stdout
    assert "it serves" in done.stdout, done.stdout
    assert "0 written" not in done.stdout
    assert "READY" in done.stdout, "emails wait for approval"
