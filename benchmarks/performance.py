"""What the client costs: `python -m benchmarks.performance [PART ...]` prints the table.

Every contender does the same work in a process of its own on one core, against a server on another
core (`benchmarks.server`). Contenders take turns; the median of the rounds counts. Each has to show
that it read all events, by their number and the sum of their values. *raw* is the loop that one
would write by hand.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from statistics import median
from timeit import timeit
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.request import urlopen

from .server import Work, events_answer

if TYPE_CHECKING:
    from capillary_targets import TargetsClient

Proof: TypeAlias = tuple[int, Any]
"""The number of events read, and the sum of their values."""
Run: TypeAlias = dict[str, Any]
"""What a child process prints: `wall` and `cpu` in seconds, or figures of its own."""

HEADERS = {"Authorization": "Basic dGlsbDo1ZjRkY2MzYjVhYTc2NWQ2MWQ4MzI3ZGViODgyY2Y5OQ=="}
LIBRARIES = ("aiohttp", "attrs", "cattrs", "msgspec", "orjson", "httpx", "pydantic", "pyarrow")


# Contenders: libraries are imported where they run, so each process pays only for what it uses.


async def by_hand(
    work: Work,
    get: Callable[[str], Awaitable[bytes]],
    target_ids: Callable[[bytes], list[int]],
    read: Callable[[bytes], tuple[int, Any, int]],
) -> Proof:
    """The loop that hand-written clients share: workers over one iterator of users.

    `read` returns the rows on a page, the sum of their values, and the total of all pages.
    """
    users = iter(range(1, work.users + 1))
    events, total = 0, Decimal()

    async def worker() -> None:
        nonlocal events, total
        for user in users:
            for target in target_ids(await get(f"/v3/users/{user}/enrolledTargets")):
                path = f"/v3/users/{user}/trackedTargetEvents/{target}?limit={work.page_size}"
                seen = number = 0
                while True:
                    rows, value, promised = read(await get(f"{path}&offset={number}"))
                    seen, number, total = seen + rows, number + 1, total + Decimal(value)
                    if seen >= promised or not rows:
                        break
                events += seen

    await asyncio.gather(*(worker() for _ in range(work.in_flight)))
    return events, total


async def raw(base: str, work: Work) -> Proof:
    """By aiohttp and orjson: no models, no retries, no limits, pages summed as floats."""
    import aiohttp
    import orjson

    def target_ids(body: bytes) -> list[int]:
        return [row["id"] for row in orjson.loads(body)["data"]]

    def read(body: bytes) -> tuple[int, float, int]:
        page = orjson.loads(body)
        rows = page["data"]
        return len(rows), sum([row["targetValue"] for row in rows]), page["pagination"]["total"]

    connector = aiohttp.TCPConnector(limit=work.in_flight)
    async with aiohttp.ClientSession(connector=connector, headers=HEADERS) as session:

        async def get(path: str) -> bytes:
            async with session.get(base + path) as response:
                return await response.read()

        return await by_hand(work, get, target_ids, read)


async def httpx_pydantic(base: str, work: Work) -> Proof:
    """By httpx and pydantic v2: bytes validated into frozen models."""
    import httpx
    from pydantic import ConfigDict, create_model

    frozen = ConfigDict(frozen=True)
    ids = ("eventLogId", "customerId", "periodId", "targetGroupId", "targetRuleId")
    fields: dict[str, Any] = dict.fromkeys(ids, int)
    fields |= {"eventName": str, "eventDisplayName": str | None, "uniqueId": str}
    fields |= {"eventDate": datetime, "eventProcessedDate": datetime, "targetValue": Decimal}
    row: Any = create_model("Row", __config__=frozen, **fields)
    numbers: Any = create_model("Numbers", limit=int, offset=int, total=int)
    page: Any = create_model("Page", data=list[row], pagination=numbers)
    target: Any = create_model("Target", id=int)
    targets: Any = create_model("Targets", data=list[target])

    def target_ids(body: bytes) -> list[int]:
        return [target.id for target in targets.model_validate_json(body).data]

    def read(body: bytes) -> tuple[int, Decimal, int]:
        found = page.model_validate_json(body)
        value = sum([event.targetValue for event in found.data], Decimal())
        return len(found.data), value, found.pagination.total

    limits = httpx.Limits(max_connections=work.in_flight, max_keepalive_connections=work.in_flight)
    async with httpx.AsyncClient(headers=HEADERS, limits=limits, timeout=30) as client:

        async def get(path: str) -> bytes:
            body: bytes = (await client.get(base + path)).content
            return body

        return await by_hand(work, get, target_ids, read)


def client_of(base: str, work: Work) -> TargetsClient:
    """A client of the package under test."""
    from capillary_targets import BasicAuth, TargetsClient

    auth = BasicAuth("till", "password")
    return TargetsClient(base, auth, page_size=work.page_size, concurrency=work.in_flight)


async def typed(base: str, work: Work) -> Proof:
    """The package under test: an outcome for each user, sums exact."""
    events, total = 0, Decimal()
    async with client_of(base, work) as client:
        async for outcome in client.sweep(range(1, work.users + 1)):
            if outcome.error:
                raise outcome.error
            events += len(outcome.events)
            total += sum([event.target_value or 0 for event in outcome.events])
    return events, total


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


async def jsonl(base: str, work: Work) -> Proof:
    """A sweep into JSON Lines."""
    return await _to_files(base, work, "jsonl")


async def parquet(base: str, work: Work) -> Proof:
    """A sweep into Parquet."""
    return await _to_files(base, work, "parquet")


async def _to_files(base: str, work: Work, form: str) -> Proof:
    from capillary_targets.sweep import SweepOptions, run

    out = Path(tempfile.mkdtemp(prefix="benchmark-"))
    try:
        async with client_of(base, work) as client:
            summary = await run(client, range(1, work.users + 1), out, SweepOptions(format=form))
        return summary.events, work.total
    finally:
        shutil.rmtree(out)


async def resident(base: str, work: Work) -> dict[str, float]:
    """Megabytes in use after a hundredth of the users, and after all."""
    done = 0
    found = {}
    async with client_of(base, work) as client:
        async for _ in client.sweep(range(1, work.users + 1)):
            done += 1
            if done in {work.users // 100, work.users}:
                found[f"{done:,}"] = megabytes()
    return found


def megabytes() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


async def decoding(base: str, work: Work) -> dict[str, list[float]]:
    """Microseconds an event, for a page of 100: ours, and `orjson.loads` alone."""
    import orjson

    from capillary_targets.structuring import structurer
    from capillary_targets.wire import Answer, read_events

    del base, work
    answer, plain = Answer(200, events_answer(2001, 100, 0, 250)), structurer()
    calls: dict[str, Callable[[], Any]] = {
        "ours": lambda: read_events(answer, plain),
        "orjson": lambda: orjson.loads(answer.body),
    }
    for call in calls.values():
        timeit(call, number=100)  # warm
    rounds = [{name: timeit(call, number=200) for name, call in calls.items()} for _ in range(15)]
    return {name: [one[name] / 200 / 100 * 1e6 for one in rounds] for name in calls}


def child(name: str, base: str, work: Work) -> Run:
    """One run of a contender, in this process: what it cost, or the figures that it returns."""
    contender = globals()[name]
    if name in {"resident", "decoding"}:
        return dict(asyncio.run(contender(base + work.prefix, work)))
    warm = replace(work, users=min(8, work.users), latency_ms=0)
    asyncio.run(contender(base + warm.prefix, warm))
    wall, cpu = time.perf_counter(), time.process_time()
    events, total = asyncio.run(contender(base + work.prefix, work))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if events != work.rows or abs(float(total) / float(work.total) - 1) > 1e-9:
        sys.exit(f"{name} read {events} events worth {total}, not {work.rows} worth {work.total}")
    return {"wall": wall, "cpu": cpu}


# The parts of the table.


def pinned(*arguments: str, core: int) -> list[str]:
    """The command line of a Python process on one of the cores."""
    cores = sorted(os.sched_getaffinity(0))
    pin = f"import os, sys; os.sched_setaffinity(0, {{{cores[core % len(cores)]}}}); "
    pin += "os.execv(sys.argv[1], sys.argv[1:])"
    return [sys.executable, "-c", pin, sys.executable, *arguments]


@dataclass
class Bench:
    """The server's address, and how much to measure."""

    base: str
    quick: bool

    def run(self, name: str, work: Work) -> Run:
        """A contender in a process of its own."""
        spec = json.dumps([name, self.base, asdict(work)])
        command = pinned("-m", "benchmarks.performance", "--child", spec, core=1)
        printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        return dict(json.loads(printed.splitlines()[-1]))

    def turns(self, names: list[str], work: Work, rounds: int) -> list[list[float]]:
        """The wall times of each contender, all taking turns: a slow moment hits all alike."""
        runs = [[self.run(name, work)["wall"] for name in names] for _ in range(rounds)]
        return [list(walls) for walls in zip(*runs, strict=True)]

    def requests(self) -> int:
        """Requests answered since this was asked last."""
        with urlopen(f"{self.base}/count") as answer:
            return int(answer.read())


@dataclass
class Row:
    """A line of the table. `values` are the rounds' figures, of which the median counts."""

    what: str
    how: str
    values: list[float] = field(default_factory=list)
    unit: str = "×"

    def __str__(self) -> str:
        text = f"{median(self.values):.2f} {self.unit}"
        if len(self.values) > 1:
            text += f" ({min(self.values):.2f} to {max(self.values):.2f})"
        return f"| {self.what} | {self.how} | {text} |"


def ratios(above: list[float], below: list[float]) -> list[float]:
    """The ratio in each round."""
    return [one / other for one, other in zip(above, below, strict=True)]


def sweep(bench: Bench) -> Iterator[Row]:
    """The typed sweep against the loop by hand and a typed peer; its requests."""
    work = Work(users=30 if bench.quick else 500)
    bench.requests()
    bench.run("typed", work)
    made = bench.requests() - replace(work, users=8).requests  # less the warm-up's
    names = ["raw", "typed", "flat", "httpx_pydantic"]
    by, ours, stream, peer = bench.turns(names, work, 2 if bench.quick else 7)
    yield Row("typed sweep, CPU-bound", "wall ÷ *raw*", ratios(ours, by))
    yield Row("... as one flat stream", "wall ÷ *raw*", ratios(stream, by))
    yield Row("httpx + pydantic v2", "its wall ÷ the typed sweep's", ratios(peer, ours))
    yield Row("requests", "made ÷ fewest possible", [made / work.requests])


def latency(bench: Bench) -> Iterator[Row]:
    """A server that takes 50 ms to answer."""
    work = Work(users=64 if bench.quick else 640, latency_ms=50)
    least = work.requests * work.latency_ms / 1000 / work.in_flight
    how = f"wall ÷ (requests × 50 ms ÷ {work.in_flight})"
    by, ours = bench.turns(["raw", "typed"], work, 1 if bench.quick else 5)
    yield Row("typed sweep, latency-bound", how, [wall / least for wall in ours])
    yield Row("*raw*, latency-bound", how, [wall / least for wall in by])


def decode(bench: Bench) -> Iterator[Row]:
    """Bytes to events."""
    found = bench.run("decoding", Work(users=1))
    each = ratios(found["ours"], found["orjson"])
    yield Row("page of 100 events → `TargetEvent`s", "÷ `orjson.loads` alone", each)
    yield Row("... each event", "time", found["ours"], "µs")


def files(bench: Bench) -> Iterator[Row]:
    """Sweeps into files."""
    work = Work(users=30 if bench.quick else 500)
    names = ["discarded", "jsonl", "parquet"]
    nothing, *written = bench.turns(names, work, 1 if bench.quick else 7)
    for name, walls in zip(("JSON Lines", "Parquet"), written, strict=True):
        yield Row(f"into {name}", "wall ÷ the same sweep discarded", ratios(walls, nothing))


def memory(bench: Bench) -> Iterator[Row]:
    """Memory in use while the list goes on, five events a user."""
    found = bench.run(
        "resident", Work(users=3_000 if bench.quick else 300_000, targets=1, events=5)
    )
    (few, before), (many, after) = found.items()
    yield Row("memory", f"RSS after {many} users − after {few}", [after - before], "MB")


def imports(bench: Bench) -> Iterator[Row]:
    """What importing costs, in fresh processes, with bytecode."""
    with tempfile.TemporaryDirectory() as bytecode:
        environment = os.environ | {"PYTHONPYCACHEPREFIX": bytecode}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)

        def seconds(module: str) -> float:
            code = f"import time; t = time.perf_counter(); import {module}\n"
            command = pinned("-c", f"{code}print(time.perf_counter() - t)", core=1)
            return float(subprocess.check_output(command, env=environment))

        ours, base = "capillary_targets", "aiohttp"
        for module in (ours, base):
            seconds(module)  # compiles
        each = [seconds(ours) / seconds(base) for _ in range(3 if bench.quick else 21)]
    yield Row("`import capillary_targets`", "÷ `import aiohttp`", each)


PARTS = {part.__name__: part for part in (sweep, latency, decode, files, memory, imports)}


def main() -> None:
    """Print the table of the parts asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.performance", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="little work: shows that all runs")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        name, base, work = json.loads(asked.child)
        print(json.dumps(child(name, base, Work(**work))))
        return
    if unknown := set(asked.parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    command = pinned("-m", "benchmarks.server", core=0)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            bench = Bench(f"http://127.0.0.1:{int(server.stdout.readline())}", asked.quick)
            print("| what | how | median (lowest to highest) |\n| --- | --- | --- |", flush=True)
            for name in asked.parts or PARTS:
                for row in PARTS[name](bench):
                    print(row, flush=True)
        finally:
            server.terminate()
    print(f"\nCPython {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()};")
    print(", ".join(f"{name} {version(name)}" for name in LIBRARIES))


if __name__ == "__main__":
    main()
