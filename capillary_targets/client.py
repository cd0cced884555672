"""TargetsClient: what a user of the package holds."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import AsyncExitStack, aclosing
from datetime import datetime, tzinfo
from types import TracebackType
from typing import Self

import aiohttp
from attrs import define, field
from yarl import URL

from . import endpoints, lookups
from .auth import Auth
from .errors import CapillaryError, ClientClosed, UsageError
from .fanout import UserOutcome, fan_out
from .hooks import Hook
from .members import TargetPeriod, UserTargetGroups
from .models import Target, TargetEvent
from .pager import EventPager
from .pagination import PagingReport
from .retry import RetryPolicy
from .session import Counts, Session, Settings, opened

__all__ = ["Sweep", "TargetsClient"]


class TargetsClient:
    """A client for one cluster, to be opened once and shared by the whole process.

    ```python
    async with TargetsClient("eu", BasicAuth("till.id", "password")) as client:
        async for event in client.events(user_id, target_rule_id): ...
    ```

    `base_url` is a cluster's short name or any address, whose path prefix is kept. `page_size` is
    the number of events asked for in one page. `concurrency` bounds the requests in flight.
    `timeout` is the deadline of one request in seconds, retries and waits included. `timezone` is
    the cluster's zone, if you want aware times where the server sends none. `session`, an aiohttp
    session of yours, is used and never closed.
    """

    def __init__(
        self,
        base_url: str | URL,
        auth: Auth,
        *,
        page_size: int = 100,
        concurrency: int = 16,
        timeout: float = 30.0,
        retry: RetryPolicy | None = None,
        timezone: tzinfo | None = None,
        max_body: int = 64 * 2**20,
        allow_insecure: bool = False,
        hooks: Iterable[Hook] = (),
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        if page_size < 1:
            raise UsageError(f"page_size must be at least 1, not {page_size}")
        self._settings = Settings.check(
            base_url,
            auth,
            timeout=timeout,
            retry=retry,
            concurrency=concurrency,
            timezone=timezone,
            max_body=max_body,
            allow_insecure=allow_insecure,
            hooks=hooks,
        )
        self._page_size = page_size
        self._http = session
        self._stack = AsyncExitStack()
        self._session: Session | None = None

    def __repr__(self) -> str:
        return f"TargetsClient({str(self._settings.base_url)!r}, {self._settings.auth!r})"

    async def __aenter__(self) -> Self:
        if self._session is not None:
            raise ClientClosed("this client was opened before; make a new one")
        self._session = await self._stack.enter_async_context(opened(self._settings, self._http))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

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

    async def active_targets(
        self,
        user_id: int,
        *,
        target_rule_ids: Iterable[int] = (),
        tracking_date: datetime | None = None,
        enrollment_type: str | None = None,
        only_user_created: bool | None = None,
    ) -> list[Target]:
        """The targets that a user is enrolled in. See `endpoints.active_targets`."""
        return await endpoints.active_targets(
            self.session,
            user_id,
            target_rule_ids=target_rule_ids,
            tracking_date=tracking_date,
            enrollment_type=enrollment_type,
            only_user_created=only_user_created,
        )

    def events(
        self,
        user_id: int,
        target_rule_id: int,
        period_id: int | None = None,
        *,
        page_size: int | None = None,
        max_items: int | None = None,
    ) -> EventPager:
        """The events that counted towards a target, to be walked with `async for`.

        `page_size` is the number of events in one request; `max_items` the number in all.
        """
        return EventPager(
            self.session,
            user_id,
            target_rule_id,
            period_id=period_id,
            page_size=page_size or self._page_size,
            max_items=max_items,
        )

    async def find_customer(
        self,
        *,
        identifier_name: str,
        identifier_value: str,
        source: str = "INSTORE",
        account_id: str | None = None,
    ) -> int:
        """The user id behind a mobile number, an e-mail, ... See `lookups.find_customer`."""
        return await lookups.find_customer(
            self.session,
            identifier_name=identifier_name,
            identifier_value=identifier_value,
            source=source,
            account_id=account_id,
        )

    async def target_groups(
        self,
        user_id: int,
        *,
        include_inactive: bool | None = None,
        target_rule_id: int | None = None,
        include_inactive_targets: bool | None = None,
    ) -> UserTargetGroups:
        """A user's target groups and the progress in each. See `lookups.target_groups`."""
        return await lookups.target_groups(
            self.session,
            user_id,
            include_inactive=include_inactive,
            target_rule_id=target_rule_id,
            include_inactive_targets=include_inactive_targets,
        )

    async def target_periods(self, target_group_id: int) -> list[TargetPeriod]:
        """The periods of a target group. See `lookups.target_periods`."""
        return await lookups.target_periods(self.session, target_group_id)

    def sweep(self, user_ids: Iterable[int] | AsyncIterable[int]) -> Sweep:
        """The targets and events of many users at once: an outcome for each, as they come.

        `user_ids` may be of any length: at most twice `concurrency` users are started before
        their outcomes are consumed. A failing user has `error` set and disturbs nobody.
        """
        return Sweep(self, user_ids, self._settings.concurrency)


@define(eq=False)
class Sweep:
    """Many users' outcomes, for one `async for` over the sweep or over its `.events()`."""

    _client: TargetsClient = field(repr=False)
    _users: Iterable[int] | AsyncIterable[int] = field(repr=False)
    _workers: int

    async def __aiter__(self) -> AsyncGenerator[UserOutcome, None]:
        async with aclosing(fan_out(self._users, self._visit, self._workers)) as outcomes:
            async for outcome in outcomes:
                yield outcome

    async def events(self) -> AsyncGenerator[TargetEvent, None]:
        """Every event of every user as one flat stream. The first failed user's error is raised."""
        async with aclosing(aiter(self)) as outcomes:
            async for outcome in outcomes:
                for event in outcome.events:
                    yield event
                if outcome.error is not None:
                    raise outcome.error

    async def _visit(self, user_id: int) -> UserOutcome:
        targets: list[Target] = []
        events: list[TargetEvent] = []
        reports: dict[int, PagingReport] = {}
        failure: CapillaryError | None = None
        try:
            targets = await self._client.active_targets(user_id)
            for target in targets:
                pager = self._client.events(user_id, target.id)
                try:
                    async for page in pager.pages():
                        events.extend(page.events)
                finally:
                    reports[target.id] = pager.report
        except ClientClosed:
            raise
        except CapillaryError as error:
            failure = error
        return UserOutcome(user_id, tuple(targets), tuple(events), reports, failure)
