"""Walks over real sockets, in every dialect the sandbox speaks and while its rows move."""

from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest

from capillary_targets import Checkpoint, Dialect, PaginationError, TargetsClient, UsageError
from capillary_targets.sandbox import Sandbox

from .conftest import client_of

ROWS = 67
SIZE = 10


def one_user(**flags: Any) -> Sandbox:
    return Sandbox(users=1, events=flags.pop("events", ROWS), exact_events=True, **flags)


def place(sandbox: Sandbox) -> tuple[int, int]:
    (user,) = sandbox.world.user_ids()
    return user, sandbox.world.targets(user)[0].id


def current(sandbox: Sandbox) -> list[int]:
    return [row.event_log_id for row in sandbox.world.events(*place(sandbox))]


async def ids_of(events: Any) -> list[int]:
    return [event.event_log_id async for event in events]


offsets = pytest.mark.parametrize("offset_mode", ["page", "row", "clamped"])
totals = pytest.mark.parametrize("total_mode", ["rows", "pages", "absent", "zero", "text", "none"])
ends = pytest.mark.parametrize("past_end", ["empty", "310149", "error", "404"])


@offsets
@totals
@ends
async def test_every_dialect_brings_every_event(
    offset_mode: Any, total_mode: Any, past_end: Any
) -> None:
    sandbox = one_user(offset_mode=offset_mode, total_mode=total_mode, past_end=past_end)
    async with sandbox, client_of(sandbox) as client:
        pager = client.events(*place(sandbox), page_size=SIZE)
        assert await ids_of(pager) == current(sandbox)
        report = pager.report
        assert report.complete
        assert report.events == ROWS
        assert report.requests >= sandbox.counts["trackedTargetEvents"]
        assert report.dialect.offset == ("row" if offset_mode == "row" else "page")
        expected = {"text": "rows", "none": "absent"}.get(total_mode, total_mode)
        assert report.dialect.total == expected


MOVES = [
    {"append_per_request": 1},
    {"append_per_request": 9},
    {"append_per_request": 14},
    {"insert_per_request": 2},
    {"delete_head_per_request": 3},
    {"delete_any_per_request": 2},
    {"append_per_request": 2, "insert_per_request": 1, "delete_any_per_request": 1},
]


@pytest.mark.parametrize("moves", MOVES, ids=str)
@pytest.mark.parametrize("total_mode", ["rows", "absent"])
@pytest.mark.parametrize("prefetch", [0, 4])
async def test_moving_rows_lose_and_double_nothing(
    moves: dict[str, int], total_mode: Any, prefetch: int
) -> None:
    sandbox = one_user(total_mode=total_mode, **moves)
    before = current(sandbox)
    async with sandbox, client_of(sandbox) as client:
        pager = client.events(*place(sandbox), page_size=SIZE, prefetch=prefetch)
        got = await ids_of(pager)
    assert len(got) == len(set(got))
    assert set(before) & set(current(sandbox)) <= set(got)
    assert pager.report.complete


async def test_what_one_walk_learns_the_client_remembers() -> None:
    sandbox = one_user(offset_mode="row", total_mode="pages", limit_mode="capped", max_limit=20)
    async with sandbox, client_of(sandbox) as client:
        spent = []
        for _ in range(3):
            pager = client.events(*place(sandbox), page_size=30)
            assert await ids_of(pager) == current(sandbox)
            spent.append(pager.report.requests)
        assert client.session.dialect == pager.report.dialect
        assert spent[2] <= spent[1] < spent[0]
        fresh = client.events(*place(sandbox), page_size=30, dialect=pager.report.dialect)
        assert await ids_of(fresh) == current(sandbox)


async def test_an_ignored_offset_raises_with_the_report() -> None:
    sandbox = one_user(offset_mode="ignored")
    async with sandbox, client_of(sandbox) as client:
        pager = client.events(*place(sandbox), page_size=SIZE)
        with pytest.raises(PaginationError, match="head of the list") as caught:
            await pager.collect()
        assert caught.value.report == pager.report
        assert caught.value.checkpoint == pager.checkpoint
        assert not caught.value.retryable
        lenient = client.events(*place(sandbox), page_size=SIZE, strict=False)
        assert len(await lenient.collect()) == SIZE
        assert not lenient.report.complete
        assert "head of the list" in lenient.report.reason


async def test_a_limit_that_is_refused_is_the_servers_word() -> None:
    sandbox = one_user(limit_mode="refused", max_limit=8)
    async with sandbox, client_of(sandbox) as client:
        with pytest.raises(Exception, match="11029"):
            await client.events(*place(sandbox), page_size=SIZE).collect()
        assert len(await client.events(*place(sandbox), page_size=8).collect()) == ROWS


# --- checkpoints ---


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    sandbox = one_user(events=25)
    async with sandbox:
        yield sandbox


async def test_every_place_can_be_gone_on_from(sandbox: Sandbox) -> None:
    async with client_of(sandbox) as client:
        pager = client.events(*place(sandbox), page_size=7)
        places = [pager.checkpoint]
        got = []
        async for event in pager:
            got.append(event.event_log_id)
            places.append(pager.checkpoint)
        assert places[0] == Checkpoint()
        for count, checkpoint in enumerate(places):
            again = Checkpoint.parse(str(checkpoint))
            assert again == checkpoint == Checkpoint.from_dict(checkpoint.to_dict())
            assert len(str(again)) < 400
            rest = client.events(*place(sandbox), page_size=7, start=again)
            assert await ids_of(rest) == got[count:]
            assert rest.report.complete
            assert rest.checkpoint.row == 25


async def test_a_page_is_behind_the_place_once_it_is_given_out(sandbox: Sandbox) -> None:
    async with client_of(sandbox) as client:
        pager = client.events(*place(sandbox), page_size=10)
        assert [pager.checkpoint.row async for _ in pager.pages()] == [10, 18, 25]


async def test_max_items_counts_from_the_place(sandbox: Sandbox) -> None:
    async with client_of(sandbox) as client:
        got: list[int] = []
        start = None
        while True:
            pager = client.events(*place(sandbox), page_size=4, max_items=6, start=start)
            some = await ids_of(pager)
            got += some
            start = pager.checkpoint
            if pager.report.complete:
                break
        assert got == current(sandbox)


async def test_learned_dialects_travel_with_the_place() -> None:
    sandbox = one_user(offset_mode="row", total_mode="pages")
    async with sandbox:
        async with client_of(sandbox) as client:
            pager = client.events(*place(sandbox), page_size=SIZE, max_items=60)
            got = await ids_of(pager)
        assert pager.checkpoint.dialect.offset == "row"
        async with client_of(sandbox) as client:
            rest = client.events(*place(sandbox), page_size=SIZE, start=pager.checkpoint)
            got += await ids_of(rest)
            assert rest.report.restarts == 0
    assert got == current(sandbox)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"row": 1, "last": [], "date": "yesterday"},
        {"row": -1, "last": [], "date": None},
        {"row": 1, "last": ["7"], "date": None},
        {"row": True, "last": [], "date": None},
        {"row": 1, "last": None, "date": None},
        {"row": 1, "last": [], "date": None, "dialect": {"offset": "sideways"}},
    ],
    ids=str,
)
def test_what_is_no_checkpoint_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="no checkpoint"):
        Checkpoint.from_dict(given)


@pytest.mark.parametrize("text", ["", "[]", "7", "{", "null"])
def test_text_that_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no checkpoint"):
        Checkpoint.parse(text)


def test_a_dialect_is_plain_values() -> None:
    told = Dialect(offset="row", limit="capped", cap=20)
    assert told.to_dict() == {"offset": "row", "limit": "capped", "cap": 20}
    assert Dialect(**told.to_dict()) == told
    assert attrs.evolve(told, cap=None).fill_from(told) == told


@pytest.mark.parametrize("bad", [{"prefetch": -1}, {"max_items": -1}, {"page_size": -2}])
async def test_settings_that_cannot_be(client: TargetsClient, bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        client.events(1, 2, **bad)
