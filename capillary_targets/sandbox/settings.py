"""Everything that can be set on a sandbox, at construction or while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ClassVar, Literal

from attrs import define, field, setters, validators

RequestIdHeaders = Literal["both", "X-Cap-Requestid", "X-CAP-REQUEST-ID", "none"]


@define(slots=False, kw_only=True, eq=False)
class Settings:
    """The sandbox's settings. What shapes the world and the socket is fixed once made."""

    USERNAME: ClassVar[str] = "till.sandbox"
    PASSWORD: ClassVar[str] = "sandbox"  # noqa: S105 - printed on the front page

    users: int = field(default=200, on_setattr=setters.frozen)
    """Seeded users, ids 1_000_001 and up."""
    targets: int = field(default=3, on_setattr=setters.frozen)
    """Enrolments of each."""
    events: int = field(default=25, on_setattr=setters.frozen)
    """Mean rows of one enrolment; with `exact_events`, exactly that many."""
    exact_events: bool = field(default=False, on_setattr=setters.frozen)
    seed: int = field(default=7, on_setattr=setters.frozen)

    host: str = field(default="127.0.0.1", on_setattr=setters.frozen)
    port: int = field(default=0, on_setattr=setters.frozen)
    """0 takes a free one."""

    username: str = USERNAME
    password: str = PASSWORD
    """As typed: the header must carry its md5 in lower-case hex (contract §1.1)."""

    iso: bool = False
    """Whether events also carry their `*ISO` dates (contract §9)."""
    default_limit: int = field(default=10, validator=validators.ge(1))
    """Rows on a page when no limit is asked for."""
    max_limit: int = field(default=1000, validator=validators.ge(1))
    """The most rows on a page, whatever is asked for."""
    error_status: int = 400
    """HTTP status of v3 errors, which is undocumented (contract §5.2)."""
    request_id_headers: RequestIdHeaders = "both"
    """Which spelling of the request id header is sent (contract §4)."""

    clock: Callable[[], float] = time.monotonic
    """Seconds; whatever expires or is counted in time asks this."""
