"""Rows: what is counted and written is what each event and target says."""

import json
import re
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from decimal import Context, Decimal
from functools import reduce
from pathlib import Path
from sys import getrefcount
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capillary_targets.models import JSON, Attribution, Filter, Target, TargetEvent
from capillary_targets.sweep.atomic import AtomicFile
from capillary_targets.sweep.rows import EncodedRows, event_key, plain, raw_rows
from capillary_targets.sweep.stats import EXACT
from capillary_targets.sweep.store import format_named

from .conftest import counted, encoded, needed, read_jsonl

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
    return st.lists(event, max_size=60)


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


def arrow(rows: EncodedRows) -> Any:
    """A user's events as a batch."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "part-00000.parquet"
        part = format_named("parquet", raw=False).part(AtomicFile(path), "events")
        part.add(rows)
        part.sync()
        part.file.rename()
        return needed("pyarrow.parquet").read_table(path)


@given(st.lists(PLAIN | MIXED, max_size=3))
def test_columns_of_arrow_hold_what_pyarrow_makes_of_each_event(pages: list[list[TargetEvent]]):
    pa = needed("pyarrow")
    from capillary_targets.sweep.parquet import SCHEMAS

    pages = [events for events in pages if events]
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
            "extra": None,
            "overflow": None,
        }
        for events in pages
        for event in events
    ]
    made = encoded(*pages, user=-7, form="parquet")
    if pages:
        assert arrow(made).equals(pa.Table.from_pylist(rows, SCHEMAS["events"]))


@given(PLAIN, st.integers(0), st.sampled_from(["1E+32", "-1E+32", "0.0000001", "1E-99"]))
def test_one_amount_that_does_not_fit_is_found(events: list[TargetEvent], place: int, amount: str):
    needed("pyarrow")
    place %= len(events) + 1
    events.insert(place, TargetEvent(7, target_rule_id=1, target_value=Decimal(amount)))
    with pytest.raises(ValueError, match=re.escape(f"event 7: the amount {Decimal(amount)} does")):
        encoded(events, form="parquet")


LATE = datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone(-timedelta(hours=5)))
EARLY = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))


@pytest.mark.parametrize("moment", [LATE, EARLY])
def test_an_instant_beyond_all_calendars_is_null_and_noted(moment: datetime):
    needed("pyarrow")
    events = [TargetEvent(1, event_date=datetime(2025, 1, 1)), TargetEvent(2, event_date=moment)]  # noqa: DTZ001
    (_, row) = arrow(encoded(events, form="parquet")).to_pylist()
    assert row["event_date"] == clock(moment)
    assert row["event_date_iso"] is None
    assert json.loads(row["overflow"]) == {"event_date_iso": moment.isoformat()}
    (line,) = encoded(events[1:]).blocks["events"]
    assert json.loads(line)["event_date"] == moment.isoformat()


def test_an_id_of_more_than_64_bits_in_a_target_is_null_and_noted(tmp_path):
    needed("pyarrow")
    made = format_named("parquet", raw=False)
    rows = EncodedRows(1, made)
    odd = Target(7, "Seven", emf_rule_set_id=2**70, filters=(Filter("STORE", (1, 2**64)),))
    moment = Attribution(created_on=LATE)
    rows.add("targets", [*map(plain, (odd, Target(8, attribution=moment)))])
    path = tmp_path / "part-00000.parquet"
    part = made.part(AtomicFile(path), "targets")
    part.add(rows)
    part.sync()
    part.file.rename()
    first, second = needed("pyarrow.parquet").read_table(path).to_pylist()
    assert (first["id"], first["name"], first["emf_rule_set_id"]) == (7, "Seven", None)
    assert json.loads(first["overflow"]) == {
        "emf_rule_set_id": 2**70,
        "filters": [{"entity_type": "STORE", "entity_ids": [1, 2**64]}],
    }
    assert second["attribution"] is None
    assert "9999-12-31T23:59:59-05:00" in second["overflow"]


@given(st.lists(PLAIN | MIXED, max_size=4))
def test_part_stats_count_each_event(users: list[list[TargetEvent]]):
    stats = counted(*(encoded(events[:50], events[50:]) for events in users))
    flat = [event for events in users for event in events]
    days = Counter(event.event_date.toordinal() for event in flat if event.event_date)
    assert stats.days == days
    amounts = [event.target_value for event in flat if event.target_value is not None]
    assert stats.events[7] == len(flat)
    assert stats.values.get(7, 0) == reduce(EXACT.add, amounts, Decimal(0))


@given(LONGS, PLAIN | MIXED)
def test_a_line_has_the_fields_of_its_event(user: int, events: list[TargetEvent]):
    made = b"".join(encoded(events, user=user).blocks["events"])
    one_by_one = [
        JSON.encode({"user_id": user, **msgspec.structs.asdict(event), "extra": None}) + b"\n"
        for event in events
    ]
    assert made == b"".join(one_by_one)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_rows_hold_neither_the_events_nor_their_values(form: str):
    if form == "parquet":
        needed("pyarrow")
    event = TargetEvent(2**60, unique_id="a" * 99, target_value=Decimal("1.50"))
    held = [event, event.event_log_id, event.unique_id, event.target_value]
    before = [*map(getrefcount, held)]
    rows = encoded([event] * 2000, form=form)
    assert (rows.counts["events"], len(rows.blocks["events"])) == (2000, 1)
    assert [*map(getrefcount, held)] == before


SEEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize("raw", [False, True])
def test_the_lines_of_targets(raw: bool):
    rows = EncodedRows(5, format_named("jsonl", raw=raw, run=3))
    target = Target(7, "Seven", extra={"more": [1]}, raw=b'{"id":\n7}')
    there = [{"enrolled": True, **plain(one), "raw": one.raw} for one in (target, Target(8))]
    rows.add("targets", [*there, {"enrolled": False, "id": 9}])
    seven, eight, nine = map(json.loads, rows.blocks["targets"][0].splitlines())
    head = {"user_id": 5, "run": 3, "seen_at": seven["seen_at"]}
    assert datetime.fromisoformat(head["seen_at"]).utcoffset() == timedelta(0)
    assert seven == {
        **head,
        "enrolled": True,
        **json.loads(JSON.encode(plain(target))),
        **({"raw": {"id": 7}} if raw else {}),
    }
    assert (eight["id"], eight["enrolled"], eight.get("raw", None)) == (8, True, None)
    assert nine == {**dict.fromkeys(seven), **head, "enrolled": False, "id": 9}
    assert [*nine] == [*seven]


class _Row(msgspec.Struct):
    event_log_id: int | None
    unique_id: str | None


ROWS = st.lists(st.tuples(st.sampled_from([None, 1, 2]), st.sampled_from([None, "a", "b"])))


@given(ROWS, st.randoms())
def test_each_event_finds_its_row_though_ids_repeat_or_are_missing(rows, random):
    sent = [
        b'{"eventLogId":%b,"uniqueId":%b,"n":%d}' % (JSON.encode(i), JSON.encode(u), n)
        for n, (i, u) in enumerate(rows)
    ]
    chosen = sorted(random.sample(range(len(rows)), random.randint(0, len(rows))))
    events = [_Row(*rows[n]) for n in chosen]
    found = raw_rows(b'{"data":[%b]}' % b",".join(sent), events)
    assert [(json.loads(row)["eventLogId"], json.loads(row)["uniqueId"]) for row in found] == [
        rows[n] for n in chosen
    ]


FORMS = ["jsonl", "parquet"]


def stored_rows(path: Path, form: str, events: list[TargetEvent]) -> list[Any]:
    made = format_named(form, raw=False, run=4)
    part = made.part(AtomicFile(path), "events")
    start, length = part.add(encoded(events, user=5, form=form))
    part.sync()
    part.file.rename()
    return made.read_events(path, start, length)


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return read_jsonl(path)
    rows: list[dict[str, Any]] = needed("pyarrow.parquet").read_table(path).to_pylist()
    return rows


@pytest.mark.parametrize("form", FORMS)
@given(events=PLAIN | MIXED)
def test_a_row_has_the_same_key_before_and_after_writing(
    tmp_path_factory, form: str, events: list[TargetEvent]
):
    if form == "parquet":
        needed("pyarrow")
    path = tmp_path_factory.mktemp("keys") / f"part-00000.{form}"
    found = stored_rows(path, form, events)
    assert [*map(event_key, found)] == [*map(event_key, events)]
    assert [row.target_rule_id for row in found] == [event.target_rule_id for event in events]


def test_rows_of_one_id_have_keys_of_their_own():
    line_items = [
        TargetEvent(7, target_value=Decimal(n), unique_id=u) for n in (1, 2) for u in "ab"
    ]
    assert len({event_key(event) for event in line_items}) == 4
    zoned = TargetEvent(7, event_date=SEEN, target_value=Decimal("1.0"), unique_id="a")
    assert event_key(zoned) == event_key(line_items[0])
    assert event_key(TargetEvent(-1)) != event_key(TargetEvent(-2))


@pytest.mark.parametrize("form", FORMS)
def test_vanished_rows_are_those_of_the_part(tmp_path: Path, form: str):
    if form == "parquet":
        needed("pyarrow")
    events = [TargetEvent(n, target_rule_id=7, target_value=Decimal(f"{n}.50")) for n in range(4)]
    stored = stored_rows(tmp_path / f"part-00000.{form}", form, events)
    made = format_named(form, raw=False, run=6)
    rows = EncodedRows(5, made)
    columns = [*map(msgspec.structs.asdict, stored)]
    rows.add("vanished", [{"deleted": True, **columns[place]} for place in (3, 1)])
    rows.add("vanished", [{"deleted": False, **columns[1]}])
    ids = [{"event_log_id": number, "target_rule_id": 8} for number in (None, 99)]
    rows.add("vanished", [{"deleted": True, **one} for one in ids])
    assert rows.counts == {"vanished": 5}
    path = tmp_path / f"part-00001.{form}"
    part = made.part(AtomicFile(path), "vanished")
    part.add(rows)
    part.sync()
    part.file.rename()
    found = read(path)
    assert [
        (r["event_log_id"], r["target_rule_id"], r["target_value"], r["deleted"]) for r in found
    ] == [
        (3, 7, Decimal("3.50"), True),
        (1, 7, Decimal("1.50"), True),
        (1, 7, Decimal("1.50"), False),
        (None, 8, None, True),
        (99, 8, None, True),
    ]
    assert {(row["user_id"], row["run"]) for row in found} == {(5, 6)}
