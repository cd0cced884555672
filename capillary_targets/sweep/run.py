"""A sweep from end to end: users in, files out."""

from __future__ import annotations

import asyncio
import logging
import resource
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

from attrs import evolve

from capillary_targets.client import TargetsClient
from capillary_targets.contract import Finding
from capillary_targets.errors import (
    CapillaryError,
    ConnectionFailed,
    RequestTimeout,
    ServiceUnavailable,
)
from capillary_targets.fanout import FanOut
from capillary_targets.models import JSON
from capillary_targets.notifications.store import StoreUnavailable
from capillary_targets.pagination import Dialect
from capillary_targets.session import Session

from .atomic import AtomicFile, reason_of, sync_directory
from .fetch import UserFetcher
from .ledger import is_locked
from .options import RunState, Summary, SweepOptions, SweepRefused, SweepStopped
from .report import collect, write_report
from .stats import RequestTimeline
from .store import LEDGER, Directory, PartWriter, UserResult, format_named, open_directory
from .user_list import BadLine, Users, read_batches

T = TypeVar("T")

_LOCK_WAIT: Final = 600.0
"""Seconds to wait for another program that locks the ledger."""
_LOCK_POLL: Final = 0.2
_SHARE_FROM: Final = 100
"""Users asked before `max_failures` as a share counts."""
_UNREACHABLE: Final = 50
_NEVER_REACHED: Final = 3
"""Users in a row whom no answer reached, after which the server counts as unreachable; fewer where
none ever came, for an outage is waited for."""
_RESERVED_FILES: Final = 12
"""Descriptors for parts, the ledger and what Python opens now and then."""

_log = logging.getLogger("capillary_targets")


async def run(
    client: TargetsClient,
    users: Users,
    out: Path | str,
    options: SweepOptions | None = None,
    *,
    timeline: RequestTimeline | None = None,
    progress: Callable[[Summary], None] | None = None,
) -> Summary:
    """Sweep `users` into files below the directory `out`; on the same directory, resume.

    Writes `events/part-*` (also `targets`, `vanished`, `announcements`, and with `detect="groups"`
    `progress`), `failures.jsonl`, `summary.json` and `report.html`. A user's rows are written only
    if nothing is missing; the others are listed as failures and asked again next time. Cancelling
    it commits the part in progress.

    Args:
        client: An open client; its page size counts unless `options` has another.
        users: A `UsersFile`, or user ids (iterable or async iterable) of any number.
        out: The directory; created if need be.
        options: What to ask for and how to write it.
        timeline: If it is one of the client's hooks, the report shows requests over time.
        progress: Called with the sums after each user; its exceptions are logged and ignored.

    Returns:
        The sums of the run.

    Raises:
        SweepRefused: Nothing was begun: an option, the list or the directory does not fit.
        SweepStopped: The files can no longer be written (a full disk), the list ended early, too
            many users failed, or the server cannot be reached.
        CapillaryError: An error that is fatal for every user, rejected credentials for one.
            In each of these cases what the ledger has is safe, and the same call resumes.
    """
    options = options or SweepOptions()
    if options.page_size is None:
        options = evolve(options, page_size=client.page_size)
    format_named(options.format, raw=options.raw)  # refused before anything is written
    if options.notifications is not None:
        try:
            await options.notifications.announced(0)
        except StoreUnavailable as error:
            raise SweepRefused(
                f"{error.message}; name the store that your handler writes"
            ) from error
    known = client.session.settings
    settings = options.settings(str(known.base_url), known.auth.account)
    if options.retry_failed and not (Path(out) / LEDGER).exists():
        raise SweepRefused(f"{out} holds no sweep whose failed users could be asked again")
    with ExitStack() as stack:
        try:
            directory = await _while_locked(
                lambda: stack.enter_context(open_directory(Path(out), settings))
            )
            state = await _while_locked(
                lambda: directory.ledger.start_run(settings, _now(), new=options.incremental)
            )
        except sqlite3.Error as error:
            raise SweepRefused(
                f"the ledger in {out} cannot be used: {error}; stop the program that locks it, or "
                "name another directory"
            ) from error
        session = client.session.with_options(wait_for_limits=True)
        if options.retry_failed:
            users = [user for user, *_ in directory.ledger.failures()]
        sweep = _Run(session, directory, options, state)
        return await sweep.run(users, timeline or RequestTimeline(), progress)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


async def _while_locked(call: Callable[[], T]) -> T:
    """`call()`, repeated while another program locks the ledger, which is a matter of minutes."""
    until = time.monotonic() + _LOCK_WAIT
    while True:
        try:
            return call()
        except sqlite3.OperationalError as error:
            if not is_locked(error) or time.monotonic() > until:
                raise
        await asyncio.sleep(_LOCK_POLL)


def _connections() -> int:
    """Connections that the limit of open files leaves room for.

    A connection may take two: a sandbox in the same process holds the other end.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return 2**31
    spare = (limit - len([*Path("/dev/fd").iterdir()]) - _RESERVED_FILES) // 2
    if spare < 1:
        raise SweepRefused(
            f"only {limit} files may be open at once: raise that with `ulimit -n`, to 256 or more"
        )
    return spare


class _Run:
    """One session. `_unreached` are the errors of the latest users whom no answer reached."""

    def __init__(
        self, session: Session, directory: Directory, options: SweepOptions, state: RunState
    ) -> None:
        self._session, self._directory, self._options = session, directory, options
        self._ledger, self._state = directory.ledger, state
        self._summary = summary = state.summary
        self._whole = summary.finished or not options.retry_failed  # with this session's users
        self._earlier, self._started = evolve(summary), time.monotonic()
        self._reached, self._unreached = False, list[Exception]()
        summary.run, summary.finished, summary.groups_off = self._ledger.run, False, None
        summary.bad_lines = summary.skipped = summary.failed = summary.refused = 0
        self._fetcher = UserFetcher(directory, options, state)
        self._writer = PartWriter(directory, self._fetcher.format, options, state)
        # What earlier runs learned of the server's pagination saves a request or two here.
        session.dialect = session.dialect.fill_from(Dialect(**state.dialect))
        if session.watch is not None:
            session.watch.know(map(Finding.from_dict, state.drift))

    async def run(
        self, users: Users, timeline: RequestTimeline, progress: Callable[[Summary], None] | None
    ) -> Summary:
        """To the end of the list, or as far as it goes."""
        self._timeline, self._progress = timeline, progress
        timeline.resume(self._state.timeline, self._earlier.seconds)
        path = self._directory.path
        try:
            with AtomicFile(path / "failures.jsonl") as failures:
                ended_by = await self._fetch_all(users, failures)
                await self._commit()
                await self._close(failures, finished=ended_by is None and self._whole)
            if ended_by is not None:
                raise ended_by
            write_report(path, collect(self._ledger))
            sync_directory(path)
        except CapillaryError:
            raise
        except (OSError, sqlite3.Error) as error:
            self._writer.rollback()
            raise SweepStopped(
                f"cannot write to {path}: {reason_of(error)}; {self._safe_users()}: mend that, "
                "then run the same command again to resume"
            ) from error
        return self._summary

    def _safe_users(self) -> str:
        try:
            return f"{self._ledger.users(self._ledger.run)} users are safe there"
        except sqlite3.Error:
            return "the users in its ledger are safe"

    async def _fetch_all(self, users: Users, failures: AtomicFile) -> BaseException | None:
        """Fetch all users; what ended it before the list did, if anything.

        A failing disk is raised: then the part in progress cannot be kept.
        """
        pending, most = self._pending_users(users, failures), _connections()
        fan = FanOut(self._session, pending, self._options, self._fetcher.fetch, most=most)
        try:
            async with aclosing(fan.results()) as results:
                async for result in results:
                    self._count(result)
                    self._writer.add(result)
                    self._report_progress()
                    self._check_failures(result)
                    if self._writer.is_full():
                        await self._commit()
            if not self._reached and all(isinstance(e, ConnectionFailed) for e in self._unreached):
                self._check_reached(1)
        except BaseException as error:
            if isinstance(error, OSError | sqlite3.Error) and not isinstance(error, CapillaryError):
                raise
            return error
        return None

    async def _pending_users(self, users: Users, failures: AtomicFile) -> AsyncGenerator[int, None]:
        """The users to ask: not yet done, each once."""
        in_progress = self._writer.in_progress
        async with aclosing(read_batches(users)) as batches:
            async for batch in batches:
                await asyncio.sleep(0)  # where all are done, nothing else lets a signal through
                ids = []
                for user in batch:
                    if isinstance(user, BadLine):
                        self._summary.bad_lines += 1
                        told = {"line": user.number, "text": user.text, "error": user.reason}
                        failures.write(JSON.encode(told) + b"\n")
                    else:
                        ids.append(user)
                # No await from here to the update: a commit in between would move users from those
                # in progress to the ledger.
                done = self._ledger.already_done(ids)
                pending = [u for u in dict.fromkeys(ids) if u not in done and u not in in_progress]
                in_progress.update(pending)
                self._summary.skipped += len(ids) - len(pending)
                self._report_progress()
                for user in pending:
                    yield user

    async def _commit(self) -> None:
        """Commit the part in progress, the slow writing in a thread."""
        writing = asyncio.ensure_future(asyncio.to_thread(self._writer.sync))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])  # nobody else may touch the files meanwhile
            raise
        self._update_state()
        await _while_locked(self._writer.commit)

    def _count(self, result: UserResult) -> None:
        if result.error is None:
            self._summary.add(result.sums)
        elif result.refused:
            self._summary.refused += 1
        else:
            self._summary.failed += 1

    def _check_failures(self, result: UserResult) -> None:
        """Raise `SweepStopped` where going on is of no use."""
        if isinstance(result.error, ConnectionFailed | RequestTimeout | ServiceUnavailable):
            self._unreached.append(result.error)
        else:
            self._unreached, self._reached = [], True
        self._check_reached(_UNREACHABLE if self._reached else _NEVER_REACHED)
        most, failed = self._options.max_failures, self._summary.failed + self._summary.refused
        if most is None or result.error is None:
            return
        if 0 < most < 1:
            asked = self._summary.users
            most = most * asked if asked >= _SHARE_FROM else failed
        if failed > most:
            raise SweepStopped(
                f"{failed} of {self._summary.users} users failed, more than max_failures allows, "
                f"the last with: {result.error}; run the same command again to resume"
            )

    def _check_reached(self, enough: int) -> None:
        if len(self._unreached) >= enough:
            raise SweepStopped(
                f"the server cannot be reached: {len(self._unreached)} users in a row failed, the "
                f"last with: {self._unreached[-1]}; run the same command again to resume"
            )

    def _report_progress(self) -> None:
        self._measure()
        if self._progress is None:
            return
        try:
            self._progress(self._summary)
        except Exception:  # noqa: BLE001 - progress never decides over the work
            _log.exception("the progress callback failed and is not called again")
            self._progress = None

    def _measure(self) -> None:
        earlier, counts = self._earlier, self._session.counts
        self._summary.requests = earlier.requests + counts.requests
        self._summary.retries = earlier.retries + counts.retries
        self._summary.seconds = round(earlier.seconds + time.monotonic() - self._started, 3)

    def _update_state(self) -> None:
        self._measure()
        state, watch = self._state, self._session.watch
        state.timeline, state.dialect = self._timeline.saved(), self._session.dialect.to_dict()
        if (groups := self._fetcher.groups) is not None:
            state.sends_ids, self._summary.groups_off = groups.sends_ids, groups.off
        known = [Finding.from_dict(one) for one in state.drift]
        for one in () if watch is None else watch.found:
            if one not in known:
                state.drift.append({"first_seen": _now(), **one.to_dict()})

    async def _close(self, failures: AtomicFile, *, finished: bool) -> None:
        """Write the list of failures and the summary."""
        counts = Counter[int]()
        for _, refused, detail in self._ledger.failures():
            failures.write(detail.encode() + b"\n")
            counts[refused] += 1
        self._summary.failed, self._summary.refused = counts[0], counts[1]
        self._summary.oldest_proof = self._ledger.oldest_proof()
        self._summary.finished = finished
        if finished:  # until then the names of parts may be temporary again
            run, parts = self._ledger.run, self._ledger.parts()
            kinds = {self._directory.path / part.kind for part in parts if part.run == run}
            for directory in filter(Path.exists, kinds):
                sync_directory(directory)
        self._update_state()
        await _while_locked(lambda: self._ledger.save(self._state, _now() if finished else None))
        with AtomicFile(self._directory.path / "summary.json") as file:
            file.write(JSON.encode(self._summary.as_dict()) + b"\n")
