"""The server of `python -m benchmarks`: answers rendered in advance, one process, no framework.

The path's prefix says what to serve (`/3x250/50ms`: three targets of 250 events, 50 ms latency),
as the sandbox prints it, the same rows for every user. `GET /count` answers how many other requests
came since it was asked last.
"""

from __future__ import annotations

import asyncio
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import parse_qs

from capillary_targets.sandbox import World, responses
from capillary_targets.sandbox.settings import SandboxSettings

if TYPE_CHECKING:
    from capillary_targets.sandbox.model import Event, Pagination, Rule

_PATH: Final = re.compile(
    r"GET /(\d+)x(\d+)/(\d+)ms/v3/users/(\d{7})/(?:enrolledTargets|trackedTargetEvents/(\d+))"
    r"(?:\?([^ ]*))? HTTP/1\.1\r\n"
)
_END: Final = b"\r\n\r\n"
_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json;charset=UTF-8\r\n"


@lru_cache
def targets_of(count: int, events: int) -> dict[Rule, list[Event]]:
    """The targets that every user is in, each with its events: all of them have amounts."""
    # One event more than asked for: the first may be an enrolment, which has no amount.
    world = World(SandboxSettings(targets=count, events=events + 1, exact_events=True))
    user = world.user_ids()[0]
    return {
        rule: [row for row in world.events(user, rule.id) if row.target_value is not None][:events]
        for rule in world.targets(user)
    }


@lru_cache(maxsize=1024)
def answer(count: int, events: int, target: int | None = None, query: str = "") -> bytes:
    """A page of a target's events, as the API prints it; without a target, all targets."""
    found = targets_of(count, events)
    if target is None:
        return responses.targets(found)
    limit, offset = (int(parse_qs(query)[name][0]) for name in ("limit", "offset"))
    (rows,) = (rows for rule, rows in found.items() if rule.id == target)
    numbers: Pagination = {"limit": limit, "offset": offset, "total": events}
    return responses.events_page(rows[offset : offset + limit], numbers, SandboxSettings())


class _Connection(asyncio.Protocol):
    served = 0

    def __init__(self) -> None:
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        *requests, self._rest = (self._rest + data).split(_END)
        for request in requests:
            self._respond(request.decode() + "\r\n")

    def _respond(self, request: str) -> None:
        match = _PATH.match(request)
        if match is None:
            self._write(b"%d" % _Connection.served)
            _Connection.served = 0
            return
        _Connection.served += 1
        count, events, latency, user, target, query = match.groups()
        body = answer(int(count), int(events), int(target) if target else None, query or "")
        body = body.replace(b'"customerId":1000001', b'"customerId":%b' % user.encode())
        if latency == "0":
            self._write(body)
        else:
            asyncio.get_running_loop().call_later(int(latency) / 1000, self._write, body)

    def _write(self, body: bytes) -> None:
        if not self._transport.is_closing():
            head = b"%bContent-Length: %d\r\nX-Cap-Requestid: 1f0c" % (_HEAD, len(body))
            self._transport.write(head + _END + body)


async def main() -> None:
    """Serve on a free port, printed as the first line, until a signal comes."""
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
