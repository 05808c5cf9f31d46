"""The documentation as a site, and its picture of the layers."""

import importlib.util
import re
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from churn_assets_tests.repository import REPOSITORY

# What a browser would fetch by itself.
FETCHED = re.compile(r"""<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=["']?((?:https?:)?//[^"'\s>]+)""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built in strict mode: a link to nowhere is an error."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    build(load_config(str(REPOSITORY / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


def test_the_site_has_the_readme_and_every_page_of_the_docs(site: Path):
    docs = REPOSITORY / "docs"
    expected = {path.relative_to(docs).with_suffix(".html") for path in docs.glob("**/*.md")}

    assert {*expected, Path("start.html")} <= {path.relative_to(site) for path in site.glob("**/*.html")}


def test_no_page_of_the_site_fetches_anything_from_elsewhere(site: Path):
    fetched = {
        (page.name, address)
        for page in [*site.glob("**/*.html"), *site.glob("**/*.css")]
        for address in [
            *FETCHED.findall(page.read_text()),
            *re.findall(r"url\([\"']?(https?://[^)]+)", page.read_text()),
        ]
    }

    assert not fetched


def test_the_picture_of_the_layers_is_that_of_the_contract():
    spec = importlib.util.spec_from_file_location("draw_layers", REPOSITORY / "docs" / "draw_layers.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    pyproject = (REPOSITORY / "pyproject.toml").read_text()

    assert script.PICTURE.read_text() == script.picture(pyproject), "run `make layers` and commit docs/layers.svg"

    contracts = script.tomllib.loads(pyproject)["tool"]["importlinter"]["contracts"]
    architecture = (REPOSITORY / "docs" / "architecture.md").read_text()
    missing = [module for layer in script.layers_of(contracts) for module in layer if f"`{module}`" not in architecture]
    assert not missing, "say in the table of docs/architecture.md what belongs into these"
