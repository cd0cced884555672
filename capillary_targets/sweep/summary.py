"""What a sweep amounts to: the numbers of `summary.json` and of the last lines printed."""

from __future__ import annotations

from decimal import Context, Decimal
from typing import Final

from attrs import define

from capillary_targets.fanout import UserOutcome

__all__ = ["Summary"]

_EXACT: Final = Context(prec=400, traps=[])  # amounts have tens of digits: no sum rounds


@define
class Summary:
    """Counts of one sweep. `value_sum` is exact; `seconds` is the time it took."""

    users: int = 0
    """Users that were asked for."""
    complete: int = 0
    """Users of whom nothing is missing."""
    failed: int = 0
    targets: int = 0
    events: int = 0
    value_sum: Decimal = Decimal(0)
    requests: int = 0
    retries: int = 0
    seconds: float = 0.0
    bad_lines: int = 0
    """Lines of the users file that are no user id."""

    @property
    def all_complete(self) -> bool:
        """Whether nothing is missing of anything that was asked for."""
        return self.failed == 0 and self.bad_lines == 0

    def add(self, outcome: UserOutcome) -> None:
        """Count one user. Only a complete user's rows count: no others are written."""
        self.users += 1
        if not outcome.complete:
            self.failed += 1
            return
        self.complete += 1
        self.targets += len(outcome.targets)
        self.events += len(outcome.events)
        for event in outcome.events:
            if event.target_value is not None:
                self.value_sum = _EXACT.add(self.value_sum, event.target_value)
