"""A sweep from end to end: users in, files out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import attrs

from capillary_targets.client import TargetsClient
from capillary_targets.fanout import UserOutcome

from .errors import SweepRefused, SweepStopped
from .parts import WholeFile
from .rows import encode, line
from .summary import Summary
from .users import BadLine

__all__ = ["run"]


async def run(
    client: TargetsClient,
    users: Iterable[int | BadLine],
    out: Path,
    *,
    progress: Callable[[Summary], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Summary:
    """Sweep `users` into files below the directory `out`, and return what came of it.

    Writes `events/part-*.jsonl`, `targets/part-*.jsonl`, `failures.jsonl` and `summary.json`. The
    rows of a user are written only if all of them came; the others are listed as failures.
    `progress` is told after each user. Raises `SweepRefused` before anything was asked, or
    `SweepStopped` where the files cannot be written.
    """
    started = clock()
    summary = Summary()
    try:
        with ExitStack() as stack:
            files = _Files(stack, out)
            ids = _ids(users, files, summary)
            async for outcome in client.sweep(ids):
                files.write(outcome)
                summary.add(outcome)
                _take_counts(summary, client, clock() - started)
                if progress is not None:
                    progress(summary)
        _take_counts(summary, client, clock() - started)
        with WholeFile(out / "summary.json") as file:
            file.write(encode(attrs.asdict(summary)) + b"\n")
    except OSError as error:
        raise SweepStopped(f"cannot write to {out}: {error}; mend that and run it again") from error
    return summary


def _take_counts(summary: Summary, client: TargetsClient, seconds: float) -> None:
    summary.requests = client.counts.requests
    summary.retries = client.counts.retries
    summary.seconds = round(seconds, 3)


def _ids(users: Iterable[int | BadLine], files: _Files, summary: Summary) -> Iterator[int]:
    """The ids; lines that are none go to the failures."""
    for user in users:
        if isinstance(user, BadLine):
            summary.bad_lines += 1
            files.failures.write(
                encode({"line": user.number, "text": user.text, "error": "not a user id"}) + b"\n"
            )
        else:
            yield user


class _Files:
    """The files of one sweep, put in their places when `stack` ends well."""

    def __init__(self, stack: ExitStack, out: Path) -> None:
        try:
            for name in ("events", "targets"):
                (out / name).mkdir(parents=True, exist_ok=True)
            self.failures = stack.enter_context(WholeFile(out / "failures.jsonl"))
        except OSError as error:
            raise SweepRefused(
                f"--out {out} cannot be written to: {error.strerror}; name another directory"
            ) from None
        self.events = stack.enter_context(WholeFile(out / "events" / "part-00000.jsonl"))
        self.targets = stack.enter_context(WholeFile(out / "targets" / "part-00000.jsonl"))

    def write(self, outcome: UserOutcome) -> None:
        """All of a complete user, or the failure."""
        user = outcome.user_id
        if not outcome.complete:
            self.failures.write(encode(_failure(outcome)) + b"\n")
            return
        for target in outcome.targets:
            self.targets.write(line(user, target))
        for event in outcome.events:
            self.events.write(line(user, event))


def _failure(outcome: UserOutcome) -> dict[str, object]:
    error = outcome.error
    if error is None:
        missing = [rule for rule, report in outcome.reports.items() if not report.complete]
        message = f"not every event came of the targets {missing}"
        return {"user_id": outcome.user_id, "error": "Incomplete", "message": message}
    return {
        "user_id": outcome.user_id,
        "error": type(error).__name__,
        "message": error.message,
        "code": getattr(error, "code", None),
        "status": error.status,
        "request_id": error.request_id,
        "url": error.url,
        "attempts": error.attempts,
        "retryable": error.retryable,
    }
