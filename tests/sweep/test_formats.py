"""What stands in the files: spellings, schemas, rows as sent, what does not fit."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capillary_targets.models import Target, TargetEvent
from capillary_targets.sandbox import Fault, Sandbox
from capillary_targets.sandbox import samples as printed
from capillary_targets.sweep.atomic import AtomicFile
from capillary_targets.sweep.rows import event_key
from capillary_targets.sweep.store import format_named

from .conftest import Swept, encoded, names, needed, parts, read_jsonl, true_events

USERS = [564332013, 387544807, 42381788, 42381789]


def table(path: Path) -> Any:
    return needed("pyarrow.parquet").read_table(path)


async def test_rows_as_sent(swept: Swept, tmp_path: Path):
    sandbox = Sandbox(users=0)
    async with sandbox:
        await swept(sandbox, USERS, raw=True, page_size=10)
    sent = {
        (row["customerId"], row["eventLogId"]): row
        for body in (printed.TRANSACTIONAL, printed.BEHAVIOURAL)
        for row in json.loads(body, parse_float=Decimal)["data"]
    }
    events = parts(tmp_path, "events")
    for row in events:
        assert row["raw"]["eventLogId"] == row["event_log_id"]
        assert str(row["raw"]["targetValue"]) == str(row["target_value"])
        if (row["user_id"], row["event_log_id"]) in sent:
            assert row["raw"] == sent[row["user_id"], row["event_log_id"]]
    targets = {row["id"]: row["raw"] for row in parts(tmp_path, "targets")}
    for rule, body in printed.PRINTED_TARGETS.items():
        assert targets[rule] == json.loads(body)["data"][0]


async def test_rows_as_sent_in_parquet_and_after_a_night(swept: Swept, tmp_path: Path):
    needed("pyarrow")
    sandbox = Sandbox(users=3, targets=1, events=5, iso=True)
    user = sandbox.world.user_ids()[0]
    rule = sandbox.world.targets(user)[0].id
    async with sandbox:
        await swept(sandbox, raw=True, format="parquet", page_size=2)
        for _ in range(5):
            sandbox.world.add_event(user, rule)
        await swept(sandbox, raw=True, format="parquet", page_size=2, incremental=True)
    rows = table(tmp_path / "events").to_pylist()
    assert len(rows) == true_events(sandbox.world).total()
    for row in rows:
        raw = json.loads(row["raw"], parse_float=Decimal)
        assert raw["eventLogId"] == row["event_log_id"]
        assert (raw["targetValue"] is None) == (row["target_value"] is None)
        assert raw["targetValue"] is None or raw["targetValue"] == row["target_value"]


async def test_parquet_has_one_schema_and_every_value(swept: Swept, tmp_path: Path):
    from capillary_targets.sweep import parquet as schemas

    sandbox = Sandbox(users=8, targets=2, events=9, iso=True)
    async with sandbox:
        await swept(sandbox, format="parquet", part_users=3)
    found = 0
    for name in names(tmp_path / "events"):
        part = table(tmp_path / "events" / name)
        assert part.schema.equals(schemas.SCHEMAS["events"])
        found += part.num_rows
    for name in names(tmp_path / "targets"):
        assert table(tmp_path / "targets" / name).schema.equals(schemas.SCHEMAS["targets"])
    truth = {
        (user, rule, number): Decimal(value) if value is not None else None
        for user, rule, number, value in true_events(sandbox.world)
    }
    rows = table(tmp_path / "events").to_pylist()
    assert {
        (row["user_id"], row["target_rule_id"], row["event_log_id"]): row["target_value"]
        for row in rows
    } == truth
    assert found == len(truth)
    for row in rows:
        if row["event_date_iso"] is not None:
            assert row["event_date_iso"].utcoffset().total_seconds() == 0
        assert row["event_date"].tzinfo is None


async def test_the_printed_target_in_parquet(swept: Swept, tmp_path: Path):
    needed("pyarrow")
    sandbox = Sandbox(users=0)
    async with sandbox:
        await swept(sandbox, [42381788], format="parquet")
    (row,) = table(tmp_path / "targets").to_pylist()
    assert (row["id"], row["name"], row["active"]) == (2579, "Custom Enroll", True)
    assert row["filters"] == [{"entity_type": "ZONE", "entity_ids": [50674361, 50675571]}]
    made = row["attribution"]
    assert made["created_by"]["name"] == "User"
    assert made["created_on"] == datetime(2024, 8, 9, 8, 5, 59)  # noqa: DTZ001 - as it stands
    assert made["created_on_iso"] == datetime(2024, 8, 9, 8, 5, 59, tzinfo=UTC)


@pytest.mark.parametrize("value", ["0.0000001", f"1{'0' * 32}", "1e40", "-123.4567891"])
async def test_an_amount_that_does_not_fit_is_a_failure(swept: Swept, tmp_path: Path, value: str):
    needed("pyarrow")
    sandbox = Sandbox(users=2, targets=1, events=3)
    user = sandbox.world.user_ids()[0]
    rule = sandbox.world.targets(user)[0].id
    sandbox.world.add_event(user, rule, value=value)
    async with sandbox:
        summary = await swept(sandbox, format="parquet")
    assert (summary.complete, summary.failed) == (5, 1)
    (failure,) = read_jsonl(tmp_path / "failures.jsonl")
    assert (failure["user_id"], failure["error"]) == (user, "Unwritable")
    assert str(Decimal(value)) in failure["message"]
    assert user not in table(tmp_path / "events").column("user_id").to_pylist()


async def test_parts_say_which_run_wrote_them_and_targets_their_history(
    swept: Swept, tmp_path: Path
):
    pq = needed("pyarrow.parquet")
    sandbox = Sandbox(users=3, targets=2, events=5)
    user = sandbox.world.user_ids()[0]
    left, stays = (rule.id for rule in sandbox.world.targets(user))
    async with sandbox:
        await swept(sandbox, [user], format="parquet")
        sandbox.world.unenrol(user, left)
        await swept(sandbox, [user], format="parquet", incremental=True)
        await swept(sandbox, [user], format="parquet", incremental=True)
        sandbox.world.enrol(user, left)
        await swept(sandbox, [user], format="parquet", incremental=True)
    rows = sorted(table(tmp_path / "targets").to_pylist(), key=lambda row: (row["id"], row["run"]))
    told = [(row["id"], row["run"], row["enrolled"], row["name"] is None) for row in rows]
    assert told == [
        (left, 1, True, False),
        (left, 2, False, True),
        (left, 4, True, False),
        (stays, 1, True, False),
    ]
    seen = [row["seen_at"] for row in rows if row["id"] == left]
    assert seen == sorted(seen)
    assert seen[0].utcoffset() == timedelta(0)
    for kind in ("events", "targets"):
        for name in names(tmp_path / kind):
            metadata = pq.read_schema(tmp_path / kind / name).metadata
            runs = set(table(tmp_path / "targets" / name).column("run").to_pylist())
            assert {int(metadata[b"capillary_targets.run"])} == runs
            assert metadata[b"capillary_targets.schema"] == b"2"


ODD = [
    # (what is put for a date, or an amount; users that fail by it in Parquet, in JSON Lines)
    (r'("eventDate":")[^"]*', r"\g<1>9999-12-31T23:59:59-05:00", 0, 0),
    (r'("eventDate":")[^"]*', r"\g<1>0001-01-01T00:00:00+05:00", 0, 0),
    (r'("targetValue":)[-0-9.]+', r"\g<1>1e400", 1, 0),
    (r'("targetValue":)[-0-9.]+', r"\g<1>1e-9", 1, 0),
    (r'("targetValue":)[-0-9.]+', r"\g<1>1e99999", 1, 1),
    (r'("eventName":")', r"\g<1>\\\\u0000\\\\u001b", 0, 0),
]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize(("pattern", "sent", "in_parquet", "in_lines"), ODD)
async def test_one_odd_record_is_its_users_own_affair(
    swept: Swept, tmp_path: Path, form: str, pattern: str, sent: str, in_parquet: int, in_lines: int
):
    needed("pyarrow")
    failed = in_parquet if form == "parquet" else in_lines
    sandbox = Sandbox(users=4, targets=1, events=6, exact_events=True)
    user = sandbox.world.user_ids()[0]
    path = f"/users/{user}/trackedTargetEvents"
    async with sandbox:
        sandbox.faults.add(Fault.edited(pattern, sent), times=None, path_contains=path)
        for incremental in (False, True):
            summary = await swept(sandbox, format=form, incremental=incremental)
            assert summary.failed + summary.refused == failed
            assert summary.finished
    rows = read_jsonl(tmp_path / "failures.jsonl")
    assert [row["user_id"] for row in rows] == [user] * failed
    assert (tmp_path / "report.html").read_text().count("<h2>Totals</h2>") == 1
    if form == "jsonl" and not failed:
        assert [row["user_id"] for row in parts(tmp_path, "events")].count(user) == 6


AMOUNTS = st.decimals(allow_nan=False, allow_infinity=False) | st.decimals(
    min_value=-(10**33), max_value=10**33, places=7
)


@given(AMOUNTS)
def test_what_fits_comes_back_exactly_and_nothing_else_does(tmp_path_factory, amount: Decimal):
    needed("pyarrow")
    from capillary_targets.sweep.parquet import Parquet

    exact = amount == 0 or (
        amount.adjusted() < 32 and (amount * 10**6) % 1 == 0
        if -60 < amount.adjusted() < 60 and len(amount.as_tuple().digits) < 20
        else None
    )
    try:
        rows = encoded([TargetEvent(1, target_value=amount)], user=7, form="parquet")
    except ValueError:
        assert exact in {None, False}
    else:
        assert exact in {None, True}
        path = tmp_path_factory.mktemp("fits") / "part-00000.parquet"
        part = Parquet(raw=False, run=1).part(AtomicFile(path), "events")
        part.add(rows)
        part.sync()
        part.file.rename()
        assert table(path).column("target_value").to_pylist() == [amount]


@pytest.mark.parametrize("name", ["\ud800", object(), 10**30])
def test_what_no_column_can_hold_is_null_and_noted(tmp_path: Path, name: Any):
    """Whatever it is, when rows of several users are packed together."""
    needed("pyarrow")
    path = tmp_path / "part-00000.parquet"
    part = format_named("parquet", raw=False).part(AtomicFile(path), "events")
    part.add(encoded([TargetEvent(1, event_name="a")], user=7, form="parquet"))
    part.add(encoded([TargetEvent(2, event_name=name)], user=8, form="parquet"))
    part.sync()
    part.file.rename()
    assert table(path).column("event_name").to_pylist() == ["a", None]
    fine, noted = table(path).column("overflow").to_pylist()
    assert fine is None
    assert json.loads(noted).keys() == {"event_name"}


def test_every_field_of_the_models_has_a_column():
    needed("pyarrow")
    from capillary_targets.sweep import parquet as schemas

    def fields(cls: type) -> list[str]:
        return [f.name for f in attrs.fields(cls) if f.name != "raw"]

    head = ["user_id", "run", "seen_at", "enrolled"]
    assert schemas.SCHEMAS["events"].names == ["user_id", *fields(TargetEvent), "overflow"]
    assert schemas.SCHEMAS["targets"].names == [*head, *fields(Target), "overflow"]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_users_events_are_found_again(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch):
    if form == "parquet":
        needed("pyarrow")
        monkeypatch.setattr("capillary_targets.sweep.parquet._GROUP_ROWS", 4)
    made = format_named(form, raw=False)
    path = tmp_path / f"part-00000.{form}"
    part = made.part(AtomicFile(path), "events")
    places = {}
    for user in range(1, 8):
        events = [TargetEvent(100 * user + n, target_rule_id=user % 3) for n in range(user)]
        places[user] = part.add(encoded(events[:2], events[2:], user=user, form=form))
    part.sync()
    part.file.rename()
    assert part.rows == 28
    for user, (start, length) in places.items():
        found = made.read_events(path, start, length)
        assert [row.target_rule_id for row in found] == [user % 3] * user
        keys = [event_key(TargetEvent(100 * user + n)) for n in range(user)]
        assert [*map(event_key, found)] == keys
