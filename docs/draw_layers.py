"""Draws `docs/layers.svg`, the picture of who may import whom, from the import contracts in pyproject.toml.

`make layers` writes it; a test compares it with the contracts.
"""

import tomllib
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "layers.svg"

_WIDTH, _MARGIN, _ROW, _GAP, _NOTES = 780, 16, 38, 8, 34
_COLOURS = {"dagster": "#dbe4ff", "streamlit": "#ffe3e3", None: "#f1f3f5"}


def layers_of(contracts: list[dict[str, Any]]) -> list[list[str]]:
    """The layers from top to bottom, each with the modules that stand side by side in it."""
    layered = next(contract for contract in contracts if contract["type"] == "layers")
    return [[module.strip() for module in layer.split("|")] for layer in layered["layers"]]


def picture(pyproject: str) -> str:
    """The SVG for the text of a pyproject.toml."""
    contracts: list[dict[str, Any]] = tomllib.loads(pyproject)["tool"]["importlinter"]["contracts"]
    layers = layers_of(contracts)
    height = _MARGIN * 2 + len(layers) * (_ROW + _GAP) + _NOTES
    boxes = "\n".join(
        _box(module, row, place, len(layer), _library(module, contracts))
        for row, layer in enumerate(layers)
        for place, module in enumerate(layer)
    )
    legend = "Each layer may import those beneath it. Blue: may import Dagster. Red: may import Streamlit."
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" \
role="img" aria-label="The layers of churn_assets" font-family="system-ui, sans-serif" font-size="15">
<rect width="{_WIDTH}" height="{height}" rx="8" fill="#ffffff" stroke="#dee2e6"/>
{boxes}
<text x="{_MARGIN}" y="{height - _MARGIN}" fill="#495057" font-size="13">{legend}</text>
</svg>
"""


def _library(module: str, contracts: list[dict[str, Any]]) -> str | None:
    """The library that `module` may import and that is forbidden to others."""
    for contract in contracts:
        for library in ("dagster", "streamlit"):
            if library in contract.get("forbidden_modules", ()):
                forbidden = {name.removeprefix("churn_assets.") for name in contract["source_modules"]}
                if module not in forbidden:
                    return library
    return None


def _box(module: str, row: int, place: int, places: int, library: str | None) -> str:
    width = (_WIDTH - 2 * _MARGIN - (places - 1) * _GAP) / places
    x, y = _MARGIN + place * (width + _GAP), _MARGIN + row * (_ROW + _GAP)
    return (
        f'<rect x="{x:g}" y="{y}" width="{width:g}" height="{_ROW}" rx="6" fill="{_COLOURS[library]}" stroke="#adb5bd"/>'
        f'<text x="{x + width / 2:g}" y="{y + 24}" text-anchor="middle" fill="#212529">{escape(module)}</text>'
    )


def main() -> None:
    """Write the picture."""
    PICTURE.write_text(picture((ROOT / "pyproject.toml").read_text()))


if __name__ == "__main__":
    main()
