"""Models to lines of JSON: snake_case names, amounts with the digits that the server sent."""

from __future__ import annotations

from operator import attrgetter
from typing import Any, Final

import attrs
import msgspec

from capillary_targets.models import Target, TargetEvent

__all__ = ["EVENT_FIELDS", "TARGET_FIELDS", "encode", "line", "plain"]

EVENT_FIELDS: Final = tuple(field.name for field in attrs.fields(TargetEvent))
TARGET_FIELDS: Final = tuple(field.name for field in attrs.fields(Target))

_event_values: Final = attrgetter(*EVENT_FIELDS)
_target_values: Final = attrgetter(*TARGET_FIELDS)
_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")


def encode(value: Any) -> bytes:
    """`value` (a model, or plain values) as JSON without a line end.

    A Decimal becomes a JSON number with its own digits (`1.000` stays `1.000`); a datetime is ISO
    8601, with its offset where it has one.
    """
    return _ENCODER.encode(value)


def plain(value: Target | TargetEvent) -> dict[str, Any]:
    """A model's fields by name, in the order in which the class declares them."""
    if isinstance(value, TargetEvent):
        return dict(zip(EVENT_FIELDS, _event_values(value), strict=True))
    return dict(zip(TARGET_FIELDS, _target_values(value), strict=True))


def line(user_id: int, value: Target | TargetEvent) -> bytes:
    """One line of a part: a model, headed by the id of the user who was asked for."""
    return encode({"user_id": user_id, **plain(value)}) + b"\n"
