"""What a sweep to files takes and gives: its options, its summary, its two errors."""

from __future__ import annotations

from collections.abc import Iterable  # noqa: F401 - `get_type_hints` looks here for UserQuery's
from decimal import Decimal
from hashlib import blake2b
from typing import Any, Final, Literal

import attrs
from attrs import define, field, frozen

from capillary_targets.errors import CapillaryError, UsageError
from capillary_targets.fanout import UserQuery
from capillary_targets.notifications.store import AnnouncementSource

from .stats import EXACT, EventStats, SavedTimeline


class SweepRefused(UsageError):
    """Nothing was begun: the list of users, the directory or an option does not fit."""


class SweepStopped(CapillaryError):
    """The sweep had begun and had to stop, at a full disk for one. What the ledger has is safe."""

    retryable = True


@frozen(kw_only=True)
class SweepOptions(UserQuery):
    """Options of a sweep to files, beside those of `UserQuery`.

    Args:
        format: `jsonl` or `parquet`.
        raw: Add each row as the server sent it.
        incremental: Start the next run if the latest one is finished: fetch only what is new.
        retry_failed: Fetch the users who failed; the list of users may be empty.
        source: Stands for the server in the directory's settings; its base URL by default.
        max_failures: Stop when more users than this have failed: a number, or below 1 a share of
            those asked (once a hundred were).
        notifications: The store of the notifications that came: events that were never announced,
            and announcements that never showed up, are listed in `announcements/`.
        detect: `groups` asks for a member's target groups first, one request, and reads the events
            only of targets that have a record and have changed; `events` reads those of all.
        full_every: With `groups`, read again in one of so many runs what nothing but the achieved
            value vouches for: each member in their turn.
        moved: Parts may leave the directory once they are written, so nothing is read from them
            again; the ledger keeps some bytes for each event instead.
        part_rows: A part is complete with so many rows,
        part_users: or so many users,
        part_seconds: or so long after its first user. A kill costs at most the part in progress.
    """

    format: Literal["jsonl", "parquet"] = "jsonl"
    raw: bool = False
    incremental: bool = False
    retry_failed: bool = False
    source: str | None = None
    max_failures: float | None = None
    detect: Literal["events", "groups"] = "events"
    full_every: int = 30
    moved: bool = False
    notifications: AnnouncementSource | None = None
    part_rows: int = 500_000
    part_users: int = 20_000
    part_seconds: float = 120.0

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.incremental and self.retry_failed:
            raise UsageError("incremental and retry_failed exclude each other: give one of them")
        if self.incremental and isinstance(self.period, str):
            raise UsageError(
                "incremental needs the id of a period: what its name means changes from run to run"
            )
        if self.notifications is not None and self.period is not None:
            raise UsageError("notifications are about all periods: leave out period")
        for name, given, choices in (
            ("format", self.format, ("jsonl", "parquet")),
            ("detect", self.detect, ("events", "groups")),
        ):
            if given not in choices:
                raise UsageError(f"{name} must be one of {', '.join(choices)}, not {given!r}")
        if self.full_every < 1:
            raise UsageError(f"full_every must be a number of runs, 1 or more: {self.full_every}")
        if self.max_failures is not None and not self.max_failures >= 0:
            raise UsageError(f"max_failures must be a number or a share, not {self.max_failures}")

    def settings(self, base_url: str, account: str) -> dict[str, Any]:
        """The settings that every sweep of one directory must share, as JSON values.

        `account` is a name of the credentials, of which only a digest is kept.
        """
        return {
            "base_url": self.source or base_url,
            "account": blake2b(account.encode(), digest_size=8).hexdigest(),
            "target_rule_ids": sorted(self.target_rule_ids),
            "fetch_targets": self.fetch_targets,
            "period": self.period,
            "format": self.format,
            "raw": self.raw,
            "moved": self.moved,
        }


@define
class Summary:
    """Sums of one run, its sessions before an interruption included."""

    run: int = 1
    """1 for the first, then one more with each `incremental` run."""
    finished: bool = False
    """Whether the list of users was read to its end."""
    complete: int = 0
    """Users of whom nothing is missing."""
    failed: int = 0
    """Users who may come right when asked again."""
    refused: int = 0
    """Users whom the service refuses for good, a deleted member for one."""
    bad_lines: int = 0
    """Lines of the list that are no user id."""
    skipped: int = 0
    """Users of the list who were not asked in this session: done before, or repeated."""
    targets: int = 0
    """Targets that the users are in."""
    events: int = 0
    """Events written."""
    value_sum: Decimal = Decimal(0)
    """The exact sum of their values."""
    reconciled_targets: int = 0
    """Targets whose events had changed before the place up to which they were known."""
    late_events: int = 0
    """Events found so: they stand before ones that were written earlier."""
    vanished_events: int = 0
    """Events in the files that the service no longer has."""
    unannounced_events: int = 0
    """New events that no notification has announced."""
    missing_events: int = 0
    """Announcements, new since the run before, whose events the service does not have."""
    by_events: int = 0
    """Targets whose events were read."""
    by_update: int = 0
    """Targets that have not changed, by `lastUpdatedOn` in the member's groups."""
    by_value: int = 0
    """Targets that have not changed, by the achieved value alone: what cancels out shows later."""
    no_record: int = 0
    """Targets that were left out because the member has no record in them."""
    groups_refused: int = 0
    """Users whose groups could not be used: all their targets were read."""
    groups_off: str | None = None
    """Why no groups were asked for any more, if so."""
    oldest_proof: str | None = None
    """When the run began that proved a user by more than the value, of the user longest ago."""
    requests: int = 0
    retries: int = 0
    seconds: float = 0.0

    def add(self, other: Summary) -> None:
        """Add the counts and the sum of another one: of one user, of another partition."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.value_sum = EXACT.add(self.value_sum, other.value_sum)

    @property
    def users(self) -> int:
        """Users that were asked."""
        return self.complete + self.failed + self.refused

    @property
    def all_complete(self) -> bool:
        """Whether nothing is missing of anything that was asked."""
        return self.finished and not (self.failed or self.refused or self.bad_lines)

    def as_dict(self) -> dict[str, Any]:
        """For `summary.json`."""
        return {"users": self.users, **attrs.asdict(self)}


_COUNTS: Final = [
    one.name for one in attrs.fields(Summary) if type(one.default) is int and one.name != "run"
]


@define
class RunState:
    """What the ledger keeps of a run.

    `timeline` is `RequestTimeline.saved()`, `stats` are those of the events written. The rest was
    learned of the server and passes on to the next run: its pagination, whether it sends
    `targetId`, and what the contract does not say, each with `first_seen`.
    """

    summary: Summary = field(factory=Summary)
    timeline: SavedTimeline = (1.0, [])
    stats: EventStats = field(factory=EventStats)
    dialect: dict[str, Any] = field(factory=dict)
    sends_ids: bool = False
    drift: list[dict[str, str]] = field(factory=list)
