"""The sandbox itself: a listening socket in front of a made-up world."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web
from attrs import define, field

from .auth import Gatekeeper
from .data import World
from .journal import Journal, JournalEntry
from .page import front_page
from .refusals import Refusal
from .routes import DataCalls
from .seeded import mix
from .settings import Settings

if TYPE_CHECKING:
    from collections import Counter, deque
    from types import TracebackType

    from aiohttp.typedefs import Handler

_USERS_A_CHUNK = 10_000


@define(slots=False, kw_only=True, eq=False)
class Sandbox(Settings):
    """The documented API as a local server.

    ```python
    async with Sandbox(users=1000) as url:
        ...
    ```

    Settings are attributes, and most may change while it runs. One sandbox can be started and
    stopped repeatedly; its world stays as it is until `reset`.
    """

    world: World = field(init=False)
    _journal: Journal = field(init=False, factory=Journal)
    _runner: web.AppRunner | None = field(init=False, default=None)
    _url: str = field(init=False, default="")
    _answered: int = field(init=False, default=0)

    @world.default
    def _world(self) -> World:
        return World(
            seed=self.seed,
            users=self.users,
            targets=self.targets,
            events=self.events,
            exact_events=self.exact_events,
        )

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        if not self._url:
            raise RuntimeError("the sandbox is not running")
        return self._url

    @property
    def requests(self) -> deque[JournalEntry]:
        """The latest requests, oldest first."""
        return self._journal.entries

    @property
    def counts(self) -> Counter[str]:
        """Requests by route name, e.g. `trackedTargetEvents`."""
        return self._journal.counts

    async def __aenter__(self) -> str:
        return await self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> str:
        """Listen, and return the address."""
        if self._runner is not None:
            raise RuntimeError("the sandbox is running already")
        runner = web.AppRunner(
            self._app(), access_log=None, handler_cancellation=True, shutdown_timeout=0.01
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self.host, self.port).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        port = runner.addresses[0][1]
        host = f"[{self.host}]" if ":" in self.host else self.host
        self._url = f"http://{host}:{port}"
        return self._url

    async def stop(self) -> None:
        """Stop at once: requests in hand are dropped, connections closed."""
        runner, self._runner, self._url = self._runner, None, ""
        if runner is not None:
            await runner.cleanup()

    def reset(self) -> None:
        """The world as seeded, the journal empty. Settings stay as they are."""
        self.world.reset()
        self._journal.clear()

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._front_door])
        calls = DataCalls(self, self.world)
        user = "/v3/users/{user}"
        app.router.add_get(
            f"{user}/enrolledTargets", calls.enrolled_targets, name="enrolledTargets"
        )
        app.router.add_get(
            f"{user}/trackedTargetEvents/{{rule}}",
            calls.tracked_target_events,
            name="trackedTargetEvents",
        )
        app.router.add_get("/sandbox/users.txt", self._users_txt, name="users.txt")
        app.router.add_get("/", self._index, name="index")
        return app

    @web.middleware
    async def _front_door(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every request: count it, check it, answer its refusal, give it an id, note it."""
        self.counts[request.match_info.route.name or "unknown"] += 1
        status: int | None = None
        code: int | None = None
        try:
            response = await self._answer(request, handler)
            status = response.status
        except Refusal as refusal:
            status, code = refusal.status or self.error_status, refusal.code
            response = web.Response(
                body=refusal.body, status=status, content_type="application/json"
            )
        finally:
            self.requests.append(
                JournalEntry(request.method, request.path, request.query_string, status, code)
            )
        self._stamp(response)
        return response

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.path.startswith("/v3/users/"):
                Gatekeeper(self).check(request.headers)
            return await handler(request)
        except web.HTTPException as problem:
            return web.Response(text=problem.text, status=problem.status)

    def _stamp(self, response: web.StreamResponse) -> None:
        """Give the answer its request id: 32 hex digits under either spelling (contract §4)."""
        self._answered += 1
        if response.prepared:
            return
        key = mix(self.seed, self._answered)
        request_id = f"{key:016x}{mix(key, 1):016x}"
        both = ("X-Cap-Requestid", "X-CAP-REQUEST-ID")
        for name in both:
            if self.request_id_headers in {"both", name}:
                response.headers[name] = request_id

    async def _index(self, request: web.Request) -> web.StreamResponse:
        del request
        return web.Response(text=front_page(self, self.world, self.url), content_type="text/html")

    async def _users_txt(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        self._stamp(response)
        await response.prepare(request)
        ids = list[int]()
        for user in self.world.all_user_ids():
            ids.append(user)
            if len(ids) == _USERS_A_CHUNK:
                await response.write(_lines(ids))
                ids.clear()
                # A reader that keeps up never makes `write` wait: let others have their turn.
                await asyncio.sleep(0)
        await response.write(_lines(ids))
        return response


def _lines(ids: list[int]) -> bytes:
    return "".join(f"{one}\n" for one in ids).encode()
