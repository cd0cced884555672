"""What is measured: one function for each part of the table."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Final

from .running import Server, alternate, cores, in_child, python, ratios
from .table import Row
from .workload import Work

__all__ = ["PARTS", "Scale"]


@dataclass(frozen=True)
class Scale:
    """How much work, and how many rounds. `quick` shows that all runs, and measures nothing."""

    rounds: int = 7
    fewer: int = 5
    """Rounds where one takes long."""
    users: int = 500
    latency_users: int = 640
    event_sizes: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    user_sizes: tuple[int, ...] = (10, 100, 1_000, 10_000, 100_000)
    memory_marks: tuple[int, int] = (10_000, 1_000_000)
    turns: int = 40
    """Of each size of work that grows, at least."""

    @classmethod
    def quick(cls) -> Scale:
        """For less than a minute."""
        return cls(
            rounds=2,
            fewer=1,
            users=30,
            latency_users=64,
            event_sizes=(1_000, 10_000),
            user_sizes=(10, 1_000),
            memory_marks=(500, 3_000),
            turns=2,
        )


RAW: Final = "contenders:raw"
TYPED: Final = "contenders:typed"
FLAT: Final = "contenders:typed_flat"
READ: Final = "contenders:raw_read"
HELD: Final = "contenders:raw_held"
COMMAND_LINE: Final = "contenders:typed_by_command_line+uvloop"
PEERS: Final = {
    "peers:aiohttp_orjson_cattrs": ("aiohttp + orjson + tuned cattrs", 2.0, ("orjson",)),
    "peers:aiohttp_json_cattrs": ("aiohttp + json + cattrs as it comes", 4.5, ()),
    "peers:httpx_pydantic": ("httpx + pydantic v2", 9.0, ("httpx", "pydantic")),
    "peers:dlt_rest_client": ("dlt's REST client, extract only", 9.0, ("dlt",)),
}


def sweeps(server: Server, scale: Scale) -> Iterator[Row]:
    """The typed sweep against the loop written by hand, with both event loops; the requests."""
    work = Work(users=scale.users)
    how = "wall ÷ *raw*'s, CPU-bound"
    server.take_count()
    server.run(TYPED, work)
    warm = replace(work, users=min(8, work.users))
    made = server.take_count() - warm.requests
    loops = [f"{RAW}+uvloop", f"{TYPED}+uvloop", COMMAND_LINE] if find_spec("uvloop") else []
    raw, read, held, typed, flat, *others = alternate(
        server, [RAW, READ, HELD, TYPED, FLAT, *loops], work, scale.rounds
    )
    yield Row("typed sweep", how, ratios(typed, raw), 1.15, detail={"raw": raw, "typed": typed})
    yield Row("*raw*, events read as we do", how, ratios(read, raw), detail={"read": read})
    yield Row("... and held, user by user", how, ratios(held, raw), detail={"held": held})
    yield Row("the same, as a flat stream", how, ratios(flat, raw), detail={"typed": flat})
    if others:
        fast_raw, fast_typed, by_command_line = others
        yield Row(
            "the same, uvloop for both",
            how,
            ratios(fast_typed, fast_raw),
            detail={"raw": fast_raw, "typed": fast_typed},
        )
        yield Row(
            "the same, as the command line runs it",
            "wall ÷ *raw*'s in asyncio's loop",
            ratios(by_command_line, raw),
            detail={"raw": raw, "typed": by_command_line},
        )
    yield Row("requests", "requests made ÷ fewest possible", [made / work.requests], 1.0)


def peers(server: Server, scale: Scale) -> Iterator[Row]:
    """The typed sweep against typed peers."""
    work = Work(users=scale.users)
    there = [
        call for call, (_, _, needs) in PEERS.items() if all(find_spec(name) for name in needs)
    ]
    typed, *others = alternate(server, [TYPED, *there], work, scale.rounds)
    runs = dict(zip(there, others, strict=True))
    for call, (name, reach, needs) in PEERS.items():
        row = Row(name, "its wall ÷ typed sweep's", [], reach, "higher")
        if call in runs:
            row.values = ratios(runs[call], typed)
            row.detail = {"typed": typed, "peer": runs[call]}
        else:
            row.missing = f"not installed: {', '.join(needs)}"
        yield row


def decoding(_: Server, scale: Scale) -> Iterator[Row]:
    """Bytes to events."""
    rounds = in_child("decode:decode", max(5, scale.rounds), port=0)
    yield Row(
        "page of 100 events → TargetEvents",
        "µs an event ÷ `orjson.loads` alone",
        [one["ours"] / one["orjson"] for one in rounds],
        2.0,
        detail={"rounds": rounds},
    )
    ours = [one["ours"] for one in rounds]
    yield Row("the same", "µs an event", ours, unit="µs")


def latency(server: Server, scale: Scale) -> Iterator[Row]:
    """A server that takes 50 ms to answer."""
    work = Work(users=scale.latency_users, latency_ms=50)
    least = work.requests * work.latency_ms / 1000 / work.in_flight
    raw, typed = alternate(server, [RAW, TYPED], work, scale.fewer)
    how = "wall ÷ (requests × 50 ms ÷ 64)"
    yield Row("latency-bound", how, [run["wall"] / least for run in typed], 1.08)
    yield Row("latency-bound, *raw*", how, [run["wall"] / least for run in raw])


def files(server: Server, scale: Scale) -> Iterator[Row]:
    """Sweeps into files."""
    work = Work(users=scale.users)
    names = {"JSON Lines": "files:to_jsonl"}
    if find_spec("pyarrow"):
        names["Parquet"] = "files:to_parquet"
    nothing, *written = alternate(
        server, ["contenders:thrown_away", *names.values()], work, scale.rounds
    )
    for name, runs in zip(names, written, strict=True):
        detail = {"thrown_away": nothing, "written": runs}
        how = "wall ÷ the same sweep thrown away"
        yield Row(f"to {name}", how, ratios(runs, nothing), 1.15, detail=detail)


def memory(server: Server, scale: Scale) -> Iterator[Row]:
    """A sweep of many users, each with few events."""
    few, many = scale.memory_marks
    work = Work(users=many, targets=1, events=5)
    found = {int(mark): rss for mark, rss in server.run("growth:memory", work, [few, many]).items()}
    grown = (found[many] - found[few]) / 2**20
    how = f"RSS at {many:,} users − at {few:,}"
    yield Row("memory", how, [grown], 30, unit="MB", detail={"rss": found})


def flatness(server: Server, scale: Scale) -> Iterator[Row]:
    """CPU time as the work grows."""
    work = Work(users=1, targets=1, events=20)
    for what, call, sizes in (
        ("event", "growth:events_grow", scale.event_sizes),
        ("user", "growth:users_grow", scale.user_sizes),
    ):
        rounds = server.run(call, work, list(sizes), scale.turns)
        # Each figure against the round that it was measured in.
        found = {
            size: median(one[size] / fmean(one.values()) for one in rounds) for size in rounds[0]
        }
        how = f"dearest ÷ cheapest, from {sizes[0]:,} to {sizes[-1]:,}"
        detail = {
            "against_the_round": found,
            "seconds": {size: median(one[size] for one in rounds) for size in found},
            "rounds": len(rounds),
        }
        worst = max(found.values()) / min(found.values())
        yield Row(f"CPU seconds {_an(what)}", how, [worst], 1.1, detail=detail)


def _an(noun: str) -> str:
    return f"an {noun}" if noun[0] in "ae" else f"a {noun}"


def imports(_: Server, scale: Scale) -> Iterator[Row]:
    """What importing costs, in fresh processes, of packages that were compiled when installed."""
    modules = ("capillary_targets", "aiohttp")
    with TemporaryDirectory() as bytecode:
        # A source tree may be without bytecode beside an installed aiohttp that has its own.
        environment = os.environ | {"PYTHONPYCACHEPREFIX": bytecode}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)

        def seconds(module: str) -> float:
            code = f"import time; t = time.perf_counter()\nimport {module}\n"
            code += "print(time.perf_counter() - t)"
            command = python("-c", code, core=cores()[1])
            return float(subprocess.check_output(command, env=environment))

        for module in modules:
            seconds(module)  # which compiles
        rounds = [{name: seconds(name) for name in modules} for _ in range(3 * scale.rounds)]
    each = [one["capillary_targets"] / one["aiohttp"] for one in rounds]
    row = Row("import", "`import capillary_targets` ÷ `import aiohttp`", each, 1.5)
    row.detail = {name: median(one[name] for one in rounds) for name in modules}
    yield row


PARTS: Final[dict[str, Callable[[Server, Scale], Iterator[Row]]]] = {
    "sweep": sweeps,
    "peers": peers,
    "decode": decoding,
    "latency": latency,
    "files": files,
    "memory": memory,
    "flat": flatness,
    "import": imports,
}
