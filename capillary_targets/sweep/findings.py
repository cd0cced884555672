"""What the report tells, gathered from the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import msgspec
from attrs import define, frozen

from .ledger import Ledger
from .meter import Series
from .state import State
from .summary import Summary
from .tally import Tally

__all__ = ["Findings", "Run", "gather", "grouped_by_time"]


@frozen
class Run:
    """One run over the list: when it started and came to its end (ISO 8601), and its sums."""

    number: int
    started: str
    finished: str | None
    summary: Summary


@define
class Findings:
    """Everything that the report shows."""

    settings: Mapping[str, Any]
    runs: Sequence[Run]
    tally: Tally
    users_by_events: Sequence[tuple[int, int]]
    """(digits of the number of events, users)."""
    series: Series
    """Requests over the latest run's time."""
    failures: Counter[str]
    """Users by the name of what went wrong."""


def gather(ledger: Ledger) -> Findings:
    """All of it; costs a pass over the users, none over the files."""
    runs = []
    series = Series()
    for number, started, finished, text in ledger.runs():
        state = msgspec.json.decode(text, type=State)
        runs.append(Run(number, started, finished, state.summary))
        series = state.series
    tally = Tally()
    for text in ledger.tallies():
        tally.merge(Tally.from_json(text))
    failures = Counter(str(msgspec.json.decode(text)["error"]) for text in ledger.failures())
    return Findings(
        ledger.settings() or {}, runs, tally, ledger.users_by_events(), series, failures
    )


_STEPS = ("day", "week", "month", "year")
_MOST_BARS = 36


def grouped_by_time(
    days: Mapping[str, Mapping[str, int]], most_names: int
) -> tuple[str, list[str], dict[str, list[int]]]:
    """Events by day, week, month or year, whichever gives a readable number of bars.

    Returns the step, the bars' labels in order without gaps, and for each event name, the most
    frequent first, its counts; the rarer names come together as "other".
    """
    dated = {date.fromisoformat(day): names for day, names in days.items() if day}
    if not dated:
        return "day", [], {}
    totals: Counter[str] = Counter()
    for names in dated.values():
        totals.update(names)
    shown = [name for name, _ in totals.most_common(most_names)]
    step = next(
        (
            step
            for step in _STEPS
            if len(_bars(min(dated), max(dated), step)) <= _MOST_BARS or step == "year"
        ),
        "year",
    )
    bars = _bars(min(dated), max(dated), step)
    place = {bar: number for number, bar in enumerate(bars)}
    series: dict[str, list[int]] = {name: [0] * len(bars) for name in shown}
    for day, names in dated.items():
        for name, number in names.items():
            row = series.setdefault(name if name in shown else "other", [0] * len(bars))
            row[place[_bar(day, step)]] += number
    return step, bars, series


def _bar(day: date, step: str) -> str:
    if step == "week":
        return (day - timedelta(days=day.weekday())).isoformat()
    return day.isoformat()[: {"day": 10, "month": 7, "year": 4}[step]]


def _bars(first: date, last: date, step: str) -> list[str]:
    if step == "year":
        return [f"{year:04d}" for year in range(first.year, last.year + 1)]
    if step == "month":
        months = range(first.year * 12 + first.month - 1, last.year * 12 + last.month)
        return [f"{month // 12:04d}-{month % 12 + 1:02d}" for month in months]
    stride = 7 if step == "week" else 1
    start = first - timedelta(days=first.weekday()) if step == "week" else first
    number = (last - start).days // stride + 1
    if number > _MOST_BARS:  # too many anyway: years of days need not be counted out
        return [""] * number
    return [(start + timedelta(days=stride * place)).isoformat() for place in range(number)]
