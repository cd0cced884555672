"""What a sweep would cost, from its list, its ledger and a sample of members."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack, aclosing
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from typing import Final

from attrs import evolve, frozen

from capillary_targets.client import TargetsClient
from capillary_targets.fanout import fan_out
from capillary_targets.limits import RateLimit

from .fetch import UserFetcher, UserResult
from .groups import GroupsReader
from .ledger import Ledger
from .options import SweepOptions, SweepRefused
from .parts import PartWriter, format_named
from .store import KINDS, LEDGER, Directory, open_directory
from .user_list import BadLine, Users, read_batches

__all__ = ["Estimate", "Plan", "estimate", "plan"]

_SAMPLE: Final = 100
_CERTAIN: Final = 1.96
"""Standard errors within which 95 of 100 samples lie."""


@frozen
class Estimate:
    """A figure, and the bounds within which it lies for 95 of 100 samples."""

    value: float
    low: float
    high: float


@frozen
class Plan:
    """What a sweep is expected to cost.

    `users` are those whom the list holds and who are not done; `sampled` of them were asked, with
    `asked` requests. `requests` are those of the sweep; `size` is what it adds to the directory, in
    bytes; `hours` is the time that the rate budget takes, None where none is set.
    """

    users: int
    sampled: int
    asked: int
    requests: Estimate
    size: Estimate
    hours: Estimate | None


def estimate(values: Sequence[float], users: int, fixed: float = 0.0) -> Estimate:
    """The sum over all users, from the values of a sample drawn without bias. Pure.

    Args:
        values: of the users in the sample.
        users: how many there are.
        fixed: what comes once, however many users there are.
    """
    if not values:
        return Estimate(fixed, fixed, fixed)
    total, n = fixed + users * fmean(values), len(values)
    if n == users:
        return Estimate(total, total, total)
    error = stdev(values) / sqrt(n) * sqrt(1 - n / users) if n > 1 else fmean(values)
    spread = _CERTAIN * users * error
    return Estimate(total, max(fixed + sum(values), total - spread), total + spread)


async def plan(
    client: TargetsClient,
    users: Users,
    out: Path | str,
    options: SweepOptions | None = None,
    *,
    sample: int = _SAMPLE,
) -> Plan:
    """What `run` with the same arguments would cost. No run is begun, and nothing is written.

    Reads the list to its end, and asks for at most `sample` members, drawn from it by chance.

    Args:
        client: An open client; its rate budget says how long the sweep takes.
        users: As for `run`.
        out: The directory; it need not exist.
        options: As for `run`.
        sample: How many members to ask for.

    Raises:
        SweepRefused: The list or the directory cannot be used.
        CapillaryError: What the requests for the sample raise, if it is fatal for every user.
    """
    options = options or SweepOptions()
    if options.page_size is None:
        options = evolve(options, page_size=client.page_size)
    if options.retry_failed:
        raise SweepRefused("a plan is made for a list of users: leave out retry_failed")
    known = client.session.settings
    settings = options.settings(str(known.base_url), known.auth.account)
    with ExitStack() as stack:
        fresh = stack.enter_context(
            open_directory(Path(stack.enter_context(TemporaryDirectory())) / "sample", settings)
        )
        directory, new = fresh, not (Path(out) / LEDGER).exists()
        if not new:
            directory = stack.enter_context(open_directory(Path(out), settings))
        fresh.ledger.start_run(settings, "", new=False)
        run = _select_run(directory.ledger, again=options.incremental)
        count, chosen = await _draw(users, directory.ledger, sample)
        session = client.session.with_options(wait_for_limits=True)
        before = session.counts.requests
        row_format = format_named(options.format, raw=options.raw, run=run)
        groups = None
        if options.detect == "groups":
            groups = GroupsReader(options, run, directory.ledger.has_progress())
        fetcher = UserFetcher(directory, row_format, options, groups)
        writer = PartWriter(fresh, row_format, options.limits, lambda: ("{}", "{}"))
        empty = _size(fresh, whole=new)
        results: list[UserResult] = []
        async with aclosing(fan_out(session, chosen, options, fetcher.fetch)) as found:
            async for result in found:
                writer.add(result, 0.0)
                results.append(result)
        writer.sync()
        writer.commit()
        asked = session.counts.requests - before
        size = _size(fresh, whole=new) - empty
    per_user = [result.requests for result in results]
    requests = estimate(per_user, count, asked - sum(per_user))
    weights = [1.0 + result.rows.counts.total() for result in results]
    return Plan(
        count,
        len(results),
        asked,
        requests,
        estimate([size * weight / sum(weights) for weight in weights], count, empty),
        _hours(requests, client),
    )


def _select_run(ledger: Ledger, *, again: bool) -> int:
    """The number of the run that a sweep would begin or go on with."""
    runs = ledger.runs()
    number, finished = (runs[-1][0], runs[-1][2] is not None) if runs else (1, False)
    ledger.run = number + (again and finished)
    ledger.session += 1  # who failed in the latest one is asked again
    return ledger.run


async def _draw(users: Users, ledger: Ledger, sample: int) -> tuple[int, list[int]]:
    """How many users are not done, and some of them (Vitter's algorithm R)."""
    count, draw = 0, random.Random(0)
    chosen: list[int] = []
    async with aclosing(read_batches(users)) as batches:
        async for batch in batches:
            ids = [user for user in batch if not isinstance(user, BadLine)]
            done = ledger.already_done(ids)
            for user in ids:
                if user in done:
                    continue
                count += 1
                if len(chosen) < sample:
                    chosen.append(user)
                elif (place := draw.randrange(count)) < sample:
                    chosen[place] = user
    return count, chosen


def _size(directory: Directory, *, whole: bool) -> int:
    """Bytes of the parts, and with `whole` of the ledger."""
    files = [path for kind in KINDS for path in (directory.path / kind).glob("part-*")]
    if whole:
        directory.ledger.checkpoint()
        files.append(directory.path / LEDGER)
    return sum(path.stat().st_size for path in files)


def _hours(requests: Estimate, client: TargetsClient) -> Estimate | None:
    rate = client.session.settings.rate
    if not isinstance(rate, RateLimit):
        return None
    scale = rate.per / rate.requests / 3600
    return Estimate(requests.value * scale, requests.low * scale, requests.high * scale)
