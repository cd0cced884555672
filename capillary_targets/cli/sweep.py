"""`sweep` and `report`: many users, to files, and a page about them."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Collection
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, validators

from capillary_targets.auth import BasicAuth
from capillary_targets.errors import UsageError
from capillary_targets.sandbox import Sandbox
from capillary_targets.sweep import Limits, RequestTimeline, Summary, UsersFile, make_report, run

from . import output
from .connection import auth_of, base_url_of, concurrency_of, connected, rate_of
from .progress import progress

__all__ = ["report", "sweep"]

# The hyphen that stands for stdin must not be taken for a flag.
UsersPath = Annotated[Path | None, Parameter(allow_leading_hyphen=True)]
Rules = Annotated[list[int] | None, Parameter(name="--rule")]
PartRows = Annotated[int, Parameter(validator=validators.Number(gte=1))]
Concurrency = Annotated[str, Parameter(name="--concurrency")]


async def sweep(
    users_file: UsersPath = None,
    /,
    *,
    out: Path,
    format: Literal["jsonl", "parquet"] = "jsonl",  # noqa: A002 - the flag's name
    raw: bool = False,
    incremental: bool = False,
    retry_failed: bool = False,
    column: str | None = None,
    rules: Rules = None,
    events_only: bool = False,
    concurrency: Concurrency = "auto",
    rate: str | None = None,
    page_size: int = 100,
    part_rows: PartRows = 500_000,
    sandbox: bool = False,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
) -> int:
    """Fetch the targets and events of many users into files.

    The directory receives `events/part-00000.jsonl` and so on, likewise `targets/`, and
    `failures.jsonl`, `summary.json`, `report.html`. Run the same command again to go on after an
    interruption of any kind: nothing is lost, nothing comes twice.

    Args:
        users_file: One user id a line (blank lines and # comments are skipped), or a CSV file;
            either may be gzip; - is stdin. May be left out with --retry-failed, and with
            --sandbox, whose users are then all swept.
        out: The directory for the files.
        format: The format of the parts.
        raw: Add each row as the server sent it, unknown fields included.
        incremental: Fetch what is new since the latest run over the list, if that one is over.
        retry_failed: Sweep only the users that failed.
        column: The column of a CSV file with the ids: its name, or its number from 1.
        rules: Only this target (rule) id; may be given several times.
        events_only: Do not ask which targets users are in: fetch the events of each --rule for
            everybody, with one request less for each user.
        concurrency: Requests in flight at once: a number, or auto to find the server's pace.
        rate: Keep to a budget: 1000/60 is at most 1000 requests in any 60 seconds.
        page_size: Events asked for in one request.
        part_rows: A part is closed when it holds so many rows, or is two minutes old.
        sandbox: Ask a sandbox started for the occasion: no account needed.
        engine: local is this process; ray sweeps on a Ray cluster (extra ray), which shares --out.
        address: The cluster's, with --engine ray; left out, a Ray of its own on this machine.
    """
    server = Sandbox() if sandbox else None
    if engine == "ray":
        return _show_summary(
            await _sweep_by_ray(
                server,
                _users(users_file, column, server, retry_failed=retry_failed),
                out,
                address=address,
                concurrency=concurrency_of(concurrency),
                rate=None if rate is None else rate_of(rate),
                page_size=page_size,
                rules=tuple(rules or ()),
                enrolled=not events_only,
                format=format,
                raw=raw,
                incremental=incremental,
                retry_failed=retry_failed,
                limits=Limits(rows=part_rows),
            ),
            out,
        )
    if address is not None:
        raise UsageError("--address is a Ray cluster's: say --engine ray as well")
    timeline = RequestTimeline()
    async with connected(
        server,
        concurrency=concurrency_of(concurrency),
        rate=None if rate is None else rate_of(rate),
        page_size=page_size,
        hooks=[timeline],
    ) as client:
        users = _users(users_file, column, server, retry_failed=retry_failed)
        expected = users.expected() if isinstance(users, UsersFile) else len(users)
        with progress(lambda: client.session.limiter.limit, expected) as shown:
            try:
                summary = await run(
                    client,
                    users,
                    out,
                    rules=tuple(rules or ()),
                    enrolled=not events_only,
                    format=format,
                    raw=raw,
                    incremental=incremental,
                    retry_failed=retry_failed,
                    source=None if server is None else "the sandbox",
                    limits=Limits(rows=part_rows),
                    timeline=timeline,
                    progress=shown.update,
                )
            except asyncio.CancelledError:
                shown.interrupted(f"the users done so far are safe in {out}")
                raise
    return _show_summary(summary, out)


async def _sweep_by_ray(
    sandbox: Sandbox | None, users: UsersFile | Collection[int], out: Path, **settings: Any
) -> Summary:
    """Sweep on a cluster; `settings` are those of `capillary_targets.ray.sweep`.

    A sandbox is asked from this machine's workers only: its address means nothing elsewhere.
    """
    if sandbox is not None and settings.get("address"):
        raise UsageError("--sandbox is for Ray on this machine: leave out --address")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    try:
        from capillary_targets.ray import sweep as sweep_by_ray  # noqa: PLC0415 - the extra, which loads slowly
    except ImportError as error:
        raise UsageError(str(error)) from error
    async with AsyncExitStack() as stack:
        if sandbox is not None:
            settings["base_url"] = await stack.enter_async_context(sandbox)
            settings["auth"] = BasicAuth(*sandbox.credentials)
            settings["source"] = "the sandbox"
        else:
            settings["base_url"] = base_url_of(os.environ)
            settings["auth"] = auth_of(os.environ)
        try:
            return await sweep_by_ray(users, out, **settings)
        except asyncio.CancelledError:
            output.warn(
                f"the users done so far are safe in {out}; run the same command again to go on"
            )
            raise


def _show_summary(summary: Summary, out: Path) -> int:
    """Say what came of a sweep; the exit status."""
    output.show_facts("Swept", _facts(summary, out))
    if not summary.finished:
        output.warn("the list of users was never finished; sweep it without --retry-failed")
    return 0 if summary.all_complete else 1


async def report(out: Path, /) -> int:
    """Make a sweep's `report.html` once more.

    Args:
        out: The directory that was swept into.
    """
    print(make_report(out))
    return 0


def _users(
    users_file: Path | None, column: str | None, server: Sandbox | None, *, retry_failed: bool
) -> UsersFile | Collection[int]:
    if users_file is not None and re.match("-.", str(users_file)):
        raise UsageError(f"Unknown option: {users_file}. See `capillary-targets sweep --help`")
    if retry_failed:
        if users_file is not None:
            raise UsageError("--retry-failed takes its users from --out: leave out USERS_FILE")
        return ()
    if users_file is not None:
        return UsersFile(users_file, column)
    if server is None:
        raise UsageError("USERS_FILE is missing: name a file with one user id a line")
    return [*server.world.all_user_ids()]


def _facts(summary: Summary, out: Path) -> dict[str, str]:
    failures = summary.failed + summary.bad_lines
    facts = {
        "users": f"{summary.users}",
        "targets": f"{summary.targets}",
        "events": f"{summary.events}",
        "sum of values": f"{summary.value_sum:f}",
        "requests": f"{summary.requests}",
        "retries": f"{summary.retries}",
        "seconds": f"{summary.seconds:.1f}",
        "failures": f"{failures}",
        "files": f"{out}",
    }
    if failures:
        facts["failures"] += f" (listed in {out / 'failures.jsonl'})"
    if summary.skipped:
        facts["users"] += f" ({summary.skipped} of the list were done before)"
    if summary.healed_targets:
        facts["events"] += (
            f" ({summary.late_events} late ones; {summary.vanished_events} are gone from the "
            f"server; {summary.healed_targets} targets were read again)"
        )
    return facts
