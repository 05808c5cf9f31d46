"""Writes docs/reliability.md: the faults of docs/faults.yaml, with what their tests found when this ran (`make reliability`)."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

DOCS = Path(__file__).parent
TESTS = "churn_assets_tests"
_RIGHT = {"passed", "again"}
_COLUMNS = ("fault", "how", "lost", "doubled", "what was said", "how it goes on", "result")


def faults() -> list[dict[str, Any]]:
    """The parts of the table, each with its faults."""
    return yaml.safe_load((DOCS / "faults.yaml").read_text())


def rows() -> Iterator[dict[str, Any]]:
    """Every fault."""
    for part in faults():
        yield from part["faults"]


def page(results: dict[str, list[str]], when: str) -> str:
    """The page. `results` has the outcomes by the name of a test, or of a file of tests."""
    outcomes = {row["fault"]: [one for test in row["tests"] for one in results.get(test, [])] for row in rows()}
    all_passed = all(found and set(found) <= _RIGHT for found in outcomes.values())
    verdict = "all of them passed" if all_passed else "NOT all of them passed, see the last column"
    lines = [
        "# Reliability",
        "",
        f"{len(outcomes)} faults, and what became of the messages and the people when each was caused.",
        f"`make reliability` runs the tests and writes this page; the last time on {when}: {verdict}.",
        "`docs/faults.yaml` names the tests of each row. Nothing lost and nothing doubled means that the test compared every",
        "key, email or row with what was sent.",
    ]
    for part in faults():
        lines += ["", f"## {part['part']}", "", f"| {' | '.join(_COLUMNS)} |", f"|{'---|' * len(_COLUMNS)}"]
        for row in part["faults"]:
            cells = [
                row["fault"],
                row["how"],
                str(row.get("lost", 0)),
                str(row.get("doubled", 0)),
                row["said"],
                row["goes_on"],
                _in_words(outcomes[row["fault"]]),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "What has no row here is in [limits](limits.md). What to do when something is red is in the [runbook](runbook.md).",
        "",
    ]
    return "\n".join(lines)


def _in_words(outcomes: list[str]) -> str:
    if not outcomes:
        return "NOT RUN"
    wrong = [outcome for outcome in outcomes if outcome not in _RIGHT]
    if wrong:
        return wrong[0].upper()
    again = outcomes.count("again")
    return f"passed ({len(outcomes)} test{'s' * (len(outcomes) > 1)}{f', {again} when run again by itself' if again else ''})"


def run() -> dict[str, list[str]]:
    """Run the tests: those of Apache Kafka by themselves, because with --kafka all tests of ingestion run against it.

    A test that failed is run again by itself, because a busy machine makes some of them wait too long; the page says so.
    """
    results: dict[str, list[str]] = {}
    for kafka in (False, True):
        tests = sorted({test for row in rows() if bool(row.get("kafka")) == kafka for test in row["tests"]})
        found = _outcomes(tests, kafka, "-n", "2", "--dist", "loadfile")
        if failed := sorted(name for name, outcome in found.items() if outcome != "passed"):
            again = _outcomes(failed, kafka)
            found |= {name: "again" if outcome == "passed" else outcome for name, outcome in again.items()}
        for name, outcome in found.items():
            for known in {name.partition("::")[0], name, name.partition("[")[0]} & set(tests):
                results.setdefault(known, []).append(outcome)
    return results


def _outcomes(tests: list[str], kafka: bool, *options: str) -> dict[str, str]:
    """By test, as FILE::NAME, what became of it: passed, or what JUnit calls it."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "", *options, f"--junitxml={report}"]
        command += ["--kafka", ".tools/kafka"] if kafka else []
        subprocess.run([*command, *(f"{TESTS}/{test}" for test in tests)], check=False, cwd=DOCS.parent)
        return {
            f"{case.attrib['classname'].removeprefix(f'{TESTS}.').replace('.', '/')}.py::{case.attrib['name']}": next(
                (each.tag for each in case), "passed"
            )
            for case in ElementTree.parse(report).iter("testcase")
        }


if __name__ == "__main__":
    (DOCS / "reliability.md").write_text(page(run(), f"{datetime.now(UTC):%Y-%m-%d}"))
