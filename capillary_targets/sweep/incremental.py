"""Which of a target's rows are new, deleted at the source, or back again.

Pure. Rows are told apart by their keys, digests of all fields; equal rows are counted, so that
repeated and missing event ids lose nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from attrs import frozen

__all__ = ["Reconciled", "reconcile"]


@frozen
class Reconciled:
    """What a target's rows on the server are to those in files, by index into either.

    `new` rows were never written; `restored` ones were, then deleted, and are on the server again.
    `late` of both stand before a row that was there all the time. `vanished` written rows are no
    longer on the server. `deleted` are the keys of all rows in files that are not on the server.
    """

    new: Sequence[int]
    restored: Sequence[int]
    vanished: Sequence[int]
    late: int
    deleted: Counter[int]


def reconcile(keys: Sequence[int], written: Sequence[int], deleted: Counter[int]) -> Reconciled:
    """Compare all rows on the server with all rows in files.

    Args:
        keys: Of the rows on the server, in order.
        written: Of the rows in files, those deleted since included.
        deleted: Of the rows in files that were not on the server any more.
    """
    held = Counter(written) - deleted
    new, restored, gone, late, last_held = [], [], deleted.copy(), 0, -1
    for index, key in enumerate(keys):
        if held[key]:
            held[key] -= 1
            last_held = index
        elif gone[key]:
            gone[key] -= 1
            restored.append(index)
        else:
            new.append(index)
    late = sum(index < last_held for index in (*new, *restored))
    left = +held
    vanished = []
    for index in reversed(range(len(written))):  # of equal rows, the ones written last
        if left[written[index]]:
            left[written[index]] -= 1
            vanished.append(index)
    return Reconciled(new, restored, vanished[::-1], late, +gone + +held)
