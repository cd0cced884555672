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
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from timeit import timeit
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from .server import Work, events_answer

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
FIELDS: dict[str, Any] = dict.fromkeys(
    ("eventLogId", "customerId", "periodId", "targetGroupId", "targetRuleId"), int
) | {"eventName": str, "eventDisplayName": str | None, "uniqueId": str}


# What is written by hand, with one library or another.


async def by_hand(
    work: Work, get: Get, target_ids: Callable[[bytes], list[int]], read: Callable[[bytes], Page]
) -> Proof:
    """Workers over one iterator of users."""
    users = iter(range(1, work.users + 1))
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
async def estuary_get(base: str, work: Work) -> AsyncGenerator[Get]:
    """GET by the HTTP client of estuary-cdk, whose pace begins with a request a second."""
    import logging

    from estuary_cdk.http import HTTPMixin

    del work
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


@cache
def attrs_classes() -> tuple[Any, Any]:
    """A page of events and one of targets, as frozen attrs classes under the server's names."""
    from attrs import make_class

    dated = {"eventDate": datetime, "eventProcessedDate": datetime, "targetValue": Decimal}
    event: Any = _made(make_class, "Event", FIELDS | dated)
    numbers: Any = _made(make_class, "Numbers", dict.fromkeys(("limit", "offset", "total"), int))
    target: Any = _made(make_class, "Target", {"id": int, "name": str, "active": bool})
    page = _made(make_class, "Page", {"data": list[event], "pagination": numbers})
    return page, _made(make_class, "Targets", {"data": list[target]})


def _made(make: Callable[..., Any], name: str, fields: dict[str, Any]) -> Any:
    from attrs import field

    return make(name, {one: field(type=kind) for one, kind in fields.items()}, frozen=True)


def of_attrs(decode: Callable[[bytes, Any], Any]) -> Readers:
    """The readers of bytes, given what makes bytes an object of an attrs class."""
    page_class, targets_class = attrs_classes()

    def target_ids(body: bytes) -> list[int]:
        return [target.id for target in decode(body, targets_class).data]

    def read(body: bytes) -> Page:
        page = decode(body, page_class)
        value = sum([event.targetValue for event in page.data], Decimal())
        return len(page.data), value, page.pagination.total

    return target_ids, read


def msgspec_readers() -> Readers:
    """By msgspec, into attrs classes: exact."""
    import msgspec

    decoders = {kind: msgspec.json.Decoder(kind).decode for kind in attrs_classes()}
    return of_attrs(lambda body, kind: decoders[kind](body))


def cattrs_readers(loads: Callable[[bytes], Any]) -> Readers:
    """cattrs, tuned: no detailed validation, plain hooks."""
    from cattrs import Converter

    converter = Converter(detailed_validation=False, prefer_attrib_converters=False)
    converter.register_structure_hook(datetime, lambda text, _: datetime.fromisoformat(text))
    converter.register_structure_hook(
        Decimal, lambda value, _: Decimal(repr(value)) if type(value) is float else Decimal(value)
    )
    return of_attrs(lambda body, kind: converter.structure(loads(body), kind))


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


def pydantic_readers() -> Readers:
    """By pydantic v2: bytes validated into frozen models."""
    from pydantic import ConfigDict, create_model

    dated = {"eventDate": datetime, "eventProcessedDate": datetime, "targetValue": Decimal}
    row: Any = create_model("Row", __config__=ConfigDict(frozen=True), **(FIELDS | dated))
    numbers: Any = create_model("Numbers", limit=int, offset=int, total=int)
    page: Any = create_model("Page", data=list[row], pagination=numbers)
    target: Any = create_model("Target", id=int, name=str, active=bool)
    targets: Any = create_model("Targets", data=list[target])
    models = dict(zip(attrs_classes(), (page, targets), strict=True))
    return of_attrs(lambda body, kind: models[kind].model_validate_json(body))


async def dlt_extract(base: str, work: Work) -> Proof:
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

    def pages(path: str, params: dict[str, Any], paginator: Any) -> Iterator[Any]:
        client = RESTClient(base, headers=HEADERS, data_selector="data")
        yield from client.paginate(path, params=params, paginator=paginator)

    @dlt.resource(name="users")
    def users() -> Iterator[int]:
        yield from range(1, work.users + 1)

    @dlt.transformer(name="events", parallelized=True)
    def events(user: int) -> Iterator[Any]:
        for targets in pages(f"v3/users/{user}/enrolledTargets", {}, SinglePagePaginator()):
            for target in targets:
                path = f"v3/users/{user}/trackedTargetEvents/{target['id']}"
                paginator = OffsetPaginator(work.page_size, total_path="pagination.total")
                for rows in pages(path, {}, paginator):
                    counted.append((len(rows), sum(row["targetValue"] for row in rows)))
                    yield rows

    try:
        dlt.pipeline("benchmark", destination="duckdb").extract(users() | events())
    finally:
        shutil.rmtree(directory)
    return sum(rows for rows, _ in counted), sum(value for _, value in counted)


def orjson_cattrs() -> Readers:
    """By orjson and cattrs: amounts are floats on the way."""
    import orjson

    return cattrs_readers(orjson.loads)


@dataclass(frozen=True)
class Peer:
    """What one would write instead, with these ways to GET and to read (None: see `dlt_extract`).

    `users` are as many as it does in a few seconds; `needs` is a package that the group `bench`
    has not.
    """

    what: str
    users: int
    get: Callable[[str, Work], AbstractAsyncContextManager[Get]] | None
    readers: Callable[[], Readers] | None
    because: str = ""
    reach: float = 1.0
    needs: str | None = None

    async def __call__(self, base: str, work: Work) -> Proof:
        """The loop that all of them share."""
        if self.get is None or self.readers is None:
            return await dlt_extract(base, work)
        async with self.get(base, work) as get:
            return await by_hand(work, get, *self.readers())


RAW = Peer("*raw*", 500, aiohttp_get, orjson_readers)
RUST = "its HTTP client is written in Rust; the rest of the loop is the same"
PEERS = {
    "pyreqwest_msgspec": Peer(
        "pyreqwest + msgspec into attrs", 500, pyreqwest_get, msgspec_readers, RUST, reach=0.77
    ),
    "aiohttp_msgspec": Peer("aiohttp + msgspec into attrs", 500, aiohttp_get, msgspec_readers),
    "orjson_cattrs": Peer(
        "aiohttp + orjson + tuned cattrs (floats on the way)", 200, aiohttp_get, orjson_cattrs
    ),
    "json_cattrs": Peer(
        "aiohttp + json + tuned cattrs",
        200,
        aiohttp_get,
        lambda: cattrs_readers(lambda body: json.loads(body, parse_float=Decimal)),
    ),
    "httpx_pydantic": Peer("httpx + pydantic v2", 100, httpx_get, pydantic_readers),
    "estuary_pydantic": Peer(
        "estuary-cdk's HTTP client + pydantic v2",
        100,
        estuary_get,
        pydantic_readers,
        needs="estuary_cdk",
    ),
    "dlt": Peer("dlt: REST client, extract only (untyped, floats)", 60, None, None),
}


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
        async for outcome in client.sweep(range(1, work.users + 1)):
            if outcome.error:
                raise outcome.error
            events += len(outcome.events)
            total += sum([event.target_value or 0 for event in outcome.events])
    return events, total


async def typed_fixed(base: str, work: Work) -> Proof:
    """The same with as many requests in flight as the peers', no more and no fewer."""
    return await typed(base, work, work.in_flight)


async def flat(base: str, work: Work) -> Proof:
    """The same as one flat stream of events."""
    events, total = 0, Decimal()
    async with client_of(base, work) as client:
        async for event in client.sweep(range(1, work.users + 1)).events():
            events += 1
            total += event.target_value or 0
    return events, total


async def discarded(base: str, work: Work) -> Proof:
    """The same sweep, whose outcomes are only counted."""
    events = 0
    async with client_of(base, work) as client:
        async for outcome in client.sweep(range(1, work.users + 1)):
            events += len(outcome.events)
    return events, work.total


async def jsonl(base: str, work: Work, form: Literal["jsonl", "parquet"] = "jsonl") -> Proof:
    """A sweep into files."""
    from capillary_targets.sweep import SweepOptions, run

    out = Path(tempfile.mkdtemp(prefix="benchmark-"))
    try:
        async with client_of(base, work) as client:
            summary = await run(client, range(1, work.users + 1), out, SweepOptions(format=form))
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

        async def by_hand_() -> object:
            return target_ids(await get("/v3/users/1/enrolledTargets"))

        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "ours": lambda: client.active_targets(1),
            "by hand": by_hand_,
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
    done = 0
    found = {}
    async with client_of(base, work) as client:
        async for _ in client.sweep(range(1, work.users + 1)):
            done += 1
            if done in {work.users // 10, work.users}:
                found[f"{done:,}"] = megabytes()
    return found


def megabytes() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


async def decoding(base: str, work: Work) -> Figures:
    """Microseconds an event, for a page of 100: ours, and `orjson.loads` alone."""
    import orjson

    from capillary_targets.structuring import structurer
    from capillary_targets.wire import Answer, read_events

    del base, work
    answer, plain = Answer(200, events_answer(2001, 100, 0, 250)), structurer()
    calls: dict[str, Callable[[], Any]] = {
        "ours": lambda: read_events(answer, plain, 564332013, 2001),
        "orjson": lambda: orjson.loads(answer.body),
    }
    for call in calls.values():
        timeit(call, number=100)  # warm
    rounds = [{name: timeit(call, number=200) for name, call in calls.items()} for _ in range(15)]
    return {name: [one[name] / 200 / 100 * 1e6 for one in rounds] for name in calls}


def main() -> None:
    """Run a contender in this process, as told by JSON, and print its figures as JSON."""
    name, base, given = json.loads(sys.argv[1])
    work, (name, _, loop) = Work(**given), name.partition("+")
    contender = {"raw": RAW, **PEERS}.get(name) or globals()[name]
    factory = None
    if loop:
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
