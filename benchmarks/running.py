"""Where contenders run: the server on one core, they on another, one after the other, in turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any
from urllib.request import urlopen

from .workload import Work

__all__ = ["Run", "Server", "alternate", "cores", "in_child", "python", "ratios", "serving"]

Run = dict[str, Any]
"""What one run of a contender cost: `wall` and `cpu` in seconds, and what else it says."""


def cores() -> tuple[int | None, int | None]:
    """A core for the server, another for the contender; None where they cannot be chosen."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    first, *others = sorted(os.sched_getaffinity(0))
    return first, others[-1] if others else first


def python(*arguments: str, core: int | None = None) -> list[str]:
    """The command line of a Python process pinned to a core."""
    if core is None:
        return [sys.executable, *arguments]
    pin = (
        f"import os, sys; os.sched_setaffinity(0, {{{core}}}); os.execv(sys.argv[1], sys.argv[1:])"
    )
    return [sys.executable, "-c", pin, sys.executable, *arguments]


class Server:
    """The benchmark's server as a child process; see `benchmarks.server`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            python("-m", "benchmarks.server", core=cores()[0]), stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def take_count(self) -> int:
        """How many requests were answered since this was asked last."""
        with urlopen(f"http://127.0.0.1:{self.port}/count") as answer:
            return int(answer.read())

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()

    def run(self, call: str, work: Work, *arguments: Any) -> Any:
        """One run of a contender, `module:function`; what it cost, or what it returns.

        With `+uvloop` behind its name it runs in that event loop.
        """
        name, _, loop = call.partition("+")
        return in_child(
            name, *arguments, port=self.port, work=asdict(work), uvloop=loop == "uvloop"
        )


def in_child(call: str, *arguments: Any, **spec: Any) -> Any:
    """What a function of this package, `module:function`, returns in a process of its own."""
    done = subprocess.run(
        python(
            "-m",
            "benchmarks.child",
            json.dumps({"call": call, "arguments": arguments, **spec}),
            core=cores()[1],
        ),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def serving() -> Iterator[Server]:
    """A server for as long as the block runs."""
    server = Server()
    try:
        yield server
    finally:
        server.close()


def alternate(
    server: Server, contenders: Sequence[str], work: Work, rounds: int
) -> list[list[Run]]:
    """The runs of each contender, all taking turns, so that a slow moment hits every one alike."""
    runs: list[list[Run]] = [[] for _ in contenders]
    for _ in range(rounds):
        for mine, call in zip(runs, contenders, strict=True):
            mine.append(server.run(call, work))
    return runs


def ratios(above: list[Run], below: list[Run], key: str = "wall") -> list[float]:
    """The ratio in each round."""
    return [one[key] / other[key] for one, other in zip(above, below, strict=True)]
