"""Makes the site of the same pages that a code host shows.

Here belongs what differs between the two: the pages of the repository's root become pages of the site, and a link to any
other file of the repository leads to a page with its text.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
# Page outside of docs -> its name in the site, where `index` is docs/index.md.
ROOT_PAGES = {"README.md": "start.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"} | {
    "SECURITY.md": "security.md",
    "dagster_warm/README.md": "dagster_warm.md",
}
_LINK = re.compile(r"(\]\()([^)\s#]+)([^)\s]*\))")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the root's pages and every decision into the navigation."""
    assert config.nav is not None
    decisions = sorted((ROOT / "docs" / "adr").glob("*.md"), key=lambda path: (path.stem != "index", path.stem))
    there = [ROOT_PAGES[name] for name in ROOT_PAGES if (ROOT / name).exists()]
    config.nav.insert(1, {"Start": there[0]})
    config.nav += [{"Decisions": [f"adr/{path.name}" for path in decisions]}, {"Project": there[1:]}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the root's pages, and the files of the repository that any page links to."""
    for name, page in ROOT_PAGES.items():
        if (ROOT / name).exists():
            files.append(File.generated(config, page, content=(ROOT / name).read_text()))
    linked = {path for file in files.documentation_pages() for path in _linked_paths(file.content_string, file.src_uri)}
    for path in sorted(linked):
        if _in_site(path) not in files.src_uris and (ROOT / path).is_file():
            files.append(_not_in_nav(config, path))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links within the repository into links within the site."""
    here = page.file.src_uri

    def moved(link: re.Match[str]) -> str:
        path = _repository_path(link[2], here)
        if path is None:
            return link[0]
        return link[1] + posixpath.relpath(_in_site(path), posixpath.dirname(here) or ".") + link[3]

    return _outside_fences(markdown, lambda text: _LINK.sub(moved, text))


def _outside_fences(markdown: str, change: Any) -> str:
    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [change(markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(markdown[end:])])


def _linked_paths(markdown: str, page: str) -> list[str]:
    """The paths in the repository that a page of the site links to."""
    return [
        path
        for link in _LINK.finditer(_FENCE.sub("", markdown))
        if (path := _repository_path(link[2], page)) is not None
    ]


def _repository_path(target: str, page: str) -> str | None:
    """The path from the repository's root of a link's target; None for an address or what leads out of it."""
    if re.match(r"[a-z]+:", target):
        return None
    names = {of_site: name for name, of_site in ROOT_PAGES.items()}
    here = posixpath.dirname(names.get(page) or f"docs/{page}")
    path = posixpath.normpath(posixpath.join(here, target))
    return None if path.startswith("..") else path


def _in_site(path: str) -> str:
    """Where the site has a file of the repository."""
    if path in ROOT_PAGES:
        return ROOT_PAGES[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else f"source/{path}.md"


def _not_in_nav(config: MkDocsConfig, path: str) -> File:
    return File.generated(config, _in_site(path), content=_as_page(path), inclusion=InclusionLevel.NOT_IN_NAV)


def _as_page(path: str) -> str:
    language = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".sql": "sql", ".toml": "toml"}.get(
        Path(path).suffix, ""
    )
    return f"# {path}\n\n````{language}\n{(ROOT / path).read_text()}\n````\n"
