"""What a sweep amounts to: the numbers of `summary.json` and of the last lines printed."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import attrs
from attrs import define

from .stats import EXACT
from .visit import Visit

__all__ = ["Summary"]


@define
class Summary:
    """Sums of one run, the sessions before it was interrupted included."""

    run: int = 1
    """1 for the first, then one more with each `--incremental`."""
    finished: bool = False
    """Whether the list of users came to its end."""
    complete: int = 0
    """Users of whom nothing is missing."""
    failed: int = 0
    """Users of whom something is."""
    bad_lines: int = 0
    """Lines of the users file that are no user id."""
    skipped: int = 0
    """Users of the list that were not asked for in this session: done before, or twice in it."""
    targets: int = 0
    """Targets that the users are in."""
    events: int = 0
    """Events written."""
    value_sum: Decimal = Decimal(0)
    """The exact sum of their values."""
    healed_targets: int = 0
    """Targets that had changed before the place up to which they were known."""
    late_events: int = 0
    """Events found so: they stand before ones that were written earlier."""
    vanished_events: int = 0
    """Events in the files that the server no longer has."""
    requests: int = 0
    retries: int = 0
    seconds: float = 0.0

    @property
    def users(self) -> int:
        """Users that were asked for."""
        return self.complete + self.failed

    @property
    def all_complete(self) -> bool:
        """Whether nothing is missing of anything that was asked for."""
        return self.finished and not self.failed and not self.bad_lines

    def add(self, visit: Visit) -> None:
        """Count a complete user."""
        self.complete += 1
        self.targets += visit.enrolled
        self.events += visit.rows.event_count
        self.healed_targets += visit.healed
        self.late_events += visit.late
        self.vanished_events += visit.vanished
        self.value_sum = EXACT.add(self.value_sum, visit.rows.stats.value_sum)

    def as_dict(self) -> dict[str, Any]:
        """For `summary.json`."""
        return {"users": self.users, **attrs.asdict(self)}
