"""`user`, `targets`, `events` and `explain`: one member's answers, as tables or as JSON Lines."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import ROUND_FLOOR, Decimal
from typing import Annotated, Final

from cyclopts import Parameter

from capillary_targets.errors import UsageError
from capillary_targets.members import Streak, UserTargetGroups
from capillary_targets.models import Target, TargetEvent
from capillary_targets.progress import Cycle, TargetProgress, progress_of

from . import output
from .connection import DEFAULT, Query, Rules

_BAR: Final = 10


async def targets(
    user: int,
    /,
    *,
    rules: Rules = None,
    enrollment_type: str | None = None,
    tracking_date: datetime | None = None,
    only_user_created: bool | None = None,
    query: Query = DEFAULT,
) -> None:
    """Show the targets that a user is enrolled in.

    Try it without an account:

        capillary-targets targets 42381788 --sandbox

    Args:
        user: The user's id.
        rules: Only this target (rule) id; may be given several times.
        enrollment_type: Only targets of this enrolment: TRANSACTION, IMPORT, AUDIENCE_FILTER.
        tracking_date: As of this moment, with its zone: 2024-08-09T08:44:44+00:00.
        only_user_created: Only targets that the user made.
        query: How to reach the API, and how to print.
    """
    async with query.client() as client:
        found = await client.active_targets(
            user,
            target_rule_ids=rules or (),
            enrollment_type=enrollment_type,
            tracking_date=tracking_date,
            only_user_created=only_user_created,
        )
    query.show(f"Targets of user {user}: {len(found)}", found, _target)


def _target(one: Target) -> Mapping[str, object]:
    return {
        "id": one.id,
        "name": one.name,
        "type, entity": ", ".join(filter(None, (one.target_type, one.target_entity))),
        "group": one.target_group_id,
        "active": one.active,
        "enrolment": one.enrolment_method,
        "created on": one.attribution and one.attribution.created_on,
    }


async def events(
    user: int,
    rule: int,
    /,
    *,
    period: int | str | None = None,
    page_size: int = 100,
    max_items: int | None = None,
    query: Query = DEFAULT,
) -> None:
    """Show the events that counted towards one of a user's targets, oldest first.

    Try it without an account:

        capillary-targets events 564332013 1986 --sandbox

    Args:
        user: The user's id.
        rule: The target's (rule) id, as `targets` shows it.
        period: Only events of this period: its id, its refCode, or "current".
        page_size: Events asked for in one request.
        max_items: At most so many events.
        query: How to reach the API, and how to print.
    """
    async with query.client(page_size=page_size) as client:
        pager = client.events(user, rule, period=period, max_items=max_items)
        if query.is_json:
            async for page in pager.pages():  # as they come: there may be any number
                query.show("", page.events, _event)
            return
        found = await pager.collect()
    query.show(f"Events of user {user} towards target {rule}: {len(found)}", found, _event)


def _event(one: TargetEvent) -> Mapping[str, object]:
    return {
        "event log id": one.event_log_id,
        "date": one.event_date,
        "event": one.event_name,
        "display name": one.event_display_name,
        "unique id": one.unique_id,
        "period": one.period_id,
        "value": one.target_value,
    }


async def explain(
    user: int,
    rule: int,
    /,
    *,
    period: int | str | None = None,
    query: Query = DEFAULT,
) -> None:
    """Show a target's events beside the service's own value, cycle by cycle, and what explains it.

    Where the sum of the events is not what the service counts, it says which of its settings may be
    the reason: unsigned or ignored returns, a carried-over start, a cap, ... or what is left over.

    Try it without an account:

        capillary-targets explain 1000001 3005 --sandbox

    Args:
        user: The user's id.
        rule: The target's (rule) id, as `targets` shows it.
        period: Only this period: its id, its refCode, or "current".
        query: How to reach the API, and how to print.
    """
    async with query.client() as client:
        found = await client.reconcile(user, rule, period=period)
    if found.cycles:
        title = f"Target {rule} of user {user}: {found.cycles[0].progress.target_name or ''}"
        query.show(title, found.cycles, _explained, _explained_fields)
    if not found.is_member:
        output.note(f"user {user} is not in target {rule}; `targets {user}` shows theirs")
    elif not found.cycles:
        which = "" if period is None else f" in period {period}"
        output.note(f"user {user} is in target {rule}, without a record or events{which}")
    for warning in found.warnings:
        query.warn(f"the service says: {warning.message} [{warning.code}]")


def _explained(one: Cycle) -> Mapping[str, object]:
    return {
        "period": one.progress.period or one.progress.period_id,
        "ends": one.progress.period_end,
        "events": len(one.events),
        "sum of events": one.event_sum,
        "service says": one.progress.achieved_value,
        "of": one.progress.target_value,
        "remaining": one.progress.remaining,
        "achieved on": one.progress.achieved_on,
        "explained by": one.verdict,
    }


def _explained_fields(one: Cycle) -> Mapping[str, object]:
    return {
        **one.progress.to_dict(),
        "events": len(one.events),
        "event_sum": one.event_sum,
        "difference": one.difference,
        "explanations": [str(found) for found in one.explanations],
        "unexplained": one.unexplained,
    }


async def user(
    *,
    mobile: str | None = None,
    email: str | None = None,
    external_id: str | None = None,
    user_id: Annotated[int | None, Parameter(name="--id")] = None,
    source: str = "INSTORE",
    account_id: str | None = None,
    all_periods: bool = False,
    show_profile: bool = False,
    query: Query = DEFAULT,
) -> None:
    """Show who a member is, which targets they are in, how far along, and what to ask next.

    Try it without an account:

        capillary-targets user --mobile 919001000001 --sandbox

    Args:
        mobile: The member's mobile number, with its country code: 919001000001.
        email: The member's e-mail address.
        external_id: The member's id in a system of yours.
        user_id: The user id itself, where it is known.
        source: Where the identifier is registered: INSTORE, WECHAT, ... or ALL.
        account_id: The account of a source that has several.
        all_periods: Not only the running period of each target, but all of them.
        show_profile: The member's name and addresses too: personal data.
        query: How to reach the API, and how to print.
    """
    identifiers = {"mobile": mobile, "email": email, "externalId": external_id}
    given = [(name, value) for name, value in identifiers.items() if value]
    if len(given) + (user_id is not None) != 1:
        raise UsageError("give one of --mobile, --email, --external-id and --id, and only one")
    async with query.client() as client:
        if user_id is None:
            ((name, value),) = given
            user_id = await client.find_customer(
                identifier_name=name, identifier_value=value, source=source, account_id=account_id
            )
        groups = await client.target_groups(user_id, include_inactive=all_periods or None)
    if query.is_json:
        line = groups.to_dict()
        if not show_profile:
            del line["customer"]
        output.write_json([line])
    else:
        _show_user(groups, show_profile=show_profile, sandbox=query.sandbox)
    for warning in groups.warnings:
        query.warn(f"the service says: {warning.message} [{warning.code}]")


def _show_user(groups: UserTargetGroups, *, show_profile: bool, sandbox: bool) -> None:
    output.write(f"User {groups.user_id}\n")
    for one in groups.customer.profiles if show_profile and groups.customer else ():
        name = " ".join(filter(None, (one.first_name, one.last_name))) or "(no name)"
        known = [f"{way.type} {way.value}" for way in one.comm_channels if way.value]
        line = ", ".join([f"{name} ({one.source or 'no source'})", *known])
        output.write(f"  {output.printable(line)}\n")
    targets = [progress_of(group, one) for group in groups.target_groups for one in group.targets]
    rules = dict.fromkeys(one.target_rule_id for one in targets)
    if targets:
        output.show_records(f"Targets: {len(rules)}", [_progress(one) for one in targets])
    else:
        output.write("No target has a period running; --all-periods shows the other periods.\n")
    if streaks := [one for group in groups.target_groups for one in group.streaks]:
        output.show_records(f"Streaks: {len(streaks)}", [_streak(one) for one in streaks])
    if rules:
        output.write("Next, the events that counted:\n")
    for rule in rules:
        running = any(one.is_current for one in targets if one.target_rule_id == rule)
        flags = " --period current" * running + " --sandbox" * sandbox
        output.write(f"  capillary-targets events {groups.user_id} {rule}{flags}\n")


def _progress(one: TargetProgress) -> Mapping[str, object]:
    return {
        "rule": one.target_rule_id,
        "target": one.target_name,
        "period": one.period or one.period_id,
        "ends": one.period_end,
        "achieved": one.achieved_value,
        "of": one.target_value,
        "progress": _bar(one.share),
    }


def _bar(progress: Decimal | None) -> str:
    """Full and empty blocks, then per cent; never quite full before the target is reached."""
    if progress is None:
        return ""
    full = int(min(max(progress, Decimal(0)), Decimal(1)) * _BAR)
    percent = (progress * 100).to_integral_value(ROUND_FLOOR)
    return f"{'█' * full}{'░' * (_BAR - full)} {percent}%"


def _streak(one: Streak) -> Mapping[str, object]:
    return {
        "streak": one.streak_id,
        "name": one.streak_name,
        "status": one.status,
        "count": one.current_count,
        "of": one.total_target_count_of_sequence,
    }
