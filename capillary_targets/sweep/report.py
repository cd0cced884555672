"""`report.html`: one file that opens offline, on a phone as well, in the dark as well."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .directory import Directory
from .findings import Findings, gather, grouped_by_time
from .ledger import Ledger
from .meter import Series
from .parts import WholeFile
from .summary import Summary

if TYPE_CHECKING:
    from .charts import Charts

__all__ = ["make_report", "write_findings", "write_report"]

_TARGETS: Final = 12
_NAMES: Final = 6
_POINTS: Final = 60


def make_report(out: Path) -> Path:
    """Make the report of the sweep in `out` once more; where it is.

    Raises `SweepRefused` where there is no sweep, or a process is at it.
    """
    with Directory(out, None) as directory:
        return write_report(directory.path, directory.ledger)


def write_report(out: Path, ledger: Ledger) -> Path:
    """Write `report.html` into `out`, from what the ledger holds. Raises `OSError`."""
    return write_findings(out, gather(ledger))


def write_findings(out: Path, found: Findings) -> Path:
    """Write `report.html` into `out`. Raises `OSError`."""
    path = out / "report.html"
    with WholeFile(path) as file:
        file.write(_page(found).encode())
    return path


def _page(found: Findings) -> str:
    from .charts import Charts  # noqa: PLC0415 - what draws is slow to load and wanted once

    charts = Charts()
    cards = "\n".join(
        (
            _events_over_time(found, charts),
            _value_by_target(found, charts),
            _users_by_events(found, charts),
            *_over_the_run(found.series, charts),
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


def _settings(found: Findings) -> str:
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
        "failed": _number(summary.failed),
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


def _runs(found: Findings) -> str:
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


def _events_over_time(found: Findings, charts: Charts) -> str:
    step, labels, series = grouped_by_time(found.tally.days, _NAMES)
    title = f"Events by {step} and name"
    if not labels:
        return _nothing("events", title, "No event was written.")
    return _card("events", title, charts.stacked(labels, series, _short))


def _value_by_target(found: Findings, charts: Charts) -> str:
    title = "Value by target"
    targets = sorted(found.tally.targets.items(), key=lambda item: abs(item[1].value))[::-1]
    if not targets:
        return _nothing("targets", title, "Nobody is in a target.")
    shown = {
        f"{sums.name or 'Target'} ({rule})": float(sums.value) for rule, sums in targets[:_TARGETS]
    }
    if len(targets) > _TARGETS:
        title += f": the {_TARGETS} largest of {len(targets):,}"
    rows = [
        (str(rule), sums.name or "", _number(sums.events), _amount(sums.value))
        for rule, sums in targets[:200]
    ]
    table = _table(("id", "name", "events", "value"), rows)
    more = f"<details><summary>Exact sums</summary><div class=wide>{table}</div></details>"
    return _card("targets", title, charts.bars(shown, _short) + more)


def _users_by_events(found: Findings, charts: Charts) -> str:
    title = "Users by number of events"
    if not found.users_by_events:
        return _nothing("users", title, "No user is complete yet.")
    users = dict(found.users_by_events)
    bars = {
        f"{_short(10 ** (digits - 1))}+" if digits else "none": users.get(digits, 0)
        for digits in range(max(users) + 1)
    }
    return _card("users", title, charts.stacked(list(bars), {"users": [*bars.values()]}, _short))


def _over_the_run(series: Series, charts: Charts) -> Iterable[str]:
    while len(series.buckets) > _POINTS:
        series.halve()
    width = series.width
    labels = [_clock(place * width) for place in range(len(series.buckets))]
    if not labels:
        yield _nothing("requests", "Requests", "None was made in the latest run.")
        return
    rates = {
        "requests/s": [bucket.requests / width for bucket in series.buckets],
        "failed/s": [bucket.errors / width for bucket in series.buckets],
    }
    yield _card("requests", "Requests a second", charts.lines(labels, rates, _short))
    latency = {
        "mean": [b.busy / b.requests * 1000 if b.requests else None for b in series.buckets],
        "slowest": [b.slowest * 1000 if b.requests else None for b in series.buckets],
    }
    yield _card("latency", "Latency in milliseconds", charts.lines(labels, latency, _short))
    flight = {"in flight": [bucket.busy / width for bucket in series.buckets]}
    yield _card("concurrency", "Requests in flight", charts.lines(labels, flight, _short))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _failures(found: Findings, charts: Charts) -> str:
    title = "Failed users by cause"
    if not found.failures:
        return _nothing("failures", title, "Nobody failed.")
    causes = {name: float(number) for name, number in found.failures.most_common(_TARGETS)}
    return _card("failures", title, charts.bars(causes, _short))
