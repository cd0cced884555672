"""CPU instructions of a walk, a request and an event: the same number on a busy machine.

`python -m benchmarks.instructions` counts them by callgrind, which counts those of each case run N
and 2N times; the difference divided by N is one run, without what it takes to begin. No request is
sent: the answers are ready beforehand, and what remains is the package's own.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Self
from unittest.mock import patch

from capillary_targets import BasicAuth, EventsPage, open_session, pager
from capillary_targets.endpoints import active_targets
from capillary_targets.pagination import START, Cursor, Dialect, Walk
from capillary_targets.pagination.seen import SeenEvents
from capillary_targets.structuring import structurer
from capillary_targets.wire import Answer, read_events

KNOWN: Final = Dialect(offset="row", total="rows")
RUNS: Final = 30
WARM: Final = 10
CASES: Final = ("request", "walk", "pager", "walk of 1,000", "identity of 1,000", "reading 100")
_TOTALS: Final = re.compile(r"^totals: (\d+)", re.MULTILINE)


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
    return read_events(Answer(200, text), structurer(None))


def walked(pages: dict[int, EventsPage]) -> None:
    """One walk over pages by offset."""
    walk, cursor = Walk(100, cached=KNOWN), Cursor(START)
    while requests := walk.requests():
        for batch in walk.feed(requests[0], pages[requests[0].offset]):
            cursor.advance(batch.row, batch.page.events)
    assert walk.report.complete


def pages_of(total: int) -> dict[int, EventsPage]:
    """The pages of a walk, each beginning with the last row of the one before."""
    return {
        offset: read(page_text(total, offset, min(100, total - offset)))
        for offset in range(0, total - 1, 99)
    }


def aligned(pages: Iterable[EventsPage]) -> None:
    """What a walk does to know the rows of its pages."""
    seen = SeenEvents()
    for page in pages:
        anchor = seen.align(page.events)
        at, taken = (-1, -1) if anchor is None else anchor
        seen.add(page.events[at + 1 :], taken)


async def paged(runs: int) -> None:
    """Walks of one page by the pager, whose endpoint answers at once."""
    page = read(page_text(75, 0, 75))

    async def answered(*_: Any, **__: Any) -> EventsPage:
        return page

    patched = patch.object(pager, "target_events", answered)
    with patched:
        async with open_session("http://127.0.0.1:1", BasicAuth("t", "p")) as session:
            session.dialect = KNOWN
            for _ in range(runs):
                walk = pager.EventPager(session, 564332013, 1986)
                async for _ in walk.stream():
                    pass
                assert walk.report.complete


class Answered:
    """A response of aiohttp's that is there at once; `content` has its body."""

    status: Final = 200
    headers: Final[dict[str, str]] = {}

    def __init__(self, body: bytes) -> None:
        self.content, self._body = self, body

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def readany(self) -> bytes:
        """The whole body."""
        return self._body

    def at_eof(self) -> bool:
        """After the first read."""
        return True


async def requested(runs: int) -> None:
    """Requests for a user's targets, all of the client but aiohttp."""
    body = b'{"data":[{"id":1986,"name":"June"}],"errors":null,"warnings":null}'
    answer = Answered(body)
    async with open_session("http://127.0.0.1:1", BasicAuth("t", "p")) as session:
        with patch.object(session.http, "request", lambda *_, **__: answer):
            for _ in range(runs):
                await active_targets(session, 564332013)


def run(case: str, runs: int) -> None:
    """Do a case so many times, in this process."""
    one, many, text = pages_of(75), pages_of(1000), page_text(100, 0, 100)
    if case in {"pager", "request"}:
        asyncio.run((paged if case == "pager" else requested)(runs))
        return
    work: dict[str, Callable[[], object]] = {
        "walk": lambda: walked(one),
        "walk of 1,000": lambda: walked(many),
        "identity of 1,000": lambda: aligned(many.values()),
        "reading 100": lambda: read(text),
    }
    for _ in range(runs):
        work[case]()


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
