"""Lists and outcomes as Arrow tables; for other libraries see `tests/integrations`."""

import sys
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest

from capillary_targets import EventList, TargetEvent, TargetList, UsageError, UserOutcome
from capillary_targets.sandbox import Fault, Sandbox

from .conftest import client_of

pa = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
INDIA = timezone(timedelta(hours=5, minutes=30))


def event(**fields) -> TargetEvent:
    return TargetEvent(event_log_id=1, **fields)


async def test_a_pager_an_outcome_and_a_list_are_tables(sandbox: Sandbox) -> None:
    user = sandbox.world.user_ids()[0]
    rule = sandbox.world.targets(user)[0].id
    async with client_of(sandbox) as client:
        pager = client.events(user, rule)
        events, table = await pager.collect(), await pager.to_arrow()
        targets = await client.active_targets(user)
        outcomes = [outcome async for outcome in client.sweep([user])]
    assert table.equals(events.to_arrow())
    assert table["target_value"].to_pylist() == [each.target_value for each in events]
    assert set(table["user_id"].to_pylist()) == {user}
    assert targets.to_arrow()["id"].to_pylist() == [target.id for target in targets]
    (outcome,) = outcomes
    assert pa.table(outcome).equals(outcome.to_arrow())  # by the C stream
    assert pa.table(outcome).num_rows == len(outcome.events)


def test_the_columns_are_those_of_the_files() -> None:
    schemas = pytest.importorskip("capillary_targets.sweep.parquet").SCHEMAS
    assert EventList([], 1).to_arrow().schema.equals(schemas["events"])
    own = TargetList().to_arrow().schema
    assert [field for field in schemas["targets"] if field.name in own.names] == [*own]


@pytest.mark.parametrize("rows", [EventList([], 1), TargetList(), UserOutcome(1)])
def test_no_rows_keep_the_schema(rows: EventList | TargetList | UserOutcome) -> None:
    table = rows.to_arrow()
    assert (table.num_rows, pa.table(UserOutcome(1)).num_rows) == (0, 0)
    assert "overflow" in table.schema.names


@pytest.mark.parametrize(
    "digits", ["0.000001", "-12.5", "0", "99999999999999999999999999999999.999999"]
)
def test_amounts_are_exact(digits: str) -> None:
    (value,) = EventList([event(target_value=Decimal(digits))], 1).to_arrow()["target_value"]
    assert value.as_py() == Decimal(digits)


@pytest.mark.parametrize("digits", ["0.0000001", "1e33", "1E-99", "1.0000000000000000001"])
def test_an_amount_that_does_not_fit_is_an_error(digits: str) -> None:
    events = EventList([event(), event(target_value=Decimal(digits))], 1)
    with pytest.raises(UsageError, match=r"^event 1: the amount .* decimal\(38, 6\); JSON keeps"):
        events.to_arrow()


def test_times_are_clock_times_and_instants() -> None:
    noon = datetime(2026, 1, 31, 12, 0)  # noqa: DTZ001 - as the server sends it
    table = EventList([event(event_date=noon), event(event_date=noon.replace(tzinfo=INDIA))], 1)
    arrow = table.to_arrow()
    assert arrow["event_date"].to_pylist() == [noon, noon]
    instant = datetime(2026, 1, 31, 6, 30, tzinfo=UTC)
    assert arrow["event_date_iso"].to_pylist() == [None, instant]


async def test_a_failed_user_is_a_table_of_what_arrived(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.api_code(310011), times=None)
    async with client_of(sandbox) as client:
        (outcome,) = [outcome async for outcome in client.sweep([1_000_001])]
    assert not outcome.complete
    assert outcome.to_arrow().num_rows == 0


@pytest.mark.parametrize(
    ("missing", "call", "install"),
    [
        ("pyarrow", "to_arrow", r"'capillary-targets\[parquet\]'"),
        ("pandas", "to_pandas", "pandas"),
        ("polars", "to_polars", "polars"),
    ],
)
def test_a_missing_package_is_named(
    missing: str, call: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "capillary_targets.arrow", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UsageError, match=f"needs {missing}: pip install {install}"):
        getattr(EventList([], 1), call)()
