"""Endpoint coroutines: one for each of the two calls. Their first argument is the session."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import index
from typing import Final
from urllib.parse import urlencode

from .errors import UsageError
from .frames import TargetList
from .models import EventsPage
from .session import Session
from .structuring import Structurer
from .transport import get
from .wire import Answer, NullData, read_events, read_targets

__all__ = ["active_targets", "checked_id", "pages_of", "target_events", "with_query"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LONGS: Final = range(-(2**63), 2**63)


def checked_id(name: str, value: object) -> int:
    """`value` as the 64-bit integer that the API's ids are. Raises `UsageError`."""
    if type(value) is int and value in _LONGS:
        return value
    if type(value) is not int and not isinstance(value, bool):
        with suppress(TypeError):
            return checked_id(name, index(value))  # type: ignore[arg-type] # numpy's, for one
    raise UsageError(f"{name} must be an integer of 64 bits, not {value!r}")


async def active_targets(
    session: Session,
    user_id: int,
    *,
    target_rule_ids: Iterable[int] = (),
    tracking_date: datetime | None = None,
    enrollment_type: str | None = None,
    only_user_created: bool | None = None,
) -> TargetList:
    """The targets that a user is enrolled in (API page "Get active targets"), as a list.

    Where the service answers null and no error, it is asked again, as often as the retry policy
    allows; if it stays null, the list is empty, and its `warnings` say so.

    Args:
        session: of `open_session`.
        user_id: 64 bits.
        target_rule_ids: only these targets; none given: all.
        tracking_date: as of when; aware, sent as epoch milliseconds.
        enrollment_type: TRANSACTION, IMPORT or AUDIENCE_FILTER.
        only_user_created: only challenges that users made for themselves.

    Raises:
        InvalidUser: no member has this id.
        InvalidEnrollmentType: not one of the three.
        CapillaryError: whatever any request can raise.

    """
    if tracking_date is not None and tracking_date.tzinfo is None:
        raise UsageError("tracking_date must have a time zone, such as +00:00 of UTC")
    rules = [str(checked_id("target_rule_ids", rule)) for rule in target_rule_ids]
    query = {
        "targetRuleIds": ",".join(rules) or None,
        "enrollmentType": enrollment_type,
        "trackingDate": tracking_date and (tracking_date - _EPOCH) // timedelta(milliseconds=1),
        "includeOnlyUserCreated": only_user_created,
    }
    path = f"/v3/users/{checked_id('user_id', user_id)}/enrolledTargets"
    try:
        return await get(session, with_query(path, query), read_targets)
    except NullData as error:
        if error.attempts < session.settings.retry.attempts:
            raise  # the deadline came first
        return TargetList(warnings=(error.as_warning(),))


async def target_events(
    session: Session,
    user_id: int,
    target_rule_id: int,
    *,
    period_id: int | None = None,
    limit: int | None = None,
    offset: int | None = None,
) -> EventsPage:
    """One page of the events that counted towards a target (API page "Get target events").

    Args:
        session: of `open_session`.
        user_id: 64 bits.
        target_rule_id: the `id` of a `Target`.
        period_id: only the events of this period.
        limit: events asked for.
        offset: the number of the page, from 0.

    Raises:
        InvalidUser: no member has this id.
        TargetRuleNotFound: no target has this id.
        TargetPeriodNotFound: no period has this id.
        NoRecordFound: the user has no record in this target; a pager reads it as "no events".
        CapillaryError: whatever any request can raise.

    """
    for name, value, least in (("limit", limit, 1), ("offset", offset, 0)):
        if value is not None and checked_id(name, value) < least:
            raise UsageError(f"{name} must be at least {least}, not {value}")
    path, read = _events_call(user_id, target_rule_id, period_id)
    query = {"periodId": period_id, "limit": limit, "offset": offset}
    return await get(session, with_query(path, query), read)


def pages_of(
    session: Session, user_id: int, target_rule_id: int, period_id: int | None
) -> Callable[[int, int], Awaitable[EventsPage]]:
    """`target_events` as a function of limit and offset, for many pages of one target."""
    path, read = _events_call(user_id, target_rule_id, period_id)
    path += "?" if period_id is None else f"?periodId={period_id}&"
    return lambda limit, offset: get(session, f"{path}limit={limit}&offset={offset}", read)


def _events_call(
    user_id: int, target_rule_id: int, period_id: int | None
) -> tuple[str, Callable[[Answer, Structurer], EventsPage]]:
    """The path of a target's events, and what reads a page of them."""
    user, rule = checked_id("user_id", user_id), checked_id("target_rule_id", target_rule_id)
    if period_id is not None:
        checked_id("period_id", period_id)
    read = partial(read_events, user_id=user, target_rule_id=rule, period_id=period_id)
    return f"/v3/users/{user}/trackedTargetEvents/{rule}", read


def with_query(path: str, query: Mapping[str, object]) -> str:
    """`path` with what is not None behind it, percent-encoded; booleans as true and false."""
    given = {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in query.items()
        if value is not None
    }
    # urlencode spells the comma %2C, as the API's own example does.
    return f"{path}?{urlencode(given)}" if given else path
