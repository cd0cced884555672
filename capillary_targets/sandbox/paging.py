"""Which rows a page holds and what its `pagination` says, in every dialect a server might speak.

The description leaves some of this open and contradicts itself elsewhere (contract §8), and sibling
calls are known to do each of these. The default is the likeliest reading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from attrs import frozen

from .responses import ErrorResponse, error

if TYPE_CHECKING:
    from .model import Event, Pagination
    from .settings import SandboxSettings
    from .world import EventHistory

_FILTERED = 3
"""Rows that a short page misses, as if filtered after slicing."""


@frozen(slots=True)
class _Slice:
    """Where a page lies: rows [first, first + limit) of `count`."""

    first: int
    limit: int
    count: int

    @property
    def number(self) -> int:
        return self.first // self.limit


def page_at(
    settings: SandboxSettings,
    history: EventHistory,
    span: tuple[int, int],
    limit: int,
    offset: int,
) -> tuple[list[Event], Pagination | None]:
    """Cut one page out of a history: its rows, and the `pagination` object if there is one.

    Args:
        settings: the dialect.
        history: the rows of a (user, rule).
        span: the rows that the request is about, as (start, stop).
        limit: as asked for, or the default.
        offset: as asked for, or 0.

    Raises:
        ErrorResponse: the limit is refused, or the page lies past the end and that is an error.
    """
    if limit > settings.max_limit and settings.limit_mode == "refused":
        raise error(11029)
    kept = min(limit, settings.max_limit)
    where, echoed_offset = _locate(settings, span[1] - span[0], kept, offset)
    if where.first >= where.count and where.first:
        _check_past_end(settings)
    echoed_limit = limit if settings.limit_mode == "capped-silent" else kept
    rows = _rows(settings, history, span, where)
    return rows, _pagination(settings, where, echoed_limit, echoed_offset)


def _locate(settings: SandboxSettings, count: int, limit: int, offset: int) -> tuple[_Slice, int]:
    """The rows that the offset stands for, and the offset that is echoed."""
    match settings.offset_mode:
        case "row":
            return _Slice(offset, limit, count), offset
        case "ignored":
            return _Slice(0, limit, count), offset
        case "clamped":
            offset = min(offset, max(0, -(-count // limit) - 1))
    return _Slice(offset * limit, limit, count), offset


def _check_past_end(settings: SandboxSettings) -> None:
    if settings.past_end == "404":
        raise ErrorResponse(404, b"", 404)
    if code := {"310149": 310149, "error": 11003}.get(settings.past_end):
        raise error(code)


def _rows(
    settings: SandboxSettings, history: EventHistory, span: tuple[int, int], where: _Slice
) -> list[Event]:
    if where.number == settings.empty_page:
        return []
    start, stop = span
    first = min(start + where.first, stop)
    rows = history[first : min(first + where.limit, stop)]
    if settings.past_end == "endless" and stop > start:
        beyond = range(max(where.first, where.count), where.first + where.limit)
        rows += [_made_up(history[stop - 1], index - where.count + 1) for index in beyond]
    if where.number == settings.short_page:
        rows = rows[:-_FILTERED]
    if settings.repeat_rows != "no" and where.first and rows:
        kept = rows[1:] if settings.repeat_rows == "instead" else rows
        rows = history[first - 1 : first] + kept
    return rows


def _made_up(last: Event, number: int) -> Event:
    """A row past the last one: its copy, with a log id that goes on rising."""
    return msgspec.structs.replace(last, event_log_id=(last.event_log_id or 0) + number)


def _pagination(
    settings: SandboxSettings, where: _Slice, limit: int, offset: int
) -> Pagination | None:
    count = where.count
    if settings.past_end == "endless":
        count = max(count, where.first + 2 * where.limit)
    pagination: Pagination = {"limit": limit, "offset": offset, "total": count}
    match settings.total_mode:
        case "none":
            return None
        case "absent":
            del pagination["total"]
        case "text":
            return {name: str(number) for name, number in pagination.items()}
        case "float":
            pagination["total"] = float(count)
        case "pages":
            pagination["total"] = -(-count // where.limit)
        case "zero":
            pagination["total"] = 0
        case "wrong":
            pagination["total"] = max(1, count // 2)
        case "wrong-high":
            pagination["total"] = 2 * count
    return pagination
