"""The quick way from bytes to models, for answers of exactly the documented shape. No I/O.

Whatever does not fit (an id as text, a time as a number, a fault) makes these readers answer None:
then `wire` takes the way over plain values and cattrs, which accepts more and names the bad field.
Where both accept, they agree to the last digit; the tests hold them to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from datetime import datetime, tzinfo
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any, Final, TypeAlias, cast

import attrs
import msgspec

from .models import Pagination, Target, TargetEvent
from .scalars import amount, wire_name
from .structuring import Structurer

__all__ = [
    "Envelope",
    "events_envelope",
    "events_of",
    "rows_as_sent",
    "rows_envelope",
    "targets_in",
]

_FAULTS: Final = (msgspec.DecodeError, ValueError, ArithmeticError, RecursionError)
_CACHED_TARGETS: Final = 512
_LARGEST_CACHED: Final = 2**16
"""Bytes of one target's row: longer ones are read each time, so that the cache stays small."""

_Long: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Row(msgspec.Struct, rename=wire_name, gc=False):
    """One event as it stands in the answer."""

    event_log_id: _Long
    event_name: str | None = None
    customer_id: _Long | None = None
    event_display_name: str | None = None
    unique_id: str | None = None
    event_date: datetime | None = None
    event_processed_date: datetime | None = None
    period_id: _Long | None = None
    target_group_id: _Long | None = None
    target_rule_id: _Long | None = None
    target_value: Any = None
    event_date_iso: datetime | None = None
    event_processed_date_iso: datetime | None = None


class _Numbers(msgspec.Struct, gc=False):
    limit: _Long | None = None
    offset: _Long | None = None
    total: _Long | None = None


class Envelope(msgspec.Struct):
    """A page of events that reports no error. `warnings` are plain values."""

    events: tuple[TargetEvent, ...]
    pagination: Pagination
    warnings: Any


class _Answer(msgspec.Struct):
    """What every envelope may hold beside its data: whatever stands there, `wire` judges it."""

    errors: Any = None
    response: Any = None
    status: Any = None

    def plain(self) -> bool:
        """Whether nothing in here could be an error."""
        return not self.errors and self.response is None and self.status is None


class _EventsAnswer(_Answer, kw_only=True):
    data: list[_Row] | None
    pagination: _Numbers | None = None
    warnings: Any = None


class _TargetsAnswer(_Answer, kw_only=True):
    data: list[msgspec.Raw] | None


class _Rows(msgspec.Struct):
    data: list[msgspec.Raw] | None = None


_EVENTS: Final = msgspec.json.Decoder(_EventsAnswer, float_hook=Decimal)
_TARGETS: Final = msgspec.json.Decoder(_TargetsAnswer)
_ROWS: Final = msgspec.json.Decoder(_Rows)
_PLAIN: Final = msgspec.json.Decoder(float_hook=Decimal)

# A draft is an event without its guards: filling one is six times as fast as calling the frozen
# class, and assigning its class makes it an event. Without both methods of `object` CPython does
# not know that attributes are set the plain way, and filling is five times slower.
_Draft: Final[Any] = type(
    "_Draft",
    (TargetEvent,),
    {"__slots__": (), "__setattr__": object.__setattr__, "__delattr__": object.__delattr__},
)


def rows_envelope(body: bytes, timezone: tzinfo | None) -> Envelope | None:
    """A successful page, or None if `body` is anything else; rows stand where its events will.

    A row has an event's fields, and `events_of` makes an event of it.
    """
    try:
        answer = _EVENTS.decode(body)
        if not answer.plain():
            return None
        rows = answer.data or []
        _settle(rows, timezone)
    except _FAULTS:
        return None
    numbers = answer.pagination
    return Envelope(
        cast("tuple[TargetEvent, ...]", tuple(rows)),
        Pagination(numbers.limit, numbers.offset, numbers.total) if numbers else Pagination(),
        answer.warnings,
    )


def events_envelope(body: bytes, timezone: tzinfo | None) -> Envelope | None:
    """A successful page of events, or None if `body` is anything else."""
    envelope = rows_envelope(body, timezone)
    if envelope is not None:
        envelope.events = events_of(envelope.events)
    return envelope


def _settle(rows: Iterable[_Row], timezone: tzinfo | None) -> None:
    """Give rows the values of events, in place. Raises `ValueError` for an amount that is none."""
    for row in rows:
        value = row.target_value
        if type(value) is not Decimal and value is not None:
            row.target_value = Decimal(value) if type(value) is int else amount(value)
        # The ISO twin is the one with a zone: prefer it.
        if row.event_date_iso is not None:
            row.event_date = row.event_date_iso
        if row.event_processed_date_iso is not None:
            row.event_processed_date = row.event_processed_date_iso
        if timezone is not None:
            row.event_date = _zoned(row.event_date, timezone)
            row.event_processed_date = _zoned(row.event_processed_date, timezone)
            row.event_date_iso = _zoned(row.event_date_iso, timezone)
            row.event_processed_date_iso = _zoned(row.event_processed_date_iso, timezone)


def events_of(rows: Iterable[TargetEvent]) -> tuple[TargetEvent, ...]:
    """The events that stand in rows; what is an event already stays as it is."""
    events: list[TargetEvent] = []
    new = object.__new__
    for row in rows:
        if type(row) is TargetEvent:
            events.append(row)
            continue
        event = new(_Draft)
        event.event_log_id = row.event_log_id
        event.event_name = row.event_name
        event.customer_id = row.customer_id
        event.event_display_name = row.event_display_name
        event.unique_id = row.unique_id
        event.event_date = row.event_date
        event.event_processed_date = row.event_processed_date
        event.period_id = row.period_id
        event.target_group_id = row.target_group_id
        event.target_rule_id = row.target_rule_id
        event.target_value = row.target_value
        event.event_date_iso = row.event_date_iso
        event.event_processed_date_iso = row.event_processed_date_iso
        event.__class__ = TargetEvent
        events.append(event)
    return tuple(events)


def _zoned(moment: datetime | None, timezone: tzinfo) -> datetime | None:
    if moment is None or moment.tzinfo is not None:
        return moment
    return moment.replace(tzinfo=timezone)


def targets_in(body: bytes, structurer: Structurer) -> list[Target] | None:
    """A successful answer of active targets, or None if `body` is anything else.

    A target's row tells of the target, not of the user, so the same bytes come with user after
    user: they are read once.
    """
    try:
        answer = _TARGETS.decode(body)
        if not answer.plain():
            return None
        return [_target(bytes(row), structurer) for row in answer.data or ()]
    except Exception:  # noqa: BLE001 - whatever it is, the other way says it better
        return None


def rows_as_sent(body: bytes) -> list[bytes]:
    """The rows under `data`, byte for byte. Empty where there are none."""
    try:
        return [bytes(row) for row in _ROWS.decode(body).data or ()]
    except _FAULTS:
        return []


def _target(row: bytes, structurer: Structurer) -> Target:
    if len(row) > _LARGEST_CACHED:
        return attrs.evolve(_read_target.__wrapped__(row, structurer), raw=row)
    known = _read_target(row, structurer)
    # All else in a target is immutable, so users may share it.
    return attrs.evolve(
        known,
        raw=row,
        extra=deepcopy(known.extra) if known.extra else {},
        target_period_default_values_map=dict(known.target_period_default_values_map),
    )


@lru_cache(maxsize=_CACHED_TARGETS)
def _read_target(row: bytes, structurer: Structurer) -> Target:
    return structurer.quick(_PLAIN.decode(row), Target)
