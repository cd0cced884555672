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
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from urllib.request import urlopen

from .contenders import IN_FLIGHT, PEERS, Figures, Work
from .limits import FAULTS, wall
from .server import targets_of
from .tables import line, table

LIBRARIES = (
    *("aiohttp", "attrs", "cattrs", "dlt", "estuary-cdk", "httpx", "msgspec", "orjson", "pyarrow"),
    *("pydantic", "pyreqwest", "uvloop"),
)


def python(*arguments: str, core: int) -> list[str]:
    """The command line of a Python process on one of the cores."""
    cores = sorted(os.sched_getaffinity(0))
    return ["taskset", "--cpu-list", str(cores[core % len(cores)]), sys.executable, *arguments]


@dataclass
class Row:
    """A line of the table. `values` are the rounds' figures, of which the median counts.

    `reach` bounds the median: `≤ 1.1`.
    """

    what: str
    how: str
    values: list[float]
    reach: str = ""
    unit: str = "×"

    def __str__(self) -> str:
        found = median(self.values)
        text = f"{found:.2f} {self.unit}"
        if len(self.values) > 1:
            text += f" ({min(self.values):.2f} to {max(self.values):.2f})"
        sign, _, bound = self.reach.partition(" ")
        off = round(found - float(bound or found), 2)
        missed = off < 0 if sign == "≥" else off > 0
        return line(self.what, self.how, text, self.reach + " (no)" * missed)


@dataclass
class Bench:
    """The server's address, and how much to measure."""

    server: str
    quick: bool

    def rounds(self, number: int) -> range:
        """So many, or one where nothing is to be measured."""
        return range(1 if self.quick else number)

    def work(self, users: int, **settings: int) -> Work:
        """A sweep of so many users, or of few where nothing is to be measured."""
        return Work(self.server, max(8, users // 40) if self.quick else users, **settings)

    def run(self, name: str, work: Work) -> Figures:
        """A contender in a process of its own; `NAME on uvloop` too."""
        command = python("-m", "benchmarks.contenders", json.dumps([name, asdict(work)]), core=1)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stderr}")
        found: Figures = json.loads(done.stdout.splitlines()[-1])
        if "wall" in found:
            events = [
                row for rows in targets_of(work.targets, work.events).values() for row in rows
            ]
            total = float(sum(row.target_value or 0 for row in events)) * work.users
            assert found["events"] == len(events) * work.users, found
            assert found["total"] is None or abs(found["total"] / total - 1) < 1e-9, (found, total)
        return found

    def requests(self) -> int:
        """Requests answered since this was asked last."""
        with urlopen(f"{self.server}/count") as answer:
            return int(answer.read())

    def walls(self, names: list[str], rounds: int, work: Work) -> dict[str, list[float]]:
        """The wall times of each contender, all taking turns."""
        runs = [{name: self.run(name, work)["wall"] for name in names} for _ in self.rounds(rounds)]
        return {name: [one[name] for one in runs] for name in names}


def ratios(above: list[float], below: list[float]) -> list[float]:
    """The ratio in each round."""
    return [one / other for one, other in zip(above, below, strict=True)]


def sweep(bench: Bench) -> Iterator[Row]:
    """The typed sweep against the loop by hand, and its requests."""
    work = bench.work(500)
    walls = bench.walls(["raw", "typed", "flat", "raw on uvloop", "typed on uvloop"], 7, work)
    how = "wall ÷ *raw*'s"
    yield Row("typed sweep, CPU-bound", how, ratios(walls["typed"], walls["raw"]), "≤ 1.1")
    yield Row("... as a flat stream", how, ratios(walls["flat"], walls["raw"]), "≤ 1.1")
    fast = ratios(walls["typed on uvloop"], walls["raw on uvloop"])
    yield Row("... with uvloop on both sides", how, fast, "≤ 1.1")
    bench.requests()
    bench.run("typed", work)
    made = [(bench.requests() - replace(work, users=8).requests) / work.requests]  # no warm-up
    yield Row("requests of the sweep", "made ÷ fewest possible", made, "≤ 1")


def peers(bench: Bench) -> Iterator[Row]:
    """The same loop written with other libraries: less work for those that take several times."""
    names = [*PEERS, "dlt"][1:]  # without *raw*
    if not find_spec("estuary_cdk"):
        names = [name for name in names if not name.startswith("estuary")]
        print(line("estuary-cdk's HTTP client + pydantic v2", "not installed", "", ""))
    slow = [name for name in names if name.startswith(("httpx", "estuary", "dlt"))]
    quick = [name for name in names if name not in slow]
    for group, rounds, users in ((quick, 5, 500), (slow, 3, 100)):
        walls = bench.walls(["typed", *group], rounds, bench.work(users))
        for name in group:
            reach = "≥ 0.77" if name.startswith("pyreqwest") else "≥ 1"  # its client is of Rust
            what = f"{name}: REST client, extract only (untyped, floats)" if name == "dlt" else name
            yield Row(
                what, "its wall ÷ the typed sweep's", ratios(walls[name], walls["typed"]), reach
            )


def call(bench: Bench) -> Iterator[Row]:
    """One call in a backend, one after the other."""
    found = bench.run("one_call", bench.work(400))
    what, how = "one `await client.active_targets()`", "CPU ÷ aiohttp + msgspec by hand"
    yield Row(what, how, ratios(found["ours"], found["by hand"]), "≤ 1.15")
    yield Row("... each", "CPU", [one * 1e6 for one in found["ours"]], unit="µs")


def decode(bench: Bench) -> Iterator[Row]:
    """Bytes to events."""
    found = bench.run("decoding", bench.work(1))
    each = ratios(found["ours"], found["orjson"])
    yield Row("page of 100 events → `TargetEvent`s", "÷ `orjson.loads` alone", each, "≤ 1.2")
    yield Row("... each event", "time", found["ours"], unit="µs")


def files(bench: Bench) -> Iterator[Row]:
    """Sweeps into files."""
    walls = bench.walls(["discarded", "jsonl", "parquet"], 5, bench.work(500))
    for name, what, reach in (("jsonl", "JSON Lines", "≤ 1.25"), ("parquet", "Parquet", "≤ 1.35")):
        each = ratios(walls[name], walls["discarded"])
        yield Row(f"to {what}", "wall ÷ the same sweep thrown away", each, reach)


def latency(bench: Bench) -> Iterator[Row]:
    """A server that takes 50 ms to answer."""
    work = bench.work(640, latency_ms=50)
    walls = bench.walls(["typed, fixed limit", "raw"], 3, work)
    how, least = f"wall ÷ (requests × 50 ms ÷ {IN_FLIGHT})", work.requests * 0.05 / IN_FLIGHT
    ours, theirs = ([wall / least for wall in each] for each in walls.values())
    what = f"typed sweep, `concurrency={IN_FLIGHT}`, latency-bound"
    yield Row(what, how, ours, "≤ 1.08")
    yield Row("*raw*, latency-bound", how, theirs)


def refusals(bench: Bench) -> Iterator[Row]:
    """Few faults among many good answers."""
    users = bench.work(2400).users  # of few, the last one's backoff would be most of it
    cases = [(name, share) for name in FAULTS for share in (0.01, 0.05)]
    rounds = []
    asyncio.run(wall(users))  # warms up
    for _ in bench.rounds(3):
        clean = asyncio.run(wall(users))
        rounds.append([asyncio.run(wall(users, *case)) / clean for case in cases])
    for (name, share), each in zip(cases, zip(*rounds, strict=True), strict=True):
        reach = "≤ 1.3" if share < 0.02 else "≤ 2"
        yield Row(f"{name}, {share:.0%}", "wall of a sweep ÷ without faults", list(each), reach)


def memory(bench: Bench) -> Iterator[Row]:
    """Memory in use while the list goes on, five events a user."""
    found = bench.run("resident", bench.work(20_000, targets=1, events=5))
    (few, before), (many, after) = found.items()
    how = f"RSS after {many} users − after {few}"
    yield Row("memory", how, [after - before], "≤ 10", unit="MB")


def imports(bench: Bench) -> Iterator[Row]:
    """What importing costs, in fresh processes, with bytecode."""
    with tempfile.TemporaryDirectory() as bytecode:
        environment = os.environ | {"PYTHONPYCACHEPREFIX": bytecode}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)

        def seconds(module: str) -> float:
            code = f"import time; t = time.perf_counter(); import {module}\n"
            command = python("-c", f"{code}print(time.perf_counter() - t)", core=1)
            return float(subprocess.check_output(command, env=environment))

        ours, base = "capillary_targets", "aiohttp"
        # The first one compiles.
        each = [seconds(ours) / seconds(base) for _ in range(1 + len(bench.rounds(21)))][1:]
    yield Row("`import capillary_targets`", "÷ `import aiohttp`", each, "≤ 1.5")


PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
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
    command = python("-m", "benchmarks.server", core=0)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            bench = Bench(f"http://127.0.0.1:{int(server.stdout.readline())}", asked.quick)
            print(table(("what", "how", "median (lowest to highest)", "reach")))
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
