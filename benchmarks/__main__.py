"""What the client costs: `python -m benchmarks [PART ...]` prints the table, as Markdown.

Every contender (`benchmarks.contenders`) does the same work in a process of its own on one core,
against a server on another core (`benchmarks.server`), and has to show that it read all events.
Contenders take turns, so that a slow moment hits all alike; the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from urllib.request import urlopen

from .contenders import PEERS, Figures
from .server import Work

LIBRARIES = (
    *("aiohttp", "attrs", "cattrs", "dlt", "estuary-cdk", "httpx", "msgspec", "orjson", "pyarrow"),
    *("pydantic", "pyreqwest", "uvloop"),
)


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

    def run(self, name: str, work: Work) -> Figures:
        """A contender in a process of its own; `NAME on uvloop` too."""
        spec = json.dumps([name, self.base, asdict(work)])
        command = pinned("-m", "benchmarks.contenders", spec, core=1)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stderr}")
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def turns(
        self, names: Iterable[str], rounds: int, *, users: int = 500, latency_ms: int = 0
    ) -> dict[str, list[float]]:
        """The wall times of each contender, all taking turns."""
        work = Work(users=self.users(users), latency_ms=latency_ms)
        runs = [
            {name: self.run(name, work)["wall"] for name in names}
            for _ in range(1 if self.quick else rounds)
        ]
        return {name: [one[name] for one in runs] for name in runs[0]}

    def users(self, number: int) -> int:
        """So many, or few where nothing is to be measured."""
        return max(8, number // 40) if self.quick else number

    def requests(self) -> int:
        """Requests answered since this was asked last."""
        with urlopen(f"{self.base}/count") as answer:
            return int(answer.read())


@dataclass
class Row:
    """A line of the table. `values` are the rounds' figures, of which the median counts.

    `reach` bounds the median from above, or below if `least`.
    """

    what: str
    how: str
    values: list[float]
    reach: float | None = None
    unit: str = "×"
    least: bool = False

    @property
    def missed(self) -> bool:
        """Whether the median is not where it should be."""
        if self.reach is None:
            return False
        found = round(median(self.values), 2)
        return found < self.reach if self.least else found > self.reach

    def __str__(self) -> str:
        text = f"{median(self.values):.2f} {self.unit}"
        if len(self.values) > 1:
            text += f" ({min(self.values):.2f} to {max(self.values):.2f})"
        reach = "" if self.reach is None else f"{'≥' if self.least else '≤'} {self.reach:g}"
        return f"| {self.what} | {self.how} | {text} | {reach}{' (no)' * self.missed} |"


def ratios(above: list[float], below: list[float]) -> list[float]:
    """The ratio in each round."""
    return [one / other for one, other in zip(above, below, strict=True)]


def sweep(bench: Bench) -> Iterator[Row]:
    """The typed sweep against the loop by hand, and its requests."""
    work = Work(users=bench.users(500))
    bench.requests()
    bench.run("typed", work)
    made = bench.requests() - replace(work, users=min(8, work.users)).requests  # the warm-up's
    walls = bench.turns(["raw", "typed", "flat", "raw on uvloop", "typed on uvloop"], 7)
    wall = "wall ÷ *raw*'s"
    yield Row("typed sweep, CPU-bound", wall, ratios(walls["typed"], walls["raw"]), 1.10)
    yield Row("... as a flat stream", wall, ratios(walls["flat"], walls["raw"]), 1.10)
    fast = ratios(walls["typed on uvloop"], walls["raw on uvloop"])
    yield Row("... with uvloop on both sides", wall, fast, 1.10)
    made_each = [made / work.requests]
    yield Row("requests of the sweep", "made ÷ fewest possible", made_each, 1.0)


def peers(bench: Bench) -> Iterator[Row]:
    """The same loop written with other libraries: less work for those that take several times."""
    names = [*PEERS, "dlt"][1:]  # without *raw*
    if not find_spec("estuary_cdk"):
        names = [name for name in names if not name.startswith("estuary")]
        print("| estuary-cdk's HTTP client + pydantic v2 | not installed | | |")
    slow = [name for name in names if name.startswith(("httpx", "estuary", "dlt"))]
    quick = [name for name in names if name not in slow]
    for names, rounds, users in ((quick, 5, 500), (slow, 3, 100)):
        walls = bench.turns(["typed", *names], rounds, users=users)
        for name in names:
            reach = 0.77 if name.startswith("pyreqwest") else 1.0  # its HTTP client is of Rust
            what = f"{name}: REST client, extract only (untyped, floats)" * (name == "dlt") or name
            each = ratios(walls[name], walls["typed"])
            yield Row(what, "its wall ÷ the typed sweep's", each, reach, least=True)


def call(bench: Bench) -> Iterator[Row]:
    """One call in a backend, one after the other."""
    found = bench.run("one_call", Work(users=bench.users(400)))
    each = ratios(found["ours"], found["by hand"])
    what, how = "one `await client.active_targets()`", "CPU ÷ aiohttp + msgspec by hand"
    yield Row(what, how, each, 1.15)
    yield Row("... each", "CPU", [one * 1e6 for one in found["ours"]], unit="µs")


def latency(bench: Bench) -> Iterator[Row]:
    """A server that takes 50 ms to answer."""
    walls = bench.turns(["typed_fixed", "raw"], 3, users=640, latency_ms=50)
    work = Work(users=bench.users(640))
    least = work.requests * 0.05 / work.in_flight
    how = f"wall ÷ (requests × 50 ms ÷ {work.in_flight})"
    ours, theirs = ([wall / least for wall in each] for each in walls.values())
    what = f"typed sweep, `concurrency={work.in_flight}`, latency-bound"
    yield Row(what, how, ours, 1.08)
    yield Row("*raw*, latency-bound", how, theirs)


def decode(bench: Bench) -> Iterator[Row]:
    """Bytes to events."""
    found = bench.run("decoding", Work(users=1))
    each = ratios(found["ours"], found["orjson"])
    yield Row("page of 100 events → `TargetEvent`s", "÷ `orjson.loads` alone", each, 1.2)
    yield Row("... each event", "time", found["ours"], unit="µs")


def files(bench: Bench) -> Iterator[Row]:
    """Sweeps into files."""
    walls = bench.turns(["discarded", "jsonl", "parquet"], 5)
    for name, what, reach in (("jsonl", "JSON Lines", 1.25), ("parquet", "Parquet", 1.35)):
        each = ratios(walls[name], walls["discarded"])
        yield Row(f"to {what}", "wall ÷ the same sweep thrown away", each, reach)


def refusals(bench: Bench) -> Iterator[Row]:
    """429 at random, `Retry-After: 1`, and few faults among many good answers."""
    from .limits import FAULTS, refusing, served, wall

    for share in ("1%", "5%"):
        ours, theirs = (
            served(asyncio.run(refusing(client, f"random {share}", 2 if bench.quick else 20)))
            for client in ("capillary-targets", "pauses all, runs freely")
        )
        how = "served ÷ by a loop that only pauses"
        yield Row(f"429 at random, {share}", how, [ours / max(0.1, theirs)], 0.5, least=True)
    users, how = bench.users(600), "wall of a sweep ÷ without faults"
    cases = [(name, some) for name in FAULTS for some in (0.01, 0.05)]
    rounds = []
    asyncio.run(wall(users))  # warms up
    for _ in range(1 if bench.quick else 3):
        clean = asyncio.run(wall(users))
        rounds.append([asyncio.run(wall(users, *case)) / clean for case in cases])
    for (name, some), each in zip(cases, zip(*rounds, strict=True), strict=True):
        yield Row(f"{name}, {some:.0%}", how, list(each), 1.3 if some < 0.02 else 2.0)


def memory(bench: Bench) -> Iterator[Row]:
    """Memory in use while the list goes on, five events a user."""
    work = Work(users=bench.users(20_000), targets=1, events=5)
    (few, before), (many, after) = bench.run("resident", work).items()
    how = f"RSS after {many} users − after {few}"
    yield Row("memory", how, [after - before], 10.0, unit="MB")


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
        each = [seconds(ours) / seconds(base) for _ in range(1 if bench.quick else 21)]
    yield Row("`import capillary_targets`", "÷ `import aiohttp`", each, 1.5)


PARTS = {
    part.__name__: part
    for part in (sweep, peers, call, decode, files, latency, refusals, memory, imports)
}


def main() -> None:
    """Print the table of the parts asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="little work: shows that all runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's figures")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    rows: list[Row] = []
    command = pinned("-m", "benchmarks.server", core=0)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            bench = Bench(f"http://127.0.0.1:{int(server.stdout.readline())}", asked.quick)
            print("| what | how | median (lowest to highest) | reach |\n| --- | --- | --- | --- |")
            for name in asked.parts or PARTS:
                for row in PARTS[name](bench):
                    print(row, flush=True)
                    rows.append(row)
        finally:
            server.terminate()
    versions = {one: version(one) for one in LIBRARIES if find_spec(one.replace("-", "_"))}
    machine = f"CPython {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}"
    print(f"\n{machine}; {', '.join(f'{name} {one}' for name, one in versions.items())}.")
    if asked.json:
        document = {"machine": machine, "versions": versions, "rows": [asdict(row) for row in rows]}
        asked.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
