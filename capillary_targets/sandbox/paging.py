"""Which rows a page holds and what its `pagination` says, in every dialect a server might speak.

The description leaves some of this open and contradicts itself elsewhere (contract §8), and sibling
calls are known to do each of these. The default is the likeliest reading.
"""

from __future__ import annotations

import msgspec

from .model import Event, Pagination
from .responses import ErrorResponse, error
from .settings import SandboxSettings
from .world import EventHistory

_FILTERED = 3
"""Rows that a short page misses, as if filtered after slicing."""


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
    size, (start, stop) = min(limit, settings.max_limit), span
    count = stop - start
    if settings.offset_mode == "clamped":
        offset = min(offset, max(0, -(-count // size) - 1))
    first = {"row": offset, "ignored": 0}.get(settings.offset_mode, offset * size)
    if first >= count and first:
        _check_past_end(settings)
    at = min(start + first, stop)
    rows = history[at : min(at + size, stop)]
    shown = count
    if settings.past_end == "endless":
        shown = max(count, first + 2 * size)
        beyond = range(max(first, count), first + size) if count else ()
        rows += [_made_up(history[stop - 1], index - count + 1) for index in beyond]
    if first // size == settings.short_page:
        rows = rows[:-_FILTERED]
    if settings.repeat_rows != "no" and first and rows:
        rows = history[at - 1 : at] + rows[settings.repeat_rows == "instead" :]
    if first // size == settings.empty_page:
        rows = []
    echoed = limit if settings.limit_mode == "capped-silent" else size
    return rows, _pagination(settings, {"limit": echoed, "offset": offset, "total": shown}, size)


def _check_past_end(settings: SandboxSettings) -> None:
    if settings.past_end == "404":
        raise ErrorResponse(404, b"", 404)
    if code := {"310149": 310149, "error": 11003}.get(settings.past_end):
        raise error(code)


def _made_up(last: Event, number: int) -> Event:
    """A row past the last one: its copy, with a log id that goes on rising."""
    return msgspec.structs.replace(last, event_log_id=(last.event_log_id or 0) + number)


def _pagination(settings: SandboxSettings, right: dict[str, int], size: int) -> Pagination | None:
    """The object as this server sends it, from the right one and the size of its pages."""
    total = right["total"]
    match settings.total_mode:
        case "none":
            return None
        case "absent":
            return {"limit": right["limit"], "offset": right["offset"]}
        case "text":
            return {name: str(number) for name, number in right.items()}
        case mode:
            totals = {
                "float": float(total),
                "pages": -(-total // size),
                "zero": 0,
                "wrong": max(1, total // 2),
                "wrong-high": 2 * total,
            }
            return {**right, "total": totals.get(mode, total)}
