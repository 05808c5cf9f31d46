"""Writes docs/reliability.md: the faults of docs/faults.yaml, with what their tests found when this ran.

`make reliability` runs all of them; it needs the machine for itself. `make reliability ARGS="order 'engine ends'"` runs those
whose name has one of these texts, and the others keep their results.
"""

import re
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
_ROW = re.compile(r"^\| (.*?) \| .* \| (.*?) \|$", re.MULTILINE)
_COLUMNS = ("fault", "how", "lost", "doubled", "what was said", "how it goes on", "result")


def faults() -> list[dict[str, Any]]:
    """The parts of the table, each with its faults."""
    return yaml.safe_load((DOCS / "faults.yaml").read_text())


def rows() -> Iterator[dict[str, Any]]:
    """Every fault."""
    for part in faults():
        yield from part["faults"]


def page(results: dict[str, str], when: str) -> str:
    """The page. `results` has what is said of each fault in the last column."""
    all_passed = all(result.startswith("passed") for result in results.values())
    verdict = "all of them passed" if all_passed else "NOT all of them passed, see the last column"
    lines = [
        "# Reliability",
        "",
        f"{len(results)} faults, and what became of the messages and the people when each was caused.",
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
                results[row["fault"]],
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


def kept() -> dict[str, str]:
    """What the page says now, by fault."""
    file = DOCS / "reliability.md"
    return dict(_ROW.findall(file.read_text())) if file.exists() else {}


def run(chosen: list[dict[str, Any]]) -> dict[str, str]:
    """Run the tests of faults, and say of each what became of it.

    Those of Apache Kafka run by themselves, because with --kafka all tests of ingestion run against it. A test that failed is
    run again by itself, because a busy machine makes some of them wait too long; the page says so.
    """
    results: dict[str, list[str]] = {}
    for kafka in (False, True):
        tests = sorted({test for row in chosen if bool(row.get("kafka")) == kafka for test in row["tests"]})
        found = _outcomes(tests, kafka, "-n", "2", "--dist", "loadfile") if tests else {}
        if failed := sorted(name for name, outcome in found.items() if outcome != "passed"):
            again = _outcomes(failed, kafka)
            found |= {name: "again" if outcome == "passed" else outcome for name, outcome in again.items()}
        for name, outcome in found.items():
            for known in {name.partition("::")[0], name, name.partition("[")[0]} & set(tests):
                results.setdefault(known, []).append(outcome)
    return {row["fault"]: _in_words([one for test in row["tests"] for one in results.get(test, [])]) for row in chosen}


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


def main() -> None:
    """Run what the arguments name, or everything, and write the page."""
    names = sys.argv[1:]
    chosen = [row for row in rows() if not names or any(name in row["fault"] for name in names)]
    results = {row["fault"]: "NOT RUN" for row in rows()} | (kept() if names else {}) | run(chosen)
    known = {row["fault"]: results[row["fault"]] for row in rows()}
    (DOCS / "reliability.md").write_text(page(known, f"{datetime.now(UTC):%Y-%m-%d}"))


if __name__ == "__main__":
    main()
