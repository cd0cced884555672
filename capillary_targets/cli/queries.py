"""`user`, `targets` and `events`: one member's answers, as tables or as JSON Lines."""

from __future__ import annotations

import sys
from datetime import datetime
from decimal import ROUND_FLOOR, Decimal
from typing import Annotated, Final

import attrs
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from capillary_targets.errors import UsageError
from capillary_targets.members import Customer, Streak, UserTarget, UserTargetGroups
from capillary_targets.sandbox import Sandbox
from capillary_targets.sweep.rows import encode

from . import output
from .connection import connected

__all__ = ["events", "targets", "user"]

_WIDTH: Final = 10

JsonFlag = Annotated[bool, Parameter(name="--json")]
UserId = Annotated[int | None, Parameter(name="--id")]
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


async def user(
    *,
    mobile: str | None = None,
    email: str | None = None,
    external_id: str | None = None,
    user_id: UserId = None,
    source: str = "INSTORE",
    account_id: str | None = None,
    all_periods: bool = False,
    show_profile: bool = False,
    as_json: JsonFlag = False,
    sandbox: bool = False,
) -> int:
    """Show who a member is, which targets they are in, how far along, and what to ask next.

    Args:
        mobile: The member's mobile number, with its country code: 919001000001.
        email: The member's e-mail address.
        external_id: The member's id in a system of yours.
        user_id: The user id itself, where it is known.
        source: Where the identifier is registered: INSTORE, WECHAT, ... or ALL.
        account_id: The account of a source that has several.
        all_periods: Not only the running period of each target, but all of them.
        show_profile: The member's name and addresses too: personal data.
        as_json: One line of JSON even on a terminal; elsewhere it is what comes anyway.
        sandbox: Ask a sandbox started for the occasion: no account needed.
    """
    identifiers = {"mobile": mobile, "email": email, "externalId": external_id}
    given = [(name, value) for name, value in identifiers.items() if value is not None]
    if len(given) + (user_id is not None) != 1:
        raise UsageError("give one of --mobile, --email, --external-id and --id, and only one")
    async with connected(Sandbox() if sandbox else None) as client:
        if user_id is None:
            ((name, value),) = given
            user_id = await client.find_customer(
                identifier_name=name, identifier_value=value, source=source, account_id=account_id
            )
        groups = await client.target_groups(user_id, include_inactive=all_periods or None)
    if output.is_wanted_as_json(asked=as_json):
        _write(groups, show_profile=show_profile)
    else:
        _show(groups, show_profile=show_profile, sandbox=sandbox)
    for warning in groups.warnings:
        output.warn(f"the service says: {warning.message} [{warning.code}]")
    return 0


def _write(groups: UserTargetGroups, *, show_profile: bool) -> None:
    """One line of JSON; the profile is in it only if it was asked for."""
    line = attrs.asdict(groups)
    if not show_profile:
        del line["customer"]
    sys.stdout.write(encode(line).decode() + "\n")


def _show(groups: UserTargetGroups, *, show_profile: bool, sandbox: bool) -> None:
    # What the server sent is text, never markup, emoji names or something to be coloured in.
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(f"User {groups.user_id}")
    if show_profile and groups.customer is not None:
        for line in _profile(groups.customer):
            console.print(f"  {line}")
    targets = list(groups.targets())
    if targets:
        console.print(_table(targets, blocks="#." if console.options.ascii_only else "█░"))
    else:
        console.print("No target has a period running; --all-periods shows the other periods.")
    streaks = [one for group in groups.target_groups for one in group.streaks]
    if streaks:
        console.print(_streaks(streaks))
    rules = dict.fromkeys(one.target_rule_id for one in targets)
    if rules:
        console.print("Next, the events that counted:")
    for rule in rules:
        running = any(one.current_period for one in targets if one.target_rule_id == rule)
        flags = [" --period current"] * running + [" --sandbox"] * sandbox
        console.print(f"  capillary-targets events {groups.user_id} {rule}{''.join(flags)}")


def _profile(customer: Customer) -> list[str]:
    """Name and addresses in each source."""
    lines = []
    for one in customer.profiles:
        name = " ".join(filter(None, (one.first_name, one.last_name))) or "(no name)"
        known = [f"{way.type} {way.value}" for way in one.comm_channels if way.value]
        lines.append(", ".join([f"{name} ({one.source or 'no source'})", *known]))
    return lines


def _table(targets: list[UserTarget], *, blocks: str) -> Table:
    rules = {one.target_rule_id for one in targets}
    table = Table(title=f"Targets: {len(rules)}", title_justify="left")
    for name in ("rule", "target", "period", "ends", "achieved", "of", "progress"):
        words = name in {"target", "period"}
        right = name in {"rule", "achieved", "of"}
        table.add_column(
            name, justify="right" if right else "left", no_wrap=not words, overflow="fold"
        )
    for one in targets:
        table.add_row(
            str(one.target_rule_id),
            one.target_name,
            one.period_ref_code or _text(one.period_id),
            _text(one.period_end_date),
            _text(one.target_achieved_value),
            _text(one.target_value),
            _bar(one.progress, blocks),
        )
    return table


def _bar(progress: Decimal | None, blocks: str) -> str:
    """Full and empty blocks, then per cent; never quite full before the target is reached."""
    if progress is None:
        return ""
    done = int(min(max(progress, Decimal(0)), Decimal(1)) * _WIDTH)
    percent = (progress * 100).to_integral_value(ROUND_FLOOR)
    return f"{blocks[0] * done}{blocks[1] * (_WIDTH - done)} {percent}%"


def _streaks(streaks: list[Streak]) -> Table:
    table = Table(title=f"Streaks: {len(streaks)}", title_justify="left")
    for name in ("streak", "name", "status", "count", "of"):
        table.add_column(name, justify="right" if name in {"streak", "count", "of"} else "left")
    for one in streaks:
        table.add_row(
            _text(one.streak_id),
            one.streak_name,
            one.status,
            _text(one.current_count),
            _text(one.total_target_count_of_sequence),
        )
    return table


def _text(value: object) -> str | None:
    return None if value is None else str(value)
