"""The work all contenders do: how many users, targets and events, and the answers as bytes.

An answer is rendered from a template of its page: the page number stands in three places (the ids,
two dates) and is put in by `bytes.replace`, so that a walk of ten thousand pages has ascending,
unique ids and rising dates, and still costs the server less than the cheapest client.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Final

__all__ = ["Work", "events_answer", "targets_answer"]

_PAGE: Final = b"PPPPPP"
_DAY: Final = b"YYYY-MM-DD"
_LATER: Final = b"yyyy-mm-dd"
_FIRST_DAY: Final = date(2000, 1, 1)
_BEHAVIOURAL: Final = 5
"""Every fifth event is a behavioural one."""


@dataclass(frozen=True)
class Work:
    """`users` of `targets` targets with `events` events each; the server waits `latency_ms`."""

    users: int
    targets: int = 3
    events: int = 250
    latency_ms: int = 0
    page_size: int = 100
    in_flight: int = 64

    @property
    def prefix(self) -> str:
        """The part of the base URL that tells the server this work."""
        return f"/{self.targets}x{self.events}/{self.latency_ms}ms"

    @property
    def pages(self) -> int:
        """Pages of one target; an empty history takes one request too."""
        return max(1, -(-self.events // self.page_size))

    @property
    def requests(self) -> int:
        """The fewest requests that can do it: one for the targets, one a page."""
        return self.users * (1 + self.targets * self.pages)

    @property
    def rows(self) -> int:
        """All events together."""
        return self.users * self.targets * self.events

    @property
    def total(self) -> Decimal:
        """The exact sum of all events' values."""
        sizes = [
            min(self.page_size, self.events - page * self.page_size) for page in range(self.pages)
        ]
        one = sum((Decimal(_value(row)) for size in sizes for row in range(size)), Decimal())
        return one * self.users * self.targets


def _value(row: int) -> str:
    """An amount in one of the spellings of the API's samples: `1000`, `2000.46`, `1.000`."""
    if row % _BEHAVIOURAL == 0:
        return "1.000"
    whole, cents = row * 7919 % 5000, row * 31 % 100
    return (f"{whole}", f"{whole}.{cents:02d}", f"{whole}.{cents:02d}0")[row % 3]


def _row(rule: int, row: int) -> str:
    behavioural = row % _BEHAVIOURAL == 0
    time = f"{row // 60 % 24:02d}:{row % 60:02d}:12.0"
    return (
        f'{{"eventLogId":{rule % 9 + 1}PPPPPP{row:03d},'
        f'"eventName":"{"GENERIC_EVENT" if behavioural else "ADD_TRANSACTION"}",'
        f'"customerId":564332013,'
        f'"eventDisplayName":{chr(34) + "Store visit" + chr(34) if behavioural else "null"},'
        f'"uniqueId":"{"6621dee9-6c2a-43ad-aa41-be2bf138d" if behavioural else "880616"}{row:03d}",'
        f'"eventDate":"YYYY-MM-DD {time}",'
        f'"eventProcessedDate":"{"yyyy-mm-dd" if behavioural else "YYYY-MM-DD"} {time}",'
        f'"periodId":{rule * 5},"targetGroupId":{rule // 2},"targetRuleId":{rule},'
        f'"targetValue":{_value(row)}}}'
    )


@lru_cache(maxsize=256)
def _template(rule: int, rows: int, limit: int, total: int) -> bytes:
    data = ",".join(_row(rule, row) for row in range(rows))
    head = f'{{"pagination":{{"limit":{limit},"offset":%d,"total":{total}}},"data":['
    return f'{head}{data}],"errors":[],"warnings":[]}}'.encode()


def events_answer(rule: int, limit: int, number: int, total: int) -> bytes:
    """Page `number` of a target of `total` events, as the API prints it."""
    rows = max(0, min(limit, total - number * limit))
    day = _FIRST_DAY + timedelta(days=number)
    return (
        _template(rule, rows, limit, total)
        .replace(b"%d", b"%d" % number, 1)
        .replace(_PAGE, b"%06d" % number)
        .replace(_DAY, day.isoformat().encode())
        .replace(_LATER, (day + timedelta(days=7)).isoformat().encode())
    )


def targets_answer(count: int) -> bytes:
    """The targets every user is enrolled in; their fields are those of the API's own sample."""
    person = {"id": 4, "code": "First", "description": None, "name": "User", "type": "ADMIN_USER"}
    rows = [
        {
            "id": rule,
            "attribution": {
                "createdOn": "2024-08-09T08:05:59.000+0000",
                "lastUpdatedOn": "2024-08-09T08:05:59.000+0000",
                "lastUpdatedBy": person,
                "createdBy": person,
            },
            "name": f"Target {rule}",
            "emfRuleSetId": 2_030_169,
            "emfUnrolledRulesetId": 2_030_168,
            "targetType": "GROSS_SALES",
            "targetEntity": "LINEITEM",
            "targetGroupId": rule // 2,
            "active": True,
            "expression": "true",
            "expressionJson": '\n{"arity":"literal","value":true,"type":"boolean:primitive"}',
            "filters": [{"entityType": "ZONE", "entityIds": [50_674_361, 50_675_571]}],
            "enrolmentMethod": "TRANSACTION",
            "targetPeriodDefaultValuesMap": {},
        }
        for rule in range(2001, 2001 + count)
    ]
    document = {"data": rows, "errors": None, "warnings": None}
    return json.dumps(document, separators=(",", ":")).encode()
