"""The quick way from bytes to models, for answers of exactly the documented shape. No I/O.

Whatever does not fit (an id as text, a time as a number, a fault) makes these readers answer None:
then `wire` takes the way over plain values and cattrs, which accepts more and names the bad field.
Where both accept, they agree to the last digit; the tests hold them to it.
"""

from __future__ import annotations

from copy import deepcopy
from datetime import tzinfo
from decimal import Decimal
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, TypeAlias

import attrs
import msgspec

from .compact import as_sent
from .models import Pagination, Target, TargetEvent
from .structuring import Structurer

__all__ = ["EventsAnswer", "events_in", "rows_as_sent", "targets_in"]

_FAULTS: Final = (msgspec.DecodeError, ValueError, ArithmeticError, RecursionError)
_CACHED_TARGETS: Final = 512
_LARGEST_CACHED: Final = 2**16
"""Bytes of one target's row: longer ones are read each time, so that the cache stays small."""


class _Answer(msgspec.Struct):
    """What every envelope may hold beside its data: whatever stands there, `wire` judges it."""

    errors: Any = None
    response: Any = None
    status: Any = None

    def plain(self) -> bool:
        """Whether nothing in here could be an error."""
        return not self.errors and self.response is None and self.status is None


_EventAsSent: TypeAlias = as_sent(TargetEvent)  # type: ignore[valid-type]


class EventsAnswer(_Answer, kw_only=True):
    """A page of events. `warnings` are plain values."""

    data: tuple[_EventAsSent, ...] | None
    pagination: Pagination | None = None
    warnings: Any = None


class _TargetsAnswer(_Answer, kw_only=True):
    data: list[msgspec.Raw] | None


class _Rows(msgspec.Struct):
    data: list[msgspec.Raw] | None = None


_EVENTS: Final = msgspec.json.Decoder(EventsAnswer)
_TARGETS: Final = msgspec.json.Decoder(_TargetsAnswer)
_ROWS: Final = msgspec.json.Decoder(_Rows)
_PLAIN: Final = msgspec.json.Decoder(float_hook=Decimal)


def events_in(body: bytes, timezone: tzinfo | None) -> EventsAnswer | None:
    """A successful page of events, or None if `body` is anything else."""
    try:
        answer = _EVENTS.decode(body)
        if not answer.plain():
            return None
        for event in answer.data or ():
            value = event.target_value
            if value is not None and not value.is_finite():  # msgspec takes "NaN" for a number
                return None
            if event.event_date_iso is not None or event.event_processed_date_iso is not None:
                _prefer_twins(event)
            if timezone is not None:
                _give_zone(event, timezone)
            event.__class__ = TargetEvent
    except _FAULTS:
        return None
    return answer


def _prefer_twins(event: TargetEvent) -> None:
    """The ISO twin of a time is the one with a zone (API page on additional timezone fields)."""
    for name in ("event_date", "event_processed_date"):
        twin = getattr(event, f"{name}_iso")
        if twin is not None:
            setattr(event, name, twin)


def _give_zone(event: TargetEvent, timezone: tzinfo) -> None:
    for name in _TIMES:
        moment = getattr(event, name)
        if moment is not None and moment.tzinfo is None:
            setattr(event, name, moment.replace(tzinfo=timezone))


_TIMES: Final = ("event_date", "event_processed_date", "event_date_iso", "event_processed_date_iso")


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
        return _read_target.__wrapped__(row, structurer)
    known = _read_target(row, structurer)
    target = object.__new__(Target)
    for put, value in zip(_PUTS, _values(known), strict=True):  # half of what `evolve` takes
        put(target, value)
    # All else in a target is immutable, so users may share it.
    _put_extra(target, deepcopy(known.extra) if known.extra else {})
    _put_defaults(target, dict(known.target_period_default_values_map))
    return target


_NAMES: Final = [field.name for field in attrs.fields(Target)]
_values: Final = attrgetter(*_NAMES)
_PUTS: Final = [vars(Target)[name].__set__ for name in _NAMES]
_put_extra: Final = Target.extra.__set__  # type: ignore[attr-defined]
_put_defaults: Final = Target.target_period_default_values_map.__set__  # type: ignore[attr-defined]


@lru_cache(maxsize=_CACHED_TARGETS)
def _read_target(row: bytes, structurer: Structurer) -> Target:
    return attrs.evolve(structurer.quick(_PLAIN.decode(row), Target), raw=row)
