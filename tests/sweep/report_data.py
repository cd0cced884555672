"""Data for reports: after half a second, after thirty nights, with everything at its worst."""

from collections import Counter
from datetime import date
from decimal import Decimal

from capillary_targets.errors import ConnectionFailed
from capillary_targets.hooks import RequestDetails
from capillary_targets.sweep.ledger import Run
from capillary_targets.sweep.options import RunState, Summary
from capillary_targets.sweep.report import ReportData
from capillary_targets.sweep.stats import EventStats, RequestTimeline, SavedTimeline
from tests.conftest import Clock


def timeline(seconds: float, requests: int, took: float = 0.02) -> SavedTimeline:
    """So many requests, evenly over so many seconds: every seventh slow, every fiftieth failed."""
    clock = Clock()
    made = RequestTimeline(clock)
    for number in range(requests):
        clock.now = seconds * (number + 1) / requests * 0.999
        made(
            RequestDetails(
                method="GET",
                url="x",
                attempt=1,
                seconds=took * (4 if number % 7 == 0 else 1),
                error=None if number % 50 else ConnectionFailed("reset"),
            )
        )
    return made.saved()


def stats(days: int, values: dict[int, str], title: str) -> EventStats:
    """Events on each of so many days; the sums by target id."""
    first = date(2025, 3, 1).toordinal()
    made = EventStats()
    made.days = Counter({first + day: 3 + day * 7 % 11 for day in range(days)})
    made.values = {rule: Decimal(value) for rule, value in values.items()}
    made.events = Counter(dict.fromkeys(values, 42))
    made.names = {rule: title.format(rule) for rule in values}
    return made


def run(
    number: int = 1,
    *,
    timeline: SavedTimeline = (1.0, []),
    stats: EventStats | None = None,
    seconds: float = 1.0,
    finished: bool = True,
    **sums: object,
) -> Run:
    """A run that started on some day of January."""
    started = f"2026-01-{number:02d}T01:02:03+00:00"
    ended = started if finished else None
    summary = Summary(run=number, finished=finished, seconds=seconds, **sums)
    return Run(number, started, ended, RunState(summary, timeline, stats or EventStats()))


def half_a_second() -> ReportData:
    """What a newcomer sees: the sandbox's few users, done at once."""
    return ReportData(
        {"base_url": "the sandbox", "format": "jsonl"},
        [
            run(
                seconds=0.5,
                complete=30,
                targets=60,
                events=700,
                value_sum=Decimal("15002.46"),
                timeline=timeline(0.5, 90),
                stats=stats(90, {2579: "15002.46", 2580: "42"}, "Target {}"),
                requests=90,
            )
        ],
        30,
        {},
    )


def told(message: str, *, retryable: bool = True) -> dict[str, object]:
    """What the report needs of a row of `failures.jsonl`."""
    return {"message": message, "retryable": retryable}


def night() -> ReportData:
    """The thirtieth night, with failures of three kinds."""
    failures = {
        "InvalidUser 310011": (5000, told("the user does not exist", retryable=False)),
        "ServiceUnavailable 500": (3, told("HTTP 500 after 5 attempts")),
        "PaginationError": (1, told("the pages do not add up (target 7)")),
    }
    rules = {n: f"{(-1) ** n * n * n * 98765.4321}" for n in range(2570, 2590)} | {9: "42"}
    runs = [
        run(
            number,
            timeline=timeline(5400, 40_000) if number == 30 else (1.0, []),
            stats=stats(800, rules, "Spend by {}") if number == 30 else None,
            seconds=5400.0,
            complete=1_234_567,
            failed=4,
            refused=5000,
            bad_lines=17,
            targets=3_000_000,
            events=98_765_432 // number,
            value_sum=Decimal("1234567890.12"),
            requests=4_444_444,
            late_events=12,
            vanished_events=3,
        )
        for number in range(30, 0, -1)
    ]
    return ReportData(
        {"base_url": "https://eu.api.capillarytech.com", "format": "parquet", "raw": True},
        runs,
        1_258_123,
        failures,
    )


def extreme() -> ReportData:
    """Long words without a blank, huge and tiny numbers, markup, one bucket of time, one user."""
    long = "Überlänge" * 25
    cause = told(f"<script>{long}", retryable=False)
    rules = {2**62: "-1E+400", 1: "0.000000001", 2: "9" * 60}
    return ReportData(
        {"base_url": f"https://{'host' * 40}.example", "target_rule_ids": [10**9] * 60},
        [
            run(
                timeline=timeline(0.01, 1, 0.000001),
                stats=stats(1, rules, f"<b>{long}{chr(0x627) * 60} {{}}"),
                seconds=0.01,
                finished=False,
                complete=1,
                failed=1,
                value_sum=Decimal("-1E+400"),
            )
        ],
        1,
        {"E" * 120: (1, cause)},
    )


def nothing() -> ReportData:
    """A directory that was made, and no more."""
    return ReportData({}, [], 0, {})


DATA = {"half": half_a_second, "night": night, "extreme": extreme, "nothing": nothing}
