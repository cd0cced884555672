"""A fault on the wire: what is written, and what is not."""

from __future__ import annotations

import asyncio
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from .faults import Fault, Faults

_CHUNK = 1 << 16
_NO_LINGER = struct.pack("ii", 1, 0)

Answer = Callable[[], Awaitable[web.Response]]


async def inject(
    fault: Fault, faults: Faults, request: web.Request, answer: Answer
) -> web.StreamResponse | None:
    """Meet a call with a fault.

    Args:
        fault: which.
        faults: who can release a stalled call.
        request: the call.
        answer: makes the right answer, for the faults that spoil it.

    Returns:
        What was sent, or is still to be sent; None if the connection was reset.

    """
    match fault.kind:
        case "answer":
            return web.Response(
                status=fault.status,
                body=fault.body,
                content_type=fault.content_type,
                headers=fault.headers,
            )
        case "reset":
            _reset(request)
            return None
        case "stall":
            await faults.stall()
            return await answer()
        case "huge" | "gzip_bomb":
            return await _flood(request, fault.size, packed=fault.kind == "gzip_bomb")
        case "truncated" | "malformed" | "slow_body":
            right = await answer()
            body = right.body if isinstance(right.body, bytes) else b""
            half = body[: len(body) // 2]
            if fault.kind == "malformed":
                return web.Response(
                    status=right.status, body=half + b",,}", content_type="application/json"
                )
            spoilt = web.StreamResponse(status=right.status)
            spoilt.content_type = "application/json"
            spoilt.content_length = len(body)
            with suppress(ConnectionError):
                await spoilt.prepare(request)
                if fault.kind == "slow_body":
                    await _drip(spoilt, body, fault)
                else:
                    await spoilt.write(half)
                    _close(request)
            return spoilt


def _reset(request: web.Request) -> None:
    """Close so that the other side sees a reset, not an end."""
    transport = request.transport
    if transport is not None:
        plug = transport.get_extra_info("socket")
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        transport.abort()


def _close(request: web.Request) -> None:
    """Close once what was written has gone out."""
    if request.transport is not None:
        request.transport.close()


async def _drip(response: web.StreamResponse, body: bytes, fault: Fault) -> None:
    for place in range(len(body)):
        await response.write(body[place : place + 1])
        if fault.gate is not None:
            await fault.gate.wait()
        else:
            await asyncio.sleep(fault.interval)


async def _flood(request: web.Request, size: int, *, packed: bool) -> web.StreamResponse:
    """A valid envelope with `size` bytes of blanks in it."""
    response = web.StreamResponse()
    response.content_type = "application/json"
    if packed:
        response.headers["Content-Encoding"] = "gzip"
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16) if packed else None
    step = _CHUNK * 16 if packed else _CHUNK
    blanks = b" " * step
    with suppress(ConnectionError):
        await response.prepare(request)
        pieces = (blanks[: min(step, size - done)] for done in range(0, size, step))
        for piece in (b'{"data":[', *pieces, b'],"errors":[],"warnings":[]}'):
            await response.write(packer.compress(piece) if packer else piece)
            await asyncio.sleep(0)
        await response.write(packer.flush() if packer else b"")
    return response
