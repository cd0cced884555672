"""A TCP server of raw bytes, for what no HTTP server library would send."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from attrs import define, field

from capillary_targets import BasicAuth, TargetsClient

AUTH = BasicAuth("till", "secret")
HEAD = "HTTP/1.1 {status} X\r\nContent-Type: {type}\r\nContent-Length: {length}\r\n{more}\r\n"


def answer(
    body: Any = None, status: int = 200, type_: str = "application/json", **headers: str
) -> bytes:
    """A whole answer; `body` is sent as JSON, if it is not bytes."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return HEAD.format(status=status, type=type_, length=len(raw), more=more).encode() + raw


def rows(*targets: int) -> bytes:
    """An answer of active targets with these ids."""
    return answer({"data": [{"id": one} for one in targets], "errors": None})


@define(eq=False)
class Peer:
    """One connection: its number, what was asked on it so far, and how to write to it."""

    number: int
    writer: asyncio.StreamWriter
    asked: list[str] = field(factory=list)

    async def send(self, raw: bytes) -> None:
        self.writer.write(raw)
        await self.writer.drain()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        self.writer.transport.abort()


Respond = Callable[[Peer, str], Awaitable[None]]


def always(raw: bytes) -> Respond:
    """Answers every request alike."""

    async def respond(peer: Peer, path: str) -> None:
        await peer.send(raw)

    return respond


def token(name: str = "t", seconds: float = 100) -> bytes:
    """An answer of the token endpoint."""
    return answer({"data": {"accessToken": name, "ttlSeconds": seconds}, "errors": None})


@define(eq=False)
class RawServer:
    """`respond(peer, path)` is called for each request. `heads` are the requests' own heads."""

    url: str
    peers: list[Peer] = field(factory=list)
    heads: list[str] = field(factory=list)


@asynccontextmanager
async def raw_server(respond: Respond) -> AsyncIterator[RawServer]:
    """Serve on a port of loopback."""
    found = RawServer("")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(len(found.peers), writer)
        found.peers.append(peer)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(
                    (
                        int(line.partition(":")[2])
                        for line in head.splitlines()
                        if line.lower().startswith("content-length:")
                    ),
                    0,
                )
                await reader.readexactly(length)
                path = head.split(" ")[1]
                found.heads.append(head)
                peer.asked.append(path)
                await respond(peer, path)
        writer.close()
        with suppress(ConnectionError, asyncio.CancelledError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield found
    finally:
        server.close()
        for peer in found.peers:
            peer.writer.transport.abort()
        await server.wait_closed()


@asynccontextmanager
async def answering(
    respond: Respond, auth: Any = AUTH, **settings: Any
) -> AsyncIterator[tuple[RawServer, TargetsClient]]:
    """A server of raw bytes, and a client of it."""
    async with raw_server(respond) as server, TargetsClient(server.url, auth, **settings) as client:
        yield server, client
