"""The sandbox itself: a listening socket in front of a made-up world."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from attrs import define, field

from .auth import Gatekeeper
from .data import World
from .desk import Desk
from .door import FrontDoor
from .faults import Faults
from .journal import Journal
from .lookups import Lookups
from .routes import DataCalls
from .settings import Settings

if TYPE_CHECKING:
    from collections import Counter, deque
    from types import TracebackType

    from .journal import JournalEntry


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
    faults: Faults = field(init=False)
    """What is to go wrong: `sandbox.faults.add(Fault.http(503), times=2)`."""
    _journal: Journal = field(init=False, factory=Journal)
    _gatekeeper: Gatekeeper = field(init=False)
    _door: FrontDoor = field(init=False)
    _runner: web.AppRunner | None = field(init=False, default=None)
    _url: str = field(init=False, default="")

    def __attrs_post_init__(self) -> None:
        self.faults = Faults(self.seed)
        self._gatekeeper = Gatekeeper(self)
        self._door = FrontDoor(self, self._journal, self.faults, self._gatekeeper)

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

    @property
    def in_flight(self) -> int:
        """API calls that arrived and have no answer yet."""
        return self._door.load.in_flight

    @property
    def max_in_flight(self) -> int:
        """The most of them at a time."""
        return self._door.load.max_in_flight

    @property
    def waiting(self) -> int:
        """Those among them that stand in line for a place within `capacity`."""
        return self._door.load.waiting

    @property
    def worst_window(self) -> int:
        """The most data calls that came within one window of `rate_limit`."""
        return self._door.budget.worst_window

    @property
    def connections(self) -> int:
        """Connections open now, idle ones included."""
        server = self._runner.server if self._runner is not None else None
        return len(server.connections) if server is not None else 0

    def expire_tokens(self) -> None:
        """Reject every OAuth token given out so far."""
        self._gatekeeper.expire()

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
        """The world as seeded; no faults, tokens or notes left. Settings stay as they are."""
        self.world.reset()
        self.faults.clear()
        self._gatekeeper.expire()
        self._door.clear()

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._door.middleware])
        app.on_response_prepare.append(self._door.stamp)
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
        app.router.add_post("/v3/oauth/token/generate", self._gatekeeper.generate, name="token")
        lookups = Lookups(self.world)
        app.router.add_get(f"{user}/targetGroups", lookups.target_groups, name="targetGroups")
        app.router.add_get(
            "/v3/targetGroups/{group}/targetPeriods", lookups.target_periods, name="targetPeriods"
        )
        app.router.add_get("/v2/customers/lookup", lookups.customer_id, name="lookup")
        Desk(self).open(app.router)
        return app
