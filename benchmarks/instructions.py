"""CPU instructions of a request, a walk and an event: the same number on a busy machine.

`python -m benchmarks.instructions` counts them by callgrind, which counts those of each case run N
and 2N times; the difference divided by N is one run, without what it takes to begin. No request is
sent: the answers are ready beforehand, what remains is the package's own; and the clock stands, so
that no limit learns anything from it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from unittest.mock import patch

from yarl import URL

from capillary_targets import BasicAuth, EventsPage, TargetsClient, pager
from capillary_targets.pagination import Dialect
from capillary_targets.structuring import structurer
from capillary_targets.wire import Answer, read_events

KNOWN: Final = Dialect(offset="row", total="rows")
RUNS: Final = 30
WARM: Final = 10
CASES: Final = (
    *("request", "request, metrics", "request, metrics by the SDK"),
    *("user", "pager", "reading 100"),
)
_TOTALS: Final = re.compile(r"^totals: (\d+)", re.MULTILINE)
TARGETS: Final = b'{"data":[{"id":1986,"name":"June"}],"errors":null,"warnings":null}'


def page_text(total: int, first: int, count: int) -> bytes:
    """The JSON of `count` rows from `first`."""
    rows = ",".join(
        f'{{"eventLogId":{615460983 + row},"eventName":"TransactionAdd","customerId":564332013,'
        f'"eventDisplayName":"Transaction Add","uniqueId":"{29466 + row}",'
        '"eventDate":"2031-02-03 04:05:06.0","eventProcessedDate":"2031-02-03 04:05:06.0",'
        '"periodId":9889,"targetGroupId":1986,"targetRuleId":1986,"targetValue":1500.125}'
        for row in range(first, first + count)
    )
    numbers = f'{{"limit":100,"offset":{first},"total":{total}}}'
    return f'{{"data":[{rows}],"errors":[],"pagination":{numbers}}}'.encode()


def read(text: bytes) -> EventsPage:
    """A page as the package reads it."""
    return read_events(Answer(200, text), structurer(None), 564332013, 1986)


class Answered:
    """A response of aiohttp's that is there at once, and its content."""

    status: Final = 200
    headers: Final[dict[str, str]] = {}

    def __init__(self, body: bytes) -> None:
        self.content, self._body = self, body

    async def readany(self) -> bytes:
        """The whole body."""
        return self._body

    def at_eof(self) -> bool:
        """After the first read."""
        return True


async def by_client(case: str, runs: int) -> None:
    """Calls of a client whose requests are answered at once."""
    text = page_text(75, 0, 75).replace(b"564332013", b"null")  # anybody's
    targets, events, page = Answered(TARGETS), Answered(text), read(text)

    async def request(_: str, url: URL, **__: Any) -> Answered:
        return targets if url.raw_path.endswith("enrolledTargets") else events

    async def ask(*_: int) -> EventsPage:
        return page

    hooks: tuple[Any, ...] = ()
    if "metrics" in case:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader

        from capillary_targets.otel import metrics

        sdk = MeterProvider([InMemoryMetricReader()]) if "SDK" in case else None
        hooks = (metrics(sdk),)
    auth = BasicAuth("t", "p")
    async with TargetsClient("http://127.0.0.1:1", auth, hooks=hooks) as client:
        client.session.http.request = request  # type: ignore[assignment,method-assign]
        client.session.limiter._clock = lambda: 0.0
        client.session.dialect = KNOWN
        if case.startswith("request"):
            for _ in range(runs):
                await client.active_targets(564332013)
        elif case == "pager":
            with patch.object(pager, "pages_of", lambda *_: ask):
                for _ in range(runs):
                    walk = client.events(564332013, 1986)
                    async with aclosing(walk.stream()) as pages:
                        assert [len(one.events) async for one in pages] == [75]
        else:
            async for outcome in client.sweep(range(runs)):
                assert outcome.complete


def run(case: str, runs: int) -> None:
    """Do a case so many times, in this process."""
    if case != "reading 100":
        asyncio.run(by_client(case, runs))
        return
    text = page_text(100, 0, 100)
    for _ in range(runs):
        read(text)


def count(cases: Sequence[str] = CASES) -> dict[str, int]:
    """Instructions of one run of each case.

    callgrind writes its counts whenever the C function `getppid` is called: between the cases.
    """
    # Coverage of processes that tests start would count, too.
    settings = {name: one for name, one in os.environ.items() if not name.startswith("COVERAGE")}
    with TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
        command += ["--dump-before=getppid", "--instr-atstart=no"]
        command += [sys.executable, "-m", "benchmarks.instructions"]
        subprocess.run(
            [*command, "--here", *cases],
            env={**settings, "PYTHONHASHSEED": "0"},
            capture_output=True,
            check=True,
        )
        dumps = (Path(folder) / f"out.{n + 1}" for n in range(3 * len(cases)))
        totals = [int(_TOTALS.findall(dump.read_text())[0]) for dump in dumps]
    return {case: (totals[3 * n + 2] - totals[3 * n + 1]) // RUNS for n, case in enumerate(cases)}


def main() -> None:
    """Print the instructions of every case, or run them here."""
    here, *cases = sys.argv[1:] if "--here" in sys.argv else ("", *sys.argv[1:])
    if here:
        gc.disable()  # where a collection falls depends on all that was imported
        # Only from here on: counting what is imported would take four times as long.
        counting = ["callgrind_control", "-i", "on", str(os.getpid())]
        subprocess.run(counting, capture_output=True, check=True)
        for case in cases:
            run(case, WARM)
            os.getppid()
            run(case, RUNS)
            os.getppid()
            run(case, 2 * RUNS)
            os.getppid()
        return
    for case, found in count(cases or CASES).items():
        print(f"{case}: {found:,} instructions")


if __name__ == "__main__":
    main()
