"""`python -m benchmarks.pagination_dialects`: what each server does to a walk, ours and others'.

The same 1,000 events in the sandbox, once for each dialect and each way of moving, and four
extractors: what they lose, what they double, how often they call, and what they raise. "Lost" are
events that existed throughout the walk and never came.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from attrs import asdict, field, frozen

from benchmarks.extractors import EXTRACTORS, Ask, Paging
from capillary_targets.sandbox import Sandbox, World

ROWS: Final = 1000
PAGE_SIZE: Final = 100
CUT: Final = 120
"""Calls after which a walk is taken to be without end."""
ROOT: Final = Path(__file__).parent.parent
IN_README: Final = {
    "as it should be",
    "pages capped at 50 without a word",
    "20 events deleted at the head between calls",
    "120 events arrive between calls",
    "one page comes back empty",
    "`offset` counts pages, not rows",
    "310149 behind the end",
}
"""What the README shows of the table; docs/pagination.md has all of it."""
MARKS: Final = (
    "<!-- pagination dialects: begin -->",
    "<!-- pagination dialects: end -->",
)

Mover = Callable[[World, int, int, int], None]


def at_head(world: World, user: int, rule: int, number: int) -> None:
    """Five late events at the head before each call but the first."""
    for _ in range(5 if number else 0):
        world.insert_late(user, rule, at=0)


def deleting(count: int, arrivals: int = 0) -> Mover:
    """Events deleted at the head, and arriving at the end, before each call but the first."""

    def move(world: World, user: int, rule: int, number: int) -> None:
        if number:
            world.delete_events(user, rule, slice(0, count))
            for _ in range(arrivals):
                world.add_event(user, rule)

    return move


@frozen
class Situation:
    """A server, in words and as settings of the sandbox."""

    what: str
    flags: dict[str, Any] = field(factory=dict)
    mover: Mover | None = None


def situations(paging: Paging) -> list[Situation]:
    """The lines of the table, for servers whose offsets count rows or pages."""
    mode, other = ("row", "page") if paging == "rows" else ("page", "row")
    swapped = "pages, not rows" if paging == "rows" else "rows, not pages"
    listed = [
        Situation("as it should be"),
        Situation("pages capped at 50, and it says so", {"max_limit": 50}),
        Situation(
            "pages capped at 50 without a word", {"limit_mode": "capped-silent", "max_limit": 50}
        ),
        Situation("5 late events at the head between calls", mover=at_head),
        Situation("5 events deleted at the head between calls", mover=deleting(5)),
        Situation("20 events deleted at the head between calls", mover=deleting(20)),
        Situation("5 deleted and 5 arrive between calls", mover=deleting(5, 5)),
        Situation("5 events arrive between calls", {"append_per_request": 5}),
        Situation("120 events arrive between calls", {"append_per_request": 120}),
        Situation("one page comes back empty", {"empty_page": 3}),
        Situation("one page comes back 3 short", {"short_page": 3}),
        Situation("an event on two pages, its neighbour on none", {"repeat_rows": "instead"}),
        Situation(f"`offset` counts {swapped}", {"offset_mode": other}),
        Situation("`offset` ignored", {"offset_mode": "ignored"}),
        Situation("`offset` clamped to the last page", {"offset_mode": "clamped"}),
        Situation("`total` counts pages", {"total_mode": "pages"}),
        Situation("`total` absent", {"total_mode": "absent"}),
        Situation("`total` always 0", {"total_mode": "zero"}),
        Situation("`total` says half", {"total_mode": "wrong"}),
        Situation("310149 behind the end", {"past_end": "310149"}),
        Situation("error 11003 behind the end", {"past_end": "error"}),
        Situation("404 behind the end", {"past_end": "404"}),
        Situation("a server that never ends", {"past_end": "endless"}),
    ]
    return [Situation(one.what, {"offset_mode": mode, **one.flags}, one.mover) for one in listed]


@frozen
class Outcome:
    """One cell. `error` is the exception's class; `endless` that the walk had to be cut."""

    lost: int
    doubled: int
    calls: int
    error: str | None = None
    endless: bool = False

    def __str__(self) -> str:
        if self.endless:
            return "**never ends**"
        if self.error:
            return f"`{self.error}`, {self.told_calls}"
        harm = [f"{what} {count}" for what, count in self.harm.items() if count]
        told = f"**{', '.join(harm)}**" if harm else "exact"
        return f"{told}, {self.told_calls}"

    @property
    def told_calls(self) -> str:
        """In words."""
        return "1 call" if self.calls == 1 else f"{self.calls} calls"

    @property
    def harm(self) -> dict[str, int]:
        """Events that are not there once."""
        return {"lost": self.lost, "doubled": self.doubled}


@contextmanager
def loop_in_a_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """Where the sandbox runs: the extractors block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def measure(
    loop: asyncio.AbstractEventLoop, name: str, situation: Situation, paging: Paging
) -> Outcome:
    """Walk once."""
    sandbox = Sandbox(users=1, events=ROWS, exact_events=True, **situation.flags)
    user = sandbox.world.user_ids()[0]
    rule = sandbox.world.targets(user)[0].id

    def between(world: World, number: int) -> None:
        if number >= CUT:
            sandbox.settings.limit_mode, sandbox.settings.max_limit = "refused", 1
        elif situation.mover is not None:
            situation.mover(world, user, rule, number)

    def ids() -> list[int | None]:
        return [row.event_log_id for row in sandbox.world.events(user, rule)]

    sandbox.settings.between_requests = between
    before, got, failure = ids(), list[int | None](), None
    url = asyncio.run_coroutine_threadsafe(sandbox.start(), loop).result()
    ask = Ask(url, user, rule, *sandbox.credentials, paging, PAGE_SIZE)
    try:
        for event in EXTRACTORS[name](ask):
            got.append(event)
    except Exception as error:  # noqa: BLE001 - whatever an extractor raises is its answer
        failure = type(error).__name__
    calls = sandbox.counts["trackedTargetEvents"]
    asyncio.run_coroutine_threadsafe(sandbox.stop(), loop).result()
    counted = Counter(got)
    lasting = set(before) & set(ids())
    doubled = sum(counted[event] - 1 for event in lasting if counted[event] > 1)
    endless = calls > CUT
    return Outcome(len(lasting - counted.keys()), doubled, calls, failure, endless)


def installed() -> dict[str, str]:
    """The extractors at hand, with their versions."""
    found = {}
    for name in EXTRACTORS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def as_markdown(table: dict[str, dict[str, Outcome]], versions: dict[str, str]) -> str:
    """The table for people."""
    names = [f"{name} {number}" for name, number in versions.items()]
    names[0] = "**capillary-targets**"
    lines = [
        f"| {ROWS:,} events, {PAGE_SIZE} to a page | " + " | ".join(names) + " |",
        "| --- " * (len(names) + 1) + "|",
    ]
    for what, cells in table.items():
        lines.append(f"| {what} | " + " | ".join(str(cells[one]) for one in versions) + " |")
    return "\n".join(lines)


def put_between_marks(file: Path, text: str, name: str = "") -> None:
    """Write a table where a document wants it."""
    begin, end = (mark.replace(":", f" {name}:" if name else ":", 1) for mark in MARKS)
    whole = file.read_text()
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(whole):
        raise SystemExit(f"{file} has no {begin}")
    file.write_text(pattern.sub(lambda _: f"{begin}\n{text}\n{end}", whole))


def main() -> None:
    """Measure, print, and on request write the tables into the documents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="into README.md and docs/")
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    logging.disable(logging.CRITICAL)
    versions = installed()
    if asked.write and versions.keys() != EXTRACTORS.keys():
        parser.error("--write would drop a column: pip install -e . --group bench-extractors")
    document: dict[str, Any] = {"rows": ROWS, "page_size": PAGE_SIZE, "versions": versions}
    with loop_in_a_thread() as loop:
        for paging in ("rows", "pages"):
            table = {
                one.what: {name: measure(loop, name, one, paging) for name in versions}
                for one in situations(paging)
            }
            text = as_markdown(table, versions)
            print(f"\nOffsets that count {paging}\n\n{text}", flush=True)
            document[paging] = {
                what: {name: asdict(cell) for name, cell in cells.items()}
                for what, cells in table.items()
            }
            if asked.write:
                put_between_marks(ROOT / "docs" / "pagination.md", text, paging)
                if paging == "rows":
                    shown = {what: cells for what, cells in table.items() if what in IN_README}
                    put_between_marks(ROOT / "README.md", as_markdown(shown, versions))
    if asked.json:
        asked.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
