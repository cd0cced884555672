"""Session settings, validated on construction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import tzinfo
from ipaddress import ip_address
from typing import Any, Final, TypeAlias, TypedDict

from attrs import Attribute, field, fields, frozen
from yarl import URL

from .auth import Auth
from .budget import Budget
from .errors import UsageError
from .hooks import Hook
from .limits import AdaptiveConcurrency, RateLimit
from .models import short_repr
from .pagination import UNKNOWN, Dialect
from .retry import NUMBER, WHOLE_NUMBER, RetryPolicy, checked, whole_number

__all__ = ["CLUSTERS", "Observer", "Options", "Settings"]

Observer: TypeAlias = Callable[[str, int, Mapping[str, str], bytes], None]

CLUSTERS: Final = {
    "apac": "https://apac.api.capillarytech.com",
    "apac2": "https://apac2.api.capillarytech.com",
    "eu": "https://eu.api.capillarytech.com",
    "us": "https://us.api.capillarytech.com",
}
"""Short names of the cluster hosts. A tenant lives on exactly one, which it has to know."""


class Options(TypedDict, total=False):
    """The settings that client and session share, as keyword arguments; see `Settings`."""

    timeout: float
    """Deadline of one call in seconds: attempts, waits and the whole body. 30 by default."""
    retry: RetryPolicy | None
    """How often and after what waits a failed request is sent again."""
    concurrency: int | AdaptiveConcurrency | None
    """Requests in flight at once: a number, or found by itself (the default)."""
    rate: RateLimit | Budget | None
    """The rate budget to keep, or one of the caller's making; none by default."""
    timezone: tzinfo | str | None
    """The cluster's zone or its name, for aware times where the server sends none."""
    max_body: int
    """The largest body read, in bytes after decompression. 64 MiB by default."""
    allow_insecure: bool
    """Whether credentials may go over plain http to another machine."""
    trust_env: bool
    """Whether HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY are read."""
    hooks: Iterable[Hook] | Hook
    """Callables that are given details of requests, retries, waits, walks and sweeps."""
    dialect: Dialect
    """What is known of the server's pagination; the rest is detected."""
    drift: int | None
    """One answer of each call in so many is compared with the contract; 0: none. By default one in
    1,000 in sweeps, none elsewhere."""
    observers: Iterable[Observer]
    """Callables that are shown each whole answer, personal data included."""


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
    if given is None or not hasattr(given, "cached_headers"):
        raise UsageError("auth must be BasicAuth(...) or OAuth(...)")
    return given


def _retry(given: RetryPolicy | None) -> RetryPolicy:
    if not isinstance(given, RetryPolicy | None):
        raise UsageError(f"retry must be RetryPolicy(attempts=...), not {given!r}")
    return given or RetryPolicy()


def _concurrency(given: int | AdaptiveConcurrency | None) -> int | AdaptiveConcurrency:
    if given is None:
        return AdaptiveConcurrency()
    if isinstance(given, AdaptiveConcurrency):
        return given
    return whole_number("concurrency", given)


def _rate(given: RateLimit | Budget | None) -> RateLimit | Budget | None:
    if given is None or isinstance(given, RateLimit) or hasattr(given, "acquire"):
        return given
    raise UsageError(f"rate must be RateLimit(1000, per=60) or a budget, not {given!r}")


def _timezone(given: tzinfo | str | None) -> tzinfo | None:
    if isinstance(given, str):
        from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # noqa: PLC0415 - few name a zone

        try:
            return ZoneInfo(given)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise UsageError(f"timezone: there is no time zone {given!r}") from None
    if not isinstance(given, tzinfo | None):
        raise UsageError(f'timezone must be a zone or its name ("Asia/Kolkata"), not {given!r}')
    return given


def _hooks(given: Iterable[Hook] | Hook) -> tuple[Hook, ...]:
    hooks = (given,) if not isinstance(given, Iterable) else tuple(given)
    if not all(map(callable, hooks)):
        raise UsageError(f"hooks must be callables, not {given!r}")
    return hooks


def _dialect(_: Any, __: Attribute[Any], given: object) -> None:
    if not isinstance(given, Dialect):
        raise UsageError(
            f'dialect must be Dialect(...) or Dialect.load("cluster.toml"), not {given!r}'
        )


def _observers(given: Iterable[Observer]) -> tuple[Observer, ...]:
    observers = tuple(given)
    if not all(map(callable, observers)):
        raise UsageError(f"observers must be callables, not {given!r}")
    return observers


def _drift(given: int | None) -> int | None:
    return given if not given else whole_number("drift", given)


@frozen(kw_only=True, field_transformer=checked)
class Settings:
    """Settings of a session. One that cannot work raises `UsageError` at once."""

    base_url: URL = field(converter=_base_url)
    """A cluster's short name (`eu`) or an address, whose path prefix is kept."""
    auth: Auth = field(converter=_auth)
    timeout: float = field(default=30.0, metadata=NUMBER)
    """The deadline of one call in seconds: all its attempts and waits, and the whole body."""
    retry: RetryPolicy = field(default=None, converter=_retry)
    """Attempts, and the waits between them; None is `RetryPolicy()`."""
    concurrency: int | AdaptiveConcurrency = field(default=None, converter=_concurrency)
    """Requests in flight at once: a number; or found by itself, which is None, too."""
    rate: RateLimit | Budget | None = field(default=None, converter=_rate)
    """A budget to keep, which may be shared with other processes; or one of the caller's making."""
    timezone: tzinfo | None = field(default=None, converter=_timezone)
    """The cluster's zone or its name, for aware times where the server sends none."""
    max_body: int = field(default=64 * 2**20, metadata=WHOLE_NUMBER)
    """The largest body read, in bytes after decompression."""
    allow_insecure: bool = False
    """Whether credentials may go over plain http to another machine."""
    trust_env: bool = False
    """Whether HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY are read."""
    hooks: tuple[Hook, ...] = field(default=(), converter=_hooks)
    """Called with the details of requests, retries, waits and scopes."""
    dialect: Dialect = field(default=UNKNOWN, validator=_dialect)
    """What is known of the server's pagination, so that no walk pays to learn it."""
    drift: int | None = field(default=None, converter=_drift)
    """One answer of each call in so many is compared with the contract; 0: none; None: one in
    1,000 in sweeps, none elsewhere."""
    observers: tuple[Observer, ...] = field(default=(), converter=_observers)
    """Called with each whole answer: path and query, status, headers, body. Personal data."""
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
                f"base URL: http would send the credentials to {url.host} in clear; use https, "
                "or say allow_insecure=True"
            )
