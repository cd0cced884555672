"""Where the last run ended in a target's events, and whether that place is still where it was.

Pure: pages in, verdicts out. Events come in chronological order, so what is new stands behind the
mark. The mark is of constant size: how many events there were, the last one's id, and a digest of
the ids on its page. What it cannot notice is a late event and a deletion that cancel each other
out before the mark's page.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from hashlib import blake2b
from typing import Final

from attrs import frozen

from capillary_targets.models import EventsPage, TargetEvent

__all__ = ["Healing", "Mark", "Verdict", "digest", "heal", "judge", "mark_after"]

_DIGEST_BYTES: Final = 8


def digest(parts: Iterable[object]) -> bytes:
    """Eight bytes that change with any of `parts`, or with their order."""
    text = "\n".join(map(str, parts)).encode()
    return blake2b(text, digest_size=_DIGEST_BYTES).digest()


@frozen
class Mark:
    """How far a target's events were read.

    `count` events in all, `last_id` the last one's id; `page_size` was in force, and `tail` is a
    digest of the ids on the last page up to it. `target` is a digest of the target's own row.
    `gone` says that files hold events which the server no longer had: should they come back, they
    must not be taken for new.
    """

    count: int = 0
    last_id: int | None = None
    page_size: int = 1
    tail: bytes = b""
    target: bytes | None = None
    gone: bool = False

    @property
    def page(self) -> int:
        """The number of the page that the last event stands on."""
        return (self.count - 1) // self.page_size

    @property
    def place(self) -> int:
        """Where on that page it stands, from 0."""
        return (self.count - 1) % self.page_size


def mark_after(
    ids: Sequence[int | None], *, before: int = 0, page_size: int, target: bytes | None = None
) -> Mark:
    """The mark behind `ids`, which follow on `before` others.

    `before` must be a whole number of pages. No id at all makes a mark at the very beginning.
    """
    if before % page_size:
        raise ValueError(f"{before} events are no whole pages of {page_size}")
    if not ids:
        return Mark(page_size=page_size, target=target)
    on_last_page = (len(ids) - 1) % page_size + 1
    return Mark(before + len(ids), ids[-1], page_size, digest(ids[-on_last_page:]), target)


@frozen
class Verdict:
    """What the mark's page says.

    `moved` is why the mark is not where it was, None if it is. Then `new` stands behind it on this
    page, and `more` says whether pages follow.
    """

    moved: str | None = None
    new: tuple[TargetEvent, ...] = ()
    more: bool = False


def judge(mark: Mark, page: EventsPage) -> Verdict:
    """Look for the mark on its page (`mark.page`, asked for with a limit of `mark.page_size`)."""
    ids = [event.event_log_id for event in page.events]
    in_force = page.pagination.limit
    if in_force and in_force != mark.page_size:
        return Verdict("the page size changed")
    if len(ids) <= mark.place:
        return Verdict("there are fewer events than before")
    if ids[mark.place] != mark.last_id:
        return Verdict("the last event is not where it was")
    if digest(ids[: mark.place + 1]) != mark.tail:
        return Verdict("the events before the last one changed")
    if page.total and page.total < mark.count:
        return Verdict("there are fewer events than before")
    return Verdict(None, page.events[mark.place + 1 :], more=more_follows(mark.page, page, mark))


def more_follows(number: int, page: EventsPage, mark: Mark) -> bool:
    """Whether there are pages behind page `number`."""
    if page.total:
        return number * mark.page_size + len(page.events) < page.total
    return len(page.events) >= mark.page_size


@frozen
class Healing:
    """A walk over everything, laid beside what was written before.

    `new` was never written. `late` of them stand before an event that was; `vanished` events were
    written and are no longer there.
    """

    new: tuple[TargetEvent, ...] = ()
    late: int = 0
    vanished: int = 0


def heal(events: Sequence[TargetEvent], written: Collection[int | None]) -> Healing:
    """What of `events`, which is all there is now, is missing from the ids `written` before."""
    known = [event.event_log_id in written for event in events]
    last_known = max((place for place, is_known in enumerate(known) if is_known), default=-1)
    new = tuple(event for event, is_known in zip(events, known, strict=True) if not is_known)
    late = known[: last_known + 1].count(False)
    return Healing(new, late, len(written) - sum(known))
