"""A report as one HTML file: headings, tables and charts in inline SVG, no network, no script."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

_STYLE = """
:root { --ink: #1c2330; --dim: #667085; --line: #d9dee7; --paper: #ffffff; --panel: #f6f8fb;
  --s0: #2563a8; --s1: #d9722e; --s2: #2e8b6f; --s3: #8a94a6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7ebf2; --dim: #98a3b5; --line: #343d4d; --paper: #151a22;
  --panel: #1d2430; --s0: #6aa9e9; --s1: #f09a5d; --s2: #5fc4a3; --s3: #8a94a6; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 880px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; }
p { margin: .4rem 0 .8rem; max-width: 65ch; } .lead { color: var(--dim); }
figure { margin: .8rem 0; padding: 1rem; background: var(--panel); border: 1px solid var(--line);
  border-radius: 10px; }
figcaption { color: var(--dim); font-size: .9rem; margin-top: .4rem; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--dim); font: 12px system-ui, sans-serif; } svg .label { fill: var(--ink); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .94rem; }
th, td { padding: .38rem .7rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
th { color: var(--dim); font-weight: 600; } .n { text-align: right; font-variant-numeric: tabular-nums; }
tr.strong td { font-weight: 650; }
"""

_WIDTH, _HEIGHT = 820, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 16, 30, 44


@dataclass(frozen=True)
class Series:
    """A named line: y over x."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def page(title: str, lead: str, parts: Iterable[str]) -> str:
    """A whole HTML document.

    Args:
        title: heading of the page.
        lead: the sentence below it.
        parts: HTML from the other functions of this module.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f'<h1>{html.escape(title)}</h1><p class="lead">{html.escape(lead)}</p>{"".join(parts)}</main></body></html>\n'
    )


def section(title: str, text: str = "") -> str:
    """A heading and a paragraph below it."""
    paragraph = f"<p>{html.escape(text)}</p>" if text else ""
    return f"<h2>{html.escape(title)}</h2>{paragraph}"


def table(header: Sequence[str], rows: Iterable[Sequence[object]], strong: int | None = None) -> str:
    """A table; numbers are set right, floats with four digits, and the row at index `strong` in bold."""
    body = []
    rows = [list(row) for row in rows]
    numeric = [bool(rows) and isinstance(rows[0][index], int | float) for index in range(len(header))]
    classes = [' class="n"' if right else "" for right in numeric]
    for index, row in enumerate(rows):
        cells = "".join(f"<td{css}>{_text(cell)}</td>" for css, cell in zip(classes, row, strict=True))
        body.append(f'<tr class="strong">{cells}</tr>' if index == strong else f"<tr>{cells}</tr>")
    head = "".join(f"<th{css}>{html.escape(name)}</th>" for css, name in zip(classes, header, strict=True))
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def line_chart(
    series: Sequence[Series], x_label: str, y_label: str, caption: str, levels: Sequence[tuple[str, float]] = ()
) -> str:
    """Lines over a common x axis, and dashed horizontal lines at named levels."""
    xs = [x for line in series for x in line.x]
    ticks = _ticks([y for line in series for y in line.y] + [level for _, level in levels])
    low, high = ticks[0], ticks[-1]
    first, last = min(xs), max(xs)

    def at(x: float, y: float) -> tuple[float, float]:
        share = (x - first) / (last - first) if last > first else 0.5
        return (
            _LEFT + share * (_WIDTH - _LEFT - _RIGHT),
            _TOP + (high - y) / (high - low) * (_HEIGHT - _TOP - _BOTTOM),
        )

    parts = [_grid(ticks, lambda y: at(first, y)[1])]
    step = max(1, math.ceil(len(set(xs)) / 12))
    for x in sorted(set(xs))[::step]:
        parts.append(f'<text x="{at(x, low)[0]:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{x:g}</text>')
    for name, level in levels:
        y = at(first, level)[1]
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--s3)" '
            f'stroke-dasharray="6 5"/><text x="{_LEFT + 6}" y="{y - 6:.1f}">'
            f"{html.escape(name)} {level:.4f}</text>"
        )
    for index, line in enumerate(series):
        points = [at(x, y) for x, y in zip(line.x, line.y, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="var(--s{index % 4})" stroke-width="2.5" '
            'stroke-linejoin="round"/>'
        )
        for (x, y), value in zip(points, line.y, strict=True):
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="var(--s{index % 4})">'
                f"<title>{html.escape(line.name)}: {value:.4f}</title></circle>"
            )
    return _figure(parts, _legend([line.name for line in series]), x_label, y_label, caption)


def bar_chart(
    labels: Sequence[str], series: Sequence[tuple[str, Sequence[float]]], x_label: str, y_label: str, caption: str
) -> str:
    """Groups of bars from zero, one group a label, one bar a series."""
    ticks = _ticks([0.0, *(value for _, values in series for value in values)])
    high = ticks[-1]
    group = (_WIDTH - _LEFT - _RIGHT) / max(len(labels), 1)
    width = min(group * 0.8 / max(len(series), 1), 44)

    def height_of(value: float) -> float:
        return value / high * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_grid(ticks, lambda y: _HEIGHT - _BOTTOM - height_of(y))]
    for position, label in enumerate(labels):
        middle = _LEFT + (position + 0.5) * group
        parts.append(
            f'<text x="{middle:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{html.escape(label)}</text>'
        )
        for index, (name, values) in enumerate(series):
            bar = height_of(values[position])
            x = middle + (index - len(series) / 2) * width
            parts.append(
                f'<rect x="{x + 1:.1f}" y="{_HEIGHT - _BOTTOM - bar:.1f}" width="{width - 2:.1f}" height="{bar:.1f}" '
                f'rx="2" fill="var(--s{index % 4})"><title>{html.escape(name)}: {values[position]:.4f}</title></rect>'
            )
            if len(series) == 1:
                parts.append(
                    f'<text class="label" x="{middle:.1f}" y="{_HEIGHT - _BOTTOM - bar - 6:.1f}" '
                    f'text-anchor="middle">{values[position]:.3f}</text>'
                )
    return _figure(parts, _legend([name for name, _ in series]), x_label, y_label, caption)


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:.4f}"
    return f"{cell:,}" if isinstance(cell, int) else html.escape(str(cell))


def _ticks(values: Sequence[float]) -> list[float]:
    """Round numbers that enclose the values."""
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0
    raw = span / 5
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def _grid(ticks: Sequence[float], y_of: Callable[[float], float]) -> str:
    parts = []
    for tick in ticks:
        y = y_of(tick)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>'
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{round(tick, 10):g}</text>'
        )
    return "".join(parts)


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    parts, x = [], float(_LEFT)
    for index, name in enumerate(names):
        parts.append(
            f'<rect x="{x:.0f}" y="6" width="14" height="4" rx="2" fill="var(--s{index % 4})"/>'
            f'<text class="label" x="{x + 20:.0f}" y="13">{html.escape(name)}</text>'
        )
        x += 44 + 7 * len(name)
    return "".join(parts)


def _figure(parts: Sequence[str], legend: str, x_label: str, y_label: str, caption: str) -> str:
    axes = (
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">'
        f'{html.escape(x_label)}</text><text text-anchor="middle" '
        f'transform="translate(14 {(_TOP + _HEIGHT - _BOTTOM) / 2:.0f}) rotate(-90)">{html.escape(y_label)}</text>'
    )
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(caption)}">'
        f"{''.join(parts)}{legend}{axes}</svg><figcaption>{html.escape(caption)}</figcaption></figure>"
    )
