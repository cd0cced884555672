"""Where to cut a window that overlaps what is known, in servers that count pages or rows."""

from __future__ import annotations

from collections.abc import Container

from .dialect import OffsetKind

__all__ = ["place"]


def place(
    kind: OffsetKind, target: int, *, reach: int, room: int, avoid: Container[int] = ()
) -> tuple[int, int]:
    """(limit, offset) of a window that begins at or before row `target`.

    Args:
        kind: what `offset` counts.
        target: the row, counted from 0, that the window must not begin behind.
        reach: the row that it should go beyond.
        room: the most rows to ask for. Only where nothing smaller reaches, up to twice as many
            (page numbers and a small room may have no overlapping cut at all).
        avoid: page numbers that came back short before.

    """
    target = max(target, 0)
    if kind == "row" or target == 0:
        return room, target
    best = room, target // room
    furthest = -1
    for limit in range(room, 0, -1):
        if target + limit <= furthest:
            break  # nothing smaller can end further on
        number = target // limit
        end = (number + 1) * limit
        if end > furthest and number not in avoid:
            best, furthest = (limit, number), end
    if furthest <= reach:
        for limit in range(room + 1, 2 * room + 1):
            number = target // limit
            if (number + 1) * limit > reach and number not in avoid:
                return limit, number
    return best
