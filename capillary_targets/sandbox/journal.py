"""What was asked of the sandbox, for tests to look at."""

from __future__ import annotations

from collections import Counter, deque

from attrs import define, field, frozen


@frozen(slots=True)
class RecordedRequest:
    """One request. `code` is the API's own code of a refusal; no `status`: nothing was answered."""

    method: str
    path: str
    query: str
    status: int | None
    code: int | None


@define
class Journal:
    """The latest requests and counters over all of them."""

    size: int = 10_000
    entries: deque[RecordedRequest] = field(init=False)
    counts: Counter[str] = field(init=False, factory=Counter)
    """Requests by route name, counted on arrival."""

    @entries.default
    def _entries(self) -> deque[RecordedRequest]:
        return deque(maxlen=self.size)

    def clear(self) -> None:
        """Forget everything."""
        self.entries.clear()
        self.counts.clear()
