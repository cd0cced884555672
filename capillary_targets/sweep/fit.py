"""Whether amounts fit decimal128(38, 6): what it cannot hold exactly is a misfit, never rounded."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Context, Decimal
from typing import Any, Final

import attrs

from capillary_targets.models import Target

from .batch import EventBatch
from .schemas import PRECISION, SCALE

__all__ = ["misfit_of_events", "misfit_of_target", "scaled"]

_BEYOND: Final = Decimal(1).scaleb(PRECISION - SCALE)
_STEP: Final = Decimal(1).scaleb(-SCALE)
_WIDE: Final = Context(prec=2 * PRECISION)


def misfit_of_target(target: Target) -> str | None:
    """The first amount in a target that does not fit, told to the user."""
    for amount in amounts_in(target):
        if not _fits(amount):
            return _told(amount, f"target {target.id}")
    return None


def misfit_of_events(events: EventBatch) -> str | None:
    """The first event's amount that does not fit, told to the user."""
    if _all_fit(events):
        return None
    for event in events.events:
        amount = event.target_value
        if amount is not None and not _fits(amount):
            return _told(amount, f"event {event.event_log_id}")
    return None


def scaled(amount: Decimal) -> Decimal:
    """An amount that fits, with as many places as the schema has: exact."""
    return amount.quantize(_STEP, context=_WIDE)


def _told(amount: Decimal, what: str) -> str:
    return (
        f"the amount {amount} of {what} does not fit decimal({PRECISION}, {SCALE}); "
        "sweep into JSON Lines to keep it"
    )


def _fits(amount: Decimal) -> bool:
    if not amount:
        return amount.is_finite()
    _, digits, exponent = amount.as_tuple()
    if not isinstance(exponent, int) or amount.adjusted() >= PRECISION - SCALE:
        return False
    too_many = -exponent - SCALE
    return too_many <= 0 or not any(digits[-too_many:])


def _all_fit(events: EventBatch) -> bool:
    """Whether surely all of them fit, at a glance. False: it takes a look at each.

    Where no amount is too great, the exact sum has as many places as that with the most.
    """
    for of_target in events.sums.values():
        places = of_target.value.as_tuple().exponent
        if not isinstance(places, int) or places < -SCALE:  # a NaN, for one, is no int
            return False
    amounts = [amount for amount in events.amounts if amount is not None]
    return not amounts or (min(amounts) > -_BEYOND and max(amounts) < _BEYOND)


def amounts_in(value: Any) -> list[Decimal]:
    """Every amount in a model."""
    if isinstance(value, Decimal):
        return [value]
    if attrs.has(type(value)):
        return [a for f in attrs.fields(type(value)) for a in amounts_in(getattr(value, f.name))]
    if isinstance(value, tuple):
        return [amount for item in value for amount in amounts_in(item)]
    if isinstance(value, Mapping):
        return [amount for item in value.values() for amount in amounts_in(item)]
    return []
