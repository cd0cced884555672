"""The front door: every request comes in here, and every answer goes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from .journal import RecordedRequest
from .load import Budget, Load, Overloaded
from .playing import inject
from .refusals import Refusal
from .seeded import mix

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

    from .auth import Gatekeeper
    from .faults import Fault, Faults
    from .journal import Journal
    from .settings import SandboxSettings

_DATA_CALLS = ("/v3/users/", "/v3/targetGroups/", "/v2/customers/")
_TOKEN_CALL = "/v3/oauth/"  # noqa: S105 - a path
REQUEST_ID_HEADERS = ("X-Cap-Requestid", "X-CAP-REQUEST-ID")


class FrontDoor:
    """A request's way: budget, faults, the line, the gatekeeper, the handler, the journal.

    Args:
        settings: read anew for each request.
        journal: where requests are noted.
        faults: what may befall them.
        gatekeeper: who may come in.

    """

    def __init__(
        self, settings: SandboxSettings, journal: Journal, faults: Faults, gatekeeper: Gatekeeper
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._faults = faults
        self._gatekeeper = gatekeeper
        self._answered = 0
        self.load = Load(settings)
        self.budget = Budget(settings)

    def clear(self) -> None:
        """Forget what was seen."""
        self._journal.clear()
        self.load.clear()
        self.budget.clear()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Note the request whatever becomes of it: no status if it got no answer."""
        self._journal.counts[request.match_info.route.name or "unknown"] += 1
        status: int | None = None
        code: int | None = None
        try:
            response, code = await self._pass(request, handler)
            status = None if response is None else response.status
        finally:
            self._journal.entries.append(
                RecordedRequest(request.method, request.path, request.query_string, status, code)
            )
        # After a reset nobody hears this; aiohttp wants an answer all the same.
        return web.Response() if response is None else response

    async def stamp(self, request: web.Request, response: web.StreamResponse) -> None:
        """Give an answer its request id: 32 hex digits under either spelling (contract §4)."""
        del request
        self._answered += 1
        key = mix(self._settings.seed, self._answered)
        for name in REQUEST_ID_HEADERS:
            if self._settings.request_id_headers in {"both", name}:
                response.headers[name] = f"{key:016x}{mix(key, 1):016x}"

    async def _pass(
        self, request: web.Request, handler: Handler
    ) -> tuple[web.StreamResponse | None, int | None]:
        """The answer (None: the connection was reset) and the API's code in it."""
        data_call = request.path.startswith(_DATA_CALLS)
        if not data_call and not request.path.startswith(_TOKEN_CALL):
            return await self._handle(request, handler, data_call=False)
        async with self.load.seen():
            try:
                if data_call:
                    self.budget.spend()
                fault = self._faults.draw(
                    request.path_qs, data_call=data_call, rate=self._settings.random_faults
                )
                if fault is None:
                    return await self._serve(request, handler, data_call=data_call)
                return await self._fail(fault, request, handler, data_call=data_call)
            except Overloaded as overload:
                return await self._fail(overload.fault, request, handler, data_call=data_call)

    async def _fail(
        self, fault: Fault, request: web.Request, handler: Handler, *, data_call: bool
    ) -> tuple[web.StreamResponse | None, int | None]:
        code = fault.code

        async def answer() -> web.Response:
            nonlocal code
            response, code = await self._serve(request, handler, data_call=data_call)
            assert isinstance(response, web.Response)  # noqa: S101 - only pages outside stream
            return response

        return await inject(fault, self._faults, request, answer), code

    async def _serve(
        self, request: web.Request, handler: Handler, *, data_call: bool
    ) -> tuple[web.StreamResponse, int | None]:
        if not data_call:
            return await self._handle(request, handler, data_call=False)
        async with self.load.served():
            return await self._handle(request, handler, data_call=True)

    async def _handle(
        self, request: web.Request, handler: Handler, *, data_call: bool
    ) -> tuple[web.StreamResponse, int | None]:
        try:
            if data_call:
                self._gatekeeper.check(request.headers)
            return await handler(request), None
        except Refusal as refusal:
            status = refusal.status or self._settings.error_status
            body, kind = refusal.body, "application/json"
            return web.Response(body=body, status=status, content_type=kind), refusal.code
        except web.HTTPException as problem:
            return web.Response(text=problem.text, status=problem.status), None
