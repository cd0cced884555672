"""A sweep from end to end: users in, files out."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from attrs import define, field

from capillary_targets.client import TargetsClient
from capillary_targets.errors import CapillaryError, UsageError
from capillary_targets.fanout import WorkerPool

from .directory import Directory
from .errors import SweepStopped
from .hand import Hand, Limits
from .ledger import Ledger
from .parts import WholeFile
from .report import write_report
from .rows import Format, encode, format_named
from .state import State
from .stats import RequestTimeline
from .summary import Summary
from .user_list import BadLine, Users, read_batches
from .visit import Visitor

__all__ = ["run"]


async def run(
    client: TargetsClient,
    users: Users,
    out: Path | str,
    *,
    rules: tuple[int, ...] = (),
    enrolled: bool = True,
    format: str = "jsonl",  # noqa: A002 - what everybody calls it
    raw: bool = False,
    incremental: bool = False,
    retry_failed: bool = False,
    source: str | None = None,
    limits: Limits | None = None,
    timeline: RequestTimeline | None = None,
    progress: Callable[[Summary], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Summary:
    """Sweep `users` into files below the directory `out`; on the same directory, go on.

    Writes `events/part-*`, `targets/part-*`, `failures.jsonl`, `summary.json`, `report.html`. A
    user's rows are written only if nothing is missing; the other users are listed as failures and
    asked again next time. `rules` keeps only those targets; without `enrolled`, the events of
    `rules` are asked for whoever is in them. `format` is jsonl or parquet; `raw` adds each row as
    the server sent it. `incremental` begins the next run if the latest one came to its end: only
    what is new since is written. `retry_failed` sweeps those who failed, and `users` may be empty.
    `source` stands for the server in the directory's settings (by default its base URL).
    `timeline`, if it is one of the client's hooks, gives the report requests over time. `progress`
    is told after each user.

    Cancelling it finishes the part in hand. Raises `SweepRefused` before anything was asked;
    `SweepStopped` where the files can no longer be written, a full disk for one. In either case
    what was noted is safe, and the same call goes on.
    """
    if incremental and retry_failed:
        raise UsageError("incremental and retry_failed exclude each other: give one of them")
    if not enrolled and not rules:
        raise UsageError("without asking for users' targets, name the rules whose events you want")
    settings = {
        "base_url": source or str(client.session.settings.base_url),
        "rules": sorted(rules),
        "enrolled": enrolled,
        "format": format,
        "raw": raw,
    }
    format_named(format, raw=raw)  # refuses before anything is written
    with Directory(Path(out), settings) as directory:
        state = directory.ledger.begin(settings, _now(), anew=incremental)
        form = format_named(format, raw=raw, run=directory.ledger.run)
        sweep = _Sweep(
            client,
            directory,
            form,
            limits or Limits(),
            timeline or RequestTimeline(clock),
            clock,
            progress,
            msgspec.json.decode(state, type=State),
        )
        visitor = Visitor(
            client.session.with_options(wait_for_limits=True),
            form,
            client.page_size,
            directory.ledger.marks,
            sweep.written,
            sweep.limit,
            rules=rules,
            enrolled=enrolled,
            raw=raw,
        )
        if retry_failed:
            return await sweep.run(directory.ledger.failed_users(), visitor, whole=False)
        return await sweep.run(users, visitor)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@define
class _Sweep:
    _client: TargetsClient
    _directory: Directory
    _format: Format
    _limits: Limits
    _timeline: RequestTimeline
    _clock: Callable[[], float]
    _progress: Callable[[Summary], None] | None
    _before: State
    _hand: Hand = field(init=False)
    _summary: Summary = field(init=False)
    _started: float = field(init=False)
    _earlier: tuple[int, int, float] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._started = self._clock()
        summary = self._summary = self._before.summary
        made = self._client.counts
        self._earlier = (
            summary.requests - made.requests,
            summary.retries - made.retries,
            summary.seconds,
        )
        summary.run = self._ledger.run
        summary.bad_lines = summary.skipped = summary.failed = 0
        summary.finished = False
        self._timeline.resume(self._before.timeline, summary.seconds)
        self._hand = Hand(self._directory, self._format, summary, self._state, self._limits)

    @property
    def _ledger(self) -> Ledger:
        return self._directory.ledger

    def limit(self) -> int:
        """Users in progress at once."""
        return self._client.session.limiter.limit

    def written(self, user: int, rule: int) -> set[int | None]:
        """The ids of the events that the files hold of a user's target."""
        stored = (
            self._format.read_events(
                self._directory.part("events", place.part), place.start, place.length
            )
            for place in self._ledger.places(user)
        )
        return {
            event
            for rows in stored
            for of_rule, event in zip(rows.rules, rows.event_log_ids, strict=True)
            if of_rule == rule
        }

    async def run(self, users: Users, visitor: Visitor, *, whole: bool = True) -> Summary:
        """To the end, or as far as it goes. `whole`: the users are the whole list."""
        try:
            with WholeFile(self._directory.path / "failures.jsonl") as failures:
                ended_by = await self._visit_all(users, visitor, failures)
                self._hand.seal()
                over = ended_by is None and (whole or self._ledger.is_finished())
                self._close(failures, finished=over)
            if ended_by is not None:
                raise ended_by
            write_report(self._directory.path, self._ledger)
        except CapillaryError:
            raise
        except (OSError, sqlite3.Error) as error:
            self._hand.discard()
            raise SweepStopped(
                f"cannot write to {self._directory.path}: {_reason(error)}; "
                f"{self._summary.complete} users are safe there: mend that, then run the same "
                "command again to go on"
            ) from error
        return self._summary

    async def _visit_all(
        self, users: Users, visitor: Visitor, failures: WholeFile
    ) -> BaseException | None:
        """Visit all users; what ended it before the list did, if anything.

        A failing disk is raised: then the part in hand cannot be kept.
        """
        try:
            async with (
                aclosing(self._wanted(users, failures)) as wanted,
                aclosing(WorkerPool(wanted, visitor.visit, self.limit).results()) as visits,
            ):
                async for visit in visits:
                    self._hand.add(visit, self._clock())
                    self._tell()
                    if self._hand.is_full(self._clock()):
                        await self._seal()
        except (OSError, sqlite3.Error):
            raise
        except BaseException as error:  # noqa: BLE001 - raised again, after what is good is kept
            return error
        return None

    async def _wanted(self, users: Users, failures: WholeFile) -> AsyncGenerator[int, None]:
        """The users to ask: not yet done, each once."""
        pending = self._hand.pending
        async with aclosing(read_batches(users)) as found:
            async for batch in found:
                await asyncio.sleep(0)  # where all are done, nothing else lets a signal through
                ids = []
                for user in batch:
                    if isinstance(user, BadLine):
                        self._summary.bad_lines += 1
                        failures.write(encode(_bad_line(user)) + b"\n")
                    else:
                        ids.append(user)
                # No await from here to the last `add`: a seal in between would move users from
                # the pending ones to the ledger, behind our back.
                done = self._ledger.not_to_ask(ids)
                fresh = []
                for user in ids:
                    if user in done or user in pending:
                        self._summary.skipped += 1
                    else:
                        pending.add(user)
                        fresh.append(user)
                self._tell()
                for user in fresh:
                    yield user

    async def _seal(self) -> None:
        """Seal the part in hand, the slow writing aside from the event loop."""
        writing = asyncio.ensure_future(asyncio.to_thread(self._hand.sync))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])  # nobody else may touch the files meanwhile
            raise
        self._hand.seal()

    def _tell(self) -> None:
        self._count()
        if self._progress is not None:
            self._progress(self._summary)

    def _count(self) -> None:
        requests, retries, seconds = self._earlier
        counts = self._client.counts
        self._summary.requests = requests + counts.requests
        self._summary.retries = retries + counts.retries
        self._summary.seconds = round(seconds + self._clock() - self._started, 3)

    def _state(self) -> str:
        self._count()
        return encode({"summary": self._summary, "timeline": self._timeline.as_dict()}).decode()

    def _close(self, failures: WholeFile, *, finished: bool) -> None:
        """The list of failures and the summary."""
        for detail in self._ledger.failures():
            failures.write(detail.encode() + b"\n")
        self._summary.failed = self._ledger.failed()
        self._summary.finished = finished
        if finished:
            self._ledger.finish(_now(), self._state())
        with WholeFile(self._directory.path / "summary.json") as file:
            file.write(encode(self._summary.as_dict()) + b"\n")


def _bad_line(line: BadLine) -> dict[str, Any]:
    return {"line": line.number, "text": line.text, "error": "not a user id"}


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
