"""Events as columns: what is counted and written from them is what each event says."""

from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from decimal import Context, Decimal
from functools import reduce
from sys import getrefcount
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capillary_targets.models import Target, TargetEvent
from capillary_targets.sweep.batch import EXACT, EventBatch
from capillary_targets.sweep.rows import (
    Memo,
    encode,
    event_lines,
    plain,
    target_line,
    target_tail,
)
from capillary_targets.sweep.tally import Tally

from .conftest import needed, packed

WIDE = Context(prec=76)
LONGS = st.integers(-(2**63), 2**63 - 1)
ZONES = st.none() | st.integers(-1439, 1439).map(lambda n: timezone(timedelta(minutes=n)))
ODD = st.just(timezone(timedelta(hours=5, minutes=53, seconds=28)))
"""A mean local time: ISO 8601 has no seconds in an offset."""
# Any other zone's instant may lie outside of what a datetime holds.
NEAR = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=ZONES | ODD)  # noqa: DTZ001
NAIVE = st.datetimes()
AMOUNTS = (
    st.decimals(-(10**32) + 1, 10**32 - 1, places=6)
    | st.decimals(-(10**6), 10**6, places=3)
    | st.sampled_from(["0E+50", "0E-50", "-0", "1E+31", "1.0000000", "1000"]).map(Decimal)
)


def events_of(
    moments: st.SearchStrategy[Any], amounts: st.SearchStrategy[Any]
) -> st.SearchStrategy[list[TargetEvent]]:
    text = st.text(max_size=5)
    event = st.builds(
        TargetEvent,
        LONGS,
        event_name=st.sampled_from(["A", "B"]) | text,
        customer_id=LONGS,
        unique_id=text,
        event_date=moments,
        event_processed_date=moments,
        target_rule_id=st.sampled_from([1, 2, 0]),
        target_value=amounts,
    )
    return st.lists(event, max_size=120)


PLAIN = events_of(NAIVE, AMOUNTS)
MIXED = st.lists(
    st.builds(
        TargetEvent,
        LONGS,
        event_name=st.none() | st.text(max_size=3),
        customer_id=st.none() | LONGS,
        event_date=st.none() | NEAR,
        event_processed_date=st.none() | NEAR,
        target_rule_id=st.none() | st.sampled_from([1, 2]),
        target_value=st.none() | AMOUNTS,
        event_date_iso=st.none() | NEAR,
        event_processed_date_iso=st.none() | NEAR,
    ),
    max_size=20,
)


def clock(moment: datetime | None) -> datetime | None:
    return moment and moment.replace(tzinfo=None)


def instant(moment: datetime | None) -> datetime | None:
    return None if moment is None or moment.tzinfo is None else moment.astimezone(UTC)


def scaled(amount: Decimal | None) -> Decimal | None:
    return None if amount is None else amount.quantize(Decimal("0.000001"), context=WIDE)


@given(st.lists(PLAIN | MIXED, max_size=3))
def test_columns_of_arrow_hold_what_pyarrow_makes_of_each_event(pages: list[list[TargetEvent]]):
    pa = needed("pyarrow")
    from capillary_targets.sweep.event_columns import columns_of, pieces_of
    from capillary_targets.sweep.fit import misfit_of_events
    from capillary_targets.sweep.schemas import EVENTS

    pages = [events for events in pages if events]
    assert not any(misfit_of_events(EventBatch(events)) for events in pages)
    rows = [
        {
            **msgspec.structs.asdict(event),
            "user_id": -7,
            "event_date": clock(event.event_date),
            "event_processed_date": clock(event.event_processed_date),
            "event_date_iso": instant(event.event_date_iso or event.event_date),
            "event_processed_date_iso": instant(
                event.event_processed_date_iso or event.event_processed_date
            ),
            "target_value": scaled(event.target_value),
        }
        for events in pages
        for event in events
    ]
    made = columns_of([pieces_of(-7, events) for events in pages]) if pages else []
    for field, array in zip(EVENTS, made, strict=bool(pages)):
        assert array.equals(pa.array([row[field.name] for row in rows], field.type)), field


@given(PLAIN, st.integers(0), st.sampled_from(["1E+32", "-1E+32", "0.0000001", "NaN", "1E-999"]))
def test_one_amount_that_does_not_fit_is_found(events: list[TargetEvent], place: int, amount: str):
    needed("pyarrow")
    from capillary_targets.sweep.fit import misfit_of_events

    place %= len(events) + 1
    events.insert(place, TargetEvent(7, target_rule_id=1, target_value=Decimal(amount)))
    assert f"the amount {Decimal(amount)} of event 7 " in (
        misfit_of_events(EventBatch(events)) or ""
    )


@given(st.lists(PLAIN | MIXED, max_size=4))
def test_a_tally_counts_each_event(users: list[list[TargetEvent]]):
    tally = Tally()
    for events in users:
        tally.add([], packed(events[:50], events[50:]))
    flat = [event for events in users for event in events]
    days = Counter(
        (e.event_date.date().isoformat() if e.event_date else "", e.event_name or "") for e in flat
    )
    names = {name for _, name in days}
    if len(names) <= 40:
        assert days == {(d, n): c for d, found in tally.days.items() for n, c in found.items()}
    assert sum(sum(found.values()) for found in tally.days.values()) == len(flat)
    for rule, sums in tally.targets.items():
        mine = [event for event in flat if (event.target_rule_id or 0) == rule]
        amounts = [event.target_value for event in mine if event.target_value is not None]
        assert sums.events == len(mine)
        assert str(sums.value) == str(reduce(EXACT.add, amounts, Decimal(0)))


@given(LONGS, PLAIN | MIXED)
def test_a_line_has_the_fields_of_its_event(user: int, events: list[TargetEvent]):
    lines = event_lines(user, events)
    one_by_one = [
        encode({"user_id": user, **msgspec.structs.asdict(event)}) + b"\n" for event in events
    ]
    assert lines == b"".join(one_by_one)


def test_a_later_page_does_not_make_up_for_a_misfit():
    needed("pyarrow")
    bad, good = Decimal("1E+32"), Decimal(1)
    pages = [[TargetEvent(n, target_value=value)] for n, value in enumerate((good, bad, good))]
    rows = packed(*pages, form="parquet")
    assert rows.misfit is not None
    assert "event 1 " in rows.misfit


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_rows_hold_neither_the_events_nor_their_values(form: str):
    if form == "parquet":
        needed("pyarrow")
    event = TargetEvent(2**60, unique_id="a" * 99, target_value=Decimal("1.50"))
    held = [event, event.event_log_id, event.unique_id, event.target_value]
    before = [*map(getrefcount, held)]
    rows = packed([event], form=form)
    assert rows.events == 1
    assert [*map(getrefcount, held)] == before


def test_the_line_of_a_target():
    target = Target(7, "Seven", extra={"more": [1]}, raw=b'{"id":\n7}')
    line = target_line(5, target_tail(target, raw=False))
    assert line == encode({"user_id": 5, **plain(target)}) + b"\n"
    assert target_line(5, target_tail(target, raw=True)) == line[:-2] + b',"raw":{"id": 7}}\n'
    unsent = Target(7, "Seven", extra={"more": [1]})
    assert target_line(5, target_tail(unsent, raw=True)) == line[:-2] + b',"raw":null}\n'


def test_a_memo_makes_the_same_bytes_once_and_others_each_time():
    asked: list[int] = []
    memo = Memo(lambda target: asked.append(target.id))
    for raw in (b"1", b"1", None, None):
        memo(Target(1, raw=raw))
    assert asked == [1, 1, 1]
    for number in range(600):
        memo(Target(number, raw=b"%d" % (number + 10)))
    assert len(memo._made) <= 512
