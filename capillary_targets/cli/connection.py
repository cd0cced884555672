"""From flags and the environment to an open client; or to one of a sandbox, started for it."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Annotated, Any, Final

from attrs import frozen
from cyclopts import Parameter

from capillary_targets.auth import Auth, BasicAuth
from capillary_targets.client import TargetsClient
from capillary_targets.environment import from_env
from capillary_targets.errors import UsageError
from capillary_targets.hooks import Details, RequestDetails, RetryDetails, WaitDetails
from capillary_targets.limits import AdaptiveConcurrency, RateLimit
from capillary_targets.settings import Observer

from . import output

__all__ = [
    "DEFAULT",
    "Connection",
    "concurrency_of",
    "max_failures_of",
    "observed_by",
    "period_of",
    "rate_of",
]

_TRY: Final = ", or add --sandbox to try without an account"


@Parameter(name="*")
@frozen(kw_only=True)
class Connection:
    """The flags that every command has which asks the API.

    Args:
        sandbox: Ask a sandbox started for the occasion: no account needed.
        timeout: Seconds that one call may take, with all its attempts and waits.
        timezone: The cluster's time zone, such as Asia/Kolkata, for dates that come without one
            (or set CAPILLARY_TIMEZONE).
        verbose: Log each request, retry and wait on stderr.
        quiet: No progress and no warnings on stderr.
    """

    sandbox: bool = False
    timeout: float = 30.0
    timezone: str | None = None
    verbose: Annotated[bool, Parameter(name=["--verbose", "-v"])] = False
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"])] = False

    @asynccontextmanager
    async def server(self) -> AsyncIterator[tuple[str, Auth]]:
        """Whom to ask, and as whom: an address and credentials. Raises `UsageError`."""
        if self.sandbox:
            from capillary_targets.sandbox import Sandbox  # noqa: PLC0415 - a tenth of the start

            sandbox = Sandbox()
            async with sandbox as url:
                yield url, BasicAuth(*sandbox.credentials)
        else:
            account = from_env(hint=_TRY)
            yield account["base_url"], account["auth"]

    @asynccontextmanager
    async def client(self, **settings: Any) -> AsyncIterator[TargetsClient]:
        """An open client. `settings` are the client's own (`page_size`, `concurrency`, ...)."""
        async with (
            self.server() as (url, auth),
            TargetsClient(url, auth, **self.settings(**settings)) as client,
        ):
            yield client

    def settings(self, log: Callable[[str], None] = output.log, **settings: Any) -> dict[str, Any]:
        """A client's settings: these flags', and `settings`. `log` prints a line."""
        hooks = (*settings.pop("hooks", ()), *((partial(_log, log),) if self.verbose else ()))
        zone = self.timezone
        if zone is None:
            zone = os.environ.get("CAPILLARY_TIMEZONE") or None
        return settings | {
            "timeout": self.timeout,
            "timezone": zone,
            "trust_env": not self.sandbox,  # no proxy leads to this machine
            "observers": _observers.get(),
            "hooks": hooks,
        }

    def warn(self, message: str) -> None:
        """Print a `warning:` line, unless it is to be quiet."""
        if not self.quiet:
            output.warn(message)


DEFAULT: Final = Connection()


_observers: ContextVar[tuple[Observer, ...]] = ContextVar("capillary_targets_observers", default=())


@contextmanager
def observed_by(observer: Observer) -> Iterator[None]:
    """Every client opened within shows its answers to `observer`."""
    token = _observers.set((observer,))
    try:
        yield
    finally:
        _observers.reset(token)


def _log(log: Callable[[str], None], details: Details) -> None:
    """A hook: a line for each request, retry and wait."""
    match details:
        case RequestDetails():
            result = details.error or f"HTTP {details.status}"
            log(f"{details.method} {details.url}: {result}, {details.seconds:.3f} s")
        case RetryDetails():
            log(f"attempt {details.attempt} failed; next in {details.wait:.1f} s")
        case WaitDetails():
            log(f"waited {details.seconds:.1f} s ({details.reason})")


def concurrency_of(text: str) -> int | AdaptiveConcurrency:
    """`auto`, or a number of requests. Raises `UsageError`."""
    if text == "auto":
        return AdaptiveConcurrency()
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise UsageError(f"--concurrency must be a number or auto, not {text!r}")
    return int(text)


def rate_of(text: str, flag: str = "--rate") -> RateLimit:
    """`1000/60`: requests and seconds. Raises `UsageError`, naming the flag."""
    found = re.fullmatch(r"([1-9][0-9]{0,8})/([0-9]{1,8}(?:\.[0-9]{1,6})?)", text)
    if not found or not float(found[2]):
        raise UsageError(f"{flag} must be REQUESTS/SECONDS, such as 1000/60, not {text!r}")
    return RateLimit(int(found[1]), per=float(found[2]))


def max_failures_of(text: str) -> int | float:
    """`100`: a number of users; `5%` or `0.05`: a share of them. Raises `UsageError`."""
    if re.fullmatch(r"[0-9]{1,18}", text):
        return int(text)
    found = re.fullmatch(r"([0-9]{0,3}(?:\.[0-9]{1,6})?)(%?)", text)
    share = float(found[1]) / (100 if found[2] else 1) if found and found[1] else 2.0
    if share >= 1:
        raise UsageError(
            f"--max-failures must be a number of users, or a share such as 5%, not {text!r}"
        )
    return share


def period_of(text: str | None) -> int | str | None:
    """A period: its id, or whatever else it may be called by."""
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,18}", text) else text
