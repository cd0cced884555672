"""Drift watch: what the answers of a session say that the contract does not, told once.

It looks at the first answer of each call, at one in so many after that, and at refusals: for keys
that are new or have vanished; for types, enumerations and forms of dates that changed; for signs
that a call is phased out (the headers of RFC 9745 and RFC 8594, HTTP 404 and 410 without an
envelope); and for a pagination dialect that is not what it was. A finding names a place and a kind
of value, never a member's.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from attrs import define, field

from .contract import Finding, contract, findings
from .pagination import Dialect

_log = logging.getLogger("capillary_targets")

_MOST: Final = 1000
"""Findings kept: a server that makes up keys must not fill the memory."""


@define(eq=False)
class DriftWatch:
    """An observer of answers: hands each new `Finding` to `report`, and logs it once.

    Args:
        report: what is called with each finding that is new.
        every: one answer of each call in so many is looked at, and the first one.
    """

    report: Callable[[Finding], None]
    every: int = 1000
    found: list[Finding] = field(init=False, factory=list)
    """The new findings, in their order."""
    _news: set[tuple[str, str, str, str]] = field(init=False, factory=set)
    _answers: Counter[str] = field(init=False, factory=Counter)
    """Answers of each call that were no refusals."""

    def know(self, known: Iterable[Finding]) -> None:
        """Take findings of before as known: they are news no more."""
        self._news.update(one.news for one in known)

    def __call__(self, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Look at an answer, if it is its turn."""
        call = contract().call_at(path)
        if call is None:
            return
        refused = status >= 400
        if refused or self._answers[call.name] % self.every == 0:
            for one in findings(call.name, path, status, headers, body):
                self.add(one)
        self._answers[call.name] += not refused

    def dialect_changed(self, before: Dialect, after: Dialect) -> None:
        """What the walks have known of the pagination, and what they found instead."""
        new = after.to_dict()
        for name, was in before.to_dict().items():
            if new.get(name, was) != was:
                self.add(Finding("dialect", "", name, f"{was}, now {new[name]}"))

    def add(self, one: Finding) -> None:
        """Tell it, unless it is known already."""
        if one.news in self._news or len(self._news) >= _MOST:
            return
        self._news.add(one.news)
        self.found.append(one)
        _log.warning("the API is not as it was: %s", one)
        self.report(one)
