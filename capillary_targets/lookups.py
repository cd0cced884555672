"""Look-ups: from an identifier to a customer, to its target groups, to their periods.

One coroutine for each endpoint, and `resolve_period` from a period's name to its id. Their first
argument is the session of `open_session`, as in `endpoints`. Which of the endpoints the vendor is
phasing out: `docs/lookups.md`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import quote, urlencode

from attrs import evolve

from .endpoints import checked_id, with_query
from .errors import BadResponse, UnknownPeriod, UsageError
from .members import PeriodList, TargetPeriod, UserTargetGroups
from .models import ApiWarning
from .session import Session
from .structuring import Structurer
from .transport import RedactedPath, get
from .wire import Answer, data_of, success, warnings_of

CURRENT: Final = "current"
"""The name of the period that is running, whatever its refCode."""

_NAMES: Final = re.compile(r"[A-Za-z_]+(,[A-Za-z_]+)*")
_REDACTED_LENGTH: Final = 4
"""Shorter texts are no personal data by themselves, and occur in other words."""
_RUNNING: Final = frozenset({"RUNNING", "LIVE"})
_STATUS: Final = {True: "RUNNING", False: None, None: None}
"""The status of a period that is current, or not, or not said to be."""


@contextmanager
def _without_excerpt() -> Iterator[None]:
    """Keep no excerpt of an answer about a person: it would be personal data."""
    try:
        yield
    except BadResponse as error:
        error.excerpt = ""
        raise


async def find_customer(
    session: Session,
    *,
    identifier_name: str,
    identifier_value: str,
    source: str = "INSTORE",
    account_id: str | None = None,
) -> int:
    """The customer (user) id behind an identifier (API page "Get Customer ID").

    Where several members may share an identifier ("dual eligibility"), the API takes several at
    once: the names, and the values in the same order, each separated by commas.

    Args:
        session: of `open_session`.
        identifier_name: mobile, email, externalId, cardnumber, cardExternalId, wechat, martjackId
            or fbId.
        identifier_value: a mobile number with its country code and no plus: 919…. Personal data:
            it goes to the server and appears in no error, log line or hook.
        source: INSTORE, WECHAT, FACEBOOK, ... or ALL.
        account_id: for sources with several accounts.

    Raises:
        CustomerNotFound: no customer has this identifier; `CustomerNotInSource`: not in the source.
        AccountIdMissing: the source has several accounts.
        InvalidIdentifier: not valid, by its name or by its value.
        InvalidSourceAccount: the source has no such account.
        CapillaryError: whatever any request can raise.

    """
    _check(identifier_name, identifier_value, source, account_id)
    account = {} if account_id is None else {"accountId": account_id}
    query = {"source": source, **account, "identifierName": identifier_name}

    @_without_excerpt()
    def read(answer: Answer, structurer: Structurer) -> int:
        return structurer.structure(success(answer).get("entity"), int, "entity")

    return await get(session, _lookup(query, identifier_value), read)


async def target_groups(
    session: Session,
    user_id: int,
    *,
    include_inactive: bool | None = None,
    target_rule_id: int | None = None,
    include_inactive_targets: bool | None = None,
) -> UserTargetGroups:
    """A user's target groups with the progress in each (API page "Get Associated Target Groups").

    By default those targets that are active, in the running period. The answer also holds the
    customer's profile, personal data.

    Args:
        session: of `open_session`.
        user_id: 64 bits.
        include_inactive: the other periods too.
        target_rule_id: only this target.
        include_inactive_targets: the deactivated targets too.

    Raises:
        InvalidUser: no member has this id.
        CapillaryError: whatever any request can raise.

    """
    if target_rule_id is not None:
        checked_id("target_rule_id", target_rule_id)
    query = {
        "includeInactive": include_inactive,
        "targetRuleId": target_rule_id,
        "includeInactiveTargets": include_inactive_targets,
    }
    path = f"/v3/users/{checked_id('user_id', user_id)}/targetGroups"

    @_without_excerpt()
    def read(answer: Answer, structurer: Structurer) -> UserTargetGroups:
        document = success(answer)
        data = data_of(document, answer)
        found = structurer.structure(data, UserTargetGroups, "data", answer.notes)
        warnings = warnings_of(document.get("warnings"), answer.notes)
        if found.user_id != user_id:  # it may be right: of merged accounts one is left
            note = f"the answer names another user than {user_id}: {found.user_id}"
            warnings += (ApiWarning(None, note),)
        return evolve(found, warnings=warnings, request_id=answer.request_id)

    return await get(session, with_query(path, query), read)


async def target_periods(session: Session, target_group_id: int) -> PeriodList:
    """The periods (cycles) of a target group, all of them (API page "Get target periods").

    Raises `TargetGroupNotFound`, and whatever any request can raise.
    """
    group = checked_id("target_group_id", target_group_id)

    def read(answer: Answer, structurer: Structurer) -> PeriodList:
        data = data_of(success(answer), answer)
        found = PeriodList(structurer.structure(data, tuple[TargetPeriod, ...], "data"))
        if found and all(one.target_group_id not in {group, None} for one in found):
            raise BadResponse(
                f"an answer to another call: no period is of target group {group}",
                where="data[0].targetGroupId",
                retryable=True,
            )
        return found

    return await get(session, f"/v3/targetGroups/{group}/targetPeriods", read)


def _check(name: str, value: str, source: str, account_id: str | None) -> None:
    """Raise `UsageError`, which never repeats what it was given: it may be in the wrong place."""
    for given, text, such in (
        ("identifier_name", name, "mobile, email or externalId"),
        ("source", source, "INSTORE or ALL"),
    ):
        if not isinstance(text, str) or not _NAMES.fullmatch(text):
            raise UsageError(f"{given} must be a name such as {such}")
    account = "none" if account_id is None else account_id
    for given, text in (("identifier_value", value), ("account_id", account)):
        if not isinstance(text, str) or not text.strip() or not text.isprintable():
            raise UsageError(f"{given} must be a text that can be printed, and not empty")


def _lookup(query: dict[str, str], value: str) -> RedactedPath:
    shown = f"/v2/customers/lookup?{urlencode(query, quote_via=quote, safe='')}&identifierValue="
    return RedactedPath(f"{shown}{quote(value, safe='')}", f"{shown}[hidden]", _spellings(value))


def _spellings(value: str) -> tuple[str, ...]:
    """The spellings in which a server may repeat an identifier, longest first."""
    words = set()
    for part in {value, *value.split(",")}:
        plain = part.strip()
        digits = re.sub(r"\D", "", plain)
        words |= {plain, plain.lower(), plain.upper(), quote(plain, safe=""), plain.lstrip("+0")}
        if plain.strip("+0123456789 ()-.") == "":  # a telephone number: with or without its prefix
            words |= {digits, digits[-10:], f"+{digits}"}
    return tuple(
        sorted((word for word in words if len(word) >= _REDACTED_LENGTH), key=len, reverse=True)
    )


# --- a period by its name ---


def checked_period(period: int | str | None) -> int | str | None:
    """`period` if it may be a period's id or name, or None. Raises `UsageError`."""
    if isinstance(period, str):
        if not period.strip():
            raise UsageError('period must be "current", a refCode or an id')
    elif period is not None:
        return checked_id("period", period)
    return period


async def resolve_period(session: Session, user_id: int, target_rule_id: int, name: str) -> int:
    """The id of a period that is given by name.

    The answer about the user's groups mostly has it: that is one request. Otherwise the periods of
    the target's group are asked for as well. What is current, the service decides (`currentPeriod`,
    or the status RUNNING), not a clock of ours in another zone.

    Args:
        session: of `open_session`.
        user_id: 64 bits.
        target_rule_id: the `id` of a `Target`.
        name: "current", or a refCode ("Cycle_3"); blanks around it do not count.

    Raises:
        UnknownPeriod: there is none of that name, or more than one; it lists those that exist.
        CapillaryError: whatever `target_groups` and `target_periods` can raise.

    """
    answer = await target_groups(
        session,
        user_id,
        target_rule_id=target_rule_id,
        # Events are kept of periods that are over, and of targets that were deactivated.
        include_inactive=True,
        include_inactive_targets=True,
    )
    # The server may ignore targetRuleId.
    held = [
        (group.id, one)
        for group in answer.target_groups
        for one in group.targets
        if one.target_rule_id == target_rule_id
    ]
    if not held:
        raise UnknownPeriod(
            f"user {user_id} is not in target {target_rule_id}: it has no period {name!r} for them"
        )
    periods = [
        TargetPeriod(one.period_id, one.period_ref_code, period_status=_STATUS[one.current_period])
        for _, one in held
        if one.period_id is not None
    ]
    found = _named(name, periods)
    if not found:
        groups = dict.fromkeys(group for group, _ in held)
        periods = [one for group in groups for one in await target_periods(session, group)]
        found = _named(name, periods)
    if len(found) == 1:
        return found.popitem()[0]
    kind = "running" if name == CURRENT else f"with the refCode {name!r}"
    number = f"{len(found)} periods" if found else "no period"
    candidates = [*found.values()] or periods
    raise UnknownPeriod(
        f"target {target_rule_id} has {number} {kind}; "
        f"{'give the id of one' if found else 'there are'}: "
        f"{', '.join(map(_shown, candidates)) or 'none at all'}",
        known=tuple(one.ref_code for one in candidates if one.ref_code),
    )


def _named(name: str, periods: Iterable[TargetPeriod]) -> dict[int, TargetPeriod]:
    """The periods of that name, by id. A refCode has been printed with a blank at its end."""
    return {
        one.id: one
        for one in periods
        if (name == CURRENT and one.period_status in _RUNNING)
        or (name != CURRENT and (one.ref_code or "").strip() == name.strip())
    }


def _shown(period: TargetPeriod) -> str:
    facts = ", ".join(filter(None, (period.ref_code, period.period_status)))
    return f"{period.id} ({facts})" if facts else f"{period.id}"
