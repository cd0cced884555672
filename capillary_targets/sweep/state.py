"""What the ledger keeps of a run between sessions."""

from __future__ import annotations

from attrs import define, field

from .meter import Series
from .summary import Summary

__all__ = ["State"]


@define
class State:
    """The run's running sums, and requests over its time."""

    summary: Summary = field(factory=Summary)
    series: Series = field(factory=Series)
