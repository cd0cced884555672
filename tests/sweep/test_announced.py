"""A sweep that is given the store of notifications: what was never announced, what never came."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from capillary_targets import UsageError
from capillary_targets.notifications import (
    Announced,
    MemoryStore,
    NotificationHandler,
    SQLiteStore,
    parse,
)
from capillary_targets.sandbox import Event, Fault, Sandbox
from capillary_targets.sweep import SweepOptions, SweepRefused
from capillary_targets.sweep.announced import EventIds, Unmatched, columns, compare
from tests.conftest import examples

from .conftest import Swept, names, needed, parts, stopped

NEVER_ANNOUNCED, NEVER_SHOWED_UP = "never announced", "never showed up"


@asynccontextmanager
async def pushing(store: Any, **settings: Any) -> AsyncIterator[Sandbox]:
    """A sandbox whose notifications go to a handler with that store."""
    handler = NotificationHandler(store)

    async def receive(request: web.Request) -> web.Response:
        reply = await handler.handle(await request.read())
        return web.Response(status=reply.status)

    app = web.Application()
    app.router.add_post("/", receive)
    settings = {"users": 6, "targets": 2, "events": 6, "notify_time_scale": 0.0} | settings
    async with TestServer(app) as door, (sandbox := Sandbox(**settings)):
        sandbox.settings.notify = str(door.make_url("/"))
        yield sandbox


def everywhere(sandbox: Sandbox, times: int = 1) -> list[Event]:
    """An event in each target of each user, `times` over."""
    world = sandbox.world
    pairs = [(user, rule.id) for user in world.user_ids() for rule in world.targets(user)]
    return [world.add_event(*pair, value="0.01") for pair in pairs for _ in range(times)]


def listed(out: Path, form: str = "jsonl", **wanted: Any) -> Counter[tuple[Any, ...]]:
    """The listed announcements and events that fit: (user, rule, log id), each with its count."""
    if form == "jsonl":
        rows = parts(out, "announcements")
    else:
        read = needed("pyarrow.parquet").read_table
        files = sorted((out / "announcements").glob("part-*"))
        rows = [row for file in files for row in read(file).to_pylist()]
    return Counter(
        (row["user_id"], row["target_rule_id"], row["event_log_id"])
        for row in rows
        if wanted.items() <= row.items()
    )


def ids(events: list[Event]) -> Counter[tuple[Any, ...]]:
    return Counter((one.customer_id, one.target_rule_id, one.event_log_id) for one in events)


@pytest.fixture(params=["jsonl", "parquet"])
def form(request: pytest.FixtureRequest) -> str:
    if request.param == "parquet":
        needed("pyarrow")
    return str(request.param)


@pytest.mark.parametrize("moved", [False, True])
async def test_events_that_were_never_announced(
    swept: Swept, tmp_path: Path, form: str, *, moved: bool
):
    store = SQLiteStore(tmp_path / "notifications.db")
    given = {"notifications": store, "format": form, "moved": moved, "out": tmp_path / "out"}
    async with pushing(store) as sandbox:
        everywhere(sandbox)
        await sandbox.notifications.drained()
        first = await swept(sandbox, **given)
        # The history from before the first notification is nobody's loss.
        assert (first.unannounced_events, first.missing_events) == (0, 0)

        sandbox.settings.notify_losses = 0.4
        added = everywhere(sandbox, 2)
        await sandbox.notifications.drained()
        came = {
            one.event_log_id
            for user in sandbox.world.user_ids()
            for one in await store.announced(user)
        }
        lost = [one for one in added if one.event_log_id not in came]
        second = await swept(sandbox, incremental=True, **given)
        assert 0 < len(lost) < len(added)
        assert (second.unannounced_events, second.missing_events) == (len(lost), 0)
        third = await swept(sandbox, incremental=True, **given)
        assert (third.unannounced_events, third.missing_events) == (0, 0)
    assert listed(tmp_path / "out", form) == ids(lost)
    assert listed(tmp_path / "out", form, finding=NEVER_ANNOUNCED, settled=False) == ids(lost)


async def test_announced_events_that_never_showed_up_until_they_do(
    swept: Swept, tmp_path: Path, form: str
):
    store = MemoryStore()
    given = {"notifications": store, "format": form}
    async with pushing(store, events=0, targets=1) as sandbox:
        await swept(sandbox, **given)
        sandbox.settings.notify_early, sandbox.settings.notify_early_requests = 1.0, 1
        early = everywhere(sandbox)[:3]
        await sandbox.notifications.drained()
        users = [one.customer_id for one in early]
        second = await swept(sandbox, users, incremental=True, **given)
        assert (second.unannounced_events, second.missing_events) == (0, 3)
        third = await swept(sandbox, users, incremental=True, **given)
        assert (third.events, third.unannounced_events, third.missing_events) == (3, 0, 0)
    wanted = {"finding": NEVER_SHOWED_UP, "name": "targetAchievedValueUpdated"}
    assert listed(tmp_path, form, settled=False, **wanted) == ids(early)
    assert listed(tmp_path, form, settled=True, **wanted) == ids(early)


async def test_an_announcement_that_comes_after_the_sweep(swept: Swept, tmp_path: Path, form: str):
    store, late = SQLiteStore(tmp_path / "notifications.db"), MemoryStore()
    given = {"notifications": store, "format": form, "out": tmp_path / "out"}
    async with pushing(late, targets=1) as sandbox:
        await NotificationHandler(store).handle(b"junk")  # makes the file
        await swept(sandbox, **given)
        event = everywhere(sandbox)[0]
        await sandbox.notifications.drained()
        second = await swept(sandbox, incremental=True, **given)
        assert second.unannounced_events == 6
        # Two names for one event: the second settles nothing, and finds the event in the files.
        first, *_ = (one.body for one in sandbox.notifications.attempts)
        for event_id in (b"a", b"b"):
            body = first.replace(parse(first).event_id.encode(), event_id)
            await NotificationHandler(store).handle(body)
            summary = await swept(sandbox, incremental=True, **given)
            assert (summary.unannounced_events, summary.missing_events) == (0, 0)
    assert listed(tmp_path / "out", form, settled=True) == ids([event])


async def test_without_a_log_id_the_transaction_tells(swept: Swept, tmp_path: Path):
    store = MemoryStore()
    async with pushing(store, notify_log_id="none") as sandbox:
        await swept(sandbox, notifications=store)
        world = sandbox.world
        bought = [one for one in everywhere(sandbox) if one.event_name == "ADD_TRANSACTION"]
        await sandbox.notifications.drained()
        world.add_event(bought[0].customer_id, bought[0].target_rule_id, value=None)  # adds nothing
        summary = await swept(sandbox, notifications=store, incremental=True)
        assert bought
        assert summary.missing_events == 0
        rows = parts(tmp_path, "announcements")
        behavioural = {one.id for one in world.rules() if one.behavioural}
        assert {row["target_rule_id"] for row in rows} <= behavioural


async def test_interrupted_resumed_and_failed_ones_are_listed_once(swept: Swept, tmp_path: Path):
    store, reached = MemoryStore(), asyncio.Event()
    given = {"notifications": store, "part_users": 2}
    async with pushing(store, users=12) as sandbox:
        await swept(sandbox, **given)
        sandbox.settings.notify_losses = 0.5
        lost = everywhere(sandbox)
        await sandbox.notifications.drained()
        found = {
            (user, one.event_log_id)
            for user in sandbox.world.user_ids()
            for one in await store.announced(user)
        }
        lost = [one for one in lost if (one.customer_id, one.event_log_id) not in found]
        again = {"incremental": True, "concurrency": 2, **given}

        def progress(summary: Any) -> None:
            if summary.complete >= 5:
                reached.set()

        await stopped(swept(sandbox, progress=progress, **again), reached)
        failing = lost[-1].customer_id
        fault = Fault.http(500)
        sandbox.faults.add(fault, times=None, path_contains=f"/{failing}/")
        part = await swept(sandbox, **again)
        assert part.failed == 1
        sandbox.faults.clear()
        whole = await swept(sandbox, users=(), retry_failed=True, **given)
    assert whole.unannounced_events == len(lost)
    assert listed(tmp_path) == ids(lost)


async def test_other_targets_than_those_swept_are_not_judged(swept: Swept, tmp_path: Path):
    store = MemoryStore()
    async with pushing(store, users=1, notify_early=1.0, notify_early_requests=9) as sandbox:
        user = sandbox.world.user_ids()[0]
        first, second = (rule.id for rule in sandbox.world.targets(user))
        events = everywhere(sandbox)
        await sandbox.notifications.drained()
        summary = await swept(sandbox, [user], notifications=store, target_rule_ids=(first,))
    assert summary.missing_events == 1
    assert listed(tmp_path) == ids([one for one in events if one.target_rule_id != second])


async def test_a_store_that_cannot_be_read_is_refused(swept: Swept, tmp_path: Path):
    async with (sandbox := Sandbox(users=1)):
        with pytest.raises(SweepRefused, match=r"unable to open.*name the store that your handler"):
            await swept(
                sandbox, notifications=SQLiteStore(tmp_path / "no" / "n.db"), out=tmp_path / "out"
            )
    assert names(tmp_path) == []
    with pytest.raises(UsageError, match="leave out period"):
        SweepOptions(notifications=MemoryStore(), period=5)


def announced(number: int, position: int) -> Announced:
    return Announced(
        position=position, event_id=str(position), name="x", rule_ids=(7,), event_log_id=number
    )


@examples(100)
@given(st.data())
def test_whatever_the_order_the_findings_are_the_difference(data: st.DataObject):
    """Events and announcements come and get lost in any order, over any runs."""
    numbers = data.draw(st.sets(st.integers(1, 8)))
    runs = data.draw(st.integers(1, 4))
    shown = {n: data.draw(st.integers(1, runs + 1), label=f"run that reads {n}") for n in numbers}
    told = {n: data.draw(st.integers(0, runs + 1), label=f"run before {n} told") for n in numbers}
    unmatched: Unmatched | None = Unmatched()
    files: list[EventIds] = []
    arrived: list[Announced] = []
    new: Counter[object] = Counter()
    for run in range(1, runs + 1):
        arrived += [
            announced(n, len(arrived) + at)
            for at, n in enumerate((n for n in numbers if told[n] == run - 1), 1)
        ]
        events = [EventIds(7, n, str(n)) for n in numbers if shown[n] == run]
        assert unmatched is not None
        due = [one for one in arrived if one.position > unmatched.position]
        written = tuple(files)
        unmatched, found, settled = compare(unmatched, events, due, due, lambda _: written)  # noqa: B023
        files += events
        new.update(found)
        new.subtract(settled)
        there = {n for n in numbers if shown[n] <= run}
        heard = {n for n in numbers if told[n] <= run - 1}
        assert {one.event_log_id for one in unmatched.unannounced} == there - heard
        assert {one.event_log_id for one in unmatched.missing} == heard - there
    assert +new == Counter([*unmatched.unannounced, *unmatched.missing])


@pytest.mark.parametrize(
    ("numbers", "shown"),
    [
        ({"transaction_id": 7}, "7"),
        ({"return_id": 8, "transaction_id": 7}, "8"),
        ({"event_log_id": 9}, None),
    ],
)
def test_the_number_of_what_never_showed_up(numbers: dict[str, int], shown: str | None) -> None:
    row = columns(Announced(event_id="n", name="x", rule_ids=(1,), **numbers), settled=False)
    assert (row["unique_id"], row["event_log_id"]) == (shown, numbers.get("event_log_id"))


def test_an_event_without_a_log_id_is_known_by_its_number_alone() -> None:
    told = Announced(event_id="n", name="x", rule_ids=(1,), event_log_id=5, transaction_id=7)
    with_id, without = EventIds(1, 6, "7"), EventIds(1, None, "7")
    for event, unmatched in ((with_id, [with_id]), (without, [])):
        now, *_ = compare(Unmatched(), [event], [told], [told], lambda _: ())
        assert now.unannounced == unmatched
