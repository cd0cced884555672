"""Which rows a page holds and what its `pagination` claims, in every dialect a server might speak.

The description leaves some of this open and contradicts itself elsewhere (contract §8), and sibling
calls are known to do each of these. The default is the likeliest reading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import evolve, frozen

from .refusals import Refusal, refuse

if TYPE_CHECKING:
    from .log import EventHistory
    from .model import Event
    from .settings import SandboxSettings

_FILTERED = 3
"""Rows that a short page misses, as if filtered after slicing."""


@frozen(slots=True)
class Page:
    """The rows, and the `pagination` object if there is one."""

    rows: list[Event]
    pagination: dict[str, int | str] | None


@frozen(slots=True)
class _Cut:
    """Where a page lies: rows [first, first + limit) of `count`."""

    first: int
    limit: int
    count: int

    @property
    def number(self) -> int:
        return self.first // self.limit


def page(
    settings: SandboxSettings,
    log: EventHistory,
    span: tuple[int, int],
    limit: int,
    offset: int | None,
) -> Page:
    """Cut one page out of a history.

    Args:
        settings: the dialect.
        log: the history.
        span: the rows that the request is about, as (start, stop).
        limit: as asked for, or the default.
        offset: as asked for.

    """
    asked = offset or 0
    effective, echoed = _limit(settings, limit)
    cut, echoed_offset = _place(settings, span[1] - span[0], effective, asked)
    if cut.first >= cut.count and cut.first:
        _refuse_past_end(settings)
    rows = _rows(settings, log, span, cut)
    return Page(rows, _pagination(settings, cut, echoed, echoed_offset))


def _limit(settings: SandboxSettings, limit: int) -> tuple[int, int]:
    """The page size that is kept, and the one that is echoed."""
    if limit > settings.max_limit and settings.limit_mode == "refused":
        raise refuse(11029)
    kept = min(limit, settings.max_limit)
    return kept, limit if settings.limit_mode == "capped-silent" else kept


def _place(settings: SandboxSettings, count: int, limit: int, offset: int) -> tuple[_Cut, int]:
    """The rows that the offset stands for, and the offset that is echoed."""
    match settings.offset_mode:
        case "row":
            return _Cut(offset, limit, count), offset
        case "ignored":
            return _Cut(0, limit, count), offset
        case "clamped":
            number = min(offset, max(0, -(-count // limit) - 1))
            return _Cut(number * limit, limit, count), number
        case "page":
            return _Cut(offset * limit, limit, count), offset


def _refuse_past_end(settings: SandboxSettings) -> None:
    match settings.past_end:
        case "310149":
            raise refuse(310149)
        case "error":
            raise refuse(11003)
        case "404":
            raise Refusal(404, b"", 404)
        case "empty" | "endless":
            pass


def _rows(
    settings: SandboxSettings, log: EventHistory, span: tuple[int, int], cut: _Cut
) -> list[Event]:
    if cut.number == settings.empty_page:
        return []
    start, stop = span
    first = min(start + cut.first, stop)
    rows = log.rows(first, min(first + cut.limit, stop))
    if settings.past_end == "endless":
        rows += _made_up(log, stop, range(max(cut.first, cut.count), cut.first + cut.limit), cut)
    if cut.number == settings.short_page:
        rows = rows[:-_FILTERED]
    if settings.repeat_rows != "no" and cut.first and rows:
        kept = rows[1:] if settings.repeat_rows == "instead" else rows
        rows = log.rows(first - 1, first) + kept
    return rows


def _made_up(log: EventHistory, stop: int, indexes: range, cut: _Cut) -> list[Event]:
    """Rows behind the last one: its copies, with log ids that go on rising."""
    model = log.rows(stop - 1, stop)
    return [
        evolve(model[0], event_log_id=model[0].event_log_id + index - cut.count + 1)
        for index in indexes
        if model
    ]


def _pagination(
    settings: SandboxSettings, cut: _Cut, limit: int, offset: int
) -> dict[str, int | str] | None:
    count = cut.count
    if settings.past_end == "endless":
        count = max(count, cut.first + 2 * cut.limit)
    match settings.total_mode:
        case "none":
            return None
        case "absent":
            return {"limit": limit, "offset": offset}
        case "text":
            return {"limit": str(limit), "offset": str(offset), "total": str(count)}
        case "pages":
            count = -(-count // cut.limit)
        case "zero":
            count = 0
        case "wrong":
            count = max(1, count // 2)
        case "wrong-high":
            count *= 2
        case "rows":
            pass
    return {"limit": limit, "offset": offset, "total": count}
