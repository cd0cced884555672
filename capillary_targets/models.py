"""What the API answers, as frozen attrs classes with snake_case names.

Only ids that the API cannot do without are required; everything else may be absent or null, and
both read as None (or an empty tuple). Names that the API leaves open (event names, target types)
stay `str`. Amounts are `Decimal`, exact to the last digit sent. Times are aware where the server
sent a zone or the client has the cluster's (`timezone=`), otherwise naive server time: a time
without a zone is not documented to be UTC.

As JSON an amount is a number with the digits that the server sent (`1.000`), in `to_json()` and
wherever else this package writes some. Readers that make floats of numbers round it; exact are
`json.loads(text, parse_float=Decimal)`, msgspec, and whatever is given a decimal type to read.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    NoReturn,
    TypeAlias,
    TypeVar,
    get_type_hints,
)

import attr
import attrs
import msgspec
from attrs import field, frozen

__all__ = [
    "JSON",
    "Actor",
    "ApiWarning",
    "Attribution",
    "AudienceFilter",
    "EventsPage",
    "ExtendedField",
    "Filter",
    "MilestoneTrigger",
    "Model",
    "Pagination",
    "PeriodDefault",
    "ReadOnlyDict",
    "Target",
    "TargetEvent",
    "columns_of",
    "extra_text",
    "short_repr",
    "wire_name",
    "wired",
]

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")

Long: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""The API's ids: integers of 64 bits."""

_OURS: Final = frozenset({"extra", "raw"})
"""Fields that no key of the API's fills."""
_BYTES: Final = frozenset({"raw", "body"})
"""Fields that hold the answer as it was sent."""


_LONGEST_TEXT: Final = 60
_LONGEST_REPR: Final = 220

JSON: Final = msgspec.json.Encoder(decimal_format="number")
"""The encoder of all JSON for users: amounts with their own digits, times as ISO 8601."""


def columns_of(model: type) -> dict[str, Any]:
    """The columns of a model: all of its fields but `raw`, and their annotations."""
    hints = get_type_hints(model)
    return {f.name: hints[f.name] for f in attrs.fields(model) if f.name != "raw"}


def extra_text(extra: Mapping[str, Any]) -> str | None:
    """The keys that a model does not know, as JSON text: one type, whatever they hold."""
    return JSON.encode(extra).decode() if extra else None


def wire_name(name: str) -> str:
    """`event_date_iso` as the API spells it: `eventDateISO`; fields of ours begin with a `_`."""
    if name in _OURS:
        return f"_{name}"
    head, *rest = name.split("_")
    return head + "".join("ISO" if part == "iso" else part.capitalize() for part in rest)


def short_repr(shown: Any) -> str:
    """A repr of one line and some 200 characters: texts cut, rows counted, empty fields left out.

    Of many fields, the longest go. For attrs classes and for lists with attributes.
    """
    kind = type(shown)
    if attrs.has(kind):
        fields = {
            one.alias: getattr(shown, one.name)
            for one in attrs.fields(kind)
            if one.repr and one.name not in _BYTES
        }
    else:
        fields = vars(shown)
    parts = [f"<{len(shown)}>"] if isinstance(shown, list) else []
    parts += [f"{name}={text}" for name, value in fields.items() if (text := _brief(value))]
    whole = len(parts)
    while len(", ".join(parts)) > _LONGEST_REPR:
        parts.remove(max(parts, key=len))
    if len(parts) < whole:
        parts.append("…")
    return f"{kind.__name__}({', '.join(parts)})"


def _brief(value: object) -> str:
    """A field in a repr; nothing where there is nothing in it."""
    if value is None:
        return ""
    if isinstance(value, list | tuple | Mapping):
        return f"<{len(value)}>" if value else ""
    if isinstance(value, str):
        return repr(value if len(value) <= _LONGEST_TEXT else f"{value[: _LONGEST_TEXT - 1]}…")
    text = str(value)
    if isinstance(value, Exception) or attrs.has(type(value)):
        text = repr(value)
    return text if len(text) <= _LONGEST_TEXT else f"{type(value).__name__}(…)"


class Model:
    """Base of everything the API answers: as a dict, as JSON, and a short repr."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, nested models as dicts; amounts stay `Decimal`, times `datetime`.

        Left out is what is not the answer's meaning but its bytes (`raw`, `body`).
        """
        return attr.asdict(
            self,  # type: ignore[arg-type] # every model is an attrs class
            filter=lambda one, _: one.name not in _BYTES,
            retain_collection_types=False,
        )

    def to_json(self) -> str:
        """`to_dict` as JSON on one line: amounts are numbers, times ISO 8601 text."""
        return JSON.encode(self.to_dict()).decode()

    __repr__ = short_repr


if TYPE_CHECKING:
    from attrs import frozen as wired
else:

    def wired(cls: type[T]) -> type[T]:
        """A frozen attrs class that msgspec reads, under the names that the API gives its fields.

        To attrs, cattrs and everybody else it is an attrs class: `fields`, `asdict`, `evolve`; to
        msgspec it is a `Struct`, which refuses unknown keys if they belong in `extra`. For rows
        that come by the million: made as attrs objects, a page of them would take three times as
        long to read. The garbage collector does not track them, so no field may hold a reference
        back to its own row.
        """
        body = dict(vars(cls))
        for own in ("__dict__", "__weakref__"):
            body.pop(own, None)
        options = {"forbid_unknown_fields": "extra" in cls.__annotations__, "rename": wire_name}
        made = msgspec.StructMeta(
            cls.__name__, (*cls.__bases__, msgspec.Struct), body, frozen=True, gc=False, **options
        )
        fields = {
            one.name: attrs.field(factory=one.default_factory)
            if one.default_factory is not msgspec.NODEFAULT
            else attrs.field(default=attrs.NOTHING if one.required else one.default)
            for one in msgspec.structs.fields(made)
        }
        # What a Struct has (__init__, __eq__, ...) stays its own.
        kept = dict.fromkeys(("slots", "init", "eq", "repr", "match_args"), False)
        return attrs.frozen(made, these=fields, **kept)


class ReadOnlyDict(dict[K, V]):
    """A dict that cannot be changed, so that many models may share it.

    A dict for each event's `extra` would have the garbage collector look through the whole process
    every few hundred pages.
    """

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("the fields of a model cannot be changed")

    if not TYPE_CHECKING:  # to a type checker it is a dict
        __setitem__ = __delitem__ = __ior__ = setdefault = update = pop = popitem = clear = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)


_NO_KEYS: Final[ReadOnlyDict[Any, Any]] = ReadOnlyDict()


@frozen(repr=False)
class Actor(Model):
    """Who created or changed a target: an admin user, a till."""

    id: int | None = None
    code: str | None = None
    description: str | None = field(default=None, repr=False)
    name: str | None = field(default=None, repr=False)
    type: str | None = None


@frozen(repr=False)
class Attribution(Model):
    """When and by whom a target was made and last changed."""

    created_on: datetime | None = None
    last_updated_on: datetime | None = None
    created_by: Actor | None = None
    last_updated_by: Actor | None = None
    created_on_iso: datetime | None = None
    last_updated_on_iso: datetime | None = None


@frozen(repr=False)
class Filter(Model):
    """What a target is confined to: `entity_type` STORE, ZONE, CONCEPT, and the ids."""

    entity_type: str | None = None
    entity_ids: tuple[int, ...] = ()


@frozen(repr=False)
class PeriodDefault(Model):
    """The value to reach in one period, where the user has none of their own."""

    id: int | None = None
    period_id: int | None = None
    default_value: Decimal | None = None
    target_name: str | None = None


@frozen(repr=False)
class ExtendedField(Model):
    """The extended field that a target adds up."""

    name: str | None = None
    aggregate_function: str | None = None
    aggregate_window: str | None = None
    program_id: int | None = None
    alternate_currency_identifier: str | None = None


@frozen(repr=False)
class MilestoneTrigger(Model):
    """A step on the way to a target."""

    id: int | None = None
    trigger_name: str | None = None
    is_active: bool | None = None
    trigger_type: str | None = None
    trigger_value_type: str | None = None
    trigger_value: Decimal | None = None
    target_rule_id: int | None = None


@frozen(repr=False)
class AudienceFilter(Model):
    """The audience whose members are enrolled."""

    audience_group_id: int | None = None
    version_id: int | None = None
    audience_filter_meta_id: int | None = None
    last_updated_on: datetime | None = None


@frozen(repr=False)
class Target(Model):
    """A target (rule) that a user is enrolled in. Its `id` is what events ask for as rule id.

    `expression_json` is JSON *text*, left as it came. `extra` holds the keys this class does not
    know, as the server named them, so that nothing the server said is lost. `raw` is the row's own
    bytes, where a server sent it.
    """

    id: int
    name: str | None = None
    target_type: str | None = None
    target_entity: str | None = None
    target_group_id: int | None = None
    active: bool | None = None
    expression: str | None = field(default=None, repr=False)
    expression_json: str | None = field(default=None, repr=False)
    filters: tuple[Filter, ...] = ()
    enrolment_method: str | None = None
    attribution: Attribution | None = None
    description: str | None = None
    event_name: str | None = None
    emf_rule_set_id: int | None = None
    emf_unrolled_ruleset_id: int | None = None
    target_period_default_values_map: Mapping[int, PeriodDefault] = field(
        default=_NO_KEYS, hash=False
    )
    default_values: tuple[PeriodDefault, ...] = ()
    extended_field_info: ExtendedField | None = None
    target_milestone_triggers: tuple[MilestoneTrigger, ...] = ()
    target_audience_filter: tuple[AudienceFilter, ...] = ()
    extra: Mapping[str, Any] = field(default=_NO_KEYS, hash=False)
    raw: bytes | None = field(default=None, eq=False)


@wired
class TargetEvent(Model):
    """One event that counted towards a target.

    `event_log_id` names the event, not the row: several rows may share one, and old rows may have
    none. `unique_id` is a request id (UUID) for behavioural events and digits for others: a text.
    `target_value` is the amount, or 1.000 for a behavioural event. `event_date` is aware if the
    server sent `eventDateISO` or the client knows the cluster's zone, else naive server time;
    likewise `event_processed_date`, which for transactions repeats `event_date`. `extra`
    holds the keys this class does not know, as the server named them.
    """

    event_log_id: Long | None = None
    event_name: str | None = None
    customer_id: Long | None = None
    event_display_name: str | None = None
    unique_id: str | None = None
    event_date: datetime | None = None
    event_processed_date: datetime | None = None
    period_id: Long | None = None
    target_group_id: Long | None = None
    target_rule_id: Long | None = None
    target_value: Decimal | None = None
    event_date_iso: datetime | None = None
    event_processed_date_iso: datetime | None = None
    extra: Mapping[str, Any] = _NO_KEYS

    def __hash__(self) -> int:
        return hash((self.event_log_id, self.unique_id, self.event_date, self.target_value))


@wired
class Pagination(Model):
    """The numbers as the server gave them: page size, page number, rows in all. None: not given."""

    limit: Long | None = None
    offset: Long | None = None
    total: Long | None = None


@frozen(repr=False)
class ApiWarning(Model):
    """The request succeeded, something beside it did not. `code` is None for a client's note."""

    code: int | None = None
    message: str | None = None


@wired
class EventsPage(Model):
    """One page of events, in chronological order.

    `warnings` holds the service's own and this client's notes (those have no code): values read as
    None, characters replaced, rows of another customer. `body` is the answer it was read from.
    """

    events: tuple[TargetEvent, ...]
    pagination: Pagination = Pagination()
    warnings: tuple[ApiWarning, ...] = ()
    request_id: str | None = None
    body: bytes = b""

    @property
    def total(self) -> int | None:
        """Events on all pages together, as the server counts them."""
        return self.pagination.total
