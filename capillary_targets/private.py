"""Addresses that hold personal data: sent whole, shown without it."""

from __future__ import annotations

from attrs import field, frozen

__all__ = ["PrivatePath"]


@frozen
class PrivatePath:
    """A path and query for `transport.get`, of which only `shown` is ever shown.

    `sent` goes to the server. `shown` stands for it in errors, log lines and hooks. `words` are
    taken out of whatever the server says, should it repeat them.
    """

    sent: str = field(repr=False)
    shown: str
    words: tuple[str, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return self.shown
