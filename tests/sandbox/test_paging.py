from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest

from capillary_targets.sandbox import Sandbox, World, samples

from .conftest import Answer, Caller

LIMIT = 10
ROWS = 25


class Pages:
    """One history of 25 rows, asked for page by page."""

    def __init__(self, caller: Caller, sandbox: Sandbox) -> None:
        self.caller = caller
        self.sandbox = sandbox
        (self.user,) = sandbox.world.user_ids()
        self.rule = sandbox.world.targets(self.user)[0].id
        self.true = self.current()

    def current(self) -> list[int]:
        return [row.event_log_id for row in self.sandbox.world.events(self.user, self.rule)]

    async def answer(self, offset: int, limit: int = LIMIT) -> Answer:
        return await self.caller.events(
            self.sandbox.url, self.user, self.rule, limit=limit, offset=offset
        )

    async def page(self, offset: int, limit: int = LIMIT) -> tuple[list[int], Any]:
        answer = await self.answer(offset, limit)
        assert answer.status == 200
        ids = [row["eventLogId"] for row in answer.json["data"]]
        return ids, answer.json.get("pagination")


@asynccontextmanager
async def paged(caller: Caller, **settings: Any) -> AsyncIterator[Pages]:
    async with (sandbox := Sandbox(users=1, events=ROWS, exact_events=True, **settings)):
        yield Pages(caller, sandbox)


async def test_offset_as_rows(caller: Caller) -> None:
    async with paged(caller, offset_mode="row") as pages:
        assert await pages.page(1) == (pages.true[1:11], {"limit": 10, "offset": 1, "total": 25})
        assert (await pages.page(20))[0] == pages.true[20:]


async def test_offset_ignored(caller: Caller) -> None:
    async with paged(caller, offset_mode="ignored") as pages:
        assert (await pages.page(0))[0] == (await pages.page(7))[0] == pages.true[:10]


async def test_offset_clamped_to_the_last_page(caller: Caller) -> None:
    async with paged(caller, offset_mode="clamped") as pages:
        assert await pages.page(9) == (pages.true[20:], {"limit": 10, "offset": 2, "total": 25})
        assert (await pages.page(1))[0] == pages.true[10:20]


@pytest.mark.parametrize(
    ("mode", "pagination"),
    [
        ("rows", {"limit": 10, "offset": 1, "total": 25}),
        ("pages", {"limit": 10, "offset": 1, "total": 3}),
        ("absent", {"limit": 10, "offset": 1}),
        ("zero", {"limit": 10, "offset": 1, "total": 0}),
        ("text", {"limit": "10", "offset": "1", "total": "25"}),
        ("float", {"limit": 10, "offset": 1, "total": Decimal("25.0")}),
        ("wrong", {"limit": 10, "offset": 1, "total": 12}),
        ("wrong-high", {"limit": 10, "offset": 1, "total": 50}),
        ("none", None),
    ],
)
async def test_totals(caller: Caller, mode: Any, pagination: Any) -> None:
    async with paged(caller, total_mode=mode) as pages:
        assert await pages.page(1) == (pages.true[10:20], pagination)
        if mode == "float":
            assert b'"total":25.0' in (await pages.answer(1)).body


@pytest.mark.parametrize(("mode", "rows", "echoed"), [("capped", 8, 8), ("capped-silent", 8, 20)])
async def test_limits_above_the_cap(caller: Caller, mode: Any, rows: int, echoed: int) -> None:
    async with paged(caller, limit_mode=mode, max_limit=8) as pages:
        ids, pagination = await pages.page(1, limit=20)
        assert ids == pages.true[rows : 2 * rows]
        assert pagination["limit"] == echoed
        assert (await pages.page(0, limit=8))[1]["limit"] == 8


async def test_limits_above_the_cap_refused(caller: Caller) -> None:
    async with paged(caller, limit_mode="refused", max_limit=8) as pages:
        assert (await pages.answer(0, limit=9)).code == 11029


@pytest.mark.parametrize(
    ("mode", "status", "code"), [("310149", 400, 310149), ("error", 400, 11003)]
)
async def test_past_the_end_as_an_error(caller: Caller, mode: Any, status: int, code: int) -> None:
    async with paged(caller, past_end=mode) as pages:
        assert (await pages.page(2))[0] == pages.true[20:]
        answer = await pages.answer(3)
        assert (answer.status, answer.code) == (status, code)


async def test_past_the_end_without_an_envelope(caller: Caller) -> None:
    async with paged(caller, past_end="404") as pages:
        answer = await pages.answer(3)
    assert (answer.status, answer.body) == (404, b"")


async def test_an_endless_server_never_repeats_and_never_ends(caller: Caller) -> None:
    async with paged(caller, past_end="endless") as pages:
        rows: list[int] = []
        for number in range(8):
            ids, pagination = await pages.page(number)
            assert len(ids) == LIMIT
            assert pagination["total"] > len(rows) + LIMIT
            rows += ids
    assert rows[:ROWS] == pages.true
    assert rows == sorted(set(rows))


async def test_a_hole(caller: Caller) -> None:
    async with paged(caller, empty_page=1) as pages:
        assert [(await pages.page(number))[0] for number in range(3)] == [
            pages.true[:10],
            [],
            pages.true[20:],
        ]


async def test_a_short_page(caller: Caller) -> None:
    async with paged(caller, short_page=0) as pages:
        assert (await pages.page(0))[0] == pages.true[:7]
        assert (await pages.page(1))[0] == pages.true[10:20]


async def test_repeated_rows(caller: Caller) -> None:
    async with paged(caller, repeat_rows="extra") as pages:
        assert (await pages.page(0))[0] == pages.true[:10]
        assert (await pages.page(1))[0] == pages.true[9:20]
        assert (await pages.page(3))[0] == []
        pages.sandbox.settings.repeat_rows = "instead"
        assert (await pages.page(1))[0] == [pages.true[9], *pages.true[11:20]]


async def test_dialects_reach_the_printed_users(caller: Caller) -> None:
    async with (sandbox := Sandbox(users=1, total_mode="pages")) as url:
        pages = await caller.events(url, 564_332_013, 1986)
        sandbox.settings.total_mode = "rows"
        sandbox.settings.iso = True
        iso = await caller.events(url, 564_332_013, 1986)
        sandbox.settings.iso = False
        printed = await caller.events(url, 564_332_013, 1986)
    assert pages.json["pagination"]["total"] == 1
    assert iso.json["data"][0]["eventDateISO"] == "2025-01-09T12:00:12Z"
    assert printed.body == samples.TRANSACTIONAL


async def test_rows_appended_between_requests(caller: Caller) -> None:
    async with paged(caller, append_per_request=2) as pages:
        assert (await pages.page(0))[1]["total"] == 27
        assert (await pages.page(2)) == (
            pages.current()[20:],
            {"limit": 10, "offset": 2, "total": 29},
        )
    assert pages.current()[:ROWS] == pages.true


async def test_a_late_row_shifts_what_follows(caller: Caller) -> None:
    async with paged(caller, insert_per_request=1) as pages:
        pages.sandbox.settings.insert_per_request = 0
        first = (await pages.page(0))[0]
        pages.sandbox.settings.insert_per_request = 1
        await pages.page(0)
        pages.sandbox.settings.insert_per_request = 0
        assert (await pages.page(0))[0] == first
        assert (await pages.page(2))[0] == pages.current()[20:]
        assert pages.current()[20] == pages.true[19]


async def test_rows_deleted_at_the_head_and_anywhere(caller: Caller) -> None:
    async with paged(caller, delete_head_per_request=3) as pages:
        assert (await pages.page(0))[0] == pages.true[3:13]
        pages.sandbox.settings.delete_head_per_request = 0
        pages.sandbox.settings.delete_any_per_request = 2
        assert (await pages.page(0))[1]["total"] == 20
        pages.sandbox.settings.delete_any_per_request = 30
        assert (await pages.answer(0)).code == 310149


async def test_the_hook_sees_the_world_and_counts_requests(caller: Caller) -> None:
    seen: list[int] = []

    def hook(world: World, number: int) -> None:
        seen.append(number)
        if number == 1:
            world.delete_events(pages.user, pages.rule, slice(0, 20))

    async with paged(caller, between_requests=hook) as pages:
        assert (await pages.page(0))[1]["total"] == 25
        assert (await pages.page(0))[1]["total"] == 5
    assert seen == [0, 1]
