"""What a session is told, checked when it is told."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import tzinfo
from ipaddress import ip_address
from typing import Final, TypedDict

from attrs import field, frozen
from yarl import URL

from .auth import Auth
from .budget import Budget
from .errors import UsageError
from .hooks import Hook
from .limits import AdaptiveConcurrency, RateLimit
from .retry import RetryPolicy

__all__ = ["CLUSTERS", "Options", "Settings"]

CLUSTERS: Final = {
    "apac": "https://apac.api.capillarytech.com",
    "apac2": "https://apac2.api.capillarytech.com",
    "eu": "https://eu.api.capillarytech.com",
    "us": "https://us.api.capillarytech.com",
}
"""Short names for the cluster hosts. A tenant lives on exactly one; it is told, never found."""


class Options(TypedDict, total=False):
    """The settings that client and session share, as keyword arguments; see `Settings`."""

    timeout: float
    retry: RetryPolicy | None
    concurrency: int | AdaptiveConcurrency | None
    rate: RateLimit | Budget | None
    timezone: tzinfo | None
    max_body: int
    allow_insecure: bool
    hooks: Iterable[Hook]


def _base_url(given: str | URL) -> URL:
    """The base URL of a cluster's short name or an address; a gateway's path prefix is kept."""
    text = CLUSTERS.get(given, given) if isinstance(given, str) else given
    try:
        url = URL(text)
    except ValueError:
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


def _retry(given: RetryPolicy | None) -> RetryPolicy:
    return given or RetryPolicy()


def _concurrency(given: int | AdaptiveConcurrency | None) -> int | AdaptiveConcurrency:
    return AdaptiveConcurrency() if given is None else given


def _hooks(given: Iterable[Hook]) -> tuple[Hook, ...]:
    return tuple(given)


@frozen(kw_only=True)
class Settings:
    """Everything that a session is told. One that cannot work raises `UsageError` at once."""

    base_url: URL = field(converter=_base_url)
    """A cluster's short name (`eu`) or an address, whose path prefix is kept."""
    auth: Auth
    timeout: float = 30.0
    """The deadline of one call in seconds: all its attempts and waits, and the whole body."""
    retry: RetryPolicy = field(default=None, converter=_retry)
    concurrency: int | AdaptiveConcurrency = field(default=None, converter=_concurrency)
    """Requests in flight at once: a number, or found by itself."""
    rate: RateLimit | Budget | None = None
    """A budget to keep, which may be shared with other processes; or one of the caller's making."""
    timezone: tzinfo | None = None
    """The cluster's zone, for aware times where the server sends none."""
    max_body: int = 64 * 2**20
    """The largest body read, in bytes after decompression."""
    allow_insecure: bool = False
    """Whether credentials may go over plain http to another machine."""
    hooks: tuple[Hook, ...] = field(default=(), converter=_hooks)

    def __attrs_post_init__(self) -> None:
        if not self.timeout > 0:
            raise UsageError(f"timeout must be a positive number of seconds, not {self.timeout!r}")
        if isinstance(self.concurrency, int) and self.concurrency < 1:
            raise UsageError(f"concurrency must be at least 1, not {self.concurrency!r}")
        url = self.base_url
        if url.scheme == "http" and not self.allow_insecure and not _is_loopback(url.host or ""):
            raise UsageError(
                f"base URL: http would send the credentials to {url.host} in clear; use https, "
                "or say allow_insecure=True"
            )
