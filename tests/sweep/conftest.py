"""A sandbox's truth, a directory's rows, and the sweep between them."""

import asyncio
import importlib
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from capillary_targets import BasicAuth, RetryPolicy, TargetEvent, TargetsClient
from capillary_targets.sandbox import Sandbox, World
from capillary_targets.sweep import Summary, SweepOptions, run
from capillary_targets.sweep.rows import EncodedRows
from capillary_targets.sweep.stats import EventStats
from capillary_targets.sweep.store import format_named

Row = tuple[int, int, int, str | None]
"""(user, rule, event log id, value as spelled)."""


def needed(module: str) -> Any:
    """A module of an extra. The test is skipped without it, or fails where extras are required."""
    if os.environ.get("CAPILLARY_TESTS_REQUIRE") == "1":
        return importlib.import_module(module)
    return pytest.importorskip(module)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, amounts as Decimal."""
    return [json.loads(line, parse_float=Decimal) for line in path.read_text().splitlines()]


def parts(out: Path, kind: str) -> list[dict[str, Any]]:
    """Every row of every part of JSON Lines."""
    return [row for path in sorted((out / kind).glob("part-*")) for row in read_jsonl(path)]


def written(out: Path) -> Counter[Row]:
    """The events in the parts, each with how often it is there."""
    return Counter(
        (
            row["user_id"],
            row["target_rule_id"],
            row["event_log_id"],
            None if row["target_value"] is None else str(row["target_value"]),
        )
        for row in parts(out, "events")
    )


def true_events(world: World, users: Iterator[int] | list[int] | None = None) -> Counter[Row]:
    """The events that a whole sweep has to find, each once."""
    return Counter(
        (
            user,
            rule.id,
            event.event_log_id,
            None if event.target_value is None else str(event.target_value),
        )
        for user in (world.all_user_ids() if users is None else users)
        for rule in world.targets(user)
        for event in world.events(user, rule.id)
    )


@asynccontextmanager
async def connected(sandbox: Sandbox, **settings: Any) -> AsyncIterator[TargetsClient]:
    """A client of a running sandbox. One attempt for each request, so that nothing waits."""
    settings.setdefault("retry", RetryPolicy(attempts=1))
    settings.setdefault("concurrency", 8)
    auth = BasicAuth(*sandbox.credentials)
    async with TargetsClient(sandbox.url, auth, **settings) as client:
        yield client


Swept = Callable[..., Any]


@pytest.fixture
def swept(tmp_path: Path) -> Swept:
    """Sweep a running sandbox (all its users, unless told which) into `tmp_path`."""

    async def sweep(sandbox: Sandbox, users: Any = None, **settings: Any) -> Summary:
        told = {n: settings.pop(n) for n in ("page_size", "concurrency") if n in settings}
        progress = settings.pop("progress", None)
        users = sandbox.world.all_user_ids() if users is None else users
        out = settings.pop("out", tmp_path)
        settings.setdefault("source", "the sandbox")
        async with connected(sandbox, **told) as client:
            return await run(client, users, out, SweepOptions(**settings), progress=progress)

    return sweep


def encoded(*pages: list[TargetEvent], user: int = 1, form: str = "jsonl") -> EncodedRows:
    """A user's rows of target 7, read in those pages."""
    rows = EncodedRows(user, format_named(form, raw=False))
    for page in pages:
        rows.add_events(7, page)
    return rows


def counted(*users: EncodedRows) -> EventStats:
    """The statistics of users' rows."""
    stats = EventStats()
    for rows in users:
        for one in rows.sums:
            stats.add(*one)
    return stats


def names(directory: Path) -> list[str]:
    """What is in a directory, by name."""
    return sorted(path.name for path in directory.iterdir())


def write(path: Path, text: str) -> Path:
    """A file with that text, its directory made if need be."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


async def stopped(sweep: Coroutine[Any, Any, Summary], when: asyncio.Event) -> None:
    """Cancel a sweep as soon as an event is set: the part in progress is committed."""
    task = asyncio.ensure_future(sweep)
    await when.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
