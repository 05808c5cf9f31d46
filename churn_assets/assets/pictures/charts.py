"""Small charts for an asset's metadata. Here belongs the drawing, not what is drawn.

Lines and bars are SVG written by hand. Every refresh leaves a chart in Dagster's event log, so it must be about a kilobyte, and a
run must not pay a second for importing a plotting library. Dagster itself plots the numbers of single materializations.
"""

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import dagster as dg

_WIDTH, _HEIGHT, _LEFT = 640, 90, 70


def line_charts(series: Mapping[str, Sequence[float | None]], caption: str) -> dg.MarkdownMetadataValue:
    """Charts one below the other, each with its name and its largest value. None is a gap, a single value a dot."""
    parts: list[str] = []
    for number, (name, values) in enumerate(series.items()):
        top = number * (_HEIGHT + 30) + 20
        largest = max((value for value in values if value is not None), default=0.0)
        parts.append(f"<text x='{_LEFT}' y='{top - 6}'>{name}</text>")
        parts.append(f"<text x='{_LEFT - 6}' y='{top + 8}' text-anchor='end'>{largest:.3g}</text>")
        parts.append(f"<text x='{_LEFT - 6}' y='{top + _HEIGHT}' text-anchor='end'>0</text>")
        parts.append(f"<path d='M{_LEFT} {top}v{_HEIGHT}h{_WIDTH - _LEFT}' stroke='#888'/>")
        parts.append(f"<path d='{_path(values, largest, top)}' stroke='#4f43dd' stroke-width='3'/>")
    return _svg(parts, len(series) * (_HEIGHT + 30), caption)


def bar_charts(series: Mapping[str, Sequence[int]], labels: Sequence[str], caption: str) -> dg.MarkdownMetadataValue:
    """Charts of counts one below the other, each with its name and its largest count, and a label below each bar."""
    parts: list[str] = []
    step = (_WIDTH - _LEFT) / len(labels)
    for number, (name, counts) in enumerate(series.items()):
        top = number * (_HEIGHT + 45) + 20
        largest = max(counts, default=0)
        parts.append(f"<text x='{_LEFT}' y='{top - 6}'>{name}</text>")
        parts.append(f"<text x='{_LEFT - 6}' y='{top + 8}' text-anchor='end'>{largest:,}</text>")
        parts.append(f"<path d='M{_LEFT} {top}v{_HEIGHT}h{_WIDTH - _LEFT}' stroke='#888'/>")
        for place, (count, label) in enumerate(zip(counts, labels, strict=True)):
            x, high = _LEFT + place * step + 4, count / (largest or 1) * _HEIGHT
            parts.append(
                f"<path d='M{x:.0f} {top + _HEIGHT}v-{high:.0f}h{step - 8:.0f}V{top + _HEIGHT}z' fill='#4f43dd'/>"
            )
            parts.append(
                f"<text x='{x + step / 2 - 4:.0f}' y='{top + _HEIGHT + 14}' text-anchor='middle'>{label}</text>"
            )
    return _svg(parts, len(series) * (_HEIGHT + 45), caption)


def png_of(figure: Any) -> bytes:
    """A figure of Matplotlib as PNG."""
    stored = BytesIO()
    figure.savefig(stored, format="png")
    return stored.getvalue()


def picture(png: bytes, caption: str, words: str) -> dg.MarkdownMetadataValue:
    """A picture that a plotting library has drawn, with words below it."""
    return dg.MetadataValue.md(f"![{caption}](data:image/png;base64,{base64.b64encode(png).decode()})\n\n{words}")


def _svg(parts: Sequence[str], height: int, caption: str) -> dg.MarkdownMetadataValue:
    svg = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {height}' width='{_WIDTH}' height='{height}'"
        f" font-family='sans-serif' font-size='12' fill='none' stroke-linecap='round'>"
        f"<style>text{{fill:#888}}</style>{''.join(parts)}</svg>"
    )
    return dg.MetadataValue.md(
        f"![{caption}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})\n\n{caption}"
    )


def _path(values: Sequence[float | None], largest: float, top: int) -> str:
    step = (_WIDTH - _LEFT - 4) / max(len(values) - 1, 1)
    path, pen_is_down = "", False
    for place, value in enumerate(values):
        if value is not None:
            x, y = _LEFT + place * step, top + _HEIGHT - value / (largest or 1.0) * _HEIGHT
            path += f"{'L' if pen_is_down else 'M'}{x:.0f} {y:.0f}{'' if pen_is_down else 'h0'}"
        pen_is_down = value is not None
    return path
