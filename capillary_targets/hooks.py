"""Hooks: callables that are given details of sessions, requests, retries, waits, walks and sweeps.

A hook takes one frozen details object. It runs in the middle of the client's work, so it must be
quick and must not block. Exceptions in hooks are logged and ignored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, TypeAlias

from attrs import field, frozen

from .contract import Finding
from .errors import CapillaryError
from .models import short_repr

__all__ = [
    "Details",
    "DriftDetails",
    "FailureDetails",
    "Hook",
    "Hooks",
    "LimiterState",
    "RequestDetails",
    "RetryDetails",
    "Scope",
    "ScopeDetails",
    "SessionDetails",
    "WaitDetails",
    "WaitReason",
    "current_scope",
    "within",
]

_log = logging.getLogger("capillary_targets")

WaitReason: TypeAlias = Literal["slot", "budget", "pause"]


@frozen(kw_only=True, eq=False)
class Scope:
    """A walk or a sweep, by identity: what requests belong to. `parent` is a walk's sweep."""

    kind: Literal["walk", "sweep"]
    facts: Mapping[str, object] = field(factory=dict)
    parent: Scope | None = None


_scope: ContextVar[Scope | None] = ContextVar("capillary_targets_scope", default=None)


def current_scope() -> Scope | None:
    """The walk or sweep that the running task works for."""
    return _scope.get()


@contextmanager
def within(scope: Scope | None) -> Iterator[None]:
    """Work for `scope`. Never held across a yield to the caller, whose context it is not."""
    token = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(token)


@frozen(kw_only=True)
class LimiterState:
    """How busy a session is, in requests.

    `budget_used` of `budget_limit` places of the `rate=` are taken. Of a shared budget only this
    session's part is known, and `budget_limit` is None; without a `RateLimit` both are.
    """

    in_flight: int
    limit: int
    """Requests allowed in flight."""
    foreground_queue: int
    background_queue: int
    budget_used: int | None = None
    budget_limit: int | None = None


@frozen(kw_only=True)
class SessionDetails:
    """A session opens or is closed. `state` reads how busy it is, at any time, from any thread."""

    phase: Literal["opens", "closed"]
    url: str
    """The base URL."""
    state: Callable[[], LimiterState]
    __repr__ = short_repr


@frozen(kw_only=True)
class RequestDetails:
    """One attempt is over. `url` holds no secret; `seconds` runs from sending to the last byte."""

    method: str
    url: str
    attempt: int
    seconds: float
    status: int | None = None
    request_id: str | None = None
    error: CapillaryError | None = None
    scope: Scope | None = None
    """The walk or sweep that it was made for."""
    __repr__ = short_repr


@frozen(kw_only=True)
class RetryDetails:
    """Attempt number `error.attempts` failed; another follows after `wait` seconds."""

    wait: float
    error: CapillaryError
    __repr__ = short_repr


@frozen(kw_only=True)
class FailureDetails:
    """A call failed: its `error` is raised, after `error.attempts` attempts.

    Some were never sent: no place in the budget before the deadline. To a walk, some errors only
    mean that it is past the end.
    """

    error: CapillaryError


@frozen(kw_only=True)
class WaitDetails:
    """A request waited `seconds` before it could be sent.

    `reason`: all concurrency slots were taken, the rate budget was used up, or the server had asked
    for a pause (429).
    """

    reason: WaitReason
    seconds: float
    background: bool = False
    """Whether it was a sweep's."""


@frozen(kw_only=True)
class ScopeDetails:
    """A walk over one target's events, or a sweep over many users, begins or is over."""

    scope: Scope
    phase: Literal["begins", "over"]
    outcome: object = None
    """When over: the `PagingReport` of a walk, the `SweepStats` of a sweep."""
    error: BaseException | None = None
    __repr__ = short_repr


@frozen(kw_only=True)
class DriftDetails:
    """An answer says something that the contract does not, for the first time in this session."""

    finding: Finding


Details: TypeAlias = (
    SessionDetails
    | RequestDetails
    | RetryDetails
    | FailureDetails
    | WaitDetails
    | ScopeDetails
    | DriftDetails
)
Hook: TypeAlias = Callable[[Details], None]


class Hooks:
    """The hooks of one session. False where there are none, so no details are built in vain."""

    __slots__ = ("_hooks",)

    def __init__(self, hooks: Iterable[Hook] = ()) -> None:
        self._hooks = tuple(hooks)

    def __bool__(self) -> bool:
        return bool(self._hooks)

    def begin(self, kind: Literal["walk", "sweep"], **facts: object) -> Scope | None:
        """A new scope, part of the running task's one; None where no hook would be told."""
        if not self._hooks:
            return None
        scope = Scope(kind=kind, facts=facts, parent=_scope.get())
        self.emit(ScopeDetails(scope=scope, phase="begins"))
        return scope

    def emit(self, details: Details) -> None:
        """Hand the details to every hook."""
        for hook in self._hooks:
            try:
                hook(details)
            except Exception:  # noqa: BLE001 - logged and ignored
                _log.exception("a hook failed: %r", hook)
