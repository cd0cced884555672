"""Charts for the report, as SVG and HTML: no script, no network, colours from the page's CSS.

An SVG is drawn for a phone's width and scales with its card; all longer text (names, legends) is
HTML around it, which wraps. Labels of an axis are left out rather than written over each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

__all__ = ["bars", "columns", "short", "ticks"]

_WIDTH, _HEIGHT = 360, 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 10, 12, 24
_INNER_WIDTH: Final = _WIDTH - _LEFT - _RIGHT
_INNER_HEIGHT: Final = _HEIGHT - _TOP - _BOTTOM
_CHARACTER: Final = 7.0
"""Width of one character of a label, rather more than it takes."""


def short(value: float) -> str:
    """12.3k: three digits, for the little room of an axis."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size <= abs(value) < 1000 * size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def ticks(top: float, *, whole: bool = False) -> list[float]:
    """Round numbers from 0 to at least `top`, four or five of them; `whole` ones for counts."""
    exponent = math.floor(math.log10(top / 4)) if top > 0 else 0
    size = next(size for size in (1, 2, 5, 10) if size * 10.0**exponent * 4 >= top)
    step = size * 10.0**exponent
    if whole:
        step = max(1.0, step)
    return [step * number for number in range(max(1, math.ceil(top / step - 1e-9)) + 1)]


def columns(
    labels: Sequence[str], series: Mapping[str, Sequence[float]], *, piled: bool = True
) -> str:
    """Columns, one for each label (an empty one is not written); without any, empty.

    Args:
        labels: Below the columns.
        series: By name, a value for each label.
        piled: Counts, piled up; else each series stands before the ones named first.
    """
    if not labels:
        return ""
    heights = [(sum if piled else max)(values) for values in zip(*series.values(), strict=True)]
    axis = ticks(max(heights, default=0), whole=piled)
    pitch = _INNER_WIDTH / len(labels)
    shapes = []
    for place, label in enumerate(labels):
        bottom = 0.0
        for colour, (name, values) in enumerate(series.items(), 1):
            if value := values[place]:
                top, low = _y(bottom + value, axis), _y(bottom, axis)
                told = ": ".join(filter(None, (label, name, f"{round(value, 1):,}")))
                shapes.append(
                    f'<rect class="f{colour}" x="{_LEFT + pitch * (place + 0.1):.1f}" '
                    f'y="{top:.1f}" width="{pitch * 0.8:.1f}" height="{max(0.6, low - top):.1f}">'
                    f"<title>{escape(told)}</title></rect>"
                )
                bottom += value * piled
    centres = [_LEFT + pitch * (place + 0.5) for place in range(len(labels))]
    return _legend(series) + _svg(axis, _fitting(centres, labels), "".join(shapes))


def bars(rows: Sequence[tuple[str, float, str]]) -> str:
    """Lying bars as HTML, for names of any length: (name, value, the value in words); or empty."""
    if not rows:
        return ""
    top = max(abs(value) for _, value, _ in rows) or 1
    items = (
        f"<li><span>{escape(name)}</span> <b>{escape(told)}</b>"
        f'<i class="{"minus" if value < 0 else "plus"}" '
        f'style="width:{max(0.5, 100 * abs(value) / top):.1f}%"></i></li>'
        for name, value, told in rows
    )
    return f'<ul class="bars">{"".join(items)}</ul>'


def _y(value: float, axis: Sequence[float]) -> float:
    return _TOP + _INNER_HEIGHT * (1 - value / axis[-1])


def _legend(series: Mapping[str, object]) -> str:
    if len(series) < 2:
        return ""
    names = (
        f'<span><i class="f{colour}"></i>{escape(name)}</span>'
        for colour, name in enumerate(series, 1)
    )
    return f'<p class="legend">{"".join(names)}</p>'


def _fitting(places: Sequence[float], labels: Sequence[str]) -> list[tuple[float, str]]:
    """The labels that fit side by side, and do not repeat, each with the middle of its text."""
    fitting: list[tuple[float, str]] = []
    free = 0.0
    widest = max((len(label) for label in labels), default=0) * _CHARACTER
    for place, label in zip(places, labels, strict=True):
        half = len(label) * _CHARACTER / 2
        middle = min(max(place, half), _WIDTH - half)
        if label and middle - half >= free and (not fitting or fitting[-1][1] != label):
            fitting.append((middle, label))
            # Room for the widest, so that what is left out is so at equal distances.
            free = middle - half + widest + 2 * _CHARACTER
    return fitting


def _svg(axis: Sequence[float], labels: Sequence[tuple[float, str]], shapes: str) -> str:
    grid = "".join(
        f'<path class="grid" d="M{_LEFT} {_y(value, axis):.1f}H{_WIDTH - _RIGHT}"/>'
        f'<text x="{_LEFT - 6}" y="{_y(value, axis) + 4:.1f}" class="end">{short(value)}</text>'
        for value in axis
    )
    below = "".join(
        f'<text x="{middle:.1f}" y="{_HEIGHT - 6}">{escape(label)}</text>'
        for middle, label in labels
    )
    return (
        f'<svg role="img" viewBox="0 0 {_WIDTH} {_HEIGHT}" xmlns="http://www.w3.org/2000/svg">'
        f'{grid}<g class="series">{shapes}</g>{below}</svg>'
    )
