"""The walk over one target's events as a pure state machine: no clock, no I/O, no asyncio.

`walk` is the machine that a driver feeds; `plain` and `anchored` are its two ways to go. What is
known of a server's pagination is in `dialect`; why nothing is lost is argued in `taken`. See
`docs/pagination.md`.
"""

from .dialect import NOTHING, Dialect, Learned
from .progress import Progress
from .values import START, Batch, Checkpoint, PageRequest, PagingReport
from .walk import Walk

__all__ = [
    "NOTHING",
    "START",
    "Batch",
    "Checkpoint",
    "Dialect",
    "Learned",
    "PageRequest",
    "PagingReport",
    "Progress",
    "Walk",
]
