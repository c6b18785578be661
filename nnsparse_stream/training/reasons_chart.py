"""A list with its reasons as a picture: what a row has, what is listed, and how much of a score came from where."""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from nnsparse_stream.training import report

_WIDTH, _TOP, _LINE = 820, 40, 28
# From left to right: known items' labels end, the bars that bands lead from and to, listed items' labels, scores.
_KNOWN_LABEL, _KNOWN_BAR, _LISTED_BAR, _LISTED_LABEL, _SCORE, _SCORE_WIDTH = 180, 190, 452, 496, 616, 150
# Of the bars that bands lead to; the thickest leaves a gap to the next item's.
_BAR_WIDTH, _THICKEST = 7, _LINE - 8

_Other = TypeVar("_Other")


@dataclass(frozen=True)
class Listed:
    """A listed item.

    Attributes:
        name: its id.
        score: what lists are ordered by.
        reasons: what known items add to it, by their ids; all above 0.
    """

    name: str
    score: float
    reasons: Mapping[str, float]


def reasons_chart(
    listed: Sequence[Listed],
    details: Mapping[str, str],
    colours: Mapping[str, int],
    heads: tuple[str, str],
    caption: str,
) -> str:
    """The known items that give most, at the left, and the list, joined by bands as thick as the reasons.

    There are at most as many known items as listed ones; they stand where the bands cross little.

    Args:
        listed: the list, the best first; one or more.
        details: what is said of a known item, by its id.
        colours: the colour of each item, 0 to `report.COLOURS` - 1, by its id.
        heads: what stands above the two columns.
        caption: what the chart shows.
    """
    known = _order(listed)
    # What goes over from each known item, by the listed one's place, and arrives at each listed one.
    left: dict[str, dict[int, float]] = {name: {} for name in known}
    right: list[dict[str, float]] = [{} for _ in listed]
    for place, item in enumerate(listed):
        for name in known:
            if name in item.reasons:
                left[name][place] = right[place][name] = item.reasons[name]
    most = max([sum(given.values()) for given in left.values()] + [sum(given.values()) for given in right])
    unit = _THICKEST / (most or 1.0)
    first = (len(listed) - len(known)) / 2
    starts = {name: _tops(left[name], first + index, unit) for index, name in enumerate(known)}
    ends = [_tops(right[place], place, unit) for place in range(len(listed))]

    parts = [
        f'<text x="{_KNOWN_LABEL}" y="20" text-anchor="end">{html.escape(heads[0])}</text>'
        f'<text x="{_LISTED_LABEL}" y="20">{html.escape(heads[1])}</text><text x="{_SCORE}" y="20">score</text>'
    ]
    for name, bar in left.items():
        for place, value in bar.items():
            said = f"{name} adds {value:.3f} to {listed[place].name}"
            parts.append(_band(starts[name][place], ends[place][name], value * unit, colours[name], said))
    for index, (name, given) in enumerate(left.items()):
        parts.append(_bar(_KNOWN_BAR, first + index, sum(given.values()) * unit, colours[name]))
        detail = f'<tspan class="dim" dx="10">{html.escape(details[name])}</tspan>' if name in details else ""
        parts.append(
            f'<text class="label" x="{_KNOWN_LABEL}" y="{_middle(first + index) + 4:.1f}" text-anchor="end">'
            f"{html.escape(name)}{detail}</text>"
        )
    highest = max(item.score for item in listed)
    for place, item in enumerate(listed):
        length = _SCORE_WIDTH * max(item.score, 0.0) / highest if highest > 0 else 0.0
        y, colour = _middle(place), colours[item.name]
        parts.append(_bar(_LISTED_BAR, place, sum(right[place].values()) * unit, colour))
        parts.append(
            f'<text x="{_LISTED_LABEL - 8}" y="{y + 4:.1f}" text-anchor="end">{place + 1}</text>'
            f'<text class="label" x="{_LISTED_LABEL}" y="{y + 4:.1f}">{html.escape(item.name)}</text>'
            f'<rect x="{_SCORE}" y="{y - 7:.1f}" width="{length:.1f}" height="14" rx="2" fill="var(--s{colour})"/>'
            f'<text x="{_SCORE + length + 6:.1f}" y="{y + 4:.1f}">{item.score:.2f}</text>'
        )
    height = _TOP + _LINE * len(listed) + 4
    svg = f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{html.escape(caption)}">{"".join(parts)}</svg>'
    return report.figure(svg, caption)


def _order(listed: Sequence[Listed]) -> list[str]:
    """The known items that give most, by the mean place of what they give to."""
    given: dict[str, float] = defaultdict(float)
    places: dict[str, float] = defaultdict(float)
    for place, item in enumerate(listed):
        for name, value in item.reasons.items():
            given[name] += value
            places[name] += value * place
    chosen = sorted(given, key=lambda name: (-given[name], name))[: len(listed)]
    return sorted(chosen, key=lambda name: (places[name] / given[name], name))


def _middle(line: float) -> float:
    return _TOP + (line + 0.5) * _LINE


def _tops(bar: Mapping[_Other, float], line: float, unit: float) -> dict[_Other, float]:
    """Where in an item's bar its bands begin, from above."""
    y, tops = _middle(line) - sum(bar.values()) * unit / 2, {}
    for other, value in bar.items():
        tops[other] = y
        y += value * unit
    return tops


def _bar(x: float, line: float, height: float, colour: int) -> str:
    height = max(height, 3.0)
    return (
        f'<rect x="{x}" y="{_middle(line) - height / 2:.1f}" width="{_BAR_WIDTH}" height="{height:.1f}" rx="1.5" '
        f'fill="var(--s{colour})"/>'
    )


def _band(start: float, end: float, height: float, colour: int, said: str) -> str:
    """From a known item's bar to a listed one's, both tops given."""
    x0, x1 = _KNOWN_BAR + _BAR_WIDTH, _LISTED_BAR
    bend = (x0 + x1) / 2
    y0, y1 = start + height / 2, end + height / 2
    return (
        f'<path d="M{x0} {y0:.1f}C{bend} {y0:.1f} {bend} {y1:.1f} {x1} {y1:.1f}" fill="none" '
        f'stroke="var(--s{colour})" stroke-width="{max(height, 0.8):.1f}" stroke-opacity=".42">'
        f"<title>{html.escape(said)}</title></path>"
    )
