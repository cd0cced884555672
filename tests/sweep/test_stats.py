"""Statistics behind the report: bars of days, weeks, months; sums that add up."""

from contextlib import closing
from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capillary_targets.hooks import RequestDetails
from capillary_targets.models import TargetEvent
from capillary_targets.sweep.ledger import Ledger
from capillary_targets.sweep.options import RunState
from capillary_targets.sweep.report import grouped_by_time
from capillary_targets.sweep.stats import RequestTimeline
from tests.conftest import Clock

from .conftest import counted, encoded

DATES = st.dates(date(2019, 1, 1), date(2027, 12, 31)).map(date.toordinal)


@given(st.dictionaries(DATES, st.integers(1, 9)))
def test_every_event_is_in_a_bar(days: dict[int, int]):
    _, bars = grouped_by_time(days)
    assert len(bars) <= 62
    assert sorted(bars) == [*bars]
    assert sum(bars.values()) == sum(days.values())


@pytest.mark.parametrize(
    ("days", "step", "bars"),
    [(1, "day", 1), (62, "day", 62), (63, "month", 3), (400, "month", 14), (2000, "year", 6)],
)
def test_the_step_fits_the_span(days: int, step: str, bars: int):
    first = date(2025, 1, 6).toordinal()
    last = first + days - 1
    found = grouped_by_time({first: 1, last: 1})
    assert (found[0], len(found[1])) == (step, bars)


def test_events_without_a_date_are_counted_but_have_no_bar():
    stats = counted(encoded([TargetEvent(1)]))
    assert stats.events == {7: 1}
    assert grouped_by_time(stats.days) == ("day", {})


def test_statistics_go_through_the_ledger_exactly(tmp_path: Path):
    value = Decimal("12345678901234567890.000000001")
    events = [TargetEvent(n, target_rule_id=7, target_value=value) for n in range(3)]
    stats = counted(encoded(events))
    stats.names[7] = "Seven"
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        ledger.start_run({}, "now", new=False)
        ledger.save(RunState(stats=stats), None)
        back = next(ledger.runs()).state.stats
    assert back == stats
    assert str(back.values[7]) == "37037036703703703670.000000003"
    back.merge(stats)
    assert back.events[7] == 6
    assert back.names == {7: "Seven"}
    assert str(back.values[7]) == "74074073407407407340.000000006"


@pytest.mark.parametrize("amount", ["1E+400", "1E-400", "-9E+499"])
def test_an_enormous_amount_is_summed_exactly(amount: str):
    events = [TargetEvent(n, target_value=Decimal(v)) for n, v in enumerate((amount, "0.01"))]
    (value,) = counted(encoded(events)).values.values()
    assert Fraction(value) == Fraction(amount) + Fraction("0.01")


@pytest.mark.parametrize("amount", ["1E+600", "1E-600", "1E+999999", "-1E+99999"])
def test_an_amount_beyond_all_sums_is_its_users_failure(amount: str):
    events = [TargetEvent(n, target_value=Decimal(v)) for n, v in enumerate(("1", amount))]
    with pytest.raises(ValueError, match="cannot be summed exactly"):
        encoded(events)


@given(st.lists(st.floats(0, 100_000), max_size=300), st.floats(0, 1000))
def test_a_timeline_is_bounded_and_loses_no_request(moments: list[float], offset: float):
    clock = Clock()
    timeline = RequestTimeline(clock)
    for moment in moments:
        clock.now = moment
        timeline(RequestDetails(method="GET", url="x", attempt=1, seconds=0.5))
    resumed = RequestTimeline(clock)
    resumed.resume(timeline.saved(), offset)
    for found in (timeline, resumed):
        assert len(found.buckets) <= 60
        requests, errors, busy, slowest = [*zip(*found.buckets, strict=True)] or [()] * 4
        assert sum(requests) == len(moments)
        assert sum(errors) == 0
        assert sum(busy) == 0.5 * len(moments)
        assert max(slowest, default=0.5) == 0.5


def test_a_resumed_timeline_goes_on_behind_the_earlier_session():
    clock = Clock()
    earlier, resumed = (RequestTimeline(clock) for _ in range(2))
    request = RequestDetails(method="GET", url="x", attempt=1, seconds=0.5)
    clock.now = 1.0
    earlier(request)
    resumed(request)  # before the sweep, so none of its own
    clock.now = 2.0
    resumed.resume(earlier.saved(), seconds=10.0)
    clock.now = 3.0
    resumed(request)
    places = [place for place, bucket in enumerate(resumed.buckets) if bucket[0]]
    assert [place * resumed.width for place in places] == [1.0, 11.0]
