"""`report.html`: one file that opens offline, on a phone as well, in the dark as well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, Final

import msgspec
from attrs import define, frozen

from capillary_targets.contract import Finding

from . import charts
from .atomic import AtomicFile
from .ledger import Ledger, Run
from .options import RunState
from .stats import EventStats
from .store import open_directory

__all__ = ["Cause", "ReportData", "collect", "grouped_by_time", "make_report", "write_report"]

_MAX_BARS: Final = 12
_MAX_NAMES: Final = 6
_MAX_ROWS: Final = 200
_MAX_RUNS: Final = 30
_STEPS: Final = (("day", 1, 10), ("month", 28, 7), ("year", 365, 4))
"""With the days that the shortest has, and the length of its name in a date."""
_MOST_COLUMNS: Final = 62


@define
class Cause:
    """Users who failed with the same error: how many, and what one was told."""

    message: str
    retryable: bool
    users: int = 0


@frozen
class ReportData:
    """What the report shows.

    `runs` are the newest first, `users` those complete in any, `failures` by the name of the error,
    with its code.
    """

    settings: Mapping[str, Any]
    runs: Sequence[Run]
    users: int
    failures: Mapping[str, Cause]

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
        total.bound()
        return total


def collect(ledger: Ledger) -> ReportData:
    """All of it; costs a pass over the ledger's users, none over the files."""
    failures: dict[str, Cause] = {}
    for _, _, text in ledger.failures():
        row = msgspec.json.decode(text)
        name = f"{row['error']} {row.get('code') or ''}".strip()
        cause = failures.setdefault(name, Cause(row["message"], row["retryable"]))
        cause.users += 1
    return ReportData(ledger.settings() or {}, [*ledger.runs()], ledger.users(), failures)


def grouped_by_time(
    days: Mapping[str, Counter[int]], most_names: int
) -> tuple[str, list[str], dict[str, list[int]]]:
    """Events by day, month or year, whichever gives a readable number of columns.

    Returns the step, the columns' labels in order without gaps, and for each event name, the most
    frequent first, its counts; the rarer names come together as "other".
    """
    dated = {name: +Counter({**found, 0: 0}) for name, found in days.items()}
    ordinals = {day for found in dated.values() for day in found}
    if not ordinals:
        return "day", [], {}
    first, last = min(ordinals), max(ordinals)
    step, days_of_step, length = next(
        (one for one in _STEPS if last - first < one[1] * _MOST_COLUMNS), _STEPS[-1]
    )
    passed = (*range(first, last, days_of_step), last)
    labels = [*dict.fromkeys(_day(day)[:length] for day in passed)]
    series: dict[str, Counter[str]] = {}
    ranked = sorted(dated.items(), key=lambda item: -item[1].total())
    for rank, (name, found) in enumerate(ranked):
        row = series.setdefault(name if rank < most_names else "other", Counter())
        for day, number in found.items():
            row[_day(day)[:length]] += number
    return step, labels, {name: [row[one] for one in labels] for name, row in series.items()}


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


def _details(words: str, content: str) -> str:
    return f"<details><summary>{escape(words)}</summary>{content}</details>"


def _totals(data: ReportData, stats: EventStats) -> str:
    """What the latest run did, and what the directory holds after all of them."""
    summary = data.latest.summary
    run: dict[str, object] = {
        "Users complete": summary.complete,
        "Users failed": summary.failed + summary.refused,
        "Targets they are in": summary.targets,
    }
    if summary.by_update or summary.by_value or summary.no_record:
        run |= {
            "Targets proven by events": summary.by_events,
            "Targets proven by last update": summary.by_update,
            "Targets proven by value": summary.by_value,
            "Targets proven to have no record": summary.no_record,
            "Oldest full proof of a user": _moment(summary.oldest_proof),
        }
    seldom = {
        "Lines that are no user id": summary.bad_lines,
        "Late events found": summary.late_events,
        "Events gone from the service": summary.vanished_events,
        "New events never announced": summary.unannounced_events,
        "Announced events not there": summary.missing_events,
        "Users whose groups could not be used": summary.groups_refused,
        "Retries": summary.retries,
    }
    run |= {"Events written": summary.events, "Requests": summary.requests}
    run |= {name: number for name, number in seldom.items() if number}
    run["Time"] = f"{summary.seconds:,.1f} s"
    everything = {
        "Users complete": data.users,
        "Users failed": sum(cause.users for cause in data.failures.values()),
        "Events": stats.events.total(),
        "Sum of amounts": _amount(sum(_amounts(stats).values(), Decimal(0))),
    }
    parts = {"This run": run, "All runs together": everything}
    tables = (f"<h3>{n}</h3>{_table((), facts.items(), wide=False)}" for n, facts in parts.items())
    return _card("totals", "Totals", "".join(tables))


def _failures(data: ReportData) -> str:
    causes = sorted(data.failures.items(), key=lambda item: -item[1].users)[:_MAX_BARS]
    content = charts.bars([(name, cause.users, f"{cause.users:,}") for name, cause in causes])
    if causes:
        head = "error", "what one of them was told", "what to do"
        rows = (
            (name, one.message, "--retry-failed" if one.retryable else "refused for good")
            for name, one in causes
        )
        content += _details(
            "Causes; who they are is in failures.jsonl", _table(head, rows, texts=3)
        )
    return _card("failures", "Failed users by cause", content, "Nobody failed.")


def _drift(drift: Sequence[Mapping[str, str]]) -> str:
    if not drift:
        return ""
    rows = [(_moment(one["first_seen"]), str(Finding.from_dict(one))) for one in drift]
    table = _table(("first seen", "the API is not as it was"), rows, texts=2)
    return _card("drift", "New in the answers", table)


def _events_over_time(stats: EventStats) -> str:
    step, labels, series = grouped_by_time(stats.days, _MAX_NAMES)
    content = charts.columns(labels, series)
    return _card("events", f"Events by {step} and name", content, "No event was written.")


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
    content = charts.bars(bars) + _details("Exact sums", table) if rows else ""
    return _card("targets", "Amounts by target" + more, content, "No event was written.")


def _amounts(stats: EventStats) -> dict[int, Decimal]:
    """The sums of the targets that add up amounts: those whose events are not all worth 1."""
    return {rule: value for rule, value in stats.values.items() if value != stats.events[rule]}


def _target(stats: EventStats, rule: int) -> str:
    return f"{stats.names.get(rule) or 'Target'} ({rule})" if rule else "Target not named"


def _over_the_run(state: RunState) -> Iterator[str]:
    width, buckets = state.timeline
    if not buckets:
        yield _card("requests", "Requests", "", "None was recorded in the latest run.")
        return
    requests, errors, busy, slowest = zip(*buckets, strict=True)
    seconds = [width] * len(requests)
    rest = state.summary.seconds - width * (len(seconds) - 1)
    if 0 < rest < width:
        seconds[-1] = rest  # the last one is not over yet
    size, unit = next(((s, n) for s, n in _UNITS if width * len(seconds) > 3 * s), (1, "s"))
    labels = [""] * len(seconds)
    for moment in charts.ticks(width * len(seconds) / size):
        if (place := int(moment * size / width)) < len(labels):
            labels[place] = f"{moment:g} {unit}"
    for name, title, series in (
        (
            "requests",
            "Requests a second",
            {"answered": _ratios(requests, seconds), "failed": _ratios(errors, seconds)},
        ),
        (
            "latency",
            "Latency in milliseconds",
            {"slowest": [1000 * one for one in slowest], "mean": _ratios(busy, requests, 1000)},
        ),
    ):
        yield _card(name, title, charts.columns(labels, series, piled=False))


_UNITS: Final = ((3600, "h"), (60, "min"))


def _ratios(above: Sequence[float], below: Sequence[float], unit: float = 1) -> list[float]:
    return [unit * one / (other or 1) for one, other in zip(above, below, strict=True)]


def _runs(runs: Sequence[Run]) -> str:
    if len(runs) < 2:
        return ""
    rows = [
        (
            str(run.number),
            _moment(run.started),
            _moment(run.finished),
            run.state.summary.complete,
            run.state.summary.failed + run.state.summary.refused,
            run.state.summary.events,
            run.state.summary.late_events,
            run.state.summary.vanished_events,
        )
        for run in runs[:_MAX_RUNS]
    ]
    head = ("run", "started", "finished", "complete", "failed", "new events", "late", "gone")
    return _card("runs", "Runs", _table(head, rows, texts=3))
