"""The sandbox itself: a listening socket in front of a made-up world."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from aiohttp import web

from .auth import Gatekeeper
from .data import World
from .desk import Desk
from .door import FrontDoor
from .faults import Faults
from .journal import Journal
from .lookups import Lookups
from .routes import DataCalls
from .settings import SandboxSettings

if TYPE_CHECKING:
    from collections import Counter, deque
    from types import TracebackType

    from .journal import RecordedRequest


_Settings = ParamSpec("_Settings")


def _keywords_of(
    settings: Callable[_Settings, SandboxSettings],
) -> Callable[
    [Callable[[Any, SandboxSettings], None]], Callable[Concatenate[Any, _Settings], None]
]:
    """Give a constructor that takes settings their keywords, types included."""

    def decorate(
        init: Callable[[Any, SandboxSettings], None],
    ) -> Callable[Concatenate[Any, _Settings], None]:
        def __init__(self: Any, /, *args: _Settings.args, **keywords: _Settings.kwargs) -> None:  # noqa: N807
            init(self, settings(*args, **keywords))

        return __init__

    return decorate


class Sandbox:
    """The documented API as a local server.

    ```python
    async with Sandbox(users=1000) as url:
        ...
    ```

    The keywords are those of `SandboxSettings`. Most of `sandbox.settings` may change while it
    runs. One sandbox can be started and stopped repeatedly; its world stays as it is until `reset`.
    """

    @_keywords_of(SandboxSettings)
    def __init__(self, settings: SandboxSettings) -> None:
        self.settings = settings
        self.world = World(
            seed=settings.seed,
            users=settings.users,
            targets=settings.targets,
            events=settings.events,
            exact_events=settings.exact_events,
        )
        self.faults = Faults(settings.seed)
        """What is to go wrong: `sandbox.faults.add(Fault.http(503), times=2)`."""
        self._journal = Journal()
        self._gatekeeper = Gatekeeper(settings)
        self._door = FrontDoor(settings, self._journal, self.faults, self._gatekeeper)
        self._runner: web.AppRunner | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        if not self._url:
            raise RuntimeError("the sandbox is not running")
        return self._url

    @property
    def credentials(self) -> tuple[str, str]:
        """User name and password, as for `BasicAuth(*sandbox.credentials)`."""
        return self.settings.username, self.settings.password

    @property
    def requests(self) -> deque[RecordedRequest]:
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
    def peak_window(self) -> int:
        """The most data calls that came within one window of `rate_limit`."""
        return self._door.budget.peak_window

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
            await web.TCPSite(runner, self.settings.host, self.settings.port).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        port = runner.addresses[0][1]
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
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
        calls = DataCalls(self.settings, self.world)
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
