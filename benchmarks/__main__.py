"""What the client costs: `python -m benchmarks [PART ...]` prints the table.

Every contender (`benchmarks.contenders`) does the same work in a process of its own on one core,
against a server on another core (`benchmarks.server`), and has to show that it read all events.
Contenders take turns, so that a slow moment hits all alike; the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from urllib.request import urlopen

from .contenders import Figures
from .server import Work

LIBRARIES = "aiohttp attrs cattrs dlt httpx msgspec orjson pyarrow pydantic pyreqwest uvloop"
EXACT = {
    "pyreqwest_msgspec": "pyreqwest + msgspec into attrs, by hand",
    "aiohttp_msgspec": "aiohttp + msgspec into attrs, by hand",
}
SLOWER = {
    "aiohttp_orjson_cattrs": "aiohttp + orjson + tuned cattrs (floats on the way)",
    "aiohttp_json_cattrs": "aiohttp + json + tuned cattrs",
    "httpx_pydantic": "httpx + pydantic v2",
}


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
        """A contender in a process of its own; `NAME+uvloop` runs on uvloop."""
        spec = json.dumps([name, self.base, asdict(work)])
        command = pinned("-m", "benchmarks.contenders", spec, core=1)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stderr}")
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def turns(self, names: list[str], work: Work, rounds: int) -> dict[str, list[float]]:
        """The wall times of each contender, all taking turns."""
        rounds = 1 if self.quick else rounds
        runs = [{name: self.run(name, work)["wall"] for name in names} for _ in range(rounds)]
        return {name: [one[name] for one in runs] for name in names}

    def users(self, number: int) -> int:
        """So many, or few where nothing is to be measured."""
        return max(8, number // 40) if self.quick else number

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
    """The typed sweep against the loop by hand, and its requests."""
    work = Work(users=bench.users(500))
    bench.requests()
    bench.run("typed", work)
    made = bench.requests() - replace(work, users=min(8, work.users)).requests  # the warm-up's
    names = ["raw", "typed", "flat", *EXACT, "raw+uvloop", "typed+uvloop"]
    walls = bench.turns(names, work, 9)
    by, ours = walls["raw"], walls["typed"]
    yield Row("typed sweep, CPU-bound", "wall ÷ *raw*'s", ratios(ours, by))
    yield Row("... as one flat stream of events", "wall ÷ *raw*'s", ratios(walls["flat"], by))
    fast = ratios(walls["typed+uvloop"], walls["raw+uvloop"])
    yield Row("... with uvloop on both sides", "wall ÷ *raw*'s", fast)
    for name, what in EXACT.items():
        yield Row(what, "its wall ÷ the typed sweep's", ratios(walls[name], ours))
    yield Row("requests of the sweep", "made ÷ fewest possible", [made / work.requests])


def peers(bench: Bench) -> Iterator[Row]:
    """Peers that take several times as long: less work, the same for us."""
    work = Work(users=bench.users(200))
    walls = bench.turns(["typed", *SLOWER], work, 3)
    for name, what in SLOWER.items():
        yield Row(what, "its wall ÷ the typed sweep's", ratios(walls[name], walls["typed"]))
    if find_spec("dlt"):
        walls = bench.turns(["typed", "dlt_extract"], replace(work, users=bench.users(100)), 3)
        each = ratios(walls["dlt_extract"], walls["typed"])
        yield Row("dlt: REST client, extract only", "its wall ÷ the typed sweep's", each)


def call(bench: Bench) -> Iterator[Row]:
    """One call in a backend, one after the other."""
    found = bench.run("one_call", Work(users=bench.users(400)))
    each = ratios(found["ours"], found["by hand"])
    yield Row("one `await client.active_targets()`", "CPU ÷ aiohttp + msgspec by hand", each)
    yield Row("... each", "CPU", [one * 1e6 for one in found["ours"]], "µs")


def latency(bench: Bench) -> Iterator[Row]:
    """A server that takes 50 ms to answer."""
    work = Work(users=bench.users(640), latency_ms=50)
    least = work.requests * work.latency_ms / 1000 / work.in_flight
    how = f"wall ÷ (requests × 50 ms ÷ {work.in_flight})"
    for name, walls in bench.turns(["typed_fixed", "raw"], work, 3).items():
        what = "*raw*" if name == "raw" else f"typed sweep, `concurrency={work.in_flight}`"
        yield Row(f"{what}, latency-bound", how, [wall / least for wall in walls])


def decode(bench: Bench) -> Iterator[Row]:
    """Bytes to events."""
    found = bench.run("decoding", Work(users=1))
    each = ratios(found["ours"], found["orjson"])
    yield Row("page of 100 events → `TargetEvent`s", "÷ `orjson.loads` alone", each)
    yield Row("... each event", "time", found["ours"], "µs")


def files(bench: Bench) -> Iterator[Row]:
    """Sweeps into files."""
    walls = bench.turns(["discarded", "jsonl", "parquet"], Work(users=bench.users(500)), 7)
    for name, what in {"jsonl": "JSON Lines", "parquet": "Parquet"}.items():
        each = ratios(walls[name], walls["discarded"])
        yield Row(f"to {what}", "wall ÷ the same sweep thrown away", each)


def memory(bench: Bench) -> Iterator[Row]:
    """Memory in use while the list goes on, five events a user."""
    work = Work(users=bench.users(100_000), targets=1, events=5)
    (few, before), (many, after) = bench.run("resident", work).items()
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
        each = [seconds(ours) / seconds(base) for _ in range(1 if bench.quick else 21)]
    yield Row("`import capillary_targets`", "÷ `import aiohttp`", each)


PARTS = {
    part.__name__: part for part in (sweep, peers, call, decode, files, latency, memory, imports)
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
            print("| what | how | median (lowest to highest) |\n| --- | --- | --- |", flush=True)
            for name in asked.parts or PARTS:
                for row in PARTS[name](bench):
                    print(row, flush=True)
                    rows.append(row)
        finally:
            server.terminate()
    versions = {name: version(name) for name in LIBRARIES.split() if find_spec(name)}
    machine = f"CPython {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}"
    print(f"\n{machine}; {', '.join(f'{name} {one}' for name, one in versions.items())}")
    if asked.json:
        document = {"machine": machine, "versions": versions, "rows": [asdict(row) for row in rows]}
        asked.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
