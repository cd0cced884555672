"""How a server reads `limit` and `offset` and what `total` means: found out, not configured.

The documentation contradicts itself on both (API page "Get target events" against its samples), and
sibling calls of the same service use every reading below.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, Literal, get_args

import attrs
from attrs import define, field, frozen, validators

__all__ = ["NOTHING", "Dialect", "Learned", "OffsetGuess", "known"]

OffsetKind = Literal["page", "row", "ignored"]
TotalKind = Literal["rows", "pages", "absent", "zero", "wrong"]
LimitKind = Literal["kept", "capped", "capped-silent"]
PastEnd = Literal["empty", "refused", "clamped"]


def _one_of(kinds: Any) -> Any:
    return validators.optional(validators.in_(get_args(kinds)))


@frozen
class Dialect:
    """What is known of a server's pagination. None: not known, so the documented reading is tried.

    `offset` counts pages or rows, or is ignored, which no walk survives. `total` counts rows or
    pages, or is not given (`absent`), or is always 0, or is no count of either. `limit` is kept or
    capped at `cap` rows, with or without the answer saying so. Behind the last row comes an empty
    page, a refusal, or the last page again.

    Forced on a walk with `dialect=`, what is given is believed whatever the answers suggest.
    """

    offset: OffsetKind | None = field(default=None, validator=_one_of(OffsetKind))
    total: TotalKind | None = field(default=None, validator=_one_of(TotalKind))
    limit: LimitKind | None = field(default=None, validator=_one_of(LimitKind))
    cap: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    past_end: PastEnd | None = field(default=None, validator=_one_of(PastEnd))

    def or_else(self, other: Dialect) -> Dialect:
        """What is known here, with what it does not know taken from `other`."""
        if self is other or other is NOTHING:
            return self
        if self is NOTHING:
            return other
        return known(
            self.offset or other.offset,
            self.total or other.total,
            self.limit or other.limit,
            self.cap or other.cap,
            self.past_end or other.past_end,
        )

    def to_dict(self) -> dict[str, str | int]:
        """What is known, as plain JSON values."""
        return attrs.asdict(self, filter=lambda _, value: value is not None)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Dialect:
        """The inverse of `to_dict`. Raises `ValueError` or `TypeError` for anything else."""
        return cls(**given)


@lru_cache(maxsize=256)
def known(
    offset: OffsetKind | None = None,
    total: TotalKind | None = None,
    limit: LimitKind | None = None,
    cap: int | None = None,
    past_end: PastEnd | None = None,
) -> Dialect:
    """A dialect, checked when it is first asked for: walks find the same one over and over."""
    return Dialect(offset, total, limit, cap, past_end)


NOTHING: Final = known()


@define(eq=False, repr=False)
class Learned:
    """What walks have found out about a server, for the walks to come. One for each session."""

    dialect: Dialect = NOTHING

    def take(self, found: Dialect) -> None:
        """Remember what a walk found out; others may have been under way beside it."""
        self.dialect = found.or_else(self.dialect)


_CONFIRMED: Final = 1.5
_MOST: Final = 4.0
_IGNORED: Final = 3


@define(eq=False, repr=False)
class OffsetGuess:
    """Whether `offset` counts pages or rows, from where known events are found.

    A wrong guess costs requests and never an event: which events of a page are new is decided by
    the events already taken, wherever the page came from.
    """

    forced: bool = False
    _score: float = 0.5
    _ignored: int = field(init=False, default=0)

    @classmethod
    def start(cls, forced: OffsetKind | None, learned: OffsetKind | None) -> OffsetGuess:
        """The documented reading counts as half an observation, a remembered one as four."""
        kind = forced or learned
        kind = None if kind == "ignored" else kind
        score = 0.5 if kind is None else _MOST if kind == "page" else -_MOST
        return cls(forced is not None, score)

    @property
    def by_page(self) -> bool:
        """Whether pages are the likelier reading, else rows."""
        return self._score >= 0

    @property
    def found(self) -> OffsetKind | None:
        """What is certain about it."""
        if self.ignored:
            return "ignored"
        return ("page" if self.by_page else "row") if self.confirmed else None

    @property
    def confirmed(self) -> bool:
        """Whether more than one coincidence would be needed for it to be wrong."""
        return self.forced or abs(self._score) >= _CONFIRMED

    @property
    def ignored(self) -> bool:
        """Whether three pages asked for far down the list all began at its head.

        One is not enough: a single arrival between two requests makes row 1 look like row 0.
        """
        return self._ignored >= _IGNORED

    def page_held(self) -> None:
        """A page followed its predecessor without a gap or an overlap."""
        self._score = self._score if self.forced else _MOST

    def see(self, limit: int, offset: int, found: int, *, head: bool = False) -> None:
        """A page asked for with `limit` and `offset` began about row `found`; or at the `head`."""
        if offset == 0:
            return
        if offset >= 2:
            self._ignored = self._ignored + 1 if head else 0
        by_page, by_row = abs(found - offset * limit), abs(found - offset)
        if self.forced or by_page == by_row:
            return
        step = 1.0 if by_page < by_row else -1.0
        if step * self._score < 0 and abs(self._score) < _CONFIRMED:
            self._score = step / 2  # nothing firm is lost: the latest look is the best one
        else:
            self._score = max(-_MOST, min(_MOST, self._score + step))

    def turn(self) -> None:
        """A page was not where this guess put it: try the other, unless this one is certain."""
        if not self.confirmed:
            self._score = -self._score
