"""`report.html`: one file that opens offline, on a phone as well, in the dark as well.

Charts are HTML: no script, no network, colours from the page's CSS.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from html import escape
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from string import Template
from typing import Any, Final

import msgspec
from attrs import frozen

from capillary_targets.contract import Finding

from .atomic import AtomicFile
from .ledger import Ledger, Run
from .options import RunState
from .stats import EventStats
from .store import open_directory

_MAX_BARS: Final = 12
_MAX_ROWS: Final = 200
_MAX_RUNS: Final = 30
_STEPS: Final = (("day", 1, 10), ("month", 28, 7), ("year", 365, 4))
"""With the days that the shortest has, and the length of its name in a date."""
_MOST_COLUMNS: Final = 62


@frozen
class ReportData:
    """What the report shows.

    `runs` are the newest first, `users` those complete in any. `failures` are by the name of the
    error, with its code: how many users had it, and the latest row of `failures.jsonl`.
    """

    settings: Mapping[str, Any]
    runs: Sequence[Run]
    users: int
    failures: Mapping[str, tuple[int, Mapping[str, Any]]]

    @property
    def latest(self) -> RunState:
        """The latest run."""
        return self.runs[0].state if self.runs else RunState()

    @property
    def stats(self) -> EventStats:
        """Of all runs."""
        total = EventStats()
        for run in reversed(self.runs):
            total.merge(run.state.stats)
        return total


def collect(ledger: Ledger) -> ReportData:
    """All of it; costs a pass over the ledger's users, none over the files."""
    failures: dict[str, tuple[int, Mapping[str, Any]]] = {}
    for _, _, text in ledger.failures():
        row = msgspec.json.decode(text)
        name = f"{row['error']} {row.get('code') or ''}".strip()
        failures[name] = failures.get(name, (0,))[0] + 1, row
    return ReportData(ledger.settings() or {}, [*ledger.runs()], ledger.users(), failures)


def grouped_by_time(days: Mapping[int, int]) -> tuple[str, dict[str, int]]:
    """The step, day, month or year, that gives a readable number of columns; events by it.

    Steps without events are in between, so that it has no gaps.
    """
    if not days:
        return "day", {}
    first, last = min(days), max(days)
    step, days_of_step, length = next(
        (one for one in _STEPS if last - first < one[1] * _MOST_COLUMNS), _STEPS[-1]
    )
    passed = (*range(first, last, days_of_step), last)
    found = {_day(day)[:length]: 0 for day in passed}
    for day, number in days.items():
        found[_day(day)[:length]] += number
    return step, found


def _day(ordinal: int) -> str:
    return date.fromordinal(ordinal).isoformat()


def make_report(out: Path) -> Path:
    """Make the report of the sweep in `out` once more; where it is.

    Raises `SweepRefused` where there is no sweep, or a process is at it.
    """
    with open_directory(out, None) as directory:
        return write_report(directory.path, collect(directory.ledger))


def write_report(out: Path, data: ReportData) -> Path:
    """Write `report.html` into `out`. Raises `OSError`."""
    path = out / "report.html"
    with AtomicFile(path) as file:
        file.write(_page(data).encode())
    return path


def _page(data: ReportData) -> str:
    template = (files(__package__) / "report.template.html").read_text(encoding="utf-8")
    good, verdict = _verdict(data)
    stats = data.stats
    cards = (
        _totals(data, stats),
        _failures(data),
        _drift(data.latest.drift),
        _events_over_time(stats),
        _values_by_target(stats),
        *_over_the_run(data.latest),
    )
    return Template(template).substitute(
        title=escape(f"Sweep of {data.settings.get('base_url', '')}"),
        when=escape(_when(data)),
        mood="" if good else "bad",
        verdict=escape(verdict),
        runs=_runs(data.runs),
        cards="\n".join(cards),
    )


def _verdict(data: ReportData) -> tuple[bool, str]:
    """Whether all is well, and a sentence on it."""
    if not data.runs:
        return False, "Nothing was swept yet."
    summary = data.latest.summary
    complete = _users(summary.complete)
    if not summary.finished:
        return False, (
            f"Not finished: {complete} complete so far. Run the same command again to go on."
        )
    if summary.all_complete:
        told = f"Complete: {complete}, and every event of theirs"
        if summary.by_value:
            told += f" but for what cancels out: {summary.by_value:,} targets are proven by value"
        return True, f"{told}."
    faults = {
        "may come right when asked again (--retry-failed)": summary.failed,
        "refused for good": summary.refused,
        "lines of the list that are no user id": summary.bad_lines,
    }
    told = ", ".join(f"{number:,} {what}" for what, number in faults.items() if number)
    missing = summary.failed + summary.refused
    return False, f"Finished, but {missing:,} of {_users(summary.users)} failed: {told}."


def _users(number: int) -> str:
    return f"{number:,} user{'s' * (number != 1)}"


def _when(data: ReportData) -> str:
    if not data.runs:
        return ""
    latest = data.runs[0]
    until = f"to {_moment(latest.finished)}" if latest.finished else "and not finished"
    return f"Run {latest.number}, {_moment(latest.started)} {until}"


def _moment(text: str | None) -> str:
    """2026-01-31 12:34 UTC, from ISO 8601."""
    return f"{text[:16].replace('T', ' ')} UTC" if text else "not finished"


def _amount(value: Decimal) -> str:
    """15,002.46: with two decimals, and never longer than a phone is wide."""
    return f"{value:,.2f}" if value.adjusted() < 12 else f"{value:.6e}"


def _card(name: str, title: str, content: str, nothing: str = "") -> str:
    content = content or f'<p class="dim">{escape(nothing)}</p>'
    return f'<section id="{name}"><h2>{escape(title)}</h2>{content}</section>'


def _bars(rows: Sequence[tuple[str, float, str]]) -> str:
    """Lying bars, for names of any length: (name, value, the value in words)."""
    top = max((abs(value) for _, value, _ in rows), default=0) or 1
    items = (
        f"<li><span>{escape(name)}</span> <b>{escape(told)}</b>"
        f'<i class="{"minus" if value < 0 else "plus"}" '
        f'style="width:{max(0.5, 100 * abs(value) / top):.1f}%"></i></li>'
        for name, value, told in rows
    )
    return f'<ul class="bars">{"".join(items)}</ul>' if rows else ""


def _columns(
    labels: Sequence[str], series: Mapping[str, Sequence[float]], *, piled: bool = False
) -> str:
    """Columns, one for each label: series piled up, or each before the ones named later."""
    rows = [*zip(*series.values(), strict=True)]
    heights = [[*accumulate(row)] if piled else row for row in rows]
    top = max(map(max, heights), default=0)
    shapes = []
    for label, row, tops in zip(labels, rows, heights, strict=True):
        shown = [(name, value) for name, value in zip(series, row, strict=True) if value]
        told = ", ".join([label, *(f"{name}: {round(value, 1):,}" for name, value in shown)])
        bars = "".join(
            f'<i class="f{colour}" style="height:{100 * height / top:.1f}%"></i>'
            for colour, height in reversed([*enumerate(tops, 1)])
            if height
        )
        shapes.append(f'<span title="{escape(told)}">{bars}</span>')
    names = (f'<span><i class="f{n}"></i>{escape(name)}</span>' for n, name in enumerate(series, 1))
    ends = "".join(
        f"<span>{escape(label)}</span>" for label in dict.fromkeys([labels[0], labels[-1]])
    )
    legend = f'<p class="legend">{"".join(names)}</p>' if len(series) > 1 else ""
    return (
        f'{legend}<p class="axis">{round(top, 1):,}</p>'
        f'<div class="columns">{"".join(shapes)}</div><p class="axis">{ends}</p>'
    )


def _table(
    head: Sequence[str], rows: Iterable[Sequence[object]], *, texts: int = 1, wide: bool = True
) -> str:
    """A table whose first `texts` columns are text, the others numbers; a `wide` one scrolls."""

    def line(cells: Sequence[object], tag: str) -> str:
        kinds = [tag] * texts + [f'{tag} class="n"'] * (len(cells) - texts)
        shown = (f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells)
        made = (f"<{of}>{escape(text)}</{tag}>" for of, text in zip(kinds, shown, strict=True))
        return f"<tr>{''.join(made)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    top = f"<thead>{line(head, 'th')}</thead>" if head else ""
    table = f"<table>{top}<tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>' if wide else table


def _totals(data: ReportData, stats: EventStats) -> str:
    """What the latest run did, as `summary.json` has it, and what the directory holds after all."""
    summary = data.latest.summary
    facts = summary.as_dict() | {
        "oldest_proof": summary.oldest_proof and _moment(summary.oldest_proof),
        "seconds": f"{summary.seconds:,.1f}",
    }
    run = {
        re.sub("^by_", "targets proven by ", name).replace("_", " ").capitalize(): value
        for name, value in facts.items()
        if value and name not in {"run", "finished", "value_sum"}
    }
    everything = {
        "Users complete": data.users,
        "Users failed": sum(users for users, _ in data.failures.values()),
        "Events": stats.events.total(),
        "Sum of amounts": _amount(sum(_amounts(stats).values(), Decimal(0))),
    }
    parts = {"This run": run, "All runs together": everything}
    tables = (f"<h3>{n}</h3>{_table((), facts.items(), wide=False)}" for n, facts in parts.items())
    return _card("totals", "Totals", "".join(tables))


def _failures(data: ReportData) -> str:
    causes = sorted(data.failures.items(), key=lambda item: -item[1][0])[:_MAX_BARS]
    bars = []
    for name, (users, row) in causes:
        advice = "--retry-failed" if row["retryable"] else "refused for good"
        bars.append((f"{name}: {row['message']} ({advice})", users, f"{users:,}"))
    return _card("failures", "Failed users by cause", _bars(bars), "Nobody failed.")


def _drift(drift: Sequence[Mapping[str, str]]) -> str:
    rows = [(_moment(one["first_seen"]), f"{Finding.from_dict(one)}") for one in drift]
    table = _table(("first seen", "the API is not as it was"), rows, texts=2)
    return _card("drift", "New in the answers", table) if drift else ""


def _events_over_time(stats: EventStats) -> str:
    step, found = grouped_by_time(stats.days)
    content = _columns([*found], {"events": [*found.values()]}) if found else ""
    return _card("events", f"Events by {step}", content, "No event was written.")


def _values_by_target(stats: EventStats) -> str:
    """Amounts as bars; the exact sums also of targets that count: each event has the value 1."""
    amounts = sorted(_amounts(stats).items(), key=lambda item: -abs(item[1]))
    bars = [
        (_target(stats, rule), float(value), _amount(value)) for rule, value in amounts[:_MAX_BARS]
    ]
    rows = [
        (
            str(rule),
            stats.names.get(rule, ""),
            stats.events[rule],
            f"{value:,f}" if value.adjusted() < 40 else value,
        )
        for rule, value in sorted(stats.values.items(), key=lambda item: -abs(item[1]))[:_MAX_ROWS]
    ]
    more = f": the {_MAX_BARS} largest of {len(amounts):,}" if len(amounts) > _MAX_BARS else ""
    table = _table(("id", "name", "events", "sum of values"), rows, texts=2)
    exact = f"<details><summary>Exact sums</summary>{table}</details>"
    content = _bars(bars) + exact if rows else ""
    return _card("targets", "Amounts by target" + more, content, "No event was written.")


def _amounts(stats: EventStats) -> dict[int, Decimal]:
    """The sums of the targets that add up amounts: those whose events are not all worth 1."""
    return {rule: value for rule, value in stats.values.items() if value != stats.events[rule]}


def _target(stats: EventStats, rule: int) -> str:
    return f"{stats.names.get(rule) or 'Target'} ({rule})"


def _over_the_run(state: RunState) -> Iterator[str]:
    width, buckets = state.timeline
    if not buckets:
        yield _card("requests", "Requests", "", "None was recorded in the latest run.")
        return
    requests, failed, busy, slowest = zip(*buckets, strict=True)
    labels = [_span(width * number) for number in range(len(buckets))]
    rest = state.summary.seconds - width * (len(buckets) - 1)  # the last one may not be over yet
    took = [width] * (len(buckets) - 1) + [rest if 0 < rest < width else width]
    rates = {
        "answered": _ratios(map(int.__sub__, requests, failed), took),
        "failed": _ratios(failed, took),
    }
    times = {"mean": _ratios(busy, requests, 1000), "slowest": [1000 * one for one in slowest]}
    yield _card("requests", "Requests a second", _columns(labels, rates, piled=True))
    yield _card("latency", "Latency in milliseconds", _columns(labels, times))


def _span(seconds: float) -> str:
    size, unit = next((one for one in ((3600, "h"), (60, "min")) if seconds > 3 * one[0]), (1, "s"))
    return f"{seconds / size:.3g} {unit}"


def _ratios(above: Iterable[float], below: Iterable[float], unit: float = 1) -> list[float]:
    return [unit * one / (other or 1) for one, other in zip(above, below, strict=True)]


def _runs(runs: Sequence[Run]) -> str:
    if len(runs) < 2:
        return ""
    names = "complete", "failed", "refused", "events", "late_events", "vanished_events"
    rows = [
        (
            f"{run.number}",
            _moment(run.started),
            _moment(run.finished),
            *(getattr(run.state.summary, name) for name in names),
        )
        for run in runs[:_MAX_RUNS]
    ]
    head = "run", "started", "finished", *(name.replace("_", " ") for name in names)
    return _card("runs", "Runs", _table(head, rows, texts=3))
