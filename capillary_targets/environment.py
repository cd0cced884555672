"""The cluster and the credentials that the environment names; `docs/settings.md` lists all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypedDict

from .auth import Auth, BasicAuth, OAuth
from .errors import UsageError

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
