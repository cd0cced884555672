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
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from timeit import timeit
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from .server import FIRST_USER, Work, events_answer

if TYPE_CHECKING:
    from capillary_targets import TargetsClient

Proof: TypeAlias = tuple[int, Any]
"""The number of events read, and the sum of their values."""
Figures: TypeAlias = dict[str, Any]
"""What a process prints: `wall` and `cpu` in seconds, or figures of its own."""
Get: TypeAlias = Callable[[str], Awaitable[bytes]]
Page: TypeAlias = tuple[int, Any, int]
"""The rows of a page, the sum of their values, and the total of all pages."""
Readers: TypeAlias = tuple[Callable[[bytes], list[int]], Callable[[bytes], Page]]
"""What reads bytes: the ids of targets, and a page."""

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


async def by_hand(work: Work, get: Get, readers: Readers) -> Proof:
    """Workers over one iterator of users."""
    target_ids, read = readers
    users = iter(work.user_ids)
    events, total = 0, Decimal()

    async def worker() -> None:
        nonlocal events, total
        for user in users:
            for target in target_ids(await get(f"/v3/users/{user}/enrolledTargets")):
                path = f"/v3/users/{user}/trackedTargetEvents/{target}?limit={work.page_size}"
                seen = 0
                while True:
                    rows, value, promised = read(await get(f"{path}&offset={seen}"))
                    seen, total = seen + rows, total + Decimal(value)
                    if seen >= promised or not rows:
                        break
                events += seen

    await asyncio.gather(*(worker() for _ in range(work.in_flight)))
    return events, total


@asynccontextmanager
async def aiohttp_get(base: str, work: Work) -> AsyncGenerator[Get]:
    """GET by aiohttp."""
    import aiohttp

    connector = aiohttp.TCPConnector(limit=work.in_flight)
    async with aiohttp.ClientSession(connector=connector, headers=HEADERS) as session:

        async def get(path: str) -> bytes:
            async with session.get(base + path) as response:
                return await response.read()

        yield get


@asynccontextmanager
async def httpx_get(base: str, work: Work) -> AsyncGenerator[Get]:
    """GET by httpx."""
    import httpx

    limits = httpx.Limits(max_connections=work.in_flight, max_keepalive_connections=work.in_flight)
    async with httpx.AsyncClient(headers=HEADERS, limits=limits, timeout=30) as client:

        async def get(path: str) -> bytes:
            body: bytes = (await client.get(base + path)).content
            return body

        yield get


@asynccontextmanager
async def pyreqwest_get(base: str, work: Work) -> AsyncGenerator[Get]:
    """GET by pyreqwest, which is reqwest (Rust)."""
    from pyreqwest.client import ClientBuilder

    builder = ClientBuilder().default_headers(HEADERS).max_connections(work.in_flight)
    async with builder.build() as client:

        async def get(path: str) -> bytes:
            response = await client.get(base + path).build().send()
            body: bytes = (await response.bytes()).to_bytes()
            return body

        yield get


@asynccontextmanager
async def estuary_get(base: str, _: Work) -> AsyncGenerator[Get]:
    """GET by the HTTP client of estuary-cdk, whose pace begins with a request a second."""
    import logging

    from estuary_cdk.http import HTTPMixin

    client, log = HTTPMixin(), logging.getLogger("estuary")
    await client._mixin_enter(log)
    client.rate_limiter.delay = 0.0
    try:

        async def get(path: str) -> bytes:
            body: bytes = await client.request(log, base + path, headers=dict(HEADERS))
            return body

        yield get
    finally:
        await client._mixin_exit(log)


def models(make: Callable[[str, dict[str, Any]], Any]) -> tuple[Any, Any]:
    """A page of events and one of targets, as classes that `make` makes of a name and fields."""
    events, targets = (
        list.__class_getitem__(make(name, fields))
        for name, fields in (("Event", EVENT), ("Target", TARGET))
    )
    page = {"data": events, "pagination": make("Pagination", PAGINATION)}
    return make("Page", page), make("Targets", {"data": targets})


def attrs_class(name: str, fields: dict[str, Any]) -> Any:
    """A frozen attrs class."""
    from attrs import field, make_class

    return make_class(name, {one: field(type=type_) for one, type_ in fields.items()}, frozen=True)


def of_models(read_page: Callable[[bytes], Any], read_targets: Callable[[bytes], Any]) -> Readers:
    """The readers of bytes, given what makes bytes a page of events, and one of targets."""

    def target_ids(body: bytes) -> list[int]:
        return [target.id for target in read_targets(body).data]

    def read(body: bytes) -> Page:
        page = read_page(body)
        value = sum([event.targetValue for event in page.data], Decimal())
        return len(page.data), value, page.pagination.total

    return target_ids, read


def msgspec_readers() -> Readers:
    """By msgspec, into attrs classes: exact."""
    import msgspec

    page, targets = models(attrs_class)
    return of_models(msgspec.json.Decoder(page).decode, msgspec.json.Decoder(targets).decode)


def cattrs_readers(loads: Callable[[bytes], Any] | None = None) -> Readers:
    """By cattrs, tuned: no detailed validation, plain hooks; of what orjson has read."""
    import orjson
    from cattrs import Converter

    read = loads or orjson.loads
    converter = Converter(detailed_validation=False, prefer_attrib_converters=False)
    converter.register_structure_hook(datetime, lambda text, _: datetime.fromisoformat(text))
    converter.register_structure_hook(
        Decimal, lambda value, _: Decimal(repr(value)) if type(value) is float else Decimal(value)
    )
    page, targets = models(attrs_class)
    return of_models(
        lambda body: converter.structure(read(body), page),
        lambda body: converter.structure(read(body), targets),
    )


def pydantic_readers() -> Readers:
    """By pydantic v2: bytes validated into frozen models."""
    from pydantic import ConfigDict, create_model

    def make(name: str, fields: dict[str, Any]) -> Any:
        return create_model(name, __config__=ConfigDict(frozen=True), **fields)

    page, targets = models(make)
    return of_models(page.model_validate_json, targets.model_validate_json)


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


async def dlt(base: str, work: Work) -> Proof:
    """dlt: its REST client in a parallel transformer, extracted to its files. Untyped, floats."""
    directory = tempfile.mkdtemp(prefix="benchmark-")
    os.environ |= {
        "DLT_DATA_DIR": directory,
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "EXTRACT__WORKERS": "16",
        "RUNTIME__LOG_LEVEL": "ERROR",
    }
    import dlt
    from dlt.sources.helpers.rest_client import RESTClient
    from dlt.sources.helpers.rest_client.paginators import OffsetPaginator, SinglePagePaginator

    counted: list[tuple[int, float]] = []

    def pages(path: str, paginator: Any) -> Iterator[Any]:
        client = RESTClient(base, headers=HEADERS, data_selector="data")
        yield from client.paginate(path, params={}, paginator=paginator)

    @dlt.resource(name="users")
    def users() -> Iterator[int]:
        yield from work.user_ids

    @dlt.transformer(name="events", parallelized=True)
    def events(user: int) -> Iterator[Any]:
        for targets in pages(f"v3/users/{user}/enrolledTargets", SinglePagePaginator()):
            for target in targets:
                path = f"v3/users/{user}/trackedTargetEvents/{target['id']}"
                by_offset = OffsetPaginator(work.page_size, total_path="pagination.total")
                for rows in pages(path, by_offset):
                    counted.append((len(rows), sum(row["targetValue"] for row in rows)))
                    yield rows

    try:
        dlt.pipeline("benchmark", destination="duckdb").extract(users() | events())
    finally:
        shutil.rmtree(directory)
    return sum(rows for rows, _ in counted), sum(value for _, value in counted)


exact_json = partial(json.loads, parse_float=Decimal)
PEERS: dict[
    str, tuple[Callable[[str, Work], AbstractAsyncContextManager[Get]], Callable[[], Readers]]
] = {
    "raw": (aiohttp_get, orjson_readers),
    "pyreqwest + msgspec into attrs": (pyreqwest_get, msgspec_readers),
    "aiohttp + msgspec into attrs": (aiohttp_get, msgspec_readers),
    "aiohttp + orjson + tuned cattrs (floats on the way)": (aiohttp_get, cattrs_readers),
    "aiohttp + json + tuned cattrs": (aiohttp_get, lambda: cattrs_readers(exact_json)),
    "httpx + pydantic v2": (httpx_get, pydantic_readers),
    "estuary-cdk's HTTP client + pydantic v2": (estuary_get, pydantic_readers),
}
"""What GETs and what reads, in the loop that all of them share; dlt has a loop of its own."""


async def peer(name: str, base: str, work: Work) -> Proof:
    """One of the peers."""
    get, readers = PEERS[name]
    async with get(base, work) as request:
        return await by_hand(work, request, readers())


# The package.


def client_of(base: str, work: Work, concurrency: int | None = None) -> TargetsClient:
    """A client of the package; it adapts its concurrency, unless told otherwise."""
    from capillary_targets import AdaptiveConcurrency, BasicAuth, TargetsClient

    auth, limit = BasicAuth("till", "password"), AdaptiveConcurrency(initial=work.in_flight)
    return TargetsClient(base, auth, page_size=work.page_size, concurrency=concurrency or limit)


async def typed(base: str, work: Work, concurrency: int | None = None) -> Proof:
    """An outcome for each user, sums exact."""
    events, total = 0, Decimal()
    async with client_of(base, work, concurrency) as client:
        async for outcome in client.sweep(work.user_ids):
            if outcome.error:
                raise outcome.error
            events += len(outcome.events)
            values: list[Any] = [event.target_value for event in outcome.events]
            total += sum(values, Decimal())
    return events, total


async def typed_fixed(base: str, work: Work) -> Proof:
    """The same with as many requests in flight as the peers', no more and no fewer."""
    return await typed(base, work, work.in_flight)


async def flat(base: str, work: Work) -> Proof:
    """The same as one flat stream of events."""
    events, total = 0, Decimal()
    async with client_of(base, work) as client:
        async for event in client.sweep(work.user_ids).events():
            events += 1
            total += event.target_value or 0
    return events, total


async def discarded(base: str, work: Work) -> Proof:
    """The same sweep, whose outcomes are only counted."""
    events = 0
    async with client_of(base, work) as client:
        async for outcome in client.sweep(work.user_ids):
            events += len(outcome.events)
    return events, work.total


async def jsonl(base: str, work: Work, form: Literal["jsonl", "parquet"] = "jsonl") -> Proof:
    """A sweep into files."""
    from capillary_targets.sweep import SweepOptions, run

    out = Path(tempfile.mkdtemp(prefix="benchmark-"))
    try:
        async with client_of(base, work) as client:
            summary = await run(client, work.user_ids, out, SweepOptions(format=form))
        return summary.events, work.total
    finally:
        shutil.rmtree(out)


async def parquet(base: str, work: Work) -> Proof:
    """A sweep into Parquet."""
    return await jsonl(base, work, "parquet")


# Figures of their own.


async def one_call(base: str, work: Work) -> Figures:
    """CPU seconds of a call in a backend, one after the other: ours, and the same by hand."""
    target_ids, _ = msgspec_readers()
    found: dict[str, list[float]] = {"ours": [], "by hand": []}
    async with client_of(base, work) as client, aiohttp_get(base, work) as get:

        async def call_by_hand() -> object:
            return target_ids(await get(f"/v3/users/{FIRST_USER}/enrolledTargets"))

        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "ours": lambda: client.active_targets(FIRST_USER),
            "by hand": call_by_hand,
        }
        for number in range(31):
            for name, call in calls.items():
                before = time.process_time()
                for _ in range(work.users):
                    await call()
                if number:  # the first one warms up
                    found[name].append((time.process_time() - before) / work.users)
    return found


async def resident(base: str, work: Work) -> Figures:
    """Megabytes in use after a tenth of the users, and after all."""
    done, found = 0, {}
    async with client_of(base, work) as client:
        async for _ in client.sweep(work.user_ids):
            done += 1
            if done in {work.users // 10, work.users}:
                found[f"{done:,}"] = megabytes()
    return found


def megabytes() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


async def decoding(_: str, __: Work) -> Figures:
    """Microseconds an event, for a page of 100: ours, and `orjson.loads` alone."""
    import orjson

    from capillary_targets.structuring import structurer
    from capillary_targets.wire import Answer, read_events

    body, plain = events_answer(2001, 100, 0, 250), structurer()
    calls: dict[str, Callable[[], Any]] = {
        "ours": lambda: read_events(Answer(200, body), plain, FIRST_USER, 2001),
        "orjson": lambda: orjson.loads(body),
    }
    for call in calls.values():
        timeit(call, number=100)  # warm
    rounds = [{name: timeit(call, number=200) for name, call in calls.items()} for _ in range(15)]
    return {name: [one[name] / 200 / 100 * 1e6 for one in rounds] for name in calls}


def main() -> None:
    """Run a contender in this process, as told by JSON, and print its figures as JSON."""
    name, base, given = json.loads(sys.argv[1])
    work, name, uv = Work(**given), name.removesuffix(" on uvloop"), name.endswith(" on uvloop")
    contender = partial(peer, name) if name in PEERS else globals()[name]
    factory = None
    if uv:
        import uvloop

        factory = uvloop.new_event_loop

    def run(work: Work) -> Any:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(contender(base + work.prefix, work))

    if name in {"one_call", "resident", "decoding"}:
        print(json.dumps(run(work)))
        return
    run(replace(work, users=min(8, work.users), latency_ms=0))  # warms up
    wall, cpu = time.perf_counter(), time.process_time()
    events, total = run(work)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if events != work.rows or abs(float(total) / float(work.total) - 1) > 1e-9:
        sys.exit(f"{name} read {events} events worth {total}, not {work.rows} worth {work.total}")
    print(json.dumps({"wall": wall, "cpu": cpu}))


if __name__ == "__main__":
    main()
