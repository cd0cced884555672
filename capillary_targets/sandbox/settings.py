"""Everything that can be set on a sandbox, at construction or while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from attrs import define, field, setters, validators

if TYPE_CHECKING:
    from .data import World

RequestIdHeaders = Literal["both", "X-Cap-Requestid", "X-CAP-REQUEST-ID", "none"]
TokenRejection = Literal["401", "498", "body-401", "body-498"]
OffsetMode = Literal["page", "row", "ignored", "clamped"]
TotalMode = Literal["rows", "pages", "absent", "zero", "text", "wrong", "wrong-high", "none"]
LimitMode = Literal["capped", "capped-silent", "refused"]
PastEnd = Literal["empty", "310149", "error", "404", "endless"]
RepeatRows = Literal["no", "extra", "instead"]
RetryHint = Literal["seconds", "date", "none"]


_POSITIVE = validators.ge(1)
_NATURAL = validators.ge(0)


def _words(choices: Any) -> Any:
    """A check that a setting is one of a Literal's words."""
    return validators.in_(get_args(choices))


@define(slots=False, kw_only=True, eq=False)
class SandboxSettings:
    """The sandbox's settings. What shapes the world and the socket is fixed once made."""

    USERNAME: ClassVar[str] = "till.sandbox"
    PASSWORD: ClassVar[str] = "sandbox"  # noqa: S105 - printed on the front page
    CLIENT_KEY: ClassVar[str] = "sandbox-key"
    CLIENT_SECRET: ClassVar[str] = "sandbox-secret"  # noqa: S105 - as above

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
    client_key: str = CLIENT_KEY
    client_secret: str = CLIENT_SECRET
    ttl_seconds: int = field(default=3600, validator=_NATURAL)
    """Life of an OAuth token by `clock` (contract §1.2)."""
    token_rejection: TokenRejection = field(default="401", validator=_words(TokenRejection))
    """How a rejected token looks: an HTTP status, or a code in a body with HTTP 200."""

    iso: bool = False
    """Whether events also carry their `*ISO` dates (contract §9)."""
    default_limit: int = field(default=10, validator=_POSITIVE)
    """Rows on a page when no limit is asked for."""
    max_limit: int = field(default=1000, validator=_POSITIVE)
    """The most rows on a page; `limit_mode` says what becomes of a higher `limit`."""
    error_status: int = 400
    """HTTP status of v3 errors, which is undocumented (contract §5.2)."""
    request_id_headers: RequestIdHeaders = field(default="both", validator=_words(RequestIdHeaders))
    """Which spelling of the request id header is sent (contract §4)."""

    clock: Callable[[], float] = time.monotonic
    """Seconds; whatever expires or is counted in time asks this."""

    # --- dialects: what the API's description leaves open or contradicts (contract §8) ---

    offset_mode: OffsetMode = field(default="page", validator=_words(OffsetMode))
    """What `offset` counts. `clamped`: behind the last page, the last page comes again."""
    total_mode: TotalMode = field(default="rows", validator=_words(TotalMode))
    """What `pagination.total` says. `text`: all three numbers as strings; `wrong`: half the rows;
    `wrong-high`: twice the rows; `none`: no `pagination` at all."""
    limit_mode: LimitMode = field(default="capped", validator=_words(LimitMode))
    """What becomes of a `limit` above `max_limit`: cut and echoed as cut, cut but echoed as asked
    for, or refused with a sibling's code 11029."""
    past_end: PastEnd = field(default="empty", validator=_words(PastEnd))
    """What a page behind the last row is. `error` is a sibling's code 11003, `404` has no envelope,
    `endless` makes rows up and never stops."""
    empty_page: int | None = field(default=None, validator=validators.optional(_NATURAL))
    """The number of a page that comes back empty."""
    short_page: int | None = field(default=None, validator=validators.optional(_NATURAL))
    """The number of a page that misses its last three rows."""
    repeat_rows: RepeatRows = field(default="no", validator=_words(RepeatRows))
    """Whether each page starts with the last row of the page before, on top of its own rows or
    instead of the first of them (which then is nowhere)."""

    # --- data that moves between two events requests ---

    between_requests: Callable[[World, int], None] | None = None
    """Called before each events request with the world and the number of such requests before."""
    append_per_request: int = field(default=0, validator=_NATURAL)
    """Rows appended to the history asked for, before each request for it."""
    insert_per_request: int = field(default=0, validator=_NATURAL)
    """Rows inserted in its middle."""
    delete_head_per_request: int = field(default=0, validator=_NATURAL)
    """Rows deleted at its head."""
    delete_any_per_request: int = field(default=0, validator=_NATURAL)
    """Rows deleted anywhere, by the seed."""

    # --- trouble ---

    random_faults: float = field(default=0.0, validator=[validators.ge(0.0), validators.le(1.0)])
    """Share of data calls that meet a transient fault, by the seed."""
    rate_limit: tuple[int, float] | None = None
    """(requests, seconds): more data calls within that time by `clock` are refused with 429."""
    retry_hint: RetryHint = field(default="seconds", validator=_words(RetryHint))
    """The form of `Retry-After` on such a refusal."""
    latency: float = field(default=0.0, validator=validators.ge(0.0))
    """Seconds that each data call takes, once it is being served."""
    capacity: int | None = field(default=None, validator=validators.optional(_POSITIVE))
    """Data calls served at a time; more wait in line, so latency rises from there."""
    queue_limit: int | None = field(default=None, validator=validators.optional(_NATURAL))
    """Data calls that may wait in line; beyond, 503."""
