"""A report as one HTML file, with charts in inline SVG, no network, no script; or one chart as an SVG file."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

_LIGHT = {
    "ink": "#1c2330", "dim": "#667085", "line": "#d9dee7", "paper": "#ffffff", "panel": "#f6f8fb",
    "s0": "#2563a8", "s1": "#d9722e", "s2": "#2e8b6f", "s3": "#7a57b5",
    "s4": "#c2416b", "s5": "#a8821f", "s6": "#1995a8", "s7": "#7d5c49",
}  # fmt: skip
_SVG_STYLE = (
    "svg text, svg .dim { fill: var(--dim); font: 12px system-ui, sans-serif; } svg .label { fill: var(--ink); }"
)
_STYLE = (
    f":root {{ {' '.join(f'--{name}: {colour};' for name, colour in _LIGHT.items())} }}"
    """
@media (prefers-color-scheme: dark) { :root { --ink: #e7ebf2; --dim: #98a3b5; --line: #343d4d; --paper: #151a22;
  --panel: #1d2430; --s0: #6aa9e9; --s1: #f09a5d; --s2: #5fc4a3; --s3: #b399e6;
  --s4: #ee7fa3; --s5: #d9b84f; --s6: #56c4d6; --s7: #c9a189; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 880px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; }
p { margin: .4rem 0 .8rem; max-width: 65ch; } .lead { color: var(--dim); }
figure { margin: .8rem 0; padding: 1rem; background: var(--panel); border: 1px solid var(--line);
  border-radius: 10px; }
figcaption { color: var(--dim); font-size: .9rem; margin-top: .4rem; }
svg { width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .94rem; }
th, td { padding: .38rem .7rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
th { color: var(--dim); font-weight: 600; } .n { text-align: right; font-variant-numeric: tabular-nums; }
tr.strong td { font-weight: 650; }
""" + _SVG_STYLE
)

#: Colours that parts of a chart may have: "var(--s0)" to "var(--s7)".
COLOURS = 8
_WIDTH, _HEIGHT = 820, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 32, 30, 44


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
    return figure(_lines(series, x_label, y_label, caption, levels), caption)


def line_chart_file(
    series: Sequence[Series], x_label: str, y_label: str, caption: str, logarithmic: bool = False
) -> str:
    """Lines over a common x axis as an SVG file: on white, in fixed colours, for whatever viewer.

    Args:
        series: the lines.
        x_label: what x is, with its unit.
        y_label: what y is, with its unit.
        caption: what the chart shows; its title.
        logarithmic: both axes, and all values are positive.
    """
    svg = _lines(series, x_label, y_label, caption, logarithmic=logarithmic)
    start = svg.index(">") + 1
    head = svg[:start].replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"')
    ground = '<rect width="100%" height="100%" fill="var(--paper)"/>'
    file = f"{head}<title>{html.escape(caption)}</title><style>{_SVG_STYLE}</style>{ground}{svg[start:]}\n"
    return re.sub(r"var\(--(\w+)\)", lambda name: _LIGHT[name[1]], file)


def _lines(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    caption: str,
    levels: Sequence[tuple[str, float]] = (),
    logarithmic: bool = False,
) -> str:
    xs = [x for line in series for x in line.x]
    ys = [y for line in series for y in line.y] + [level for _, level in levels]
    ticks = _logarithmic_ticks(ys) if logarithmic else _ticks(ys)
    low, high = ticks[0], ticks[-1]
    first, last = min(xs), max(xs)

    def share(value: float, start: float, end: float) -> float:
        if logarithmic:
            value, start, end = math.log(value), math.log(start), math.log(end)
        return (value - start) / (end - start) if end > start else 0.5

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + share(x, first, last) * (_WIDTH - _LEFT - _RIGHT),
            _TOP + (1 - share(y, low, high)) * (_HEIGHT - _TOP - _BOTTOM),
        )

    parts = [_grid(ticks, lambda y: at(first, y)[1])]
    step = max(1, math.ceil(len(set(xs)) / 12))
    for x in sorted(set(xs))[::step]:
        parts.append(
            f'<text x="{at(x, low)[0]:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{x:,.10g}</text>'
        )
    for name, level in levels:
        y = at(first, level)[1]
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--dim)" '
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
    return _svg(parts, _legend([line.name for line in series]), x_label, y_label, caption)


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
    return figure(_svg(parts, _legend([name for name, _ in series]), x_label, y_label, caption), caption)


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


def _logarithmic_ticks(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 times powers of ten that enclose the values; powers of ten alone where they span many."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    factors = (1, 2, 5) if high - low < 5 else (1,)
    ticks = [factor * 10.0**power for power in range(low, high) for factor in factors] + [10.0**high]
    below, above = (
        max(tick for tick in ticks if tick <= min(values)),
        min(tick for tick in ticks if tick >= max(values)),
    )
    return [tick for tick in ticks if below <= tick <= above]


def _grid(ticks: Sequence[float], y_of: Callable[[float], float]) -> str:
    parts = []
    decimals = max(len(f"{round(tick, 10):.10g}".partition(".")[2]) for tick in ticks)
    for tick in ticks:
        y = y_of(tick)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>'
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:,.{decimals}f}</text>'
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


def _svg(parts: Sequence[str], legend: str, x_label: str, y_label: str, caption: str) -> str:
    axes = (
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">'
        f'{html.escape(x_label)}</text><text text-anchor="middle" '
        f'transform="translate(14 {(_TOP + _HEIGHT - _BOTTOM) / 2:.0f}) rotate(-90)">{html.escape(y_label)}</text>'
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(caption)}">'
        f"{''.join(parts)}{legend}{axes}</svg>"
    )


def figure(svg: str, caption: str) -> str:
    """A chart with the sentence below it that says what it shows."""
    return f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>"
