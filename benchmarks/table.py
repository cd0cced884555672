"""The table: what is measured, how, what is to be reached, and what was."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal

__all__ = ["Row", "as_json", "as_text"]


@dataclass
class Row:
    """One line. `values` are the rounds' figures, of which the median counts."""

    what: str
    how: str
    values: list[float]
    reach: float | None = None
    better: Literal["lower", "higher"] = "lower"
    unit: str = "×"
    detail: dict[str, Any] = field(default_factory=dict)
    missing: str | None = None
    """Why it could not be measured."""

    @property
    def measured(self) -> float | None:
        """The median."""
        return median(self.values) if self.values else None

    @property
    def reached(self) -> bool | None:
        """Whether it is where it should be; None if that cannot be said."""
        if self.measured is None or self.reach is None:
            return None
        if self.better == "lower":
            return self.measured <= self.reach
        return self.measured >= self.reach


def as_text(rows: list[Row]) -> str:
    """The table in Markdown."""
    head = "| what | how | measured (lowest to highest) | reach | |"
    lines = [
        f"| {row.what} | {row.how} | {_measured(row)} | {_reach(row)} | {_mark(row)} |"
        for row in rows
    ]
    return "\n".join([head, "| --- | --- | --- | --- | --- |", *lines])


def _measured(row: Row) -> str:
    if row.measured is None:
        return row.missing or "not measured"
    text = f"{row.measured:.2f} {row.unit}"
    if len(row.values) > 1:
        text += f" ({min(row.values):.2f} to {max(row.values):.2f})"
    return text


def _reach(row: Row) -> str:
    if row.reach is None:
        return ""
    return f"{'≤' if row.better == 'lower' else '≥'} {row.reach:g} {row.unit}"


def _mark(row: Row) -> str:
    return {True: "yes", False: "no", None: ""}[row.reached]


def as_json(rows: list[Row]) -> list[dict[str, Any]]:
    """The table as plain values."""
    return [{**asdict(row), "measured": row.measured, "reached": row.reached} for row in rows]
