"""What the report tells: bars of days, weeks, months; sums that add up."""

from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capillary_targets.models import Target, TargetEvent
from capillary_targets.sweep.findings import grouped_by_time
from capillary_targets.sweep.meter import Bucket, Series
from capillary_targets.sweep.tally import Tally

from .conftest import packed

DATES = st.dates(date(2019, 1, 1), date(2027, 12, 31))
NAMES = st.sampled_from("abcdefghij")


@given(st.dictionaries(DATES, st.dictionaries(NAMES, st.integers(1, 9), min_size=1), max_size=40))
def test_every_event_is_in_a_bar(days: dict[date, dict[str, int]]):
    given_days = {day.isoformat(): names for day, names in days.items()}
    _, bars, series = grouped_by_time(given_days, 3)
    assert len(bars) <= 36
    assert sorted(bars) == bars
    assert len(series) <= 4
    total = sum(sum(names.values()) for names in days.values())
    assert sum(sum(row) for row in series.values()) == total
    assert all(len(row) == len(bars) for row in series.values())


@pytest.mark.parametrize(
    ("days", "step", "bars"), [(1, "day", 1), (36, "day", 36), (37, "week", 6), (400, "month", 14)]
)
def test_the_step_fits_the_span(days: int, step: str, bars: int):
    first = date(2025, 1, 6)
    last = first + timedelta(days=days - 1)
    found = grouped_by_time({first.isoformat(): {"a": 1}, last.isoformat(): {"a": 1}}, 3)
    assert (found[0], len(found[1])) == (step, bars)


def test_events_without_a_date_are_counted_but_have_no_bar():
    tally = Tally()
    tally.add([], packed([TargetEvent(1)]))
    assert tally.days == {"": {"": 1}}
    assert grouped_by_time(tally.days, 3) == ("day", [], {})


def test_a_tally_goes_through_the_ledger_exactly():
    value = Decimal("12345678901234567890.000000001")
    tally = Tally()
    events = [TargetEvent(n, target_rule_id=7, target_value=value) for n in range(3)]
    tally.add([Target(7, "Seven")], packed(events))
    back = Tally.from_json(tally.to_json())
    assert str(back.targets[7].value) == "37037036703703703670.000000003"
    assert back.targets[7].name == "Seven"
    back.merge(tally)
    assert back.targets[7].events == 6
    assert str(back.targets[7].value) == "74074073407407407340.000000006"


def test_event_names_beyond_forty_are_counted_together():
    tally = Tally()
    tally.add([], packed([TargetEvent(n, event_name=f"name {n}") for n in range(100)]))
    assert len(tally.days[""]) == 41
    assert tally.days[""]["(other names)"] == 60


@given(st.lists(st.floats(0, 100_000), max_size=300))
def test_a_series_is_bounded_and_loses_no_request(moments: list[float]):
    series = Series()
    for moment in moments:
        series.at(moment).merge(Bucket(requests=1, busy=0.5, slowest=0.5))
    assert len(series.buckets) <= 240
    assert sum(bucket.requests for bucket in series.buckets) == len(moments)
