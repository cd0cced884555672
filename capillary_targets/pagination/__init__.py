"""The walk over one target's events as a pure state machine: no clock, no I/O, no asyncio.

Read `walk` for its states, `seen` for why nothing is lost, `server_model` for what is detected of a
server's pagination; `docs/pagination.md` has the argument in words.
"""

from .dialect import UNKNOWN, Dialect
from .types import START, Batch, Checkpoint, Cursor, PageRequest, PagingReport, row_digest
from .walk import Walk

__all__ = [
    "START",
    "UNKNOWN",
    "Batch",
    "Checkpoint",
    "Cursor",
    "Dialect",
    "PageRequest",
    "PagingReport",
    "Walk",
    "row_digest",
]
