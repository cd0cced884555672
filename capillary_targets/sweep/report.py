"""`report.html`: one file that opens offline, on a phone as well, in the dark as well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, Final

import msgspec
from attrs import define, field, frozen

from capillary_targets.contract import Finding

from . import charts
from .atomic import AtomicFile
from .ledger import Ledger
from .options import RunState, Summary
from .stats import PartStats, RequestTimeline
from .store import open_directory

__all__ = [
    "Cause",
    "ReportData",
    "Run",
    "collect",
    "grouped_by_time",
    "make_report",
    "write_data",
    "write_report",
]

_MAX_BARS: Final = 12
_MAX_NAMES: Final = 6
_MAX_POINTS: Final = 60
_MAX_IDS: Final = 100
_MAX_ROWS: Final = 200


@frozen
class Run:
    """One run over the list: when it started and came to its end (ISO 8601), and its sums."""

    number: int
    started: str
    finished: str | None
    summary: Summary


@define
class Cause:
    """Users who failed with the same error: how many, the first ids, and what one was told."""

    message: str
    retryable: bool
    users: int = 0
    ids: list[int] = field(factory=list)

    def add(self, user: int) -> None:
        """Count a user."""
        self.users += 1
        if self.users <= _MAX_IDS:
            self.ids.append(user)


@define
class ReportData:
    """Everything that the report shows."""

    settings: Mapping[str, Any]
    runs: Sequence[Run]
    stats: PartStats
    """Of all parts of the directory."""
    users_by_events: Sequence[tuple[int, int]]
    """(digits of the number of events, users)."""
    timeline: RequestTimeline
    """Requests over the latest run's time."""
    failures: dict[str, Cause]
    """By the name of the error, with its code."""
    drift: Sequence[Mapping[str, str]] = ()
    """What answers said that the contract does not, with `first_seen`."""


def collect(ledger: Ledger) -> ReportData:
    """All of it; costs a pass over the ledger's users, none over the files."""
    runs = []
    latest = RunState()
    for number, started, finished, text in ledger.runs():
        latest = msgspec.json.decode(text, type=RunState)
        runs.append(Run(number, started, finished, latest.summary))
    timeline = RequestTimeline()
    timeline.merge(latest.timeline)
    stats = PartStats()
    for text in ledger.part_stats():
        stats.merge(PartStats.from_json(text))
    failures: dict[str, Cause] = {}
    for text in ledger.failures():
        row = msgspec.json.decode(text)
        name = f"{row['error']} {row.get('code') or ''}".strip()
        cause = failures.setdefault(name, Cause(row["message"], row["retryable"]))
        cause.add(row["user_id"])
    return ReportData(
        ledger.settings() or {},
        runs,
        stats,
        ledger.users_by_events(),
        timeline,
        failures,
        ledger.drift(),
    )


_STEPS: Final = {"day": 1, "week": 7, "month": 28, "year": 365}
"""Days that the shortest of each has."""
_MOST_BARS: Final = 36


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
    span = (last - first).days
    step = next((s for s, days in _STEPS.items() if span <= days * (_MOST_BARS - 1)), "year")
    passed = (*range(0, span, _STEPS[step]), span)
    bars = [*dict.fromkeys(_bar(first + timedelta(days=days), step) for days in passed)]
    place = {bar: number for number, bar in enumerate(bars)}
    series: dict[str, list[int]] = {name: [0] * len(bars) for name in shown}
    for (day, name), number in dated.items():
        row = series.setdefault(name if name in shown else "other", [0] * len(bars))
        row[place[_bar(day, step)]] += number
    return step, bars, series


def _bar(day: date, step: str) -> str:
    if step == "week":
        day -= timedelta(days=day.weekday())
    return day.isoformat()[: {"month": 7, "year": 4}.get(step, 10)]


def make_report(out: Path) -> Path:
    """Make the report of the sweep in `out` once more; where it is.

    Raises `SweepRefused` where there is no sweep, or a process is at it.
    """
    with open_directory(out, None) as directory:
        return write_report(directory.path, directory.ledger)


def write_report(out: Path, ledger: Ledger) -> Path:
    """Write `report.html` into `out`, from what the ledger holds. Raises `OSError`."""
    return write_data(out, collect(ledger))


def write_data(out: Path, data: ReportData) -> Path:
    """Write `report.html` into `out`. Raises `OSError`."""
    path = out / "report.html"
    with AtomicFile(path) as file:
        file.write(_page(data).encode())
    return path


def _page(data: ReportData) -> str:
    template = (files(__package__) / "report.template.html").read_text(encoding="utf-8")
    good, verdict = _verdict(data)
    cards = (
        _totals(data),
        _failures(data),
        _drift(data),
        _events_over_time(data),
        *_values_by_target(data),
        _users_by_events(data),
        *_over_the_run(data),
    )
    return Template(template).substitute(
        title=escape(f"Sweep of {data.settings.get('base_url', '')}"),
        when=escape(_when(data)),
        mood="" if good else "bad",
        verdict=escape(verdict),
        runs=_runs(data),
        cards="\n".join(cards),
    )


def _verdict(data: ReportData) -> tuple[bool, str]:
    """Whether all is well, and a sentence on it."""
    if not data.runs:
        return False, "Nothing was swept yet."
    summary = data.runs[-1].summary
    if not summary.finished:
        return False, (
            f"Not finished: {_users(summary.complete)} complete so far. Run the same command again "
            "to go on."
        )
    missing = summary.failed + summary.refused
    if not missing and not summary.bad_lines:
        told = f"Complete: {_users(summary.complete)}, and every event of theirs"
        if summary.by_value:
            told += f" but for what cancels out: {summary.by_value:,} targets are proven by value"
        return True, f"{told}."
    faults = {
        "may come right when asked again (--retry-failed)": summary.failed,
        "refused for good": summary.refused,
        "lines of the list that are no user id": summary.bad_lines,
    }
    told = ", ".join(f"{number:,} {what}" for what, number in faults.items() if number)
    return False, f"Finished, but {missing:,} of {_users(summary.users)} failed: {told}."


def _users(number: int) -> str:
    return f"{number:,} user{'s' * (number != 1)}"


def _when(data: ReportData) -> str:
    if not data.runs:
        return ""
    latest = data.runs[-1]
    until = f"to {_moment(latest.finished)}" if latest.finished else "and not finished"
    names = {"format": "format", "raw": "raw rows", "target_rule_ids": "only the targets"}
    options = [
        f"{text}: {value}"
        for name, text in names.items()
        if (value := data.settings.get(name)) not in (None, [], False)
    ]
    return "; ".join([f"Run {latest.number}, {_moment(latest.started)} {until}", *options])


def _moment(text: str) -> str:
    """2026-01-31 12:34:56 UTC, from ISO 8601."""
    return text[:19].replace("T", " ") + (" UTC" if text.endswith("+00:00") else text[19:])


def _minute(text: str) -> str:
    return text[:16].replace("T", " ")


def _amount(value: Decimal) -> str:
    """15,002.46: with two decimals, and never longer than a phone is wide."""
    return f"{value:,.2f}" if value.adjusted() < 12 else f"{value:.6e}"


def _exact(value: Decimal) -> str:
    return f"{value:,f}" if value.adjusted() < 40 else str(value)


def _card(name: str, title: str, content: str, nothing: str = "") -> str:
    content = content or f'<p class="dim">{escape(nothing)}</p>'
    return f'<section id="{name}"><h2>{escape(title)}</h2>{content}</section>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1) -> str:
    """A table whose first `texts` columns are text, the others numbers."""

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = ["" if place < texts else ' class="n"' for place in range(len(cells))]
        made = (
            f"<{tag}{kind}>{escape(cell)}</{tag}>" for cell, kind in zip(cells, kinds, strict=True)
        )
        return f"<tr>{''.join(made)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    top = f"<thead>{line(head, 'th')}</thead>" if head else ""
    return f"<table>{top}<tbody>{body}</tbody></table>"


def _details(words: str, content: str) -> str:
    return f"<details><summary>{escape(words)}</summary>{content}</details>"


def _totals(data: ReportData) -> str:
    """What the latest run did, and what the directory holds after all of them."""
    summary = data.runs[-1].summary if data.runs else Summary()
    stats = data.stats
    more = {
        "Lines that are no user id": summary.bad_lines,
        "Late events found": summary.late_events,
        "Events gone from the service": summary.vanished_events,
        "New events never announced": summary.unannounced_events,
        "Announced events not there": summary.missing_events,
        "Users whose groups could not be used": summary.groups_refused,
        "Retries": summary.retries,
    }
    skipped = {
        "by events": summary.by_events,
        "by last update": summary.by_update,
        "by value": summary.by_value,
        "to have no record": summary.no_record,
    }
    proofs = [(f"Targets proven {how}", f"{number:,}") for how, number in skipped.items()]
    if not any([*skipped.values()][1:]):
        proofs = []
    elif summary.oldest_proof:
        proofs.append(("Oldest full proof of a user", _moment(summary.oldest_proof)))
    run = [
        ("Users complete", f"{summary.complete:,}"),
        ("Users failed", f"{summary.failed + summary.refused:,}"),
        ("Targets they are in", f"{summary.targets:,}"),
        *proofs,
        ("Events written", f"{summary.events:,}"),
        ("Requests", f"{summary.requests:,}"),
        *((name, f"{number:,}") for name, number in more.items() if number),
        ("Time", f"{summary.seconds:,.1f} s"),
    ]
    everything = [
        ("Users complete", f"{sum(number for _, number in data.users_by_events):,}"),
        ("Users failed", f"{sum(cause.users for cause in data.failures.values()):,}"),
        ("Events", f"{stats.days.total():,}"),
        ("Sum of amounts", _amount(sum(_amounts(stats).values(), Decimal(0)))),
    ]
    tables = f"<h3>This run</h3>{_table((), run)}<h3>All runs together</h3>{_table((), everything)}"
    return _card("totals", "Totals", tables)


def _failures(data: ReportData) -> str:
    causes = sorted(data.failures.items(), key=lambda item: -item[1].users)[:_MAX_BARS]
    rows = [(name, float(cause.users), f"{cause.users:,}") for name, cause in causes]
    lists = []
    for name, cause in causes:
        first = f"the first {len(cause.ids)}" if cause.users > len(cause.ids) else "their ids"
        ids = "".join(f"<span>{user}</span>" for user in cause.ids)
        ask = "ask again with --retry-failed" if cause.retryable else "refused for good"
        text = f'<p>{escape(cause.message)} ({ask})</p><p class="ids">{ids}</p>'
        lists.append(_details(f"{name}: {first}", text))
    content = charts.bars(rows) + "".join(lists)
    return _card("failures", "Failed users by cause", content, "Nobody failed.")


def _drift(data: ReportData) -> str:
    if not data.drift:
        return ""
    rows = [(_minute(one["first_seen"]), str(Finding.from_dict(one))) for one in data.drift]
    table = _table(("first seen (UTC)", "the API is not as it was"), rows, texts=2)
    return _card("drift", "New in the answers", f'<div class="wide">{table}</div>')


def _events_over_time(data: ReportData) -> str:
    step, labels, series = grouped_by_time(data.stats.days, _MAX_NAMES)
    content = charts.columns(labels, series)
    return _card("events", f"Events by {step} and name", content, "No event was written.")


def _values_by_target(data: ReportData) -> Iterable[str]:
    """Amounts, and apart from them the counts: targets of which every event has the value 1."""
    stats = data.stats
    if not stats.values:
        yield _card("targets", "Amounts by target", "", "No event was written.")
    amounts = _amounts(stats)
    counts = {rule: value for rule, value in stats.values.items() if rule not in amounts}
    for name, title, values, spelled in (
        ("targets", "Amounts by target", amounts, _amount),
        ("counts", "Events by target that counts them", counts, lambda value: f"{value:,.0f}"),
    ):
        if not values:
            continue
        largest = sorted(values.items(), key=lambda item: -abs(item[1]))
        bars = [
            (_target(stats, rule), float(value), spelled(value))
            for rule, value in largest[:_MAX_BARS]
        ]
        rows = [
            (str(rule), stats.names.get(rule, ""), f"{stats.events[rule]:,}", _exact(value))
            for rule, value in largest[:_MAX_ROWS]
        ]
        more = f": the {_MAX_BARS} largest of {len(values):,}" if len(values) > _MAX_BARS else ""
        table = _table(("id", "name", "events", "sum of values"), rows, texts=2)
        exact = _details("Exact sums", f'<div class="wide">{table}</div>')
        yield _card(name, title + more, charts.bars(bars) + exact)


def _amounts(stats: PartStats) -> dict[int, Decimal]:
    """The sums of the targets that add up amounts: those whose events are not all worth 1."""
    return {rule: value for rule, value in stats.values.items() if value != stats.events[rule]}


def _target(stats: PartStats, rule: int) -> str:
    return f"{stats.names.get(rule) or 'Target'} ({rule})" if rule else "Target not named"


def _users_by_events(data: ReportData) -> str:
    users = dict(data.users_by_events)
    digits = range(max(users, default=-1) + 1)
    labels = [f"{charts.short(10 ** (n - 1))}+" if n else "none" for n in digits]
    content = charts.columns(labels, {"users": [users.get(n, 0) for n in digits]})
    return _card("users", "Users by number of events", content, "No user is complete yet.")


def _over_the_run(data: ReportData) -> Iterable[str]:
    timeline = data.timeline
    while len(timeline.buckets) > _MAX_POINTS:
        timeline.halve()
    if not timeline.buckets:
        yield _card("requests", "Requests", "", "None was recorded in the latest run.")
        return
    width = timeline.width
    seconds = [width] * len(timeline.buckets)
    rest = data.runs[-1].summary.seconds - width * (len(seconds) - 1) if data.runs else width
    if 0 < rest < width:
        seconds[-1] = rest  # the last one is not over yet
    buckets = [*zip(timeline.buckets, seconds, strict=True)]
    rates = {
        "answered": [requests / s for (requests, *_), s in buckets],
        "failed": [errors / s for (_, errors, *_), s in buckets],
    }
    latency = {
        "mean": [busy / n * 1000 if n else None for n, _, busy, _ in timeline.buckets],
        "slowest": [slowest * 1000 or None for *_, slowest in timeline.buckets],
    }
    flight = {"": [busy / s for (_, _, busy, _), s in buckets]}
    unit = _unit(width * len(seconds))
    for name, title, series in (
        ("requests", "Requests a second", rates),
        ("latency", "Latency in milliseconds", latency),
        ("concurrency", "Requests in flight", flight),
    ):
        yield _card(name, title, charts.steps(width, series, unit=unit))


def _unit(seconds: float) -> tuple[float, str]:
    """The unit for an axis of that length: its seconds, and its name."""
    units = ((3600, "h"), (60, "min"))
    return next(((size, name) for size, name in units if seconds > 3 * size), (1, "s"))


def _runs(data: ReportData) -> str:
    if len(data.runs) < 2:
        return ""
    rows = [
        (
            str(run.number),
            _minute(run.started),
            _minute(run.finished) if run.finished else "not finished",
            f"{run.summary.complete:,}",
            f"{run.summary.failed + run.summary.refused:,}",
            f"{run.summary.events:,}",
            f"{run.summary.late_events:,}",
            f"{run.summary.vanished_events:,}",
        )
        for run in data.runs[:-31:-1]
    ]
    head = ("run", "started (UTC)", "finished", "complete", "failed", "new events", "late", "gone")
    return _card("runs", "Runs", f'<div class="wide">{_table(head, rows, texts=3)}</div>')
