"""Session settings, validated on construction, and the account that the environment names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from datetime import tzinfo
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, TypeAlias, TypedDict

from aiohttp import ClientSession
from attrs import field, fields, frozen
from yarl import URL

from .auth import Auth, BasicAuth, OAuth
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


# --- from the environment ---

_LONGEST_SECRET: Final = 64 * 1024
_TILL: Final = ("USERNAME", "PASSWORD", "PASSWORD_MD5")
_OAUTH: Final = ("CLIENT_KEY", "CLIENT_SECRET")
_WANTED: Final = {
    "BASE_URL": "your cluster's name (eu, us, apac, apac2) or address",
    "USERNAME": "your till id (for OAuth set CAPILLARY_CLIENT_KEY and CAPILLARY_CLIENT_SECRET)",
    "PASSWORD": "the till's password, or CAPILLARY_PASSWORD_MD5 to its MD5",
    **dict.fromkeys(_OAUTH, "that of your OAuth client"),
}


class Account(TypedDict):
    """The arguments of a client that are the same wherever it is made."""

    base_url: str
    auth: Auth
    timezone: str | None


def from_env(environment: Mapping[str, str] | None = None, *, hint: str = "") -> Account:
    """The cluster and the credentials that the environment names, as on the command line.

    `TargetsClient(**from_env())`, and likewise `BlockingClient` and `open_session`. Credentials are
    a till's, or an OAuth client's; each variable of theirs may instead end in `_FILE` and name a
    file that holds the value.

    Raises:
        UsageError: a variable is not set or of no use, or two contradict each other. The message
            names it; that of one that is not set ends with `hint`.
    """
    environment = os.environ if environment is None else environment
    given = {"BASE_URL": environment.get("CAPILLARY_BASE_URL", "").strip()}
    given |= {name: text for name in _TILL + _OAUTH if (text := _value(environment, name))}
    till, client = ([name for name in names if name in given] for names in (_TILL, _OAUTH))
    if till and client:
        raise UsageError(
            f"CAPILLARY_{till[0]} and CAPILLARY_{client[0]} are both set: a till or an OAuth "
            "client, unset the variables of one of them"
        )
    if {"PASSWORD", "PASSWORD_MD5"} <= given.keys():
        raise UsageError(
            "CAPILLARY_PASSWORD and CAPILLARY_PASSWORD_MD5 are both set: unset one of them"
        )
    for name in ("BASE_URL", *(_OAUTH if client else ("USERNAME", "PASSWORD"))):
        if not given.get(name) and f"{name}_MD5" not in given:
            raise UsageError(f"CAPILLARY_{name} is not set: set it to {_WANTED[name]}{hint}")
    auth: Auth
    if client:
        auth = OAuth(given["CLIENT_KEY"], given["CLIENT_SECRET"])
    else:
        md5 = given.get("PASSWORD_MD5")
        auth = BasicAuth(given["USERNAME"], given.get("PASSWORD"), password_md5=md5)
    timezone = environment.get("CAPILLARY_TIMEZONE") or None
    return Account(base_url=given["BASE_URL"], auth=auth, timezone=timezone)


def _value(environment: Mapping[str, str], name: str) -> str:
    """A variable's value, or that in the file which `NAME_FILE` names; "" where neither is set."""
    name = f"CAPILLARY_{name}"
    value, path = environment.get(name, ""), environment.get(f"{name}_FILE", "")
    if not path:
        return value
    if value:
        raise UsageError(f"{name} and {name}_FILE are both set: unset one of them")
    try:
        with Path(path).open("rb") as file:
            text = file.read(_LONGEST_SECRET).decode().removesuffix("\n").removesuffix("\r")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UsageError(f"{name}_FILE: {path} cannot be read: {reason}") from None
    if not text or "\n" in text:
        raise UsageError(f"{name}_FILE: {path} must hold one line, the value and nothing else")
    return text
