"""Where to cut a window that overlaps what is known, in servers that count pages or rows."""

from __future__ import annotations

from collections.abc import Container

__all__ = ["place"]


def place(target: int, *, by_page: bool, room: int, avoid: Container[int] = ()) -> tuple[int, int]:
    """(limit, offset) of the window that begins at or before row `target` and ends furthest on.

    Args:
        target: the row, counted from 0, that the window must not begin behind.
        by_page: whether `offset` counts pages, else rows.
        room: the most rows to ask for.
        avoid: page numbers that came back short before.

    """
    target = max(target, 0)
    if target == 0 or not by_page:
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
    return best
