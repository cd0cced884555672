"""One contender in a process of its own: `python -m benchmarks.child SPEC` prints what it cost.

SPEC is JSON: `call` is `module:function` of this package with its `arguments`; with `work`, it is
a contender, which is run once to warm up and once to be measured.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from importlib import import_module
from typing import Any, TypeVar

from .workload import Work

T = TypeVar("T")
_WARM_USERS = 8


def _run(call: Callable[..., Awaitable[T]], *arguments: Any, uvloop: bool = False) -> T:
    async def awaited() -> T:
        return await call(*arguments)

    if uvloop:
        import uvloop as loops

        return loops.run(awaited())
    return asyncio.run(awaited())


def _measured(contender: Callable[..., Any], port: int, work: Work, *, uvloop: bool) -> Any:
    warm = replace(work, users=min(_WARM_USERS, work.users), latency_ms=0)
    _run(contender, f"http://127.0.0.1:{port}{warm.prefix}", warm, uvloop=uvloop)()
    wall, cpu = time.perf_counter(), time.process_time()
    proof = _run(contender, f"http://127.0.0.1:{port}{work.prefix}", work, uvloop=uvloop)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    events, total = proof()
    if events != work.rows or abs(float(total) - float(work.total)) > float(work.total) * 1e-9:
        sys.exit(f"{contender} brought {events} events worth {total}, not {work.total}")
    return {"wall": wall, "cpu": cpu, "exact": total == work.total}


def main() -> None:
    """Do as the specification says; the last line printed is the result."""
    spec: dict[str, Any] = json.loads(sys.argv[1])
    module, _, name = spec["call"].partition(":")
    call = getattr(import_module(f"benchmarks.{module}"), name)
    if spec.get("work") is None:
        result = _run(call, *spec["arguments"])
    elif spec["arguments"]:
        work = Work(**spec["work"])
        result = _run(
            call, f"http://127.0.0.1:{spec['port']}{work.prefix}", work, *spec["arguments"]
        )
    else:
        result = _measured(call, spec["port"], Work(**spec["work"]), uvloop=spec["uvloop"])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
