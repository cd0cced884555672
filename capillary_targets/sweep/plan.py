"""What a sweep would cost, from its list, its ledger and a sample of members.

Of up to 10,000 members of the list the ledger foresees what they cost, for nothing: how many
targets were known, whose turn of the rolling pass it is. At most 100 of them are asked, and correct
that (double sampling: Cochran, Sampling Techniques, chapter 12).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, aclosing
from itertools import pairwise
from math import inf, sqrt
from pathlib import Path
from statistics import fmean, pvariance
from tempfile import TemporaryDirectory
from typing import Final

from attrs import evolve, frozen

from capillary_targets.budget import Budget
from capillary_targets.client import TargetsClient
from capillary_targets.errors import UsageError
from capillary_targets.fanout import FanOut
from capillary_targets.limits import RateLimit
from capillary_targets.pagination import Dialect

from .fetch import UserFetcher
from .groups import GroupsReader, decide, is_due, stable_hash
from .ledger import Ledger, PartRecord
from .options import RunState, SweepOptions, SweepRefused
from .store import LEDGER, Directory, PartWriter, UserResult, format_named, open_directory
from .user_list import BadLine, Users, read_batches

__all__ = ["Estimate", "Plan", "choose", "estimate", "plan", "seconds_for"]

_SAMPLE: Final = 100
_FRAME: Final = 10_000
_PAGE: Final = 4096
"""Bytes by which the ledger grows at least: a page of SQLite."""
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


def choose(frame: Sequence[float], sample: int) -> list[int]:
    """Places in `frame` (see `estimate`) of the members to ask: spread evenly over it. Pure.

    Of those whom the ledger knows and of the others at least a quarter each, as far as they go.
    """
    new, known = ([n for n, one in enumerate(frame) if bool(one) is is_] for is_ in (False, True))
    share = round(sample * len(new) / max(1, len(frame)))
    share = min(max(share, sample // 4), sample - sample // 4)
    share = min(len(new), max(share, sample - len(known)))
    draw, chosen = random.Random(0), []
    for places, number in ((new, share), (known, min(len(known), sample - share))):
        cuts = [len(places) * cut // max(1, number) for cut in range(number + 1)]
        chosen += [places[draw.randrange(*cell)] for cell in pairwise(cuts)]
    return chosen


def estimate(
    frame: Sequence[float],
    found: Mapping[int, float],
    users: int,
    *,
    fixed: float = 0.0,
    unit: float = 1.0,
    weight: float = 1.0,
) -> Estimate:
    """The sum over all users. Pure.

    The error is that of neighbours in a sample spread evenly over the list (Wolter, Introduction to
    Variance Estimation, 8.2). Two members are made up, one above and one below: else a sample in
    which nothing has happened would prove that nothing has.

    Args:
        frame: requests that the ledger foresees for users drawn from the list by chance; 0: it does
            not know the user.
        found: values of those of them who were asked, by their place in `frame`.
        users: how many there are.
        fixed: what comes once, however many they are.
        unit: by what users differ at least.
        weight: of a foreseen request, in values.
    """
    asked = fixed + sum(found.values())
    if len(found) == users:
        return Estimate(asked, asked, asked)
    corrections, variance = {}, 0.0
    for known in {*map(bool, frame)}:
        mine = sum(bool(one) is known for one in frame) * users / len(frame)
        off = [
            found[place] - weight * frame[place]
            for place in sorted(found)
            if bool(frame[place]) is known
        ]
        corrections[known] = fmean(off)
        spread = sum((a - b) ** 2 for a, b in pairwise(off)) / 2 + 2 * unit**2
        variance += mine**2 * spread / (len(off) + 1) / len(off) * max(0, 1 - len(off) / mine)
    values = [weight * one + corrections[bool(one)] for one in frame]
    variance += users**2 * pvariance(values) / len(frame) * (1 - len(frame) / users)
    total = fixed + users * fmean(values)
    bound = (_CERTAIN + 2.4 / len(found)) * sqrt(variance)
    return Estimate(total, max(asked, total - bound), total + bound)


def seconds_for(
    requests: float, rate: RateLimit | Budget | None, pace: float = inf
) -> float | None:
    """How long requests take: at `pace` (requests a second) or by the budget, if that is slower.

    None where neither is known.
    """
    took = [requests / pace] if 0 < pace < inf else []
    if isinstance(rate, RateLimit):
        took.append(requests * rate.per / rate.requests)
    return max(took, default=None)


async def plan(
    client: TargetsClient,
    users: Users,
    out: Path | str,
    options: SweepOptions | None = None,
    *,
    sample: int = _SAMPLE,
) -> Plan:
    """What `run` with the same arguments would cost. No run is begun, and nothing is written.

    Reads the list to its end, and asks for at most `sample` members, spread evenly over it.

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
    if sample < 1:
        raise UsageError(f"sample must be a number of members, 1 or more: {sample}")
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
        count, members = await _read(users, directory.ledger)
        frame = [_foreseen(directory.ledger, user, options) for user in members]
        chosen = {members[place]: place for place in choose(frame, sample)}
        session = client.session.with_options(wait_for_limits=True)
        latest = next(directory.ledger.runs(), None)
        state = RunState() if latest is None else latest.state
        session.dialect = session.dialect.fill_from(Dialect.from_dict(state.dialect))
        before = session.counts.requests
        row_format = format_named(options.format, raw=options.raw, run=run)
        groups = None
        if options.detect == "groups":
            groups = GroupsReader(options, run, state.sends_ids)
        fetcher = UserFetcher(directory, row_format, options, groups)
        fan = FanOut(session, [*chosen], options, fetcher.fetch)
        async with aclosing(fan.results()) as found:
            results = {chosen[one.record.user_id]: one async for one in found}
        asked = session.counts.requests - before
        empty = _ledger_size(fresh) if new else _PAGE
        writer = PartWriter(fresh, row_format, options.limits, RunState())
        sizes, row, once = _sizes(fresh, writer, directory.ledger.parts(), results, frame)
    per_user = {place: float(one.sums.requests) for place, one in results.items()}
    requests = estimate(frame, per_user, count, fixed=asked - sum(per_user.values()))
    hours = [
        seconds_for(each, known.rate) for each in (requests.value, requests.low, requests.high)
    ]
    return Plan(
        count,
        len(results),
        asked,
        requests,
        estimate(frame, sizes, count, fixed=once + empty, unit=row, weight=0.0),
        None if None in hours else Estimate(*(each / 3600 for each in hours if each is not None)),
    )


def _select_run(ledger: Ledger, *, again: bool) -> int:
    """The number of the run that a sweep would begin or go on with."""
    latest = next(ledger.runs(), None)
    number, finished = (latest.number, latest.finished is not None) if latest else (1, False)
    ledger.run = number + (again and finished)
    ledger.session += 1  # who failed in the latest one is asked again
    return ledger.run


async def _read(users: Users, ledger: Ledger) -> tuple[int, list[int]]:
    """How many users are not done, and up to 10,000 of them in the list's order, each once.

    They are those whose hash begins with so many zeros (adaptive sampling: Flajolet, On Adaptive
    Sampling, 1990), so that one who stands in the list ten times is drawn no more often; the number
    is exact unless a longer list repeats users.
    """
    lines, zeros = 0, 0
    held: dict[int, int] = {}
    async with aclosing(read_batches(users)) as batches:
        async for batch in batches:
            ids = [user for user in batch if not isinstance(user, BadLine)]
            done = ledger.already_done(ids)
            for user in ids:
                if user not in done:
                    lines += 1
                    if not stable_hash(user) >> 64 - zeros:
                        held[user] = held.get(user, 0) + 1
            while len(held) > _FRAME:
                zeros += 1
                held = {u: n for u, n in held.items() if not stable_hash(u) >> 64 - zeros}
    return round(lines * len(held) / max(1, sum(held.values()))), [*held]


def _foreseen(ledger: Ledger, user: int, options: SweepOptions) -> float:
    """The requests for a user if nothing is new; 0 where the ledger has none of their targets."""
    asked, state = options.target_rule_ids, ledger.state(user)
    held = {
        rule: mark.row > 0
        for rule, mark in state.marks.items()
        if (mark.target or not options.fetch_targets) and (not asked or rule in asked)
    }
    if options.detect != "groups" or not held:
        return (options.fetch_targets and bool(held)) + len(held)
    full = is_due(user, ledger.run, options.full_every, ledger.proven_in(user))
    return 1 + len(decide(held, {*held}, state.progress, state.progress, held, full=full).read)


def _sizes(
    fresh: Directory,
    writer: PartWriter,
    parts: Sequence[PartRecord],
    results: Mapping[int, UserResult],
    frame: Sequence[float],
) -> tuple[dict[int, float], float, float]:
    """Bytes for each user, of an average row, and of files before any row is in them.

    Writes one of the users to a part and the others to the next: that tells rows from files, and
    the parts that there are tell it better.

    Args:
        fresh: a directory for them.
        writer: to that directory.
        parts: of the sweep's directory.
        results: of users, by their place in `frame`.
        frame: see `estimate`.
    """
    good = {place: one for place, one in results.items() if one.error is None}
    counts = {place: one.rows.counts for place, one in good.items()}
    some = sorted((place for place in good if counts[place]), key=lambda at: counts[at].total())
    first = some[(len(some) - 1) // 2 :][:1]
    empty = _ledger_size(fresh)
    for places in (first, good.keys() - first):
        for place in places:
            writer.add(good[place], 0.0)
        writer.sync()
        writer.commit()
    writer.state.timeline = (1.0, [(1, 0, 1.0, 1.0)])  # SQLite copies a state of another length
    fresh.ledger.save(writer.state, None)
    records = {place: 1 + len(one.record.state.marks) for place, one in good.items()}
    record = (_ledger_size(fresh) - empty) / max(1, sum(records.values()))
    sizes = {at: 0.0 if frame[at] else record * records.get(at, 0) for at in results}
    mine, once = fresh.ledger.parts(), 0.0
    for kind in {one.kind for one in mine}:
        (few, small), *_ = files = [(one.rows, one.size) for one in mine if one.kind == kind]
        many, large = max(files + [(one.rows, one.size) for one in parts if one.kind == kind])
        row = sum(size for _, size in files) / sum(rows for rows, _ in files)
        if many > few and (slope := (large - small) / (many - few)) < row:
            row = slope
            once += small - few * slope
        for place, count in counts.items():
            sizes[place] += row * count[kind]
    rows = sum(count.total() for count in counts.values())
    return sizes, sum(sizes.values()) / max(1, rows), once


def _ledger_size(directory: Directory) -> int:
    directory.ledger.checkpoint()
    return (directory.path / LEDGER).stat().st_size
