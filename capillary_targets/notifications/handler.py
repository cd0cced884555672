"""Notification handler: a webhook's body in, your functions called once, a status to answer."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, Literal, TypeAlias, TypeVar

from attrs import frozen

from capillary_targets.errors import CapillaryError, UsageError

from .models import Notification
from .parser import BadNotification, parse
from .store import MemoryStore, NotificationStore

__all__ = ["NotificationDetails", "NotificationHandler", "Reply", "Result"]

N = TypeVar("N", bound=Notification)
Function: TypeAlias = Callable[[N], Awaitable[object]]
Result: TypeAlias = Literal["done", "duplicate", "busy", "failed", "set aside", "rejected"]

_log = logging.getLogger("capillary_targets")
_STATUS: Final[Mapping[Result, int]] = {
    "done": 200,
    "duplicate": 200,
    "set aside": 200,  # never 400: the vendor would not send that event again (contract §15)
    "busy": 429,
    "failed": 429,
    "rejected": 401,
}


@frozen
class Reply:
    """What to answer: `status` 200 (done, or safely kept), 429 (send it again) or 401."""

    result: Result

    @property
    def status(self) -> int:
        """The HTTP status."""
        return _STATUS[self.result]


@frozen(kw_only=True)
class NotificationDetails:
    """Hook details: what became of one body. `error` says why it failed or was set aside."""

    result: Result
    notification: Notification | None = None
    error: Exception | None = None


class NotificationHandler:
    """Routes notifications to your coroutine functions, each once, and says what to answer.

    ```python
    handler = NotificationHandler(SQLiteStore("notifications.db"), secrets=["s3cret"])

    @handler.on(TargetValueAchieved)
    async def reward(notification): ...

    reply = await handler.handle(await request.body(), request.headers)
    ```

    A notification goes to the functions of its own class, or of the nearest base that has any;
    `on(Notification)` takes all others. A function that raises is called again when the vendor
    repeats the event (429), except for a `CapillaryError` that is not retryable: the vendor's queue
    would wait behind it for days, so that body is set aside and answered 200.

    Args:
        store: Where handled ids are kept; by default in memory, for one process.
        secrets: Values of the header that the brand set up, any of which is accepted, so that it
            can be changed without a gap; none given: every caller is believed.
        header: Name of that header.
        hook: Called with `NotificationDetails` for each body; must be quick.
    """

    def __init__(
        self,
        store: NotificationStore | None = None,
        *,
        secrets: Iterable[str] = (),
        header: str = "X-Webhook-Secret",
        hook: Callable[[NotificationDetails], None] | None = None,
    ) -> None:
        if isinstance(secrets, str):
            raise UsageError('secrets is a list: secrets=["..."]')
        self._store = MemoryStore() if store is None else store
        self._secrets = [secret.encode() for secret in secrets]
        if not all(self._secrets):
            raise UsageError("a secret cannot be empty: leave secrets out to believe every caller")
        self._header = header.lower()
        self._hook = hook
        self._functions: dict[type[Notification], list[Function[Notification]]] = {}

    def on(self, *classes: type[N]) -> Callable[[Function[N]], Function[N]]:
        """Decorator: call the function for notifications of these classes."""
        if not classes or not all(
            isinstance(cls, type) and issubclass(cls, Notification) for cls in classes
        ):
            raise UsageError("name the classes to handle: @handler.on(TargetValueAchieved)")

        def register(function: Function[N]) -> Function[N]:
            for cls in classes:
                self._functions.setdefault(cls, []).append(function)  # type: ignore[arg-type]
            return function

        return register

    async def handle(self, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
        """Handle one body; the reply to give. Raises nothing but `CancelledError`.

        Args:
            body: The request's body, as it came.
            headers: The request's headers; looked at only for the secret.
        """
        if not self._is_authentic(headers or {}):
            return self._reply("rejected")
        try:
            notification = parse(body)
        except BadNotification as error:
            return await self._set_aside(body, None, error)
        try:
            claim = await self._store.begin(notification)
        except Exception as error:  # noqa: BLE001 - a store of the user's may raise anything
            return self._reply("failed", notification, error)
        if claim != "new":
            return self._reply("duplicate" if claim == "done" else "busy", notification)
        return await self._run(body, notification)

    async def _run(self, body: bytes, notification: Notification) -> Reply:
        try:
            classes = [cls for cls in type(notification).__mro__ if cls in self._functions]
            for function in self._functions[classes[0]] if classes else ():
                await function(notification)
            await self._store.finish(notification.event_id)
        except asyncio.CancelledError:
            await asyncio.shield(self._release(notification))
            raise
        except Exception as error:  # noqa: BLE001 - the functions may raise anything
            if isinstance(error, CapillaryError) and not error.retryable:
                return await self._set_aside(body, notification, error)
            await self._release(notification)
            return self._reply("failed", notification, error)
        return self._reply("done", notification)

    async def _set_aside(
        self, body: bytes, notification: Notification | None, error: CapillaryError
    ) -> Reply:
        """Keep a body that no repetition would help, and answer 200."""
        try:
            await self._store.set_aside(bytes(body), str(error))
            if notification is not None:
                await self._store.finish(notification.event_id)
        except Exception as failure:  # noqa: BLE001 - as above
            return self._reply("failed", notification, failure)
        return self._reply("set aside", notification, error)

    async def _release(self, notification: Notification) -> None:
        try:
            await self._store.release(notification.event_id)
        except Exception:  # noqa: BLE001 - the lease runs out by itself
            _log.exception("the lease of notification %r stays", notification.event_id)

    def _is_authentic(self, headers: Mapping[str, str]) -> bool:
        if not self._secrets:
            return True
        given = [
            value.encode("utf-8", "surrogateescape")
            for name, value in headers.items()
            if name.lower() == self._header
        ]
        # All are compared, in constant time each, so that no answer tells which is near.
        equal = [hmac.compare_digest(one, secret) for one in given for secret in self._secrets]
        return any(equal)

    def _reply(
        self,
        result: Result,
        notification: Notification | None = None,
        error: Exception | None = None,
    ) -> Reply:
        what = "a body"
        if notification is not None:  # quoted: these are the sender's, line ends and all
            what = f"{notification.name!r} {notification.event_id!r}"
        if result in {"failed", "set aside", "rejected"}:
            _log.warning("notification %s: %s%s", result, what, f": {error}" if error else "")
        if self._hook is not None:
            try:
                self._hook(
                    NotificationDetails(result=result, notification=notification, error=error)
                )
            except Exception:  # noqa: BLE001 - hooks must not decide over the event
                _log.exception("a hook failed: %r", self._hook)
        return Reply(result)
