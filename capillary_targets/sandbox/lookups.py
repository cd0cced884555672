"""The calls around the two: who a customer is, which groups a user is in, which cycles there are.

Source: contract §11. All of it follows from the same world, so the numbers agree with the events.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from . import render
from .refusals import refuse, refuse_v2
from .routes import flag_of, number_of, user_of
from .seeded import TODAY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .data import World
    from .model import Event, Group, Period, Rule

_TODAY = TODAY.date().isoformat()
_JSON = msgspec.json.Encoder(decimal_format="number")
_FIRST_NAMES = ("Asha", "Ben", "Chloé", "Dmitri", "Eun", "Farah")
_EVENT_NAMES = {"EVENT": "appCheckIn", "TRANSACTION": "TransactionAdd"}
_ONE_ACCOUNT = {"INSTORE", "ALL"}
_SOURCES = _ONE_ACCOUNT | {
    "FACEBOOK",
    "WEB_ENGAGE",
    "WECHAT",
    "MARTJACK",
    "TMALL",
    "TAOBAO",
    "JD",
    "ECOMMERCE",
    "WEBSITE",
    "LINE",
}
ACCOUNT = "sandbox"
"""The one account that sources other than INSTORE have."""


def identifiers(user: int) -> dict[str, str]:
    """What a customer can be looked up by: identifierName to identifierValue."""
    return {
        "mobile": f"919{user:09d}",
        "email": f"user{user}@example.com",
        "externalId": f"EXT{user}",
    }


_PREFIXES = {"mobile": ("919", ""), "email": ("user", "@example.com"), "externalId": ("EXT", "")}


def user_behind(name: str, value: str) -> int | None:
    """The id in an identifier; None if it is not one of ours."""
    before, after = _PREFIXES[name]
    user = number_in(value.removeprefix(before).removesuffix(after))
    return user if user is not None and identifiers(user)[name] == value else None


def number_in(text: str) -> int | None:
    """The id that a text of plain digits spells; None if it is anything else."""
    plain = text.isascii() and text.isdigit() and len(text) < 20
    return int(text) if plain else None


class Lookups:
    """Handlers of contract §11.1 to §11.3.

    Args:
        world: where the answers come from.

    """

    def __init__(self, world: World) -> None:
        self._world = world

    async def customer_id(self, request: web.Request) -> web.StreamResponse:
        """`GET /v2/customers/lookup`, which has an envelope of its own. All are INSTORE."""
        query = request.query
        source, name = query.get("source", ""), query.get("identifierName", "")
        value = query.get("identifierValue", "")
        if source not in _SOURCES or name not in _PREFIXES or not value:
            raise refuse_v2(8013)
        if source not in _ONE_ACCOUNT:
            if not query.get("accountId"):
                raise refuse_v2(8045)
            if query["accountId"] != ACCOUNT:
                raise refuse_v2(8011)
        user = user_behind(name, value)
        if user is None or not self._world.has_user(user):
            raise refuse_v2(8015)
        if source not in _ONE_ACCOUNT:
            raise refuse_v2(8065)
        return _answer({"entity": user, "warnings": []})

    async def target_groups(self, request: web.Request) -> web.StreamResponse:
        """`GET /v3/users/{user}/targetGroups`: the running cycle, or all of them."""
        user = user_of(request, self._world)
        every_cycle = flag_of(request, "includeInactive")
        # Every rule of this world is active, so there is nothing to add.
        flag_of(request, "includeInactiveTargets")
        wanted = number_of(request, "targetRuleId", 0)
        rules = [rule for rule in self._world.targets(user) if wanted in {None, rule.id}]
        groups = {rule.group.id: rule.group for rule in rules}
        data = {
            "userId": user,
            "customer": _customer(user),
            "targetGroups": [
                self._group(
                    group,
                    [rule for rule in rules if rule.group is group],
                    user,
                    every_cycle=every_cycle,
                )
                for group in groups.values()
            ],
        }
        return _answer({"data": data, "errors": None, "warnings": None})

    async def target_periods(self, request: web.Request) -> web.StreamResponse:
        """`GET /v3/targetGroups/{group}/targetPeriods`."""
        group_id = number_in(request.match_info["group"])
        group = None if group_id is None else self._world.group(group_id)
        if group is None:
            raise refuse(310017)
        rows = [
            {
                "id": period.id,
                "attribution": render.attribution(f"{period.start}T00:00:00.000+0000"),
                "startDate": period.start,
                "endDate": period.end,
                "refCode": period.ref_code,
                "periodStatus": status(period),
                "targetGroupId": group.id,
                "active": True,
            }
            for period in group.periods
        ]
        return _answer({"data": rows, "errors": None, "warnings": None})

    def _group(
        self, group: Group, rules: Iterable[Rule], user: int, *, every_cycle: bool
    ) -> dict[str, Any]:
        return {
            "id": group.id,
            "attribution": render.attribution("2024-12-15T00:00:00.000+0000"),
            "name": group.name,
            "orgId": 100,
            "preferredTillId": 751_552_970_000,
            "targets": [
                self._target(rule, period, user)
                for rule in rules
                for period in group.periods
                if every_cycle or status(period) == "RUNNING"
            ],
            "targetEvaluationType": "FIXED_CALENDAR_WINDOW",
            "trackingType": group.tracking_type,
        }

    def _target(self, rule: Rule, period: Period, user: int) -> dict[str, Any]:
        achieved = total(self._world.events(user, rule.id, period.id))
        value = Decimal(rule.default_value or "100.000")
        return {
            "targetId": user * 10_000 + rule.id % 10_000,
            "periodId": period.id,
            "periodRefCode": period.ref_code,
            "periodStartDate": period.start,
            "periodEndDate": period.end,
            "targetValue": value,
            "targetAchievedValue": achieved,
            "targetName": rule.name,
            "targetType": rule.target_type,
            "targetEntity": rule.target_entity,
            "targetRuleId": rule.id,
            "enrolledOn": "2025-01-01T00:00:00.000+0000",
            "eventName": _EVENT_NAMES.get(rule.target_entity, "TransactionAdd"),
            "periodStartDateWithTimeStamp": f"{period.start}T00:00:00.000Z",
            "periodEndDateWithTimeStamp": f"{period.end}T23:59:59.000Z",
            "targetAchievedDateTime": f"{period.end}T23:59:59.000Z" if achieved >= value else None,
            "currentPeriod": status(period) == "RUNNING",
            "milestones": None,
        }


def status(period: Period) -> str:
    """Whether a cycle is over on the world's own today, 2025-12-10."""
    if period.end < _TODAY:
        return "ENDED"
    return "RUNNING" if period.start <= _TODAY else "NOT_STARTED"


def total(rows: Iterable[Event]) -> Decimal:
    """The exact sum of the rows' amounts, to three decimals."""
    amounts = (Decimal(row.target_value) for row in rows if row.target_value is not None)
    return sum(amounts, Decimal("0.000"))


def _customer(user: int) -> dict[str, Any]:
    """A made-up person (personal data, where a real service answers)."""
    known = identifiers(user)
    channels: list[dict[str, Any]] = [
        {
            "type": kind,
            "accountId": "",
            "value": known[kind],
            "primary": True,
            "verified": kind == "mobile",
            "subscribed": True,
            "attributes": {},
        }
        for kind in ("mobile", "email")
    ]
    profile = {
        "firstName": _FIRST_NAMES[user % len(_FIRST_NAMES)],
        "lastName": f"Sample{user % 1000}",
        "commChannels": channels,
        "source": "INSTORE",
        "accountId": "",
        "userId": user,
        "orgSourceId": -1,
    }
    loyalty = {"loyaltyType": "loyalty", "lifetimePurchases": Decimal("0.000")}
    return {"id": user, "profiles": [profile], "loyaltyInfo": loyalty, "customFields": {}}


def _answer(body: Mapping[str, Any]) -> web.Response:
    return web.Response(body=_JSON.encode(body), content_type="application/json")
