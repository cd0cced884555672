"""CPU instructions of a walk, counted by callgrind: the same number on a busy machine.

`python -m benchmarks.instructions` runs each case N and 2N times under valgrind and divides the
difference by N, so that the costs of start and imports cancel out. No request is sent: the pages
are read beforehand, and what remains is the package's own.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from tempfile import TemporaryDirectory
from typing import Any, Final
from unittest.mock import patch

from capillary_targets import BasicAuth, EventsPage, open_session, pager
from capillary_targets.pagination import START, Cursor, Dialect, Walk
from capillary_targets.pagination.seen import SeenEvents
from capillary_targets.structuring import structurer
from capillary_targets.wire import Answer, read_events

KNOWN: Final = Dialect(offset="row", total="rows")
RUNS: Final = 30
WARM: Final = 10
CASES: Final = ("walk", "pager", "walk of 1,000", "identity of 1,000", "reading 100")
_COUNT: Final = re.compile(r"Collected : (\d+)")


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


def run(case: str, runs: int) -> None:
    """Do a case so many times, in this process."""
    one, many, text = pages_of(75), pages_of(1000), page_text(100, 0, 100)
    if case == "pager":
        asyncio.run(paged(runs))
        return
    work: dict[str, Callable[[], object]] = {
        "walk": lambda: walked(one),
        "walk of 1,000": lambda: walked(many),
        "identity of 1,000": lambda: aligned(many.values()),
        "reading 100": lambda: read(text),
    }
    for _ in range(runs):
        work[case]()


def instructions(case: str) -> int:
    """Instructions of one run of a case."""
    counts: list[int] = []
    for runs in (WARM + RUNS, WARM + 2 * RUNS):
        with TemporaryDirectory() as folder:
            command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
            command += [sys.executable, "-m", "benchmarks.instructions", case, str(runs)]
            environment = {**os.environ, "PYTHONHASHSEED": "0"}
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True
            )
        counts += map(int, _COUNT.findall(done.stderr))
    return (counts[1] - counts[0]) // RUNS


def main() -> None:
    """Print the instructions of every case."""
    if sys.argv[-1].isdigit():
        run(sys.argv[1], int(sys.argv[2]))
        return
    for case in sys.argv[1:] or CASES:
        print(f"{case}: {instructions(case):,} instructions")


if __name__ == "__main__":
    main()
