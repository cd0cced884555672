"""What the sandbox offers beside the API: its pages, and control for those in other processes."""

from __future__ import annotations

import asyncio
import ipaddress
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from .faults import named
from .page import front_page

if TYPE_CHECKING:
    from .server import Sandbox

_USERS_A_CHUNK = 10_000


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fault as other processes order it: its constructor's name, and what to hand to that."""

    fault: str
    arguments: dict[str, Any] = {}
    times: int | None = 1
    path_contains: str | None = None


class Desk:
    """Handlers of `/` and `/sandbox/...`, open to this machine without a password.

    Args:
        sandbox: the one that is looked at and told what to do.

    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def open(self, router: web.UrlDispatcher) -> None:
        """Put up the routes."""
        router.add_get("/", self._index, name="index")
        router.add_get("/sandbox/users.txt", self._users, name="users.txt")
        router.add_get("/sandbox/state", self._state, name="state")
        router.add_post("/sandbox/faults", self._add_fault, name="faults")
        router.add_post("/sandbox/reset", self._reset, name="reset")

    async def _index(self, request: web.Request) -> web.StreamResponse:
        del request
        sandbox = self._sandbox
        page = front_page(sandbox.settings, sandbox.world, sandbox.url)
        return web.Response(text=page, content_type="text/html")

    async def _users(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        ids = self._sandbox.world.all_user_ids()
        with suppress(ConnectionError):
            await response.prepare(request)
            while chunk := list(islice(ids, _USERS_A_CHUNK)):
                await response.write("".join(f"{one}\n" for one in chunk).encode())
                # A reader that keeps up never makes `write` wait: let others have their turn.
                await asyncio.sleep(0)
        return response

    async def _state(self, request: web.Request) -> web.StreamResponse:
        _local(request)
        sandbox = self._sandbox
        return web.json_response(
            {
                "counts": dict(sandbox.counts),
                "in_flight": sandbox.in_flight,
                "max_in_flight": sandbox.max_in_flight,
                "waiting": sandbox.waiting,
                "connections": sandbox.connections,
                "peak_window": sandbox.peak_window,
                "faults": {
                    "ordered": len(sandbox.faults),
                    "injected": sandbox.faults.injected,
                    "stalled": sandbox.faults.stalled,
                },
            }
        )

    async def _add_fault(self, request: web.Request) -> web.StreamResponse:
        """`{"fault": "http", "arguments": {"status": 503}, "times": 2, "path_contains": "/v3"}`."""
        _local(request)
        try:
            order = msgspec.json.decode(await request.read(), type=Order)
            fault = named(order.fault, order.arguments)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        self._sandbox.faults.add(fault, times=order.times, path_contains=order.path_contains)
        return web.json_response({"ordered": len(self._sandbox.faults)})

    async def _reset(self, request: web.Request) -> web.StreamResponse:
        _local(request)
        self._sandbox.reset()
        return web.json_response({"reset": True})


def _local(request: web.Request) -> None:
    """Only this machine gives orders, whatever address the sandbox listens on."""
    remote = ipaddress.ip_address((request.remote or "0.0.0.0").partition("%")[0])  # noqa: S104
    mapped = getattr(remote, "ipv4_mapped", None)
    if not (mapped or remote).is_loopback:
        raise web.HTTPForbidden(text="the sandbox takes orders from its own machine only\n")
