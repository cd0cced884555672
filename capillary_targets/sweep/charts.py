"""Charts as SVG for an HTML page: drawn here by pygal, so the page needs no script and no network.

Their colours are CSS variables of the page, so they follow its dark mode. They are drawn for a
phone's width: their text stays readable there, and a wider page puts them side by side.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, Final
from xml.etree import ElementTree as ET

import pygal  # type: ignore[import-untyped]
from pygal.style import Style  # type: ignore[import-untyped]

# pygal leaves an import hook of a kind that Python has given up: no concern of this process.
sys.meta_path[:] = [f for f in sys.meta_path if not isinstance(f, pygal.PluginImportFixer)]

__all__ = ["Charts"]

_SVG: Final = "{http://www.w3.org/2000/svg}"
_COLOURS: Final = 8
_WIDTH: Final = 420
_STYLE: Final = Style(
    background="transparent",
    plot_background="transparent",
    foreground="var(--ink)",
    foreground_strong="var(--ink)",
    foreground_subtle="var(--dim)",
    guide_stroke_color="var(--line)",
    major_guide_stroke_color="var(--line)",
    guide_stroke_dasharray="1,0",
    major_guide_stroke_dasharray="1,0",
    opacity=".9",
    stroke_width="2",
    stroke_opacity="1",
    opacity_hover="1",
    transition="0s",
    font_family="system-ui, sans-serif",
    label_font_size=12,
    major_label_font_size=12,
    legend_font_size=13,
    colors=tuple(f"var(--c{number})" for number in range(1, _COLOURS + 1)),
)

Format = Callable[[Any], str]


class Charts:
    """Draws the charts of one page; each gets an id of its own."""

    def __init__(self) -> None:
        self._ids = count(1)

    def stacked(
        self, labels: Sequence[str], series: Mapping[str, Sequence[float]], show: Format
    ) -> str:
        """Bars, one for each label, the series piled up in them."""
        chart = self._chart(
            pygal.StackedBar,
            show,
            show_minor_x_labels=False,
            x_labels_major_count=len(labels) if len(labels) <= 6 else 4,
            show_legend=len(series) > 1,
            spacing=6,
            truncate_label=-1,
        )
        return self._filled(chart, labels, series)

    def bars(self, values: Mapping[str, float], show: Format) -> str:
        """Bars that lie, for names that are long."""
        chart = self._chart(
            pygal.HorizontalBar,
            show,
            height=70 + 26 * max(len(values), 2),
            show_legend=False,
            truncate_label=20,
            spacing=4,
        )
        # The first name belongs at the top; the chart counts from the bottom.
        labels = list(values)[::-1]
        return self._filled(chart, labels, {"": [values[label] for label in labels]})

    def lines(
        self, labels: Sequence[str], series: Mapping[str, Sequence[float | None]], show: Format
    ) -> str:
        """Lines over time."""
        chart = self._chart(
            pygal.Line,
            show,
            show_dots=len(labels) < 2,
            show_minor_x_labels=False,
            x_labels_major_count=min(5, len(labels)),
            show_legend=len(series) > 1,
            min_scale=3,
            include_x_axis=True,
            truncate_label=-1,
        )
        return self._filled(chart, labels, series)

    def _chart(self, kind: Any, show: Format, *, height: int = 260, **settings: Any) -> Any:
        chart = kind(
            style=_STYLE,
            js=(),
            width=_WIDTH,
            height=height,
            explicit_size=False,
            legend_at_bottom=True,
            legend_at_bottom_columns=2,
            margin=6,
            value_formatter=show,
            max_scale=6,
            disable_xml_declaration=True,
            **settings,
        )
        chart.uuid = f"{next(self._ids)}"
        return chart

    def _filled(
        self,
        chart: Any,
        labels: Sequence[str],
        series: Mapping[str, Sequence[float | None]],
    ) -> str:
        chart.x_labels = list(labels)
        for name, values in series.items():
            chart.add(name, list(values))
        return _standing_alone(chart.render_tree())


def _standing_alone(root: ET.Element) -> str:
    """The drawing without its script; the values that the script would show as tool tips."""
    for parent in list(root.iter()):
        for child in list(parent):
            if not isinstance(child.tag, str) or child.tag.removeprefix(_SVG) == "script":
                parent.remove(child)  # scripts and comments
        told = [child for child in parent if child.tag == "desc"]
        if told:
            words = {child.get("class", "").split()[0]: child.text or "" for child in told}
            for child in told:
                parent.remove(child)
            tip = ET.Element("title")
            tip.text = ": ".join(filter(None, (words.get("x_label"), words.get("value"))))
            parent.insert(0, tip)
    root.set("role", "img")
    return ET.tostring(root, encoding="unicode")
