"""The same sweep, by hand and by this package. Each takes a base URL and the work to do.

Libraries are imported where they run: a contender has a process of its own and pays only for what
it uses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias

from .workload import Work

if TYPE_CHECKING:
    from capillary_targets import TargetsClient

__all__ = [
    "HEADERS",
    "Contender",
    "Result",
    "client_of",
    "raw",
    "raw_held",
    "raw_read",
    "thrown_away",
    "typed",
    "typed_by_command_line",
    "typed_flat",
    "walk",
]

Result: TypeAlias = Callable[[], tuple[int, Decimal | float]]
"""Proof that the work was done: how many events came, and the sum of their values."""
Contender: TypeAlias = Callable[[str, Work], Awaitable[Result]]

HEADERS = {"Authorization": "Basic dGlsbDo1ZjRkY2MzYjVhYTc2NWQ2MWQ4MzI3ZGViODgyY2Y5OQ=="}


async def walk(
    work: Work,
    get: Callable[[str], Awaitable[Any]],
    targets_of: Callable[[Any], list[int]],
    rows_of: Callable[[Any], tuple[int, Any, int]],
    *,
    held: bool = False,
) -> Result:
    """The loop that all hand-written clients share: a pool of workers over an iterator of users.

    `get` fetches a path; `targets_of` reads the ids, `rows_of` the number of rows, the sum of
    their values, and the total of all pages. With `held`, a user's pages are kept together.
    """
    users = iter(range(1, work.users + 1))
    events = 0
    total: Any = 0

    async def work_on() -> None:
        nonlocal events, total
        for user in users:
            kept = []
            for target in targets_of(await get(f"/v3/users/{user}/enrolledTargets")):
                path = f"/v3/users/{user}/trackedTargetEvents/{target}?limit={work.page_size}"
                seen = number = 0
                while True:
                    page = await get(f"{path}&offset={number}")
                    rows, value, promised = rows_of(page)
                    if held:
                        kept.append(page)
                    del page
                    seen += rows
                    total += value
                    number += 1
                    if seen >= promised or not rows:
                        break
                events += seen

    await asyncio.gather(*(work_on() for _ in range(work.in_flight)))
    return lambda: (events, total)


async def raw(base: str, work: Work) -> Result:
    """What a good engineer writes by hand: no models, no retries, no limits, inexact sums."""
    import aiohttp
    import orjson

    connector = aiohttp.TCPConnector(limit=work.in_flight)
    async with aiohttp.ClientSession(connector=connector, headers=HEADERS) as session:

        async def get(path: str) -> Any:
            async with session.get(base + path) as response:
                return orjson.loads(await response.read())

        def rows_of(page: Any) -> tuple[int, float, int]:
            rows = page["data"]
            return len(rows), sum([row["targetValue"] for row in rows]), page["pagination"]["total"]

        return await walk(work, get, lambda answer: [row["id"] for row in answer["data"]], rows_of)


async def raw_read(base: str, work: Work, *, held: bool = False) -> Result:
    """*raw*, but for the package's own reading and exact sums: its share in what is typed."""
    import aiohttp
    import orjson

    from capillary_targets.decoding import events_in

    connector = aiohttp.TCPConnector(limit=work.in_flight)
    async with aiohttp.ClientSession(connector=connector, headers=HEADERS) as session:

        async def get(path: str) -> Any:
            async with session.get(base + path) as response:
                body = await response.read()
                return events_in(body, None) if "Events" in path else orjson.loads(body)

        def rows_of(page: Any) -> tuple[int, Any, int]:
            rows = page.data
            return len(rows), sum([row.target_value for row in rows]), page.pagination.total

        def targets_of(answer: Any) -> list[int]:
            return [row["id"] for row in answer["data"]]

        return await walk(work, get, targets_of, rows_of, held=held)


async def raw_held(base: str, work: Work) -> Result:
    """The same, holding a user's events until the last has come, as an outcome does."""
    return await raw_read(base, work, held=True)


def client_of(base: str, work: Work) -> TargetsClient:
    """A client of the package under test, set up for the work."""
    from capillary_targets import BasicAuth, TargetsClient

    return TargetsClient(
        base, BasicAuth("till", "password"), page_size=work.page_size, concurrency=work.in_flight
    )


async def typed(base: str, work: Work) -> Result:
    """The package under test: typed, exact, with limits, retries and a report."""
    events = 0
    total = Decimal()
    async with client_of(base, work) as client:
        async for outcome in client.sweep(range(1, work.users + 1)):
            if not outcome.complete:
                raise RuntimeError(f"user {outcome.user_id}") from outcome.error
            events += len(outcome.events)
            total += sum([event.target_value or 0 for event in outcome.events])
    return lambda: (events, total)


async def typed_flat(base: str, work: Work) -> Result:
    """The same as one flat stream of events, of which no user's need be held together."""
    events = 0
    total = Decimal()
    async with client_of(base, work) as client:
        async for event in client.sweep(range(1, work.users + 1)).events():
            events += 1
            total += event.target_value or 0
    return lambda: (events, total)


async def typed_by_command_line(base: str, work: Work) -> Result:
    """The same, with the garbage collector as the command line sets it; run it with uvloop."""
    from capillary_targets.cli.app import relaxed_gc

    with relaxed_gc():
        return await typed(base, work)


async def thrown_away(base: str, work: Work) -> Result:
    """The same sweep, whose outcomes are only counted."""
    events = 0
    async with client_of(base, work) as client:
        async for outcome in client.sweep(range(1, work.users + 1)):
            events += len(outcome.events)
    return lambda: (events, work.total)
