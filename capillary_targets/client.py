"""TargetsClient: the calls, pagers and sweeps of one cluster."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Self, TypeVar, Unpack

from yarl import URL

from . import endpoints, lookups
from .auth import Auth
from .errors import ClientClosed, UsageError
from .fanout import Sweep, UserQuery
from .pager import EventPager
from .pagination import UNKNOWN, Checkpoint, Dialect
from .progress import Reconciliation, progress, reconcile
from .retry import whole_number
from .session import Counts, Session, open_session
from .settings import Options, Settings

if TYPE_CHECKING:
    from .cached import CachedClient
    from .notifications import Notification
    from .notifications.settle import Settlement, Settler

__all__ = ["TargetsClient"]

P = ParamSpec("P")
T = TypeVar("T")


def _method(
    call: Callable[Concatenate[Session, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[TargetsClient, P], Coroutine[Any, Any, T]]:
    """An endpoint coroutine as a method: the client's session is its first argument."""

    @wraps(call)
    async def method(self: TargetsClient, /, *args: P.args, **options: P.kwargs) -> T:
        return await call(self.session, *args, **options)

    return method


class TargetsClient:
    """A client for one cluster, to be opened once and shared by the whole process.

    ```python
    async with TargetsClient("eu", BasicAuth("till.id", "password")) as client:
        async for event in client.events(user_id, target_rule_id): ...
    ```

    Args:
        base_url: A cluster's short name ("eu"), or an address, whose path prefix is kept.
        auth: `BasicAuth` or `OAuth`.
        page_size: Events asked for in one page.
        options: All other settings, see `capillary_targets.settings.Options`.

    Raises:
        UsageError: A setting that cannot work.

    """

    def __init__(
        self,
        base_url: str | URL,
        auth: Auth,
        *,
        page_size: int = 100,
        **options: Unpack[Options],
    ) -> None:
        self._settings = Settings.of(base_url, auth, options, "page_size")
        self.page_size: int = whole_number("page_size", page_size)
        self._settler: Settler | None = None
        self._stack = AsyncExitStack()
        self._session: Session | None = None

    def __repr__(self) -> str:
        return f"TargetsClient({str(self._settings.base_url)!r}, {self._settings.auth!r})"

    async def __aenter__(self) -> Self:
        if self._session is not None:
            raise ClientClosed("this client was opened before; make a new one")
        self._session = await self._stack.enter_async_context(open_session(self._settings))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the session, unless it is the caller's."""
        await self._stack.aclose()

    @property
    def session(self) -> Session:
        """The open session, for the coroutines of `endpoints`. Raises `ClientClosed`."""
        if self._session is None:
            raise ClientClosed("this client is not open: use `async with TargetsClient(...)`")
        self._session.ensure_open()
        return self._session

    @property
    def counts(self) -> Counts:
        """Requests and retries made so far."""
        return self.session.counts

    active_targets: Final = _method(endpoints.active_targets)

    def events(
        self,
        user_id: int,
        target_rule_id: int,
        period: int | str | None = None,
        *,
        page_size: int | None = None,
        max_items: int | None = None,
        start: Checkpoint | None = None,
        strict: bool = True,
        prefetch: int = 4,
        dialect: Dialect | None = None,
    ) -> EventPager:
        """The events that counted towards a target, to be walked with `async for`.

        Args:
            user_id: 64 bits.
            target_rule_id: The `id` of a `Target`.
            period: Only events of this period: its id, "current", or a refCode of the target's
                group. The id behind a name is looked up when a loop starts, with one request or
                two; the loop raises `UnknownPeriod` where there is none.
            page_size: Events asked for in one request; the client's by default.
            max_items: Events in all.
            start: A checkpoint of an earlier loop or of an error: goes on with the next event.
            strict: False lets a loop end whose events cannot be proven complete; `report` says so.
            prefetch: Pages requested while earlier ones are consumed; 0 requests each when due.
            dialect: What is certain about the server's pagination; the rest is detected.

        Raises:
            UsageError: A value that no request can be made of.
            ClientClosed: The client is not open.
        """
        if period == lookups.CURRENT and start is not None:
            raise UsageError('a checkpoint is of one period: give its id, not "current"')
        return EventPager(
            self.session,
            user_id,
            target_rule_id,
            period,
            page_size=self.page_size if page_size is None else page_size,
            max_items=max_items,
            start=start,
            strict=strict,
            prefetch=prefetch,
            dialect=dialect or UNKNOWN,
        )

    find_customer: Final = _method(lookups.find_customer)
    target_groups: Final = _method(lookups.target_groups)
    target_periods: Final = _method(lookups.target_periods)
    progress: Final = _method(progress)

    async def reconcile(
        self, user_id: int, target_rule_id: int, period: int | str | None = None
    ) -> Reconciliation:
        """A target's events beside the service's own value: see `progress.reconcile`."""
        return await reconcile(
            self.session, user_id, target_rule_id, period, page_size=self.page_size
        )

    def cached(
        self, *, ttl: float, stale_if_error: float = 0.0, max_size: int = 10_000
    ) -> CachedClient:
        """The look-ups with a cache before them (extra `cache`).

        ```python
        members = client.cached(ttl=30, stale_if_error=3600)
        found = await members.progress(user_id)
        found.value, found.stale, found.fetched_at
        ```

        Args:
            ttl: Seconds for which an answer is given out without asking again.
            stale_if_error: Seconds beyond `ttl` for which it is still given out, marked stale,
                while the service fails.
            max_size: Answers kept; the least recently used goes first.

        Raises:
            UsageError: A value that cannot work.
            ClientClosed: The client is not open.
        """
        from .cached import CachedClient  # noqa: PLC0415 - needs an extra

        return CachedClient(self.session, ttl=ttl, stale_if_error=stale_if_error, max_size=max_size)

    async def settle(
        self,
        notification: Notification,
        *,
        start: Mapping[int, Checkpoint] | None = None,
        window: float = 30.0,
    ) -> Settlement:
        """What a notification announces: its member's new events, proven to hold the announced one.

        A push may be early and the API late, so an event that is not there yet is looked for until
        `window` seconds have passed; then `proof` is "missing". Concurrent calls about one member
        and rule share their requests.

        Args:
            notification: one of `capillary_targets.notifications.parse`.
            start: checkpoints by rule id, as an earlier settlement returned them; a rule without
                one is read from its first event.
            window: seconds to wait for the announced event; 0 looks once.

        Raises:
            UsageError: it names no member or no target, or `window` is negative.
            CapillaryError: a request failed; nothing is lost, settle it again.
        """
        if not window >= 0:
            raise UsageError(f"window must be seconds, 0 or more, not {window!r}")
        if self._settler is None:
            from .notifications.settle import Settler  # noqa: PLC0415 - few processes settle

            self._settler = Settler(self.session, self.page_size)
        return await self._settler.settle(notification, start or {}, window)

    def sweep(
        self,
        user_ids: Iterable[int] | AsyncIterable[int],
        *,
        target_rule_ids: Iterable[int] = (),
        fetch_targets: bool = True,
        period: int | str | None = None,
        page_size: int | None = None,
        ordered: bool = False,
    ) -> Sweep:
        """The targets and events of many users concurrently: an outcome for each, as they come.

        A failing user has `error` set and does not disturb the others. Rejected credentials, or an
        endpoint that is gone, end the sweep at once. Waiting for the rate budget counts towards no
        request's deadline.

        Args:
            user_ids: Of any length, even endless: about twice as many users are started as
                requests may be in flight, before their outcomes are consumed. A user who comes
                again while in progress is not fetched twice.
            target_rule_ids: Only these targets.
            fetch_targets: Ask which targets a user is enrolled in. With False the events of
                `target_rule_ids` are fetched for everybody, one request less for each user.
            period: Only events of this period: an id, "current" or a refCode.
            page_size: Events asked for in one request; the client's by default.
            ordered: Keep the users' order.

        Raises:
            UsageError: A value that no request can be made of.
        """
        query = UserQuery(
            target_rule_ids=target_rule_ids,
            fetch_targets=fetch_targets,
            period=period,
            page_size=self.page_size if page_size is None else page_size,
        )
        return Sweep(self.session.with_options(wait_for_limits=True), user_ids, query, ordered)
