"""From flags and the environment to an open client; or to one of a sandbox, started for it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias, TypeVar

from attrs import frozen
from cyclopts import Parameter, Token

from capillary_targets.auth import BasicAuth
from capillary_targets.client import TargetsClient
from capillary_targets.hooks import Details, RequestDetails, RetryDetails, WaitDetails
from capillary_targets.limits import RateLimit
from capillary_targets.settings import Observer, from_env

from . import output

T = TypeVar("T")

_TRY: Final = ", or add --sandbox to try without an account"
OBSERVERS: ContextVar[tuple[Observer, ...]] = ContextVar("capillary_targets_observers", default=())
"""What is shown each answer that the running command gets."""


def _spelled(pattern: str, read: Callable[..., object], must: str) -> Parameter:
    """A flag whose text matches `pattern`, and of whose groups `read` makes the value."""

    def convert(_type: object, tokens: Sequence[Token]) -> object:
        found = re.fullmatch(pattern, text := tokens[0].value, re.DOTALL)
        if found is None:
            raise ValueError(f"it must be {must}, not {text!r}")
        return read(*found.groups())

    return Parameter(converter=convert, n_tokens=1, accepts_keys=False)


def _max_failures(users: str | None, share: str, percent: str) -> float:
    return int(users) if users else float(share) if share else float(percent) / 100


Concurrency: TypeAlias = Annotated[
    int | None,
    _spelled("auto|([0-9]{1,9})", lambda number: number and int(number), "a number or auto"),
]
Rate: TypeAlias = Annotated[
    RateLimit | None,
    _spelled(
        r"([1-9][0-9]{0,8})/(?=.*[1-9])([0-9]{1,8}(?:\.[0-9]{1,6})?)",
        lambda requests, per: RateLimit(int(requests), per=float(per)),
        "REQUESTS/SECONDS, such as 1000/60",
    ),
]
MaxFailures: TypeAlias = Annotated[
    float | None,
    _spelled(
        r"([0-9]{1,18})|(0*\.[0-9]{1,6})|([0-9]{1,2}|[0-9]{0,2}\.[0-9]{1,6})%",
        _max_failures,
        "a number of users, or a share such as 5%",
    ),
]
Rules: TypeAlias = Annotated[list[int] | None, Parameter(name="--rule")]
# An empty one is of a variable that is not set: it must not be the current directory.
File: TypeAlias = Annotated[Path, _spelled("(.+)", Path, "a file or a directory")]


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
    async def arguments(
        self, log: Callable[[str], None] = output.log, **settings: Any
    ) -> AsyncIterator[dict[str, Any]]:
        """A client's arguments: whom to ask, as whom, and its settings. Raises `UsageError`.

        `log` prints a line. `settings` are the client's own (`page_size`, `concurrency`, ...).
        """
        settings["timeout"] = self.timeout
        settings["trust_env"] = not self.sandbox  # no proxy leads to this machine
        settings["observers"] = OBSERVERS.get()
        settings["hooks"] = (partial(_log, log),) if self.verbose else ()
        zone = os.environ.get("CAPILLARY_TIMEZONE") or None
        settings["timezone"] = zone if self.timezone is None else self.timezone
        if self.sandbox:
            from capillary_targets.sandbox import Sandbox  # noqa: PLC0415 - a tenth of the start

            sandbox = Sandbox()
            async with sandbox as url:
                yield settings | {"base_url": url, "auth": BasicAuth(*sandbox.credentials)}
        else:
            yield {**from_env(hint=_TRY), **settings}

    @asynccontextmanager
    async def client(self, **settings: Any) -> AsyncIterator[TargetsClient]:
        """An open client, whose settings these are."""
        async with self.arguments(**settings) as given, TargetsClient(**given) as client:
            yield client

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
