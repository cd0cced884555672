"""Models to lines of JSON: snake_case names, amounts with the digits that the server sent."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Final

import attrs
import msgspec

from capillary_targets.decoding import rows_as_sent
from capillary_targets.models import EventsPage, Target, TargetEvent

__all__ = ["EVENT_FIELDS", "TARGET_FIELDS", "by_event", "encode", "lines", "one_line", "plain"]

EVENT_FIELDS: Final = tuple(f.name for f in attrs.fields(TargetEvent) if f.name != "raw")
TARGET_FIELDS: Final = tuple(f.name for f in attrs.fields(Target) if f.name != "raw")

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


class _Numbered(msgspec.Struct, rename="camel"):
    event_log_id: Any = None


_NUMBERED: Final = msgspec.json.Decoder(_Numbered)


def by_event(page: EventsPage) -> dict[int, bytes]:
    """The rows of a page as the server sent them, by event id."""
    rows = rows_as_sent(page.body)
    return {int(_NUMBERED.decode(row).event_log_id): row for row in rows}


def one_line(sent: bytes) -> bytes:
    """A JSON text without line ends: it has them only where blanks may stand."""
    return sent.replace(b"\r", b" ").replace(b"\n", b" ")


def lines(
    user_id: int, values: Sequence[Target] | Sequence[TargetEvent], sent: Sequence[bytes | None]
) -> bytes:
    """Lines of a part: models, each headed by the id of the user who was asked for.

    With `sent`, which is then as long, each ends with the row as the server sent it.
    """
    made = [
        _EventLine(user_id, *_event_values(value))
        if isinstance(value, TargetEvent)
        else _TargetLine(user_id, *_target_values(value))
        for value in values
    ]
    for row, raw in zip(made, sent, strict=bool(sent)):
        row.raw = None if raw is None else msgspec.Raw(one_line(raw))
    return _ENCODER.encode_lines(made)


def _line_of(name: str, fields: tuple[str, ...]) -> Any:
    """A class for one line. msgspec writes its own classes four times as fast as dicts."""
    return msgspec.defstruct(
        name,
        [
            ("user_id", int),
            *((field, Any) for field in fields),
            ("raw", msgspec.Raw | None | msgspec.UnsetType, msgspec.UNSET),
        ],
        gc=False,
    )


_EventLine: Final = _line_of("_EventLine", EVENT_FIELDS)
_TargetLine: Final = _line_of("_TargetLine", TARGET_FIELDS)
