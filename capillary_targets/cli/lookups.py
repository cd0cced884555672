"""`targets` and `events`: one user's answers, on the terminal or as JSON Lines."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from cyclopts import Parameter

from capillary_targets.errors import UsageError
from capillary_targets.sandbox import Sandbox

from . import output
from .connection import connected

__all__ = ["events", "targets"]

JsonFlag = Annotated[bool, Parameter(name="--json")]
Ids = Annotated[list[int] | None, Parameter(name="--rule")]


async def targets(
    user: int,
    /,
    *,
    rules: Ids = None,
    enrollment_type: str | None = None,
    tracking_date: datetime | None = None,
    only_user_created: bool | None = None,
    as_json: JsonFlag = False,
    sandbox: bool = False,
) -> int:
    """Show the targets that a user is enrolled in.

    Args:
        user: The user's id.
        rules: Only this target (rule) id; may be given several times.
        enrollment_type: Only targets of this enrolment: TRANSACTION, IMPORT, AUDIENCE_FILTER.
        tracking_date: As of this moment, with its zone: 2024-08-09T08:44:44+00:00.
        only_user_created: Only targets that the user made.
        as_json: JSON Lines even on a terminal; elsewhere they are what comes anyway.
        sandbox: Ask a sandbox started for the occasion: no account needed.
    """
    if tracking_date is not None and tracking_date.tzinfo is None:
        raise UsageError(
            f"--tracking-date needs a time zone: write {tracking_date.isoformat()}+00:00 for UTC"
        )
    async with connected(Sandbox() if sandbox else None) as client:
        found = await client.active_targets(
            user,
            target_rule_ids=rules or (),
            enrollment_type=enrollment_type,
            tracking_date=tracking_date,
            only_user_created=only_user_created,
        )
    if output.is_wanted_as_json(asked=as_json):
        output.write_rows(found)
    else:
        output.show_targets(user, found)
    return 0


async def events(
    user: int,
    rule: int,
    /,
    *,
    period: str | None = None,
    page_size: int = 100,
    max_items: int | None = None,
    as_json: JsonFlag = False,
    sandbox: bool = False,
) -> int:
    """Show the events that counted towards one of a user's targets, oldest first.

    Args:
        user: The user's id.
        rule: The target's (rule) id, as `targets` shows it.
        period: Only events of this period: its id, its refCode, or "current".
        page_size: Events asked for in one request.
        max_items: At most so many events.
        as_json: JSON Lines even on a terminal; elsewhere they are what comes anyway.
        sandbox: Ask a sandbox started for the occasion: no account needed.
    """
    async with connected(Sandbox() if sandbox else None, page_size=page_size) as client:
        named = int(period) if period is not None and period.isdecimal() else period
        pager = client.events(user, rule, period=named, max_items=max_items)
        if not output.is_wanted_as_json(asked=as_json):
            output.show_events(user, rule, await pager.collect())
        else:
            async for page in pager.pages():
                output.write_rows(page.events)
    report = pager.report
    if report.complete or max_items is not None:
        return 0
    output.warn(f"not everything came: {report.events} of {report.total} events; {report.reason}")
    return 1
