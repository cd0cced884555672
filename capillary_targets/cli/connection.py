"""From flags and the environment to an open client; or to one of a sandbox, started for it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias, TypeVar

from attrs import frozen
from cyclopts import Parameter, Token

from capillary_targets.auth import Auth, BasicAuth
from capillary_targets.client import TargetsClient
from capillary_targets.environment import from_env
from capillary_targets.hooks import Details, RequestDetails, RetryDetails, WaitDetails
from capillary_targets.limits import RateLimit
from capillary_targets.settings import Observer

from . import output

__all__ = [
    "DEFAULT",
    "Concurrency",
    "Connection",
    "File",
    "MaxFailures",
    "Query",
    "Rate",
    "observed_by",
]

T = TypeVar("T")

_TRY: Final = ", or add --sandbox to try without an account"


def _spelled(read: Callable[[str], object]) -> Parameter:
    """A flag that `read` makes of its text, or raises a ValueError that says what to write."""

    def convert(_type: object, tokens: Sequence[Token]) -> object:
        return read(tokens[0].value)

    return Parameter(converter=convert, n_tokens=1, accepts_keys=False)


def _concurrency(text: str) -> int | None:
    if text != "auto" and not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError(f"it must be a number or auto, not {text!r}")
    return None if text == "auto" else int(text)


def _rate(text: str) -> RateLimit:
    found = re.fullmatch(r"([1-9][0-9]{0,8})/([0-9]{1,8}(?:\.[0-9]{1,6})?)", text)
    if not found or not float(found[2]):
        raise ValueError(f"it must be REQUESTS/SECONDS, such as 1000/60, not {text!r}")
    return RateLimit(int(found[1]), per=float(found[2]))


def _max_failures(text: str) -> float:
    if re.fullmatch(r"[0-9]{1,18}", text):
        return int(text)
    found = re.fullmatch(r"([0-9]{0,3}(?:\.[0-9]{1,6})?)(%?)", text)
    share = float(found[1]) / (100 if found[2] else 1) if found and found[1] else 2.0
    if share >= 1:
        raise ValueError(f"it must be a number of users, or a share such as 5%, not {text!r}")
    return share


def _file(text: str) -> Path:
    if not text:  # of a variable that is not set: it must not be the current directory
        raise ValueError("it is empty: name a file or a directory")
    return Path(text)


Concurrency: TypeAlias = Annotated[int | None, _spelled(_concurrency)]
Rate: TypeAlias = Annotated[RateLimit | None, _spelled(_rate)]
MaxFailures: TypeAlias = Annotated[float | None, _spelled(_max_failures)]
File: TypeAlias = Annotated[Path, _spelled(_file)]


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
        zone = os.environ.get("CAPILLARY_TIMEZONE") or None
        return settings | {
            "timeout": self.timeout,
            "timezone": zone if self.timezone is None else self.timezone,
            "trust_env": not self.sandbox,  # no proxy leads to this machine
            "observers": _observers.get(),
            "hooks": (partial(_log, log),) if self.verbose else (),
        }

    def warn(self, message: str) -> None:
        """Print a `warning:` line, unless it is to be quiet."""
        if not self.quiet:
            output.warn(message)


@Parameter(name="*")
@frozen(kw_only=True)
class Query(Connection):
    """The flags of a command that prints what it gets.

    Args:
        as_json: JSON Lines even on a terminal; elsewhere they are what comes anyway.
    """

    as_json: Annotated[bool, Parameter(name="--json")] = False

    @property
    def is_json(self) -> bool:
        """Whether answers go out as JSON Lines: asked for, or stdout is no terminal."""
        return self.as_json or not sys.stdout.isatty()

    def show(
        self,
        title: str,
        found: Iterable[T],
        columns: Callable[[T], Mapping[str, object]],
        fields: Callable[[T], Mapping[str, object]] = methodcaller("to_dict"),
    ) -> None:
        """Print answers: as JSON Lines of their `fields`, or as a table of their `columns`."""
        if self.is_json:
            output.write_json(map(fields, found))
        else:
            output.show_records(title, [*map(columns, found)])


DEFAULT: Final = Query()


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
            log(f"attempt {details.error.attempts} failed; next in {details.wait:.1f} s")
        case WaitDetails():
            log(f"waited {details.seconds:.1f} s ({details.reason})")
