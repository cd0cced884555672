"""`sweep` and `report`: many users, to files, and a page about them."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

from attrs import evolve
from cyclopts import Parameter, validators

from capillary_targets.client import TargetsClient
from capillary_targets.errors import UsageError
from capillary_targets.notifications import SQLiteStore
from capillary_targets.sandbox import Sandbox
from capillary_targets.sweep import (
    RequestTimeline,
    Summary,
    SweepOptions,
    UsersFile,
    make_report,
    run,
)
from capillary_targets.sweep import plan as make_plan
from capillary_targets.sweep.plan import Estimate, Plan

from . import output
from .connection import DEFAULT, Concurrency, Connection, File, MaxFailures, Rate, Rules
from .progress import ProgressDisplay

_OK, _FAILED, _REFUSED = 0, 1, 3
_FLAGS: Final = re.compile(
    "^(?!target_rule_ids|fetch_targets|source|max_failures|notifications|part_)"
)
"""The options that are flags as they are; the others are spelled in ways of their own."""
_DEFAULT: Final = SweepOptions()

Users: TypeAlias = UsersFile | Collection[int]

# The hyphen that stands for stdin must not be taken for a flag.
UsersPath = Annotated[File | None, Parameter(allow_leading_hyphen=True)]
PartRows = Annotated[int, Parameter(validator=validators.Number(gte=1))]


async def sweep(
    users_file: UsersPath = None,
    /,
    *,
    out: File,
    column: str | None = None,
    rules: Rules = None,
    events_only: bool = False,
    options: Annotated[SweepOptions, Parameter(name="*", parse=_FLAGS)] = _DEFAULT,
    max_failures: MaxFailures = None,
    notifications: File | None = None,
    plan: bool = False,
    concurrency: Concurrency = None,
    rate: Rate = None,
    part_rows: PartRows = _DEFAULT.part_rows,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    connection: Connection = DEFAULT,
) -> int:
    """Fetch the targets and events of many users into files.

    The directory receives `events/part-00000.jsonl` and so on, likewise `targets/`, and
    `failures.jsonl`, `summary.json`, `report.html`. Run the same command again to go on after an
    interruption of any kind: nothing is lost, nothing comes twice.

    Try it without an account:

        capillary-targets sweep --sandbox --out night

    Args:
        users_file: One user id a line (blank lines and # comments are skipped), or a CSV file;
            either may be gzip; - is stdin. May be left out with --retry-failed, and with
            --sandbox, whose users are then all swept.
        out: The directory for the files.
        column: The column of a CSV file with the ids: its name, or its number from 1.
        rules: Only this target (rule) id; may be given several times.
        events_only: Do not ask which targets users are in: fetch the events of each --rule for
            everybody, with one request less for each user.
        options: What to fetch, and how to keep it.
        max_failures: Stop when more users than this have failed: a number, or a share such as 5%.
        notifications: The SQLite store of the vendor's notifications: events that were never
            announced, and announcements that never showed up, are listed in announcements/.
        plan: Say what the sweep would cost, from the list, the directory and a sample of at most
            100 users, and do no more.
        concurrency: Requests in flight at once: a number, or auto to find the server's pace.
        rate: Keep to a budget: 1000/60 is at most 1000 requests in any 60 seconds.
        part_rows: A part is closed when it holds so many rows, or is two minutes old.
        engine: local is this process; ray sweeps on a Ray cluster (extra ray), which shares --out.
        address: The cluster's, with --engine ray; left out, a Ray of its own on this machine.
        connection: How to reach the API.
    """
    if address is not None and engine != "ray":
        raise UsageError("--address is a Ray cluster's: say --engine ray as well")
    if address is not None and connection.sandbox:
        raise UsageError("--sandbox is for Ray on this machine: leave out --address")
    if plan and (options.retry_failed or engine == "ray"):
        raise UsageError("--plan is for a list of users and --engine local")
    users = _users(users_file, column, connection, retry_failed=options.retry_failed)
    options = evolve(
        options,
        target_rule_ids=rules or (),
        fetch_targets=not events_only,
        source="the sandbox" if connection.sandbox else None,
        max_failures=max_failures,
        notifications=None if notifications is None else SQLiteStore(notifications),
        part_rows=part_rows,
    )
    if plan:
        async with connection.client(concurrency=concurrency, rate=rate) as client:
            found = await make_plan(client, users, out, options)
        output.show_facts(_planned(found, rated=rate is not None))
        return _OK
    expected = users.expected() if isinstance(users, UsersFile) else len(users)
    try:
        with ProgressDisplay(expected, rate=rate, quiet=connection.quiet) as display:
            sweeper = _sweep if engine == "local" else partial(_sweep_by_ray, address=address)
            settings = {"concurrency": concurrency, "rate": rate}
            async with connection.arguments(display.log, **settings) as given:
                summary = await sweeper(users, out, options, display, **given)
    except asyncio.CancelledError:
        raise asyncio.CancelledError(
            f"the users done so far are safe in {out}; run the same command again to go on"
        ) from None
    try:
        output.show_facts(_facts(summary, out, by_ray=engine == "ray"))
    except output.OutputLost as error:  # the work is done, and its files say the same
        connection.warn(f"{error}; see {out / 'summary.json'}")
    if summary.groups_off:
        connection.warn(f"target groups are refused, so all events were read: {summary.groups_off}")
    if not summary.finished:
        connection.warn("the list of users was never finished; sweep it without --retry-failed")
    if summary.all_complete:
        return _OK
    return _REFUSED if summary.finished and not summary.failed else _FAILED


async def _sweep(
    users: Users, out: Path, options: SweepOptions, display: ProgressDisplay, **settings: Any
) -> Summary:
    timeline = RequestTimeline()
    settings["hooks"] = (*settings["hooks"], timeline)
    async with TargetsClient(**settings) as client:
        limiter = client.session.limiter
        return await run(
            *(client, users, out, options),
            timeline=timeline,
            progress=lambda summary: display.update(summary, limiter.limit),
        )


async def _sweep_by_ray(
    users: Users, out: Path, options: SweepOptions, display: ProgressDisplay, **settings: Any
) -> Summary:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    try:
        from capillary_targets import ray  # noqa: PLC0415 - the extra, which loads slowly
    except ImportError as error:
        raise UsageError(str(error)) from error
    return await ray.sweep(users, out, options, progress=display.update, **settings)


async def report(out: File, /) -> None:
    """Make a sweep's `report.html` once more.

    Try it without an account:

        capillary-targets sweep --sandbox --out night
        capillary-targets report night

    Args:
        out: The directory that was swept into.
    """
    output.write(f"{make_report(out)}\n")


def _users(
    users_file: Path | None, column: str | None, connection: Connection, *, retry_failed: bool
) -> Users:
    if users_file is not None and re.match("-.", str(users_file)):
        raise UsageError(f"Unknown option: {users_file}. See `capillary-targets sweep --help`")
    if retry_failed:
        if users_file is not None:
            raise UsageError("--retry-failed takes its users from --out: leave out USERS_FILE")
        return ()
    if users_file is not None:
        told = None if connection.quiet else lambda column: output.note(f"user ids: {column}")
        return UsersFile(users_file, column, told)
    if not connection.sandbox:
        raise UsageError("USERS_FILE is missing: name a file with one user id a line")
    return [*Sandbox().world.all_user_ids()]


def _facts(summary: Summary, out: Path, *, by_ray: bool) -> dict[str, str]:
    refused = summary.refused + summary.bad_lines
    facts = {
        "users": f"{summary.users}",
        "targets": f"{summary.targets}",
        "events": f"{summary.events}",
        "sum of values": f"{summary.value_sum:f}",
        "requests": f"{summary.requests}",
        "retries": f"{summary.retries}",
        "seconds": f"{summary.seconds:.1f}",
        "failures": f"{summary.failed + refused}",
        "files": f"{out}",
    }
    if summary.failed + refused:
        for_good = f"{refused} of them for good; " if refused else ""
        listed = out / ("*/failures.jsonl" if by_ray else "failures.jsonl")
        facts["failures"] += f" ({for_good}listed in {listed})"
    if summary.no_record or summary.by_update or summary.by_value:
        facts["targets"] += (
            f" ({summary.by_events} proven by events, {summary.by_update} by last update, "
            f"{summary.by_value} by value, {summary.no_record} without a record)"
        )
        facts["oldest full proof"] = f"{summary.oldest_proof}"
    if summary.skipped:
        facts["users"] += f" ({summary.skipped} of the list were done before)"
    if summary.unannounced_events or summary.missing_events:
        facts["notifications"] = (
            f"{summary.unannounced_events} new events were never announced; "
            f"{summary.missing_events} announced ones are not there (see {out / 'announcements'})"
        )
    if summary.reconciled_targets:
        facts["events"] += (
            f" ({summary.late_events} late ones; {summary.vanished_events} are gone from the "
            f"server; {summary.reconciled_targets} targets were read again)"
        )
    return facts


def _planned(plan: Plan, *, rated: bool) -> dict[str, str]:
    facts = {
        "users": f"{plan.users} ({plan.sampled} of them asked for this, {plan.asked} requests)",
        "requests": _about(plan.requests),
        "size": f"{_about(plan.size.scaled(1e-6), 1)} MB, {plan.held / 1e6:.1f} of them now",
    }
    if plan.hours is not None:
        facts["hours"] = _about(plan.hours, 2)
    elif not rated:
        facts["hours"] = "say --rate to know"
    if plan.requests.low != plan.requests.high:
        facts["in brackets"] = "bounds made for 95 in 100 samples; sizes miss theirs more often"
    return facts


def _about(given: Estimate, places: int = 0) -> str:
    value, low, high = (f"{one:.{places}f}" for one in (given.value, given.low, given.high))
    return value if low == high else f"about {value} ({low} to {high})"
