"""The server of `python -m benchmarks`: answers rendered in advance, one process, no framework.

The path's prefix says what to serve (`/3x250/50ms`: three targets of 250 events, 50 ms latency).
`GET /count` answers how many other requests came since it was asked last.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Final, cast
from urllib.parse import parse_qs

__all__ = ["FIRST_USER", "Work", "events_answer", "main"]

_PATH: Final = re.compile(
    rb"GET /(\d+)x(\d+)/(\d+)ms/v3/users/(\d{9})/(?:(enrolledTargets)|trackedTargetEvents/(\d+))"
    rb"(?:\?([^ ]*))? HTTP/1\.1\r\n"
)
_END: Final = b"\r\n\r\n"
FIRST_USER: Final = 564_332_013


@dataclass(frozen=True)
class Work:
    """A sweep: `users` with `targets` targets of `events` events each."""

    users: int
    targets: int = 3
    events: int = 250
    latency_ms: int = 0
    page_size: int = 100
    in_flight: int = 64

    @property
    def prefix(self) -> str:
        """The path's prefix that asks the server for this work."""
        return f"/{self.targets}x{self.events}/{self.latency_ms}ms"

    @property
    def user_ids(self) -> range:
        """Nine digits each."""
        return range(FIRST_USER, FIRST_USER + self.users)

    @property
    def requests(self) -> int:
        """The fewest requests that can do it: one a user, and one a page."""
        return self.users * (1 + self.targets * max(1, -(-self.events // self.page_size)))

    @property
    def rows(self) -> int:
        """All events together."""
        return self.users * self.targets * self.events

    @property
    def total(self) -> Decimal:
        """The exact sum of all events' values."""
        values = (Decimal(_value(row)) for row in range(self.events))
        return sum(values, Decimal()) * self.users * self.targets


def _value(row: int) -> str:
    """An amount in one of the spellings of the API's samples: `1000`, `2000.46`, `1.000`."""
    whole, cents = row * 7919 % 5000, row * 31 % 100
    return ("1.000", f"{whole}", f"{whole}.{cents:02d}", f"{whole}.{cents:02d}0")[row % 4]


def _row(rule: int, row: int) -> str:
    behavioural = row % 4 == 0
    time = f"{2000 + row // 360 % 100}-{row // 30 % 12 + 1:02d}-{row % 28 + 1:02d} 10:20:30.0"
    return (
        f'{{"eventLogId":{rule * 1_000_000 + row},'
        f'"eventName":"{"GENERIC_EVENT" if behavioural else "ADD_TRANSACTION"}",'
        f'"customerId":{FIRST_USER},'
        f'"eventDisplayName":{json.dumps("Store visit" if behavioural else None)},'
        f'"uniqueId":"{"6621dee9-6c2a-43ad-aa41-be2bf138d" if behavioural else "880616"}{row:03d}",'
        f'"eventDate":"{time}","eventProcessedDate":"{time}",'
        f'"periodId":{rule * 5},"targetGroupId":{rule // 2},"targetRuleId":{rule},'
        f'"targetValue":{_value(row)}}}'
    )


@lru_cache(maxsize=1024)
def events_answer(rule: int, limit: int, offset: int, total: int) -> bytes:
    """The page at row `offset` of a target of `total` events, as the API prints it."""
    rows = range(offset, min(total, offset + limit))
    data = ",".join(_row(rule, row) for row in rows)
    head = f'{{"pagination":{{"limit":{limit},"offset":{offset},"total":{total}}},"data":['
    return f'{head}{data}],"errors":[],"warnings":[]}}'.encode()


@lru_cache(maxsize=64)
def _targets_answer(count: int) -> bytes:
    """The targets that every user is enrolled in; the fields are those of the API's own sample."""
    person = {"id": 4, "code": "First", "description": None, "name": "User", "type": "ADMIN_USER"}
    at = "2024-08-09T08:05:59.000+0000"
    rows = [
        {
            "id": rule,
            "attribution": {
                "createdOn": at,
                "lastUpdatedOn": at,
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
    return json.dumps({"data": rows, "errors": None, "warnings": None}).encode()


@lru_cache(maxsize=1024)
def _limit_and_offset(query: bytes) -> tuple[int, int]:
    given = parse_qs(query.decode())
    return int(given["limit"][0]), int(given["offset"][0])


def _http(body: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %s\r\nContent-Type: application/json;charset=UTF-8\r\nContent-Length: %d\r\n"
    return head % (status, len(body)) + b"X-Cap-Requestid: 1f0c\r\n\r\n" + body


class _Connection(asyncio.Protocol):
    served = 0

    def __init__(self) -> None:
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        while (end := data.find(_END)) >= 0:
            self._respond(data[: end + 2])
            data = data[end + 4 :]
        self._rest = data

    def _respond(self, request: bytes) -> None:
        if request.startswith(b"GET /count "):
            self._transport.write(_http(b"%d" % _Connection.served))
            _Connection.served = 0
            return
        match = _PATH.match(request)
        if match is None:
            self._transport.write(_http(b'{"message":"no such path"}', b"404 Not Found"))
            return
        _Connection.served += 1
        targets, events, latency, user, enrolled, rule, query = match.groups()
        if enrolled:
            answer = _http(_targets_answer(int(targets)))
        else:
            page = events_answer(int(rule), *_limit_and_offset(query), int(events))
            answer = _http(page.replace(b"%d" % FIRST_USER, user))
        if latency == b"0":
            self._transport.write(answer)
        else:
            loop = asyncio.get_running_loop()
            loop.call_later(int(latency) / 1000, self._write_late, answer)

    def _write_late(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)


async def main() -> None:
    """Serve on a free port, printed as the first line, until a signal comes."""
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
