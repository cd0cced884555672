"""`report.html`: one file that opens offline, on a phone as well, in the dark as well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from attrs import define, frozen

from .ledger import Ledger
from .options import RunState, Summary
from .stats import PartStats, RequestTimeline
from .store import AtomicFile, Directory

if TYPE_CHECKING:
    from .charts import Charts

__all__ = [
    "ReportData",
    "Run",
    "collect",
    "grouped_by_time",
    "make_report",
    "write_data",
    "write_report",
]

_TARGETS: Final = 12
_NAMES: Final = 6
_POINTS: Final = 60


@frozen
class Run:
    """One run over the list: when it started and came to its end (ISO 8601), and its sums."""

    number: int
    started: str
    finished: str | None
    summary: Summary


@define
class ReportData:
    """Everything that the report shows."""

    settings: Mapping[str, Any]
    runs: Sequence[Run]
    stats: PartStats
    users_by_events: Sequence[tuple[int, int]]
    """(digits of the number of events, users)."""
    timeline: RequestTimeline
    """Requests over the latest run's time."""
    failures: Counter[str]
    """Users by the name of what went wrong."""


def collect(ledger: Ledger) -> ReportData:
    """All of it; costs a pass over the users, none over the files."""
    runs = []
    timeline = RequestTimeline()
    for number, started, finished, text in ledger.runs():
        state = msgspec.json.decode(text, type=RunState)
        runs.append(Run(number, started, finished, state.summary))
        timeline = RequestTimeline()
        timeline.merge(state.timeline)
    stats = PartStats()
    for text in ledger.part_stats():
        stats.merge(PartStats.from_json(text))
    failures = Counter(str(msgspec.json.decode(text)["error"]) for text in ledger.failures())
    return ReportData(
        ledger.settings() or {}, runs, stats, ledger.users_by_events(), timeline, failures
    )


_STEPS = ("day", "week", "month", "year")
_MOST_BARS = 36


def grouped_by_time(
    days: Mapping[tuple[int, str], int], most_names: int
) -> tuple[str, list[str], dict[str, list[int]]]:
    """Events by day, week, month or year, whichever gives a readable number of bars.

    Returns the step, the bars' labels in order without gaps, and for each event name, the most
    frequent first, its counts; the rarer names come together as "other".
    """
    dated = {(date.fromordinal(day), name): number for (day, name), number in days.items() if day}
    if not dated:
        return "day", [], {}
    totals: Counter[str] = Counter()
    for (_, name), number in dated.items():
        totals[name] += number
    first, last = min(dated)[0], max(dated)[0]
    shown = [name for name, _ in totals.most_common(most_names)]
    step = next(
        (step for step in _STEPS if len(_bars(first, last, step)) <= _MOST_BARS or step == "year"),
        "year",
    )
    bars = _bars(first, last, step)
    place = {bar: number for number, bar in enumerate(bars)}
    series: dict[str, list[int]] = {name: [0] * len(bars) for name in shown}
    for (day, name), number in dated.items():
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


def make_report(out: Path) -> Path:
    """Make the report of the sweep in `out` once more; where it is.

    Raises `SweepRefused` where there is no sweep, or a process is at it.
    """
    with Directory(out, None) as directory:
        return write_report(directory.path, directory.ledger)


def write_report(out: Path, ledger: Ledger) -> Path:
    """Write `report.html` into `out`, from what the ledger holds. Raises `OSError`."""
    return write_data(out, collect(ledger))


def write_data(out: Path, found: ReportData) -> Path:
    """Write `report.html` into `out`. Raises `OSError`."""
    path = out / "report.html"
    with AtomicFile(path) as file:
        file.write(_page(found).encode())
    return path


def _page(found: ReportData) -> str:
    from .charts import Charts  # noqa: PLC0415 - what draws is slow to load and wanted once

    charts = Charts()
    cards = "\n".join(
        (
            _events_over_time(found, charts),
            _value_by_target(found, charts),
            _users_by_events(found, charts),
            *_over_the_run(found.timeline, charts),
            _failures(found, charts),
        )
    )
    template = (files(__package__) / "report.template.html").read_text(encoding="utf-8")
    latest = found.runs[-1] if found.runs else None
    return (
        template.replace("{{title}}", escape(f"Sweep of {found.settings.get('base_url', '')}"))
        .replace("{{when}}", escape(_when(latest.started, latest.finished) if latest else ""))
        .replace("{{facts}}", _facts(latest.summary) if latest else "")
        .replace("{{settings}}", escape(_settings(found)))
        .replace("{{runs}}", _runs(found))
        .replace("{{cards}}", cards)
    )


def _number(value: float) -> str:
    """12,345; what is small keeps two decimals."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.2f}"


def _short(value: float) -> str:
    """12.3k; for axes, which have little room."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _amount(value: Decimal) -> str:
    return f"{value:,f}"


def _when(started: str, finished: str | None) -> str:
    return f"{started} to {finished}" if finished else f"{started}, not finished"


def _settings(found: ReportData) -> str:
    names = {"format": "format", "raw": "raw rows", "rules": "only the targets"}
    return "; ".join(
        f"{text}: {value}"
        for name, text in names.items()
        if (value := found.settings.get(name)) not in (None, [], False)
    )


def _facts(summary: Summary) -> str:
    facts = {
        "users": _number(summary.users),
        "complete": _number(summary.complete),
        "failed": _number(summary.failed + summary.refused),
        "targets": _number(summary.targets),
        "events": _number(summary.events),
        "sum of values": _amount(summary.value_sum),
        "requests": _number(summary.requests),
        "retries": _number(summary.retries),
        "seconds": _number(summary.seconds),
    }
    more = {
        "lines that are no id": summary.bad_lines,
        "late events found": summary.late_events,
        "events gone from the server": summary.vanished_events,
    }
    facts |= {name: _number(value) for name, value in more.items() if value}
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts.items()
    )


def _runs(found: ReportData) -> str:
    if len(found.runs) < 2:
        return ""
    rows = [
        (
            str(run.number),
            run.started,
            run.finished or "not finished",
            _number(run.summary.complete),
            _number(run.summary.events),
            _number(run.summary.late_events),
            _number(run.summary.vanished_events),
        )
        for run in found.runs[-30:][::-1]
    ]
    head = ("run", "started", "finished", "users", "new events", "late", "gone")
    return f"<h2>Runs</h2><div class=wide>{_table(head, rows)}</div>"


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Iterable[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"


def _card(name: str, title: str, content: str) -> str:
    return f'<section id="{name}"><h2>{escape(title)}</h2>{content}</section>'


def _nothing(name: str, title: str, words: str) -> str:
    return _card(name, title, f"<p class=dim>{escape(words)}</p>")


def _events_over_time(found: ReportData, charts: Charts) -> str:
    step, labels, series = grouped_by_time(found.stats.days, _NAMES)
    title = f"Events by {step} and name"
    if not labels:
        return _nothing("events", title, "No event was written.")
    return _card("events", title, charts.stacked(labels, series, _short))


def _value_by_target(found: ReportData, charts: Charts) -> str:
    title = "Value by target"
    stats = found.stats
    targets = sorted(stats.values.items(), key=lambda item: abs(item[1]))[::-1]
    if not targets:
        return _nothing("targets", title, "Nobody is in a target.")
    shown = {
        f"{stats.names.get(rule) or 'Target'} ({rule})": float(value)
        for rule, value in targets[:_TARGETS]
    }
    if len(targets) > _TARGETS:
        title += f": the {_TARGETS} largest of {len(targets):,}"
    rows = [
        (str(rule), stats.names.get(rule, ""), _number(stats.events[rule]), _amount(value))
        for rule, value in targets[:200]
    ]
    table = _table(("id", "name", "events", "value"), rows)
    more = f"<details><summary>Exact sums</summary><div class=wide>{table}</div></details>"
    return _card("targets", title, charts.bars(shown, _short) + more)


def _users_by_events(found: ReportData, charts: Charts) -> str:
    title = "Users by number of events"
    if not found.users_by_events:
        return _nothing("users", title, "No user is complete yet.")
    users = dict(found.users_by_events)
    bars = {
        f"{_short(10 ** (digits - 1))}+" if digits else "none": users.get(digits, 0)
        for digits in range(max(users) + 1)
    }
    return _card("users", title, charts.stacked(list(bars), {"users": [*bars.values()]}, _short))


def _over_the_run(timeline: RequestTimeline, charts: Charts) -> Iterable[str]:
    while len(timeline.requests) > _POINTS:
        timeline.halve()
    width = timeline.width
    labels = [_clock(place * width) for place in range(len(timeline.requests))]
    if not labels:
        yield _nothing("requests", "Requests", "None was made in the latest run.")
        return
    rates = {
        "requests/s": [number / width for number in timeline.requests],
        "failed/s": [number / width for number in timeline.errors],
    }
    yield _card("requests", "Requests a second", charts.lines(labels, rates, _short))
    latency = {
        "mean": [
            busy / number * 1000 if number else None
            for busy, number in zip(timeline.busy, timeline.requests, strict=True)
        ],
        "slowest": [seconds * 1000 if seconds else None for seconds in timeline.slowest],
    }
    yield _card("latency", "Latency in milliseconds", charts.lines(labels, latency, _short))
    flight = {"in flight": [busy / width for busy in timeline.busy]}
    yield _card("concurrency", "Requests in flight", charts.lines(labels, flight, _short))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _failures(found: ReportData, charts: Charts) -> str:
    title = "Failed users by cause"
    if not found.failures:
        return _nothing("failures", title, "Nobody failed.")
    causes = {name: float(number) for name, number in found.failures.most_common(_TARGETS)}
    return _card("failures", title, charts.bars(causes, _short))
