"""The table of faults names tests that exist, and the page says of each that it passed."""

import ast
import re
from functools import cache

import yaml

from churn_assets_tests.repository import REPOSITORY

FAULTS = [fault for part in yaml.safe_load((REPOSITORY / "docs/faults.yaml").read_text()) for fault in part["faults"]]


@cache
def _tests_in(file: str) -> set[str]:
    tree = ast.parse((REPOSITORY / "churn_assets_tests" / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_fault_has_a_test_that_exists():
    named = [test.partition("[")[0].partition("::") for fault in FAULTS for test in fault["tests"]]
    missing = [
        f"{file}::{test}" for file, _, test in named if not _tests_in(file) or (test and test not in _tests_in(file))
    ]

    assert not missing, "correct docs/faults.yaml"
    assert all(fault["tests"] for fault in FAULTS)
    assert len(FAULTS) >= 30


def test_the_page_has_every_fault_and_all_of_them_passed():
    page = (REPOSITORY / "docs/reliability.md").read_text()
    found = dict(re.findall(r"^\| (.*?) \| .* \| (.*?) \|$", page, re.MULTILINE))
    found.pop("fault")

    assert list(found) == [fault["fault"] for fault in FAULTS], "run `make reliability`, or with ARGS what is new"
    assert [fault for fault, result in found.items() if not result.startswith("passed")] == []
