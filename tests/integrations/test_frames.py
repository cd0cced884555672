"""Events in pandas, polars and DuckDB: exact, with their types."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from tests.needs import required

required("duckdb", "pandas", "polars", "pyarrow")

import duckdb
import pandas as pd
import polars as pl

from capillary_targets import EventList, TargetEvent, UserOutcome

EVENTS = EventList(
    [
        TargetEvent(
            event_log_id=2**63 - 1,
            target_value=Decimal("0.1"),
            event_date=datetime(2026, 1, 31, 12, 0, tzinfo=UTC),
        ),
        TargetEvent(target_value=Decimal("99999999999999999999999999999999.000002")),
        TargetEvent(target_value=None),
    ],
    user_id=7,
)
TOTAL = Decimal("99999999999999999999999999999999.100002")


def test_pandas_keeps_every_digit() -> None:
    frame = EVENTS.to_pandas()
    assert frame["target_value"].sum() == TOTAL
    assert frame["event_log_id"].iloc[0] == 2**63 - 1  # no float, though others have none
    assert str(frame["event_date_iso"].dtype) == "timestamp[us, tz=UTC][pyarrow]"
    assert frame["event_log_id"].isna().tolist() == [False, True, True]


def test_polars_keeps_every_digit() -> None:
    frame = EVENTS.to_polars()
    assert frame["target_value"].to_list() == [event.target_value for event in EVENTS]
    assert frame.schema["target_value"] == pl.Decimal(38, 6)
    assert frame.schema["event_date_iso"] == pl.Datetime("us", "UTC")
    assert frame.schema["event_date"] == pl.Datetime("us")


@pytest.mark.parametrize("events", [EVENTS, EventList([], user_id=7)])
def test_libraries_read_an_outcome_as_it_is(events: EventList) -> None:
    outcome = UserOutcome(7, events=tuple(events))
    assert pl.DataFrame(outcome).schema == EVENTS.to_polars().schema
    assert pd.DataFrame.from_arrow(outcome).shape == (len(events), 16)
    total = duckdb.sql("SELECT sum(target_value) FROM outcome").fetchall()
    assert total == [(TOTAL if events else None,)]
