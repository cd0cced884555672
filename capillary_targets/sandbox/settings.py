"""Everything that can be set on a sandbox, at construction or while it runs."""

import re
import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin
from urllib.parse import urlsplit

import attrs
import msgspec
from attrs import Attribute, Converter, define, field
from msgspec import Meta

RetryHint = Literal["seconds", "date", "none"]
AchievedBy = Literal["sum", "gross", "count", "capped"]

_Count: TypeAlias = Annotated[int, Meta(ge=0)]
_Positive: TypeAlias = Annotated[int, Meta(ge=1)]
_Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
_Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=1e9)]  # more than a clock can wait for
_SomeSeconds: TypeAlias = Annotated[float, Meta(ge=0.001, le=1e9)]


def _converted(value: Any, setting: "Attribute[Any]") -> Any:
    """A setting's value from a plain or JSON one. Raises `ValueError` if it does not fit."""
    try:
        # Callables, which msgspec does not know, are taken as they are.
        return msgspec.convert(value, setting.type, dec_hook=lambda _, given: given)
    except msgspec.ValidationError as error:
        what = str(error).removeprefix("Expected ").partition(", got")[0]
        if get_origin(setting.type) is Literal:
            what = f"one of {', '.join(map(repr, get_args(setting.type)))}"
        raise ValueError(f"{setting.name} must be {what}, not {value!r}") from None


def _all_converted(_: type, fields: "list[Attribute[Any]]") -> "list[Attribute[Any]]":
    return [one.evolve(converter=Converter(_converted, takes_field=True)) for one in fields]


def _web_address(_: Any, attribute: "Attribute[Any]", value: Any) -> None:
    """A validator: an http or https address, or None."""
    if value is None:
        return
    try:
        parts = urlsplit(value)
        known = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known or not value.isprintable() or " " in value:
        raise ValueError(f"{attribute.name} must be like http://127.0.0.1:8000/path, not {value!r}")


def _finite(_: Any, attribute: "Attribute[Any]", value: Decimal) -> None:
    """A validator: a number that JSON has."""
    if not value.is_finite():
        raise ValueError(f"{attribute.name} must be a number, not {value}")


def _headers(_: Any, attribute: "Attribute[Any]", value: Any) -> None:
    """A validator: headers that go over the wire as they are. The message quotes no value."""
    for name, text in value.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~\w-]+", name, re.ASCII) or not text.isprintable():
            raise ValueError(f"{attribute.name} must be names and printable values, not {name!r}")


def _fixed(_: Any, attribute: "Attribute[Any]", value: Any) -> Any:
    raise AttributeError(f"{attribute.name} is fixed: make another sandbox with {value!r}")


@define(slots=False, kw_only=True, eq=False, field_transformer=_all_converted)
class SandboxSettings:
    """The sandbox's settings. What shapes the world and the socket is fixed once made.

    Raises:
        ValueError: a value outside of what the setting takes.
        AttributeError: a change of what is fixed.
    """

    def change(self, values: Mapping[str, Any]) -> None:
        """Change settings by name to JSON values: all of them, or none.

        Raises:
            ValueError: There is no such setting, it is fixed, or it cannot have that value.
        """
        fields = attrs.fields_dict(SandboxSettings)
        for name in values:
            if name not in fields:
                raise ValueError(f"there is no setting {name}")
            if fields[name].on_setattr is _fixed:
                raise ValueError(f"{name} is fixed: start another sandbox with it")
        attrs.evolve(self, **values)  # raises before anything is changed
        for name, value in values.items():
            setattr(self, name, value)

    # --- the world ---

    users: _Count = field(default=200, on_setattr=_fixed)
    """Seeded users, ids 1_000_001 and up; a million costs nothing."""
    targets: Annotated[int, Meta(ge=0, le=1_000)] = field(default=3, on_setattr=_fixed)
    """Enrolments of each."""
    events: Annotated[int, Meta(ge=0, le=1 << 20)] = field(default=25, on_setattr=_fixed)
    """Rows of one enrolment, on average."""
    exact_events: bool = field(default=False, on_setattr=_fixed)
    """Whether each has exactly that many."""
    seed: int = field(default=7, on_setattr=_fixed)
    """Another seed, another world."""
    rows_per_id: _Positive = field(default=1, on_setattr=_fixed)
    """Rows that share one `eventLogId`, date and `uniqueId`, as the lines of a bill (contract §17).
    Behavioural ones are equal in everything."""
    missing_ids: _Share = field(default=0.0, on_setattr=_fixed)
    """Share of the log ids that are `null` (contract §17), by the seed."""
    recorded: _Share = field(default=1.0, on_setattr=_fixed)
    """Share of the enrolments that may have events, by the seed; the others have no record."""
    signed_returns: bool = field(default=True, on_setattr=_fixed)
    """Whether a `RETURN_BILL` has a negative amount (contract §18)."""
    carry_over: Decimal = field(default=Decimal(0), converter=Decimal, validator=_finite)
    """What `targetAchievedValue` starts from in each cycle, such as -150 (contract §18)."""
    achieved_by: AchievedBy = "sum"
    """What `targetAchievedValue` is made of (contract §18): amounts, returns taken off; `gross`:
    returns ignored; `count`: one for each event but returns; `capped`: at most the target."""

    # --- the socket and who may ask ---

    host: str = field(default="127.0.0.1", on_setattr=_fixed)
    """The address to listen at."""
    port: Annotated[int, Meta(ge=0, le=65535)] = field(default=0, on_setattr=_fixed)
    """0 takes a free one."""
    username: str = "till.sandbox"
    """The till to log in as."""
    password: str = "sandbox"  # noqa: S105 - printed on the front page
    """As typed: the header must carry its md5 in lower-case hex (contract §1.1)."""
    client_key: str = "sandbox-key"
    """The OAuth client's key."""
    client_secret: str = "sandbox-secret"  # noqa: S105 - as above
    """Its secret."""
    ttl_seconds: _Count = 3600
    """Life of an OAuth token by `clock` (contract §1.2)."""
    token_rejection: Literal["401", "498", "body-401", "body-498"] = "401"  # noqa: S105 - an HTTP status
    """How a rejected token looks: an HTTP status, or a code in a body with HTTP 200."""
    token_lag: _Count = 0
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
    default_limit: _Positive = 10
    """Rows on a page when no limit is asked for."""
    max_limit: _Positive = 1000
    """The most rows on a page; `limit_mode` says what becomes of a higher `limit`."""
    error_status: int = 400
    """HTTP status of v3 errors, which is undocumented (contract §5.2)."""
    not_enrolled_code: Literal[310149, 310126] = 310149
    """The code for the events of a target that the user is not in; 310126 comes with HTTP 500
    whatever `error_status` says (contract §14)."""
    request_id_headers: Literal["both", "X-Cap-Requestid", "X-CAP-REQUEST-ID", "none"] = "both"
    """Which spelling of the request id header is sent (contract §4)."""
    clock: Callable[[], float] = time.monotonic
    """Seconds; whatever expires or is counted in time asks this."""

    # --- dialects: what the API's description leaves open or contradicts (contract §8) ---

    offset_mode: Literal["page", "row", "ignored", "clamped"] = "page"
    """What `offset` counts. `clamped`: behind the last page, the last page comes again."""
    total_mode: Literal[
        "rows", "pages", "absent", "zero", "text", "float", "wrong", "wrong-high", "none"
    ] = "rows"
    """What `pagination.total` says. `text`: all three numbers as strings; `float`: as `25.0`;
    `wrong`: half the rows; `wrong-high`: twice the rows; `none`: no `pagination` at all."""
    limit_mode: Literal["capped", "capped-silent", "refused"] = "capped"
    """What becomes of a `limit` above `max_limit`: cut and echoed as cut, cut but echoed as asked
    for, or refused with a sibling's code 11029."""
    past_end: Literal["empty", "310149", "error", "404", "endless"] = "empty"
    """What a page behind the last row is. `error` is a sibling's code 11003, `404` has no envelope,
    `endless` makes rows up and never stops."""
    empty_page: _Count | None = None
    """The number of a page that comes back empty."""
    short_page: _Count | None = None
    """The number of a page that misses its last three rows."""
    repeat_rows: Literal["no", "extra", "instead"] = "no"
    """Whether each page starts with the last row of the page before, on top of its own rows or
    instead of the first of them (which then is nowhere)."""

    # --- data that changes before an events request ---

    between_requests: Callable[[Any, int], None] | None = None
    """Called before each events request with the `World` and the number of such requests before."""
    append_per_request: _Count = 0
    """Rows appended to the history asked for."""
    insert_per_request: _Count = 0
    """Late rows inserted in its middle."""
    delete_head_per_request: _Count = 0
    """Rows deleted at its head."""
    delete_any_per_request: _Count = 0
    """Rows deleted anywhere, by the seed."""

    # --- load and faults ---

    random_faults: _Share = 0.0
    """Share of data calls that meet a transient fault, by the seed."""
    rate_limit: tuple[_Count, _SomeSeconds] | None = None
    """(requests, seconds): more data calls within that time by `clock` are refused with 429."""
    retry_hint: RetryHint = "seconds"
    """The form of `Retry-After` on such a refusal."""
    latency: _Seconds = 0.0
    """Seconds that each data call takes, once it is being served."""
    capacity: _Positive | None = None
    """Data calls served at a time; more wait in line, so latency rises from there."""
    queue_limit: _Count | None = None
    """Data calls that may wait in line; beyond, 503."""

    # --- notifications: what is pushed when an event is written (contract §15) ---

    notify: str | None = field(default=None, validator=_web_address)
    """The address that the vendor's notifications are posted to; None: nothing is pushed."""
    notify_headers: Mapping[str, str] = field(factory=dict, validator=_headers)
    """Static headers of the brand's choosing, such as a secret; the vendor signs nothing."""
    notify_envelope: Literal["raw", "enriched"] = "raw"
    """`enriched` holds the member's mobile and e-mail as well."""
    notify_log_id: Literal["both", "loyaltyEventId", "eventLogId", "none"] = "both"
    """Where the event's log id stands: `loyaltyEventId`, the identifier `eventLogId`, or nowhere,
    as in older samples."""
    notify_stray_blanks: _Share = 0.0
    """Share of the keys that hold a stray blank, as in the vendor's printed samples."""
    notify_shuffled: bool = False
    """Whether notifications that wait together change places."""
    notify_duplicates: _Share = 0.0
    """Share that is sent twice."""
    notify_losses: _Share = 0.0
    """Share of the events that are never announced."""
    notify_early: _Share = 0.0
    """Share of the events that are announced before the API shows them."""
    notify_early_requests: _Count = 1
    """Events requests after such a push that do not show its event yet."""
    notify_delay: _Seconds = 0.0
    """Seconds from the event to its push."""
    notify_timeout: _SomeSeconds = 10.0
    """Seconds for an answer; then the push is repeated. Not scaled."""
    notify_backoff: _SomeSeconds = 1.0
    """Seconds to the first repetition; each wait is twice the one before, up to an hour."""
    notify_give_up: _Seconds = 7 * 86_400.0
    """Seconds of back-off after which a push is given up; the vendor promises at least 7 days."""
    notify_time_scale: _Share = 1.0
    """What a second of the delay and of the back-off takes; 0 waits for nothing."""


# Flags are made of these annotations, and attrs takes those of the converter, which are Any.
SandboxSettings.__init__.__annotations__.update(
    {one.name: one.type for one in attrs.fields(SandboxSettings)}
)
