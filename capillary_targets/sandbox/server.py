"""The sandbox itself: a listening socket in front of a made-up world."""

from __future__ import annotations

import asyncio
import ipaddress
import tomllib
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from decimal import Decimal
from functools import partial
from itertools import islice
from os import PathLike
from pathlib import Path
from random import Random
from typing import Annotated, Any, Concatenate, ParamSpec, Self, TypeAlias

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from attrs import frozen

from .api import Api
from .auth import Authenticator
from .faults import Call, Faults, named, order
from .limits import CapacityLimit, RateWindow
from .listener import Listener
from .model import Event
from .notifications import Notifications
from .page import front_page
from .replay import Replay
from .responses import ErrorResponse, as_json, encode
from .settings import SandboxSettings
from .world import World, parse_date

REQUEST_ID_HEADERS = ("X-Cap-Requestid", "X-CAP-REQUEST-ID")
_DATA_CALLS = ("/v3/users/", "/v3/targetGroups/", "/v2/customers/")
_TOKEN_CALL = "/v3/oauth/"  # noqa: S105 - a path
_CODE: ContextVar[int | None] = ContextVar("_CODE")
"""The API's code in the answer to the request at hand: aiohttp has `RequestKey` from 3.14 on."""

_P = ParamSpec("_P")
_Init: TypeAlias = Callable[[Any, SandboxSettings], None]


def _keywords_of(
    settings: Callable[_P, SandboxSettings],
) -> Callable[[_Init], Callable[Concatenate[Any, _P], None]]:
    """Give a constructor that takes settings their keywords, types included."""
    return lambda init: lambda self, /, *args, **named: init(self, settings(*args, **named))


@frozen(slots=True)
class RecordedRequest:
    """One request. `code` is the API's own code of an error; no `status`: nothing was answered."""

    method: str
    path: str
    query: str
    status: int | None
    code: int | None


_Date: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d$")]


class Sandbox(Listener):
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
        self.world: World = World(settings)
        self.faults: Faults = Faults(settings.seed)
        """What is to go wrong: `sandbox.faults.add(Fault.http(503), times=2)`."""
        self.requests: deque[RecordedRequest] = deque(maxlen=10_000)
        """The latest requests, oldest first."""
        self.counts: Counter[str] = Counter()
        """Requests by route name, e.g. `trackedTargetEvents`, counted on arrival."""
        self.in_flight: int = 0
        """API calls that arrived and have no answer yet."""
        self.max_in_flight: int = 0
        """The most of them at a time."""
        self.notifications: Notifications = Notifications(settings, self.world)
        """What is pushed to `settings.notify`, and what became of it."""
        self._authenticator = Authenticator(settings)
        self._capacity = CapacityLimit(settings)
        self._rate = RateWindow(settings)
        self._random = Random(settings.seed)

    @classmethod
    def like(cls, path: str | PathLike[str], **settings: Any) -> Self:
        """A sandbox that behaves as the cluster of a `cluster.toml` does.

        What the file says goes before `settings`.

        Raises:
            ValueError: the file is no cluster.toml, or a setting cannot be used.
            OSError: it cannot be read.
        """
        try:
            known = tomllib.loads(Path(path).read_text(encoding="utf-8"))["sandbox"]
            return cls(**(settings | known))
        except (KeyError, TypeError, tomllib.TOMLDecodeError, UnicodeDecodeError):
            raise ValueError(f"{path} is no cluster.toml of `capillary-targets doctor`") from None

    replay = Replay
    """The recorded answers of a cassette as a local server."""

    @property
    def credentials(self) -> tuple[str, str]:
        """User name and password, as for `BasicAuth(*sandbox.credentials)`."""
        return self.settings.username, self.settings.password

    @property
    def waiting(self) -> int:
        """API calls in line for a slot within `capacity`."""
        return self._capacity.waiting

    @property
    def peak_window(self) -> int:
        """The most data calls that came within one window of `rate_limit`."""
        return self._rate.peak

    @property
    def connections(self) -> int:
        """Connections open now, idle ones included."""
        server = self._runner.server if self._runner is not None else None
        return len(server.connections) if server is not None else 0

    def expire_tokens(self) -> None:
        """Reject every OAuth token issued so far."""
        self._authenticator.expire()

    def reset(self) -> None:
        """The world as seeded; no faults, tokens or records left. Settings stay as they are."""
        self.world.reset()
        self.faults.clear()
        self.notifications.clear()
        self._authenticator.expire()
        self._rate.clear()
        self.requests.clear()
        self.counts.clear()
        self.max_in_flight = self.in_flight

    # --- starting and stopping ---

    async def start(self) -> str:
        """Listen, and return the address."""
        app = web.Application(middlewares=[self._middleware])
        app.on_response_prepare.append(self._stamp)
        app.add_routes(Api(self.settings, self.world, self._authenticator).routes())
        app.router.add_get("/", self._index, name="index")
        app.router.add_get("/sandbox/users.txt", self._users, name="users.txt", allow_head=False)
        app.router.add_get("/sandbox/state", _control(self._state), name="state")
        controls: dict[str, Callable[..., Any]] = {
            "faults": self._add_fault,
            "events": self._add_event,
            "targets": self._change_target,
            "settings": self._change_settings,
            "reset": self._reset,
        }
        for name, control in controls.items():
            app.router.add_post(f"/sandbox/{name}", _control(control), name=name)
        url = await self._listen(app, self.settings.host, self.settings.port)
        self.notifications.start()
        return url

    async def stop(self) -> None:
        """Stop at once: requests in flight are dropped, connections closed."""
        await self.notifications.stop()
        await super().stop()

    # --- a request's way: rate, faults, capacity, login, handler, record ---

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Record the request whatever becomes of it: without a status if it got no answer."""
        self.counts[request.match_info.route.name or "unknown"] += 1
        _CODE.set(None)
        response: web.StreamResponse | None = None
        try:
            response = await self._respond(request, handler)
        finally:
            status = None if response is None else response.status
            self.requests.append(
                RecordedRequest(
                    request.method, request.path, request.query_string, status, _CODE.get()
                )
            )
        # Nobody hears this after a reset; aiohttp wants an answer all the same.
        return web.Response() if response is None else response

    async def _stamp(self, _: web.Request, response: web.StreamResponse) -> None:
        """Give an answer its request id: 32 hex digits under either spelling (contract §4)."""
        request_id = f"{self._random.getrandbits(128):032x}"
        for name in REQUEST_ID_HEADERS:
            if self.settings.request_id_headers in {"both", name}:
                response.headers[name] = request_id

    async def _respond(self, request: web.Request, handler: Handler) -> web.StreamResponse | None:
        """The answer, right or faulty; None: the connection was reset."""
        data_call = request.path.startswith(_DATA_CALLS)
        answer = partial(self._answer, request, handler, data_call=data_call)
        if not data_call and not request.path.startswith(_TOKEN_CALL):
            return await answer()
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            fault = self._rate.count() if data_call else None
            fault = fault or self.faults.pick(
                request.path_qs, data_call=data_call, rate=self.settings.random_faults
            )
            if fault is None:
                return await answer()
            if fault.code is not None:
                _CODE.set(fault.code)
            with suppress(ConnectionError):  # the other side may leave half way
                return await fault.send(Call(request, answer, self.faults.stall))
            return None
        finally:
            self.in_flight -= 1

    async def _answer(
        self, request: web.Request, handler: Handler, *, data_call: bool
    ) -> web.StreamResponse:
        try:
            if not data_call:
                return await handler(request)
            async with self._capacity.slot() as admitted:
                if not admitted:
                    return web.Response(status=503)
                self._authenticator.check(request.headers)
                return await handler(request)
        except ErrorResponse as error:
            _CODE.set(error.code)
            status = error.status or self.settings.error_status
            return as_json(error.body, status)
        except web.RequestPayloadError as problem:
            return web.Response(text=f"{problem}\n", status=400)
        except web.HTTPException as problem:
            kept = {name: problem.headers[name] for name in ("Allow",) if name in problem.headers}
            return web.Response(text=problem.text, status=problem.status, headers=kept)

    # --- its own pages, and control for other processes ---

    async def _index(self, _: web.Request) -> web.StreamResponse:
        page = front_page(self.settings, self.world, self.url)
        return web.Response(text=page, content_type="text/html")

    async def _users(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        ids = self.world.all_user_ids()
        with suppress(ConnectionError):
            await response.prepare(request)
            while chunk := list(islice(ids, 10_000)):
                await response.write("".join(f"{one}\n" for one in chunk).encode())
                # A reader that keeps up never makes `write` wait: let others have their turn.
                await asyncio.sleep(0)
        return response

    def _state(self) -> dict[str, Any]:
        names = ("in_flight", "max_in_flight", "waiting", "connections", "peak_window")
        return {
            "counts": self.counts,
            **{name: getattr(self, name) for name in names},
            "faults": {
                "scheduled": len(self.faults),
                "injected": self.faults.injected,
                "stalled": self.faults.stalled,
            },
            "notifications": {"pending": len(self.notifications), **self.notifications.counts},
        }

    def _add_fault(
        self,
        fault: str,
        arguments: msgspec.Raw = msgspec.Raw(b"{}"),  # noqa: B008 - never changed
        times: int | None = 1,
        path_contains: str | None = None,
        probability: float = 1.0,
    ) -> dict[str, int]:
        """`{"fault": "http", "arguments": {"status": 503}, "times": 2, "path_contains": "/v3"}`."""
        self.faults.add(
            named(fault, bytes(arguments)), times, path_contains, probability=probability
        )
        return {"scheduled": len(self.faults)}

    def _add_event(
        self,
        user: int,
        rule: int,
        *,
        value: Decimal | None = Decimal("100.00"),
        date: _Date | None = None,
        event_name: str | None = None,
        unique_id: str | None = None,
    ) -> Event:
        """`{"user": 1000001, "rule": 3001, "value": "12.340"}`; the answer is the event."""
        self._check_known(user, rule, value)
        if date is not None:
            parse_date(date)
        given = {"event_name": event_name, "unique_id": unique_id}
        fields: dict[str, Any] = {name: text for name, text in given.items() if text is not None}
        return self.world.add_event(user, rule, value=value, date=date, **fields)

    def _change_target(
        self,
        user: int,
        rule: int,
        *,
        enrolled: bool | None = None,
        target_value: Decimal | None = None,
    ) -> dict[str, list[int]]:
        """`{"user": 1000001, "rule": 3001, "enrolled": true, "target_value": "500"}`."""
        self._check_known(user, rule, target_value)
        if enrolled is not None:
            self.world.enrol(user, rule, enrolled=enrolled)
        if target_value is not None:
            self.world.set_target_value(user, rule, target_value)
        return {"targets": [one.id for one in self.world.targets(user)]}

    def _change_settings(self, **values: Any) -> dict[str, list[str]]:
        """`{"notify_losses": 0.05, "offset_mode": "row"}`: all of them, or none."""
        self.settings.change(values)
        return {"changed": [*values]}

    def _reset(self) -> dict[str, bool]:
        self.reset()
        return {"reset": True}

    def _check_known(self, user: int, rule: int, value: Decimal | None) -> None:
        if not self.world.has_user(user) or self.world.rule(rule) is None:
            raise ValueError(f"there is no user {user}, or no rule {rule}")
        if value is not None and not value.is_finite():
            raise ValueError(f"value must be a number, not {value}")


def _control(control: Callable[..., Any]) -> Handler:
    """A handler of the control API, for this machine only: JSON in and out, or 400 and why."""

    async def handle(request: web.Request) -> web.StreamResponse:
        _check_local(request)
        try:
            status, made = 200, order(control, await request.read() or b"{}")
        except (ValueError, RecursionError) as error:
            status, made = 400, {"error": str(error)}
        return as_json(encode(made), status)

    return handle


def _check_local(request: web.Request) -> None:
    """Only this machine controls the sandbox, whatever address it listens on."""
    remote = ipaddress.ip_address((request.remote or "0.0.0.0").partition("%")[0])  # noqa: S104
    mapped = getattr(remote, "ipv4_mapped", None)
    if not (mapped or remote).is_loopback:
        raise web.HTTPForbidden(text="the sandbox is controlled from its own machine only\n")
