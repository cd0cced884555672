"""Models to lines of JSON: snake_case names, amounts with the digits that the server sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, Final, Generic, TypeVar

import attrs
import msgspec

from capillary_targets.decoding import rows_as_sent
from capillary_targets.models import EventsPage, Target, TargetEvent

__all__ = [
    "TARGET_FIELDS",
    "Memo",
    "by_event",
    "encode",
    "event_lines",
    "one_line",
    "plain",
    "target_line",
    "target_tail",
    "with_sent",
]

T = TypeVar("T")

TARGET_FIELDS: Final = tuple(f.name for f in attrs.fields(Target) if f.name != "raw")

_target_values: Final = attrgetter(*TARGET_FIELDS)
_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")


def encode(value: Any) -> bytes:
    """`value` (a model, or plain values) as JSON without a line end.

    A Decimal becomes a JSON number with its own digits (`1.000` stays `1.000`); a datetime is ISO
    8601, with its offset where it has one.
    """
    return _ENCODER.encode(value)


def plain(target: Target) -> dict[str, Any]:
    """A target's fields by name, in the order in which the class declares them."""
    return dict(zip(TARGET_FIELDS, _target_values(target), strict=True))


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


def event_lines(user_id: int, events: Sequence[TargetEvent]) -> bytes:
    """Lines of a part, each headed by the id of the user who was asked for."""
    # No text in JSON holds a bare quotation mark, so this begins a line wherever it stands.
    begins = b'{"event_log_id"'
    head = b'{"user_id":%d,"event_log_id"' % user_id
    return head.join(_ENCODER.encode_lines(events).split(begins))


def with_sent(lines: bytes, sent: Iterable[bytes | None]) -> bytes:
    """The same lines, each ending with the row as the server sent it."""
    return b"".join(
        [
            b'%b,"raw":%b}\n' % (line[:-1], b"null" if row is None else one_line(row))
            for line, row in zip(lines.split(b"\n")[:-1], sent, strict=True)
        ]
    )


def target_line(user_id: int, tail: bytes) -> bytes:
    """The line of a target, of which `target_tail` is the same for every user."""
    return b'{"user_id":%d,%b' % (user_id, tail)


def target_tail(target: Target, *, raw: bool) -> bytes:
    """A target's line from behind the user's id; with `raw`, also as the server sent it."""
    sent = b"null" if target.raw is None else one_line(target.raw)
    return encode(plain(target))[1:-1] + (b',"raw":%b}\n' % sent if raw else b"}\n")


class Memo(Generic[T]):
    """What is made of a target, remembered by the bytes of its row.

    A row tells of the target and not of the user, so the same bytes come with user after user.
    Good for one client, which reads the same bytes in the same way.
    """

    def __init__(self, make: Callable[[Target], T]) -> None:
        self._make = make
        self._made: dict[bytes, T] = {}

    def __call__(self, target: Target) -> T:
        """What is made of that one."""
        raw = target.raw
        if raw is None or len(raw) > _LARGEST:
            return self._make(target)
        if raw not in self._made:
            if len(self._made) >= _MOST:
                self._made.clear()
            self._made[raw] = self._make(target)
        return self._made[raw]


_MOST: Final = 512
_LARGEST: Final = 2**16
"""Targets remembered, and bytes of a row: so that a memo stays small."""
