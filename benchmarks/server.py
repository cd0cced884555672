"""The server of the benchmarks: pre-rendered answers, one process, no framework.

It speaks as much HTTP/1.1 as the clients send it: GETs with keep-alive. What to serve stands in
the path's prefix (`/3x250/0ms`: three targets of 250 events, no latency), so that one process
serves every work. `GET /count` answers how many other requests came since it was asked last.
"""

from __future__ import annotations

import asyncio
import re
from functools import lru_cache
from typing import Final, cast
from urllib.parse import parse_qs

from .workload import events_answer, targets_answer

__all__ = ["main"]

_PATH: Final = re.compile(
    rb"GET /(\d+)x(\d+)/(\d+)ms/v3/users/\d+/(?:(enrolledTargets)|trackedTargetEvents/(\d+))"
    rb"(?:\?([^ ]*))? HTTP/1\.1\r\n"
)
_END: Final = b"\r\n\r\n"


def _http(body: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %s\r\nContent-Type: application/json;charset=UTF-8\r\nContent-Length: %d\r\n"
    return head % (status, len(body)) + b"X-Cap-Requestid: 1f0c\r\n\r\n" + body


@lru_cache(maxsize=64)
def _targets(count: int) -> bytes:
    return _http(targets_answer(count))


@lru_cache(maxsize=1024)
def _page(rule: int, limit: int, number: int, total: int) -> bytes:
    return _http(events_answer(rule, limit, number, total))


@lru_cache(maxsize=1024)
def _limit_and_offset(query: bytes) -> tuple[int, int]:
    given = parse_qs(query.decode())
    return int(given["limit"][0]), int(given["offset"][0])


class _Connection(asyncio.Protocol):
    served = 0

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        while (end := data.find(_END)) >= 0:
            self._answer(data[: end + 2])
            data = data[end + 4 :]
        self._rest = data

    def _answer(self, request: bytes) -> None:
        match = _PATH.match(request)
        if match is None:
            if request.startswith(b"GET /count "):
                self._transport.write(_http(b"%d" % _Connection.served))
                _Connection.served = 0
            else:
                self._transport.write(_http(b'{"message":"no such path"}', b"404 Not Found"))
            return
        _Connection.served += 1
        targets, events, latency, enrolled, rule, query = match.groups()
        if enrolled:
            answer = _targets(int(targets))
        else:
            limit, offset = _limit_and_offset(query)
            answer = _page(int(rule), limit, offset, int(events))
        if latency == b"0":
            self._transport.write(answer)
        else:
            self._loop.call_later(int(latency) / 1000, self._write, answer)

    def _write(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)  # the parent waits for the port
    await server.serve_forever()


def main() -> None:
    """Serve on a free port, printed as the first line, until a signal comes."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(_serve())
    else:
        uvloop.run(_serve())


if __name__ == "__main__":
    main()
