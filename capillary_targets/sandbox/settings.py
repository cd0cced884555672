"""Everything that can be set on a sandbox, at construction or while it runs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, ClassVar, Literal, get_args, get_type_hints
from urllib.parse import urlsplit

import attrs
import msgspec
from attrs import Attribute, define, field

RequestIdHeaders = Literal["both", "X-Cap-Requestid", "X-CAP-REQUEST-ID", "none"]
TokenRejection = Literal["401", "498", "body-401", "body-498"]
OffsetMode = Literal["page", "row", "ignored", "clamped"]
TotalMode = Literal[
    "rows", "pages", "absent", "zero", "text", "float", "wrong", "wrong-high", "none"
]
LimitMode = Literal["capped", "capped-silent", "refused"]
PastEnd = Literal["empty", "310149", "error", "404", "endless"]
RepeatRows = Literal["no", "extra", "instead"]
RetryHint = Literal["seconds", "date", "none"]
NotifyEnvelope = Literal["raw", "enriched"]
NotifyLogId = Literal["both", "loyaltyEventId", "eventLogId", "none"]
AchievedBy = Literal["sum", "gross", "count", "capped"]

_MOST_ROWS = 1 << 20


def _one_of(words: Any) -> Callable[[Any, Attribute[Any], Any], None]:
    """A validator for the words of a Literal."""

    def check(_: Any, attribute: Attribute[Any], value: Any) -> None:
        if value not in get_args(words):
            known = ", ".join(map(repr, get_args(words)))
            raise ValueError(f"{attribute.name} must be one of {known}, not {value!r}")

    return check


def _between(low: float, high: float | None = None, *, or_none: bool = False) -> Any:
    """A validator for a number within bounds, both included."""

    def check(_: Any, attribute: Attribute[Any], value: Any) -> None:
        if value is None and or_none:
            return
        most = value if high is None else high
        if not (isinstance(value, int | float) and low <= value <= most):
            bounds = f"at least {low}" if high is None else f"between {low} and {high}"
            raise ValueError(f"{attribute.name} must be {bounds}, not {value!r}")

    return check


def _web_address(_: Any, attribute: Attribute[Any], value: Any) -> None:
    """A validator for an http or https address, or None."""
    if value is None:
        return
    try:
        parts = urlsplit(value)
        known = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except (AttributeError, TypeError, ValueError):
        known = False
    if not known or not value.isprintable() or " " in value:
        raise ValueError(f"{attribute.name} must be like http://127.0.0.1:8000/path, not {value!r}")


def _headers(_: Any, attribute: Attribute[Any], value: Any) -> None:
    """A validator for headers that go over the wire as they are."""
    for name, text in value.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~\w-]+", name, re.ASCII) or not text.isprintable():
            raise ValueError(f"{attribute.name} must be names and printable values, not {name!r}")


def _fixed(_: Any, attribute: Attribute[Any], value: Any) -> Any:
    raise AttributeError(f"{attribute.name} is fixed: make another sandbox with {value!r}")


@define(slots=False, kw_only=True, eq=False)
class SandboxSettings:
    """The sandbox's settings. What shapes the world and the socket is fixed once made.

    Raises:
        ValueError: a value outside of what the setting takes.
        AttributeError: a change of what is fixed.
    """

    USERNAME: ClassVar[str] = "till.sandbox"
    PASSWORD: ClassVar[str] = "sandbox"  # noqa: S105 - printed on the front page
    CLIENT_KEY: ClassVar[str] = "sandbox-key"
    CLIENT_SECRET: ClassVar[str] = "sandbox-secret"  # noqa: S105 - as above

    def __attrs_post_init__(self) -> None:
        if not self.exact_events and self.events > _MOST_ROWS // 8:
            raise ValueError(f"events must be at most {_MOST_ROWS // 8} without exact_events")

    def change(self, values: Mapping[str, Any]) -> None:
        """Change settings by name to JSON values: all of them, or none.

        Raises:
            ValueError: There is no such setting, it is fixed, or it cannot have that value.
        """
        fields, hints = attrs.fields_dict(SandboxSettings), get_type_hints(SandboxSettings)
        changes = {}
        for name, value in values.items():
            if name not in fields or name in {"clock", "between_requests"}:
                raise ValueError(f"{name} is no setting of JSON")
            if fields[name].on_setattr is _fixed:
                raise ValueError(f"{name} is fixed: start another sandbox with it")
            try:
                changes[name] = msgspec.convert(value, hints[name])
            except msgspec.ValidationError as error:
                raise ValueError(f"{name}: {error}") from None
        attrs.evolve(self, **changes)  # raises before anything is changed
        for name, value in changes.items():
            setattr(self, name, value)

    # --- the world ---

    users: int = field(default=200, validator=_between(0), on_setattr=_fixed)
    """Seeded users, ids 1_000_001 and up; a million costs nothing."""
    targets: int = field(default=3, validator=_between(0, 1_000), on_setattr=_fixed)
    """Enrolments of each."""
    events: int = field(default=25, validator=_between(0, _MOST_ROWS), on_setattr=_fixed)
    """Mean rows of one enrolment; with `exact_events`, exactly that many."""
    exact_events: bool = field(default=False, on_setattr=_fixed)
    seed: int = field(default=7, on_setattr=_fixed)
    """Another seed, another world."""
    rows_per_id: int = field(default=1, validator=_between(1), on_setattr=_fixed)
    """Rows that share one `eventLogId`, date and `uniqueId`, as the lines of a bill (contract §17).
    Behavioural ones are equal in everything."""
    missing_ids: float = field(default=0.0, validator=_between(0, 1), on_setattr=_fixed)
    """Share of the log ids that are `null` (contract §17), by the seed."""
    recorded: float = field(default=1.0, validator=_between(0, 1), on_setattr=_fixed)
    """Share of the enrolments that may have events, by the seed; the others have no record."""
    signed_returns: bool = field(default=True, on_setattr=_fixed)
    """Whether a `RETURN_BILL` has a negative amount (contract §18)."""
    carry_over: Decimal = field(default=Decimal(0), converter=Decimal)
    """What `targetAchievedValue` starts from in each cycle, such as -150 (contract §18)."""
    achieved_by: AchievedBy = field(default="sum", validator=_one_of(AchievedBy))
    """What `targetAchievedValue` is made of (contract §18): amounts, returns taken off; `gross`:
    returns ignored; `count`: one for each event but returns; `capped`: at most the target."""

    # --- the socket and who may ask ---

    host: str = field(default="127.0.0.1", on_setattr=_fixed)
    port: int = field(default=0, on_setattr=_fixed)
    """0 takes a free one."""
    username: str = USERNAME
    password: str = PASSWORD
    """As typed: the header must carry its md5 in lower-case hex (contract §1.1)."""
    client_key: str = CLIENT_KEY
    client_secret: str = CLIENT_SECRET
    ttl_seconds: int = field(default=3600, validator=_between(0))
    """Life of an OAuth token by `clock` (contract §1.2)."""
    token_rejection: TokenRejection = field(default="401", validator=_one_of(TokenRejection))
    """How a rejected token looks: an HTTP status, or a code in a body with HTTP 200."""
    token_lag: int = field(default=0, validator=_between(0))
    """Times that a new token is rejected: every second call reaches a node that does not know it
    yet."""

    # --- answers ---

    iso: bool = False
    """Whether events also carry their `*ISO` dates (contract §9)."""
    missing_id_key: bool = True
    """Whether a row without a log id has the key `eventLogId` all the same."""
    last_updated_on: bool = True
    """Whether `targetGroups` has the keys of 2025-09, `lastUpdatedOn` among them (contract §11.2).
    """
    achieved_log_id: bool = True
    """Whether `targetAchievedEventLogId` is one of them."""
    default_limit: int = field(default=10, validator=_between(1))
    """Rows on a page when no limit is asked for."""
    max_limit: int = field(default=1000, validator=_between(1))
    """The most rows on a page; `limit_mode` says what becomes of a higher `limit`."""
    error_status: int = 400
    """HTTP status of v3 errors, which is undocumented (contract §5.2)."""
    not_enrolled_code: int = field(default=310149, validator=_one_of(Literal[310149, 310126]))
    """The code for the events of a target that the user is not in; 310126 comes with HTTP 500
    whatever `error_status` says (contract §14)."""
    request_id_headers: RequestIdHeaders = field(
        default="both", validator=_one_of(RequestIdHeaders)
    )
    """Which spelling of the request id header is sent (contract §4)."""
    clock: Callable[[], float] = time.monotonic
    """Seconds; whatever expires or is counted in time asks this."""

    # --- dialects: what the API's description leaves open or contradicts (contract §8) ---

    offset_mode: OffsetMode = field(default="page", validator=_one_of(OffsetMode))
    """What `offset` counts. `clamped`: behind the last page, the last page comes again."""
    total_mode: TotalMode = field(default="rows", validator=_one_of(TotalMode))
    """What `pagination.total` says. `text`: all three numbers as strings; `float`: as `25.0`;
    `wrong`: half the rows; `wrong-high`: twice the rows; `none`: no `pagination` at all."""
    limit_mode: LimitMode = field(default="capped", validator=_one_of(LimitMode))
    """What becomes of a `limit` above `max_limit`: cut and echoed as cut, cut but echoed as asked
    for, or refused with a sibling's code 11029."""
    past_end: PastEnd = field(default="empty", validator=_one_of(PastEnd))
    """What a page behind the last row is. `error` is a sibling's code 11003, `404` has no envelope,
    `endless` makes rows up and never stops."""
    empty_page: int | None = field(default=None, validator=_between(0, or_none=True))
    """The number of a page that comes back empty."""
    short_page: int | None = field(default=None, validator=_between(0, or_none=True))
    """The number of a page that misses its last three rows."""
    repeat_rows: RepeatRows = field(default="no", validator=_one_of(RepeatRows))
    """Whether each page starts with the last row of the page before, on top of its own rows or
    instead of the first of them (which then is nowhere)."""

    # --- data that changes before an events request ---

    between_requests: Callable[[Any, int], None] | None = None
    """Called before each events request with the `World` and the number of such requests before."""
    append_per_request: int = field(default=0, validator=_between(0))
    """Rows appended to the history asked for."""
    insert_per_request: int = field(default=0, validator=_between(0))
    """Late rows inserted in its middle."""
    delete_head_per_request: int = field(default=0, validator=_between(0))
    """Rows deleted at its head."""
    delete_any_per_request: int = field(default=0, validator=_between(0))
    """Rows deleted anywhere, by the seed."""

    # --- load and faults ---

    random_faults: float = field(default=0.0, validator=_between(0, 1))
    """Share of data calls that meet a transient fault, by the seed."""
    rate_limit: tuple[int, float] | None = None
    """(requests, seconds): more data calls within that time by `clock` are refused with 429."""
    retry_hint: RetryHint = field(default="seconds", validator=_one_of(RetryHint))
    """The form of `Retry-After` on such a refusal."""
    latency: float = field(default=0.0, validator=_between(0))
    """Seconds that each data call takes, once it is being served."""
    capacity: int | None = field(default=None, validator=_between(1, or_none=True))
    """Data calls served at a time; more wait in line, so latency rises from there."""
    queue_limit: int | None = field(default=None, validator=_between(0, or_none=True))
    """Data calls that may wait in line; beyond, 503."""

    # --- notifications: what is pushed when an event is written (contract §15) ---

    notify: str | None = field(default=None, validator=_web_address)
    """The address that the vendor's notifications are posted to; None: nothing is pushed."""
    notify_headers: Mapping[str, str] = field(factory=dict, validator=_headers)
    """Static headers of the brand's choosing, such as a secret; the vendor signs nothing."""
    notify_envelope: NotifyEnvelope = field(default="raw", validator=_one_of(NotifyEnvelope))
    """`enriched` holds the member's mobile and e-mail as well."""
    notify_log_id: NotifyLogId = field(default="both", validator=_one_of(NotifyLogId))
    """Where the event's log id stands: `loyaltyEventId`, the identifier `eventLogId`, or nowhere,
    as in older samples."""
    notify_stray_blanks: float = field(default=0.0, validator=_between(0, 1))
    """Share of the keys that hold a stray blank, as in the vendor's printed samples."""
    notify_shuffled: bool = False
    """Whether notifications that wait together change places."""
    notify_duplicates: float = field(default=0.0, validator=_between(0, 1))
    """Share that is sent twice."""
    notify_losses: float = field(default=0.0, validator=_between(0, 1))
    """Share of the events that are never announced."""
    notify_early: float = field(default=0.0, validator=_between(0, 1))
    """Share of the events that are announced before the API shows them."""
    notify_early_requests: int = field(default=1, validator=_between(0))
    """Events requests after such a push that do not show its event yet."""
    notify_delay: float = field(default=0.0, validator=_between(0))
    """Seconds from the event to its push."""
    notify_timeout: float = field(default=10.0, validator=_between(0.001))
    """Seconds for an answer; then the push is repeated. Not scaled."""
    notify_backoff: float = field(default=1.0, validator=_between(0.001))
    """Seconds to the first repetition; each wait is twice the one before, up to an hour."""
    notify_give_up: float = field(default=7 * 86_400.0, validator=_between(0))
    """Seconds of back-off after which a push is given up; the vendor promises at least 7 days."""
    notify_time_scale: float = field(default=1.0, validator=_between(0, 1))
    """What a second of the delay and of the back-off takes; 0 waits for nothing."""
