"""From the environment to a client; or to a sandbox started for the occasion."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from capillary_targets.auth import Auth, BasicAuth, OAuth
from capillary_targets.client import TargetsClient
from capillary_targets.errors import UsageError
from capillary_targets.limits import AdaptiveConcurrency, RateLimit
from capillary_targets.sandbox import Sandbox

__all__ = ["auth_of", "base_url_of", "concurrency_of", "connected", "rate_of"]

_TRY = "or add --sandbox to try without an account"


def base_url_of(environment: Mapping[str, str]) -> str:
    """Where to ask. Raises `UsageError` where it is not set."""
    url = environment.get("CAPILLARY_BASE_URL", "").strip()
    if not url:
        raise UsageError(
            "CAPILLARY_BASE_URL is not set: set it to your cluster's name (eu, us, apac, apac2) "
            f"or address, {_TRY}"
        )
    return url


def auth_of(environment: Mapping[str, str]) -> Auth:
    """Who asks: a till, or an OAuth client.

    Raises `UsageError` where a variable is missing, or two contradict each other.
    """
    till = _given(environment, "USERNAME", "PASSWORD", "PASSWORD_MD5")
    client = _given(environment, "CLIENT_KEY", "CLIENT_SECRET")
    if till and client:
        raise UsageError(
            f"{next(iter(till))} and {next(iter(client))} are both set: a till or an OAuth "
            "client, unset the variables of one of them"
        )
    if client:
        for name in ("CAPILLARY_CLIENT_KEY", "CAPILLARY_CLIENT_SECRET"):
            if name not in client:
                raise UsageError(f"{name} is not set: set it to that of your OAuth client, {_TRY}")
        return OAuth(client["CAPILLARY_CLIENT_KEY"], client["CAPILLARY_CLIENT_SECRET"])
    return _till(till)


def _given(environment: Mapping[str, str], *names: str) -> dict[str, str]:
    """Those of the variables that are set to something."""
    found = {f"CAPILLARY_{name}": environment.get(f"CAPILLARY_{name}", "") for name in names}
    return {name: value for name, value in found.items() if value}


def _till(till: Mapping[str, str]) -> BasicAuth:
    username = till.get("CAPILLARY_USERNAME")
    password = till.get("CAPILLARY_PASSWORD")
    hashed = till.get("CAPILLARY_PASSWORD_MD5")
    if not username:
        raise UsageError(
            "CAPILLARY_USERNAME is not set: set it to your till id (or, for OAuth, set "
            f"CAPILLARY_CLIENT_KEY and CAPILLARY_CLIENT_SECRET), {_TRY}"
        )
    if password and hashed:
        raise UsageError(
            "CAPILLARY_PASSWORD and CAPILLARY_PASSWORD_MD5 are both set: unset one of them"
        )
    if not password and not hashed:
        raise UsageError(
            "CAPILLARY_PASSWORD is not set: set it to the till's password, or "
            f"CAPILLARY_PASSWORD_MD5 to its MD5, {_TRY}"
        )
    return BasicAuth(username, password, password_md5=hashed)


@asynccontextmanager
async def connected(
    sandbox: Sandbox | None, environment: Mapping[str, str] | None = None, **settings: Any
) -> AsyncIterator[TargetsClient]:
    """An open client: of `sandbox`, which runs as long, or else of what the environment names.

    `settings` are the client's own (`page_size`, `concurrency`, ...).
    """
    if sandbox is not None:
        auth = BasicAuth(*sandbox.credentials)
        async with sandbox as url, TargetsClient(url, auth, **settings) as client:
            yield client
        return
    environment = os.environ if environment is None else environment
    async with TargetsClient(base_url_of(environment), auth_of(environment), **settings) as client:
        yield client


def concurrency_of(text: str) -> int | AdaptiveConcurrency:
    """`auto`, or a number of requests. Raises `UsageError`."""
    if text == "auto":
        return AdaptiveConcurrency()
    if not text.isdecimal():
        raise UsageError(f"--concurrency must be a number or auto, not {text!r}")
    return int(text)


def rate_of(text: str, flag: str = "--rate") -> RateLimit:
    """`1000/60`: requests and seconds. Raises `UsageError`, naming the flag."""
    found = re.fullmatch(r"([1-9][0-9]{0,8})/([0-9]{1,8}(?:\.[0-9]{1,6})?)", text)
    if not found or not float(found[2]):
        raise UsageError(f"{flag} must be REQUESTS/SECONDS, such as 1000/60, not {text!r}")
    return RateLimit(int(found[1]), per=float(found[2]))
