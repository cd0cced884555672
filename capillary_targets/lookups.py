"""The calls around the two: from an identifier to a customer, to its targets, to their periods.

One coroutine for each endpoint, fed by a session of `open_session`, as in `endpoints`. Which of
them the vendor is phasing out: `docs/lookups.md`.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, urlencode

from .endpoints import checked_id, with_query
from .errors import UsageError
from .lookup_wire import read_customer_id, read_target_groups, read_target_periods
from .members import TargetPeriod, UserTargetGroups
from .private import PrivatePath
from .session import Session
from .transport import get

__all__ = ["find_customer", "target_groups", "target_periods"]

_NAMES: Final = re.compile(r"[A-Za-z_]+(,[A-Za-z_]+)*")
_HIDDEN: Final = "[hidden]"
_TELLING: Final = 4
"""From so many characters on, a text says something about a person wherever it is repeated."""


async def find_customer(
    session: Session,
    *,
    identifier_name: str,
    identifier_value: str,
    source: str = "INSTORE",
    account_id: str | None = None,
) -> int:
    """The customer (user) id behind an identifier (API page "Get Customer ID").

    `identifier_name` is mobile, email, externalId, cardnumber, cardExternalId, wechat, martjackId
    or fbId. A mobile number is written with its country code and no plus: 919…. `source` is
    INSTORE, WECHAT, FACEBOOK, ... or ALL; sources with several accounts want `account_id`. Where
    several members may share an identifier ("dual eligibility"), the API takes several at once:
    the names, and the values in the same order, each separated by commas.

    The value is personal data: it goes to the server and appears in no error, log line or hook.

    Raises `CustomerNotFound`, `CustomerNotInSource`, `AccountIdMissing`, `InvalidIdentifier`,
    `InvalidSourceAccount`, `UsageError`, and whatever any request can raise.
    """
    _check(identifier_name, identifier_value, source, account_id)
    query = {"source": source}
    if account_id is not None:
        query["accountId"] = account_id
    query["identifierName"] = identifier_name
    shown = f"{_lookup(query)}&identifierValue={_HIDDEN}"
    sent = _lookup(query | {"identifierValue": identifier_value})
    path = PrivatePath(sent, shown, _words(identifier_value))
    return await get(session, path, read_customer_id)


async def target_groups(
    session: Session,
    user_id: int,
    *,
    include_inactive: bool | None = None,
    target_rule_id: int | None = None,
    include_inactive_targets: bool | None = None,
) -> UserTargetGroups:
    """A user's target groups with the progress in each (API page "Get Associated Target Groups").

    By default those targets that are active, in the running period. `include_inactive` adds the
    other periods, `include_inactive_targets` the deactivated targets; `target_rule_id` keeps only
    that target. The answer also holds the customer's profile, personal data.

    Raises `InvalidUser`, and whatever any request can raise.
    """
    query: dict[str, str] = {}
    if include_inactive is not None:
        query["includeInactive"] = _flag(include_inactive)
    if target_rule_id is not None:
        query["targetRuleId"] = str(checked_id("target_rule_id", target_rule_id))
    if include_inactive_targets is not None:
        query["includeInactiveTargets"] = _flag(include_inactive_targets)
    path = f"/v3/users/{checked_id('user_id', user_id)}/targetGroups"
    return await get(session, with_query(path, query), read_target_groups)


async def target_periods(session: Session, target_group_id: int) -> list[TargetPeriod]:
    """The periods (cycles) of a target group, all of them (API page "Get target periods").

    Raises `TargetGroupNotFound`, and whatever any request can raise.
    """
    group = checked_id("target_group_id", target_group_id)
    return await get(session, f"/v3/targetGroups/{group}/targetPeriods", read_target_periods)


def _check(name: str, value: str, source: str, account_id: str | None) -> None:
    """Raise `UsageError`, which never repeats what it was given: it may be in the wrong place."""
    if not isinstance(name, str) or not _NAMES.fullmatch(name):
        raise UsageError("identifier_name must be a name such as mobile, email or externalId")
    if not isinstance(source, str) or not _NAMES.fullmatch(source):
        raise UsageError("source must be a name such as INSTORE or ALL")
    texts = {"identifier_value": value}
    if account_id is not None:
        texts["account_id"] = account_id
    for given, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise UsageError(f"{given} must be a text that is not empty")
        if not text.isprintable():
            raise UsageError(f"{given} holds characters that cannot be printed")


def _lookup(query: dict[str, str]) -> str:
    return f"/v2/customers/lookup?{urlencode(query, quote_via=quote, safe='')}"


def _flag(value: bool) -> str:  # noqa: FBT001 - it is the value
    return "true" if value else "false"


def _words(value: str) -> tuple[str, ...]:
    """The spellings in which a server may repeat an identifier, longest first."""
    words = set()
    for part in {value, *value.split(",")}:
        plain = part.strip()
        digits = re.sub(r"\D", "", plain)
        words |= {plain, plain.lower(), plain.upper(), quote(plain, safe=""), plain.lstrip("+0")}
        if plain.strip("+0123456789 ()-.") == "":  # a telephone number: with or without its prefix
            words |= {digits, digits[-10:], f"+{digits}"}
    return tuple(sorted((word for word in words if len(word) >= _TELLING), key=len, reverse=True))
