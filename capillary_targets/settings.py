"""Session settings, validated on construction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import tzinfo
from ipaddress import ip_address
from typing import Any, Final, TypeAlias, TypedDict

from aiohttp import ClientSession
from attrs import field, fields, frozen
from yarl import URL

from .auth import Auth
from .budget import Budget
from .errors import UsageError
from .hooks import Hook
from .limits import AdaptiveConcurrency, RateLimit
from .models import short_repr
from .pagination import UNKNOWN, Dialect
from .retry import COUNT, NUMBER, WHOLE_NUMBER, RetryPolicy, checked, reader, whole_number

Observer: TypeAlias = Callable[[str, int, Mapping[str, str], bytes], None]

CLUSTERS: Final = {
    "apac": "https://apac.api.capillarytech.com",
    "apac2": "https://apac2.api.capillarytech.com",
    "eu": "https://eu.api.capillarytech.com",
    "us": "https://us.api.capillarytech.com",
}
"""Short names of the cluster hosts. A tenant lives on exactly one, which it has to know."""


class Options(TypedDict, total=False):
    """The settings that client and session share, as keyword arguments."""

    timeout: float
    """The deadline of one call in seconds: all its attempts and waits, and the whole body."""
    retry: RetryPolicy | None
    """Attempts, and the waits between them; None is `RetryPolicy()`."""
    concurrency: int | AdaptiveConcurrency | None
    """Requests in flight at once: a number; or found by itself, which is None, too."""
    rate: RateLimit | Budget | None
    """A budget to keep, which may be shared with other processes; or one of the caller's making."""
    timezone: tzinfo | str | None
    """The cluster's zone or its name, for aware times where the server sends none."""
    max_body: int
    """The largest body read, in bytes after decompression."""
    allow_insecure: bool
    """Whether credentials may go over plain http to another machine."""
    trust_env: bool
    """Whether HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY are read."""
    hooks: Iterable[Hook] | Hook
    """Called with the details of requests, retries, waits and scopes."""
    dialect: Dialect
    """What is known of the server's pagination, so that no walk pays to learn it."""
    drift: int | None
    """One answer of each call in so many is compared with the contract; 0: none; None: one in
    1,000 in sweeps, none elsewhere."""
    observers: Iterable[Observer] | Observer
    """Called with each whole answer: path and query, status, headers, body. Personal data."""
    session: ClientSession | None
    """An aiohttp session of the caller's, which is used and never closed."""


def _base_url(given: str | URL) -> URL:
    """The base URL of a cluster's short name or an address; a gateway's path prefix is kept."""
    text = CLUSTERS.get(given, given) if isinstance(given, str) else given
    try:
        url = URL(text)
    except (TypeError, ValueError):
        url = URL()
    if url.scheme not in {"http", "https"} or not url.host:
        names = ", ".join(sorted(CLUSTERS))
        raise UsageError(f"base URL: give https://HOST or one of {names}, not {str(given)!r}")
    if url.user is not None or url.password is not None:
        raise UsageError("base URL: credentials belong in auth, not in the address")
    if url.query_string or url.fragment:
        raise UsageError("base URL: it cannot have a query or a fragment")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _auth(given: Auth | None) -> Auth:
    if given is None or not hasattr(given, "cached_headers") or isinstance(given, type):
        raise UsageError("auth must be BasicAuth(...) or OAuth(...)")
    return given


def _one_of(kinds: Any, must: str, none: object = None) -> dict[str, Any]:
    """Metadata of a field whose value is an instance of `kinds`; None is read as `none`."""

    def read(name: str, given: object) -> object:
        if isinstance(given, kinds):
            return given
        raise UsageError(f"{name} must be {must}, not {given!r}")

    return {"read": read, "none": none}


def _concurrency(name: str, given: object) -> object:
    return given if isinstance(given, AdaptiveConcurrency) else whole_number(name, given)


def _timezone(name: str, given: object) -> tzinfo:
    if isinstance(given, str):
        from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # noqa: PLC0415 - few name a zone

        try:
            return ZoneInfo(given)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise UsageError(f"{name}: there is no time zone {given!r}") from None
    if not isinstance(given, tzinfo):
        raise UsageError(f'{name} must be a zone or its name ("Asia/Kolkata"), not {given!r}')
    return given


def _callables(name: str, given: object) -> tuple[Callable[..., Any], ...]:
    found = tuple(given) if isinstance(given, Iterable) else (given,)
    if not all(map(callable, found)):
        raise UsageError(f"{name} must be callables, not {given!r}")
    return found


_BOOLEAN: Final = {"read": reader(bool, "True or False")}


@frozen(kw_only=True, field_transformer=checked)
class Settings:
    """Settings of a session as they are used: `Options`, the base URL and the credentials.

    One that cannot work raises `UsageError` at once.
    """

    base_url: URL = field(converter=_base_url)
    """A cluster's short name (`eu`) or an address, whose path prefix is kept."""
    auth: Auth = field(converter=_auth)
    timeout: float = field(default=30.0, metadata=NUMBER)
    retry: RetryPolicy = field(
        default=None, metadata=_one_of(RetryPolicy, "RetryPolicy(attempts=...)", RetryPolicy())
    )
    concurrency: int | AdaptiveConcurrency = field(
        default=None, metadata={"read": _concurrency, "none": AdaptiveConcurrency()}
    )
    rate: RateLimit | Budget | None = field(
        default=None, metadata=_one_of(RateLimit | Budget, "RateLimit(1000, per=60) or a budget")
    )
    timezone: tzinfo | None = field(default=None, metadata={"read": _timezone})
    max_body: int = field(default=64 * 2**20, metadata=WHOLE_NUMBER)
    allow_insecure: bool = field(default=False, metadata=_BOOLEAN)
    trust_env: bool = field(default=False, metadata=_BOOLEAN)
    hooks: tuple[Hook, ...] = field(default=(), metadata={"read": _callables})
    dialect: Dialect = field(
        default=UNKNOWN,
        metadata=_one_of(Dialect, 'Dialect(...) or Dialect.load("cluster.toml")'),
    )
    drift: int | None = field(default=None, metadata=COUNT)
    observers: tuple[Observer, ...] = field(default=(), metadata={"read": _callables})
    session: ClientSession | None = field(
        default=None, repr=False, metadata=_one_of(ClientSession, "an aiohttp.ClientSession")
    )
    __repr__ = short_repr

    @classmethod
    def of(
        cls, base_url: str | URL, auth: Auth | None, options: Mapping[str, Any], *beside: str
    ) -> Settings:
        """Settings of keyword arguments; `beside` are others that the caller knows.

        Raises:
            UsageError: an option that does not exist, or a value that cannot work.
        """
        known = [one.name for one in fields(cls)]
        for name in options.keys() - known:
            from difflib import get_close_matches  # noqa: PLC0415 - only now

            near = get_close_matches(name, [*known, *beside], 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise UsageError(f"there is no option {name}: {hint}")
        return cls(base_url=base_url, auth=auth, **options)

    @property
    def attempt_timeout(self) -> float:
        """Seconds after which one attempt is cut off."""
        return self.retry.attempt_timeout or self.timeout / 2

    def __attrs_post_init__(self) -> None:
        url = self.base_url
        if url.scheme == "http" and not self.allow_insecure and not _is_loopback(url.host or ""):
            raise UsageError(
                f"base URL: http would send the credentials to {url.host} in clear; use https "
                "(in Python, allow_insecure=True permits it)"
            )
