"""What the ledger keeps of a run between sessions."""

from __future__ import annotations

from typing import Any

from attrs import define, field

from .summary import Summary

__all__ = ["State"]


@define
class State:
    """The run's running sums, and requests over its time."""

    summary: Summary = field(factory=Summary)
    timeline: dict[str, Any] = field(factory=dict)
    """`RequestTimeline.as_dict()`."""
