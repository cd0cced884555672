"""What a sweep is asked for, what it finds for one user, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define, field, frozen

from .errors import CapillaryError, UsageError
from .models import Target, TargetEvent
from .pagination import PagingReport

__all__ = ["SweepPlan", "SweepStats", "UserOutcome"]


@frozen
class UserOutcome:
    """What a sweep found for one user.

    `complete` is True only if every target was asked for and every walk proved complete. Where
    `error` is set, `targets` and `events` hold what had arrived before it, and `checkpoint` is
    where the walk that failed can go on.
    """

    user_id: int
    targets: tuple[Target, ...] = ()
    events: tuple[TargetEvent, ...] = ()
    reports: Mapping[int, PagingReport] = field(factory=dict, hash=False)
    error: CapillaryError | None = field(default=None, eq=False)

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self.error is None and all(report.complete for report in self.reports.values())

    @property
    def checkpoint(self) -> Any:
        """Where to go on after an error, if it came in the middle of a walk."""
        return None if self.error is None else self.error.checkpoint


@frozen(kw_only=True)
class SweepPlan:
    """What is asked for each user."""

    target_rule_ids: tuple[int, ...] = ()
    """Only these targets; none given: all that the user is enrolled in."""
    enrolled: bool = True
    """Ask which targets a user is enrolled in; False goes straight to the events."""
    period_id: int | None = None
    page_size: int = 100

    def __attrs_post_init__(self) -> None:
        if self.page_size < 1:
            raise UsageError(f"page_size must be at least 1, not {self.page_size}")


@define
class SweepStats:
    """How far a sweep is; live while it runs. Times in seconds."""

    users_done: int = 0
    users_failed: int = 0
    targets: int = 0
    events: int = 0
    requests: int = 0
    retries: int = 0
    in_flight: int = 0
    limit: int = 0
    """Requests allowed in flight now."""
    waited_for_budget: float = 0.0
    """By all requests of the client together, pauses that the server asked for included."""
    seconds: float = 0.0
