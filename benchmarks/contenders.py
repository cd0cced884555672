"""Who is measured by `python -m benchmarks`: the package, and what one would write instead.

Each runs in a process of its own, for which it imports what it uses, and returns how many events it
read and the sum of their values. *raw* is the loop that one would write by hand; the peers write
the same loop with other libraries.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from timeit import timeit
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from capillary_targets import TargetsClient

Proof: TypeAlias = tuple[int, Any]
"""The number of events read, and the sum of their values."""
Figures: TypeAlias = dict[str, Any]
"""What a process prints: `wall` in seconds and its proof, or figures of its own."""
Get: TypeAlias = Callable[[str], Awaitable[bytes]]
Page: TypeAlias = tuple[int, Any, int]
"""The rows of a page, the sum of their values, and the total of all pages."""
Readers: TypeAlias = tuple[Callable[[bytes], list[int]], Callable[[bytes], Page]]
"""What reads bytes: the ids of targets, and a page."""

PAGE_SIZE: Final = 100
IN_FLIGHT: Final = 64


@dataclass(frozen=True)
class Work:
    """A sweep: `users` with `targets` targets of `events` events each."""

    server: str
    users: int
    targets: int = 3
    events: int = 250
    latency_ms: int = 0

    @property
    def url(self) -> str:
        """The address that asks the server for this work."""
        return f"{self.server}/{self.targets}x{self.events}/{self.latency_ms}ms"

    @property
    def user_ids(self) -> range:
        """Seven digits each."""
        return range(1_000_001, 1_000_001 + self.users)

    @property
    def requests(self) -> int:
        """The fewest requests that can do it: one a user, and one a page."""
        return self.users * (1 + self.targets * -(-self.events // PAGE_SIZE))


# The loop by hand, and its parts: what GETs, and what reads.

HEADERS = {"Authorization": "Basic dGlsbDo1ZjRkY2MzYjVhYTc2NWQ2MWQ4MzI3ZGViODgyY2Y5OQ=="}
PAGINATION: dict[str, Any] = dict.fromkeys(("limit", "offset", "total"), int)
TARGET: dict[str, Any] = {"id": int, "name": str, "active": bool}
EVENT: dict[str, Any] = {
    **dict.fromkeys(("eventLogId", "customerId", "periodId", "targetGroupId", "targetRuleId"), int),
    **dict.fromkeys(("eventName", "uniqueId"), str),
    **dict.fromkeys(("eventDate", "eventProcessedDate"), datetime),
    "eventDisplayName": str | None,
    "targetValue": Decimal,
}
"""The fields of the models that are made by hand, as the server names them."""


async def by_hand(name: str, work: Work) -> Proof:
    """Workers over one iterator of users, with the parts of one of the peers."""
    opener, readers = PEERS[name]
    target_ids, read = readers()
    users = iter(work.user_ids)
    events, total = 0, Decimal()

    async def worker() -> None:
        nonlocal events, total
        for user in users:
            for target in target_ids(await get(f"{work.url}/v3/users/{user}/enrolledTargets")):
                path = f"/v3/users/{user}/trackedTargetEvents/{target}?limit={PAGE_SIZE}"
                seen = 0
                while True:
                    rows, value, promised = read(await get(f"{work.url}{path}&offset={seen}"))
                    seen, total = seen + rows, total + Decimal(value)
                    if seen >= promised or not rows:
                        break
                events += seen

    async with AsyncExitStack() as stack:
        get = await opener(stack)
        await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return events, total


async def aiohttp_get(stack: AsyncExitStack) -> Get:
    import aiohttp

    connector = aiohttp.TCPConnector(limit=IN_FLIGHT)
    session = aiohttp.ClientSession(connector=connector, headers=HEADERS)
    await stack.enter_async_context(session)

    async def get(url: str) -> bytes:
        async with session.get(url) as response:
            return await response.read()

    return get


async def httpx_get(stack: AsyncExitStack) -> Get:
    import httpx

    limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
    client = httpx.AsyncClient(headers=HEADERS, limits=limits, timeout=30)
    await stack.enter_async_context(client)

    async def get(url: str) -> bytes:
        return bytes((await client.get(url)).content)

    return get


async def pyreqwest_get(stack: AsyncExitStack) -> Get:
    from pyreqwest.client import ClientBuilder

    builder = ClientBuilder().default_headers(HEADERS).max_connections(IN_FLIGHT)
    client = await stack.enter_async_context(builder.build())

    async def get(url: str) -> bytes:
        response = await client.get(url).build().send()
        return bytes((await response.bytes()).to_bytes())

    return get


async def estuary_get(stack: AsyncExitStack) -> Get:
    """The HTTP client of estuary-cdk, whose pace begins with a request a second."""
    import logging

    from estuary_cdk.http import HTTPMixin

    client, log = HTTPMixin(), logging.getLogger("estuary")
    await client._mixin_enter(log)
    stack.push_async_callback(client._mixin_exit, log)
    client.rate_limiter.delay = 0.0
    return lambda url: client.request(log, url, headers=dict(HEADERS))


def of_models(
    make: Callable[[str, dict[str, Any]], Any], reader: Callable[[Any], Callable[[bytes], Any]]
) -> Readers:
    """What `make` makes classes for, of a name and fields, and `reader` a reader of bytes."""
    events, targets = (
        list.__class_getitem__(make(name, fields))
        for name, fields in (("Event", EVENT), ("Target", TARGET))
    )
    page = {"data": events, "pagination": make("Pagination", PAGINATION)}
    read_page, read_targets = reader(make("Page", page)), reader(make("Targets", {"data": targets}))

    def target_ids(body: bytes) -> list[int]:
        return [target.id for target in read_targets(body).data]

    def read(body: bytes) -> Page:
        page = read_page(body)
        value = sum([event.targetValue for event in page.data], Decimal())
        return len(page.data), value, page.pagination.total

    return target_ids, read


def attrs_class(name: str, fields: dict[str, Any]) -> Any:
    """A frozen attrs class."""
    from attrs import field, make_class

    return make_class(name, {one: field(type=type_) for one, type_ in fields.items()}, frozen=True)


def msgspec_readers() -> Readers:
    """By msgspec, into attrs classes: exact."""
    import msgspec

    return of_models(attrs_class, lambda type_: msgspec.json.Decoder(type_).decode)


def cattrs_readers(loads: Callable[[bytes], Any] | None = None) -> Readers:
    """By cattrs, tuned: no detailed validation, plain hooks; of what orjson has read."""
    import orjson
    from cattrs import Converter

    load = loads or orjson.loads
    converter = Converter(detailed_validation=False, prefer_attrib_converters=False)
    converter.register_structure_hook(datetime, lambda text, _: datetime.fromisoformat(text))
    converter.register_structure_hook(
        Decimal, lambda value, _: Decimal(repr(value)) if type(value) is float else Decimal(value)
    )
    return of_models(attrs_class, lambda type_: lambda body: converter.structure(load(body), type_))


def pydantic_readers() -> Readers:
    """By pydantic v2: bytes validated into frozen models."""
    from pydantic import ConfigDict, create_model

    def make(name: str, fields: dict[str, Any]) -> Any:
        return create_model(name, __config__=ConfigDict(frozen=True), **fields)

    return of_models(make, lambda type_: type_.model_validate_json)


def orjson_readers() -> Readers:
    """By orjson alone: no models, amounts are floats."""
    import orjson

    def target_ids(body: bytes) -> list[int]:
        return [row["id"] for row in orjson.loads(body)["data"]]

    def read(body: bytes) -> Page:
        page = orjson.loads(body)
        rows = page["data"]
        return len(rows), sum([row["targetValue"] for row in rows]), page["pagination"]["total"]

    return target_ids, read


PEERS: dict[str, tuple[Callable[[AsyncExitStack], Awaitable[Get]], Callable[[], Readers]]] = {
    "raw": (aiohttp_get, orjson_readers),
    "pyreqwest + msgspec into attrs": (pyreqwest_get, msgspec_readers),
    "aiohttp + msgspec into attrs": (aiohttp_get, msgspec_readers),
    "aiohttp + orjson + tuned cattrs (floats on the way)": (aiohttp_get, cattrs_readers),
    "aiohttp + json + tuned cattrs": (
        aiohttp_get,
        lambda: cattrs_readers(partial(json.loads, parse_float=Decimal)),
    ),
    "httpx + pydantic v2": (httpx_get, pydantic_readers),
    "estuary-cdk's HTTP client + pydantic v2": (estuary_get, pydantic_readers),
}
"""What GETs and what reads, in the loop that all of them share; dlt has a loop of its own."""


async def dlt(work: Work) -> Proof:
    """dlt: its REST client in a parallel transformer, extracted to its files. Untyped, floats."""
    directory = TemporaryDirectory()
    os.environ |= {
        "DLT_DATA_DIR": directory.name,
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "EXTRACT__WORKERS": "16",
        "RUNTIME__LOG_LEVEL": "ERROR",
    }
    import dlt
    from dlt.sources.helpers.rest_client import RESTClient, paginators

    counted: list[tuple[int, float]] = []

    @dlt.transformer(name="events", parallelized=True)
    def events(user: int) -> Iterator[Any]:
        client = RESTClient(work.url, headers=HEADERS, data_selector="data")
        at_once = paginators.SinglePagePaginator()
        for targets in client.paginate(f"v3/users/{user}/enrolledTargets", paginator=at_once):
            for target in targets:
                path = f"v3/users/{user}/trackedTargetEvents/{target['id']}"
                by_offset = paginators.OffsetPaginator(PAGE_SIZE, total_path="pagination.total")
                for rows in client.paginate(path, params={}, paginator=by_offset):
                    counted.append((len(rows), sum(row["targetValue"] for row in rows)))
                    yield rows

    users = dlt.resource(iter(work.user_ids), name="users")
    with directory:
        dlt.pipeline("benchmark", destination="duckdb").extract(users | events())
    return sum(rows for rows, _ in counted), sum(value for _, value in counted)


# The package.


def client_of(work: Work, concurrency: int | None = None) -> TargetsClient:
    """A client of the package; it adapts its concurrency, unless told otherwise."""
    from capillary_targets import AdaptiveConcurrency, BasicAuth, TargetsClient

    auth, limit = BasicAuth("till", "password"), AdaptiveConcurrency(initial=IN_FLIGHT)
    return TargetsClient(work.url, auth, page_size=PAGE_SIZE, concurrency=concurrency or limit)


async def typed(work: Work, concurrency: int | None = None) -> Proof:
    """An outcome for each user, sums exact."""
    events, total = 0, Decimal()
    async with client_of(work, concurrency) as client:
        async for outcome in client.sweep(work.user_ids):
            if outcome.error:
                raise outcome.error
            events += len(outcome.events)
            values: list[Any] = [event.target_value for event in outcome.events]
            total += sum(values, Decimal())
    return events, total


async def flat(work: Work) -> Proof:
    """The same as one flat stream of events."""
    events, total = 0, Decimal()
    async with client_of(work) as client:
        async for event in client.sweep(work.user_ids).events():
            events += 1
            total += event.target_value or 0
    return events, total


async def discarded(work: Work) -> Proof:
    """The same sweep, whose outcomes are only counted."""
    async with client_of(work) as client:
        return sum([len(outcome.events) async for outcome in client.sweep(work.user_ids)]), None


async def written(form: Any, work: Work) -> Proof:
    """A sweep into files."""
    from capillary_targets.sweep import SweepOptions, run

    with TemporaryDirectory() as folder:
        async with client_of(work) as client:
            options = SweepOptions(format=form)
            summary = await run(client, work.user_ids, Path(folder, "out"), options)
    return summary.events, None


# Figures of their own.


async def one_call(work: Work) -> Figures:
    """CPU seconds of a call in a backend, one after the other: ours, and the same by hand."""
    target_ids, _ = msgspec_readers()
    user = work.user_ids[0]
    async with client_of(work) as client, AsyncExitStack() as stack:
        get = await aiohttp_get(stack)

        async def call_by_hand() -> object:
            return target_ids(await get(f"{work.url}/v3/users/{user}/enrolledTargets"))

        async def cpu(call: Callable[[], Awaitable[object]]) -> float:
            before = time.process_time()
            for _ in range(work.users):
                await call()
            return (time.process_time() - before) / work.users

        calls = {"ours": lambda: client.active_targets(user), "by hand": call_by_hand}
        rounds = [{name: await cpu(call) for name, call in calls.items()} for _ in range(31)]
    return {name: [one[name] for one in rounds[1:]] for name in calls}  # the first warms up


async def resident(work: Work) -> Figures:
    """Megabytes in use after a tenth of the users, and after all."""
    done, found = 0, {}
    async with client_of(work) as client:
        async for _ in client.sweep(work.user_ids):
            done += 1
            if done in {work.users // 10, work.users}:
                pages = int(Path("/proc/self/statm").read_text().split()[1])  # noqa: ASYNC240
                found[f"{done:,}"] = pages * resource.getpagesize() / 2**20
    return found


async def decoding(work: Work) -> Figures:
    """Microseconds an event, for a page of 100: ours, and `orjson.loads` alone."""
    import orjson

    from capillary_targets.structuring import structurer
    from capillary_targets.wire import Answer, read_events

    user = f"{work.url}/v3/users/{work.user_ids[0]}"
    async with AsyncExitStack() as stack:
        get = await aiohttp_get(stack)
        target = orjson.loads(await get(f"{user}/enrolledTargets"))["data"][0]["id"]
        body = await get(f"{user}/trackedTargetEvents/{target}?limit={PAGE_SIZE}&offset=0")
    answer, plain = Answer(200, body), structurer()
    calls: dict[str, Callable[[], object]] = {
        "ours": lambda: read_events(answer, plain, work.user_ids[0], target),
        "orjson": lambda: orjson.loads(body),
    }
    rounds = [{name: timeit(call, number=200) for name, call in calls.items()} for _ in range(16)]
    each = 1e6 / 200 / PAGE_SIZE
    return {name: [one[name] * each for one in rounds[1:]] for name in calls}  # the first warms up


FIGURES: dict[str, Callable[[Work], Awaitable[Figures]]] = {
    one.__name__: one for one in (one_call, resident, decoding)
}
CONTENDERS: dict[str, Callable[[Work], Awaitable[Proof]]] = {
    **{name: partial(by_hand, name) for name in PEERS},
    **{form: partial(written, form) for form in ("jsonl", "parquet")},
    "typed": typed,
    "typed, fixed limit": partial(typed, concurrency=IN_FLIGHT),
    "flat": flat,
    "discarded": discarded,
    "dlt": dlt,
}


def main() -> None:
    """Run a contender in this process, as told by JSON, and print its figures as JSON."""
    name, given = json.loads(sys.argv[1])
    work, factory = Work(**given), None
    if name.endswith(" on uvloop"):
        import uvloop

        name, factory = name.removesuffix(" on uvloop"), uvloop.new_event_loop

    def run(contender: Any, work: Work) -> Any:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(contender(work))

    if name in FIGURES:
        print(json.dumps(run(FIGURES[name], work)))
        return
    run(CONTENDERS[name], replace(work, users=min(8, work.users), latency_ms=0))  # warms up
    wall = time.perf_counter()
    events, total = run(CONTENDERS[name], work)
    wall = time.perf_counter() - wall
    print(json.dumps({"wall": wall, "events": events, "total": total and float(total)}))


if __name__ == "__main__":
    main()
