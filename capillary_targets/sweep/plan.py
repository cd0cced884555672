"""What a sweep would cost, from its list, its ledger and a sample of members.

Of up to 10,000 members of the list the ledger foresees what they cost, for nothing: how many
targets were known, whose turn of the rolling pass it is. At most 100 of them are asked, and correct
that (double sampling: Cochran, Sampling Techniques, chapter 12).
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, aclosing
from itertools import cycle, pairwise
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
from .groups import READ, decide, is_due, stable_hash
from .ledger import Ledger
from .options import RunState, SweepOptions, SweepRefused
from .store import LEDGER, PartWriter, UserResult, open_directory
from .user_list import BadLine, Users, read_batches

_SAMPLE: Final = 100
_FRAME: Final = 10_000
_RANGE: Final = (1 << 20, 1 << 10)
"""A place in a part, in as many bytes as most take."""
_CERTAIN: Final = 1.96
"""Standard errors within which 95 of 100 samples lie."""


@frozen
class Estimate:
    """A figure, and the bounds within which it lies for 95 of 100 samples."""

    value: float
    low: float
    high: float

    def scaled(self, by: float) -> Estimate:
        """The same in another unit."""
        return Estimate(self.value * by, self.low * by, self.high * by)


@frozen
class Plan:
    """What a sweep is expected to cost.

    `users` are those whom the list holds and who are not done; `sampled` of them were asked, with
    `asked` requests. `requests` are those of the sweep; `size` is what parts and ledger will take,
    in bytes, `held` what they take now; `hours` is the time that the rate budget takes, None where
    none is set.
    """

    users: int
    sampled: int
    asked: int
    requests: Estimate
    held: int
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
    draw = random.Random(0)
    return [
        places[draw.randrange(cell * len(places) // number, (cell + 1) * len(places) // number)]
        for places, number in ((new, share), (known, min(len(known), sample - share)))
        for cell in range(number)
    ]


def estimate(
    frame: Sequence[float],
    found: Mapping[int, float],
    users: int,
    *,
    fixed: float = 0.0,
    unit: float = 1.0,
    earlier: tuple[float, int] = (0.0, 0),
) -> Estimate:
    """The sum over all users. Pure.

    The error is that of neighbours in a sample spread evenly over the list (Wolter, Introduction to
    Variance Estimation, 8.2). Two members are made up, one above and one below: else a sample in
    which nothing has happened would prove that nothing has. Where few members have most, a sample
    lacks them more often than not, so the upper bound is higher (Hall, The Bootstrap and Edgeworth
    Expansion, 3.6).

    Args:
        frame: what the ledger foresees for users drawn from the list by chance; 0: it does not know
            the user.
        found: values of those of them who were asked, by their place in `frame`.
        users: how many there are.
        fixed: what comes once, however many they are.
        unit: by what users differ at least.
        earlier: the sum of users whom the ledger did not know either, and how many they were. They
            are taken for a part of the sample, unless it contradicts: the list may be in order.
    """
    asked = fixed + sum(found.values())
    if len(found) == users:
        return Estimate(asked, asked, asked)
    corrections, variance, skewed, shift = {}, 0.0, 0.0, 0.0
    for known in {*map(bool, frame)}:
        mine = sum(bool(one) is known for one in frame) * users / len(frame)
        off = [found[at] - frame[at] for at in sorted(found) if bool(frame[at]) is known]
        corrections[known] = mean = fmean(off)
        spread = sum((a - b) ** 2 for a, b in pairwise(off)) / 2 + 2 * unit**2
        left = max(0, 1 - len(off) / mine)
        error = mine**2 * spread / (len(off) + 1) / len(off) * left
        if earlier[1] and not known:
            off_by = mine * (earlier[0] / earlier[1] - mean)
            if abs(off_by) <= _CERTAIN * sqrt(error):
                shift = off_by * earlier[1] / (earlier[1] + len(off))
        variance += error
        skewed += mine**3 * fmean((one - mean) ** 3 for one in off) / len(off) ** 2 * left
    values = [one + corrections[bool(one)] for one in frame]
    variance += users**2 * pvariance(values) / len(frame) * (1 - len(frame) / users)
    total = fixed + users * fmean(values)
    bound = (_CERTAIN + 2.4 / len(found)) * sqrt(variance)
    more = max(0, skewed) / variance * (2 * _CERTAIN**2 + 1) / 6 if variance else 0
    return Estimate(max(asked, total + shift), max(asked, total - bound), total + bound + more)


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
        new = not (Path(out) / LEDGER).exists()
        directory = fresh if new else stack.enter_context(open_directory(Path(out), settings))
        fresh.ledger.start_run(settings, "", new=False)
        state = _select_run(directory.ledger, again=options.incremental)
        *_, first = RunState(), *(run.state for run in directory.ledger.runs())
        written = sum(part.size for part in directory.ledger.parts()), directory.ledger.users()
        held = 0 if new else directory.size()
        count, members = await _read(users, directory.ledger)
        frame = [_foreseen(directory.ledger, user, options) for user in members]
        chosen = {members[place]: place for place in choose(frame, sample)}
        session = client.session.with_options(wait_for_limits=True)
        session.dialect = session.dialect.fill_from(Dialect(**state.dialect))
        fetcher = UserFetcher(directory, options, state)
        async with aclosing(FanOut(session, [*chosen], options, fetcher.fetch).results()) as found:
            results = {chosen[one.record.user_id]: one async for one in found}
        asked = session.counts.requests
        good = {at: one for at, one in sorted(results.items()) if one.error is None}
        records = (
            evolve(one.record, range=_RANGE if one.rows.counts["events"] else None)
            for at, one in good.items()
            if not frame[at]
        )
        strangers = (user for user, one in zip(members, frame, strict=True) if not one)
        alike = [evolve(one, user_id=user) for one, user in zip(cycle(records), strangers)]
        sizes = []  # of a ledger without and with them: pages fill and split as they will
        for some in ((), alike):
            fresh.ledger.commit(-1, (), some, {}, RunState())
            fresh.ledger.checkpoint()
            sizes.append(fresh.size())
        writer = PartWriter(fresh, fetcher.format, options, RunState())
        lines = _lines(writer, fresh.ledger, [*good.values()], directory.ledger)
    per_user = {place: float(one.sums.requests) for place, one in results.items()}
    fixed = asked - sum(per_user.values())
    spent = first.summary.requests - fixed, first.summary.users
    requests = estimate(frame, per_user, count, fixed=fixed, earlier=spent)
    seconds = seconds_for(1, known.rate)
    counts = {at: good[at].rows.counts if at in good else Counter() for at in results}
    rows = sum(each.total() for each in counts.values()) * count / max(1, len(results))
    took = requests.value * (seconds or 0) / options.part_seconds
    parts = max(1, took, count / options.part_users, rows / options.part_rows)
    kinds = lines.keys() & {"events", "progress"}.union(*counts.values())
    size = estimate(
        [float(one > 0) for one in frame],
        {at: sum(lines[kind][1] * n for kind, n in each.items()) for at, each in counts.items()},
        count,
        fixed=(held or sizes[0])
        + parts * sum(lines[kind][0] for kind in kinds)
        + (sizes[1] - sizes[0]) * count / max(1, len(members)),
        unit=sum(row for _, row in lines.values()),
        earlier=written,
    )
    hours = None if seconds is None else requests.scaled(seconds / 3600)
    return Plan(count, len(results), asked, requests, held, size, hours)


def _select_run(ledger: Ledger, *, again: bool) -> RunState:
    """Select the run that a sweep would begin or go on with; the state of the latest one."""
    latest = next(ledger.runs(), None)
    ledger.session += 1  # who failed in the latest one is asked again
    if latest is None:
        ledger.run = 1
        return RunState()
    ledger.run = latest.number + (again and latest.finished is not None)
    return latest.state


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
    asked, state, proven = options.target_rule_ids, *ledger.user(user)
    held = {
        rule: mark.row > 0
        for rule, mark in state.marks.items()
        if (mark.target or not options.fetch_targets) and (not asked or rule in asked)
    }
    if options.detect != "groups" or not held:
        return (options.fetch_targets and bool(held)) + len(held)
    full = is_due(user, ledger.run, options.full_every, proven)
    seen = {rule: state.progress.get(rule, {}) for rule in held}
    return 1 + sum(
        decide(seen[rule], seen[rule], listed=True, held=has, full=full) in READ
        for rule, has in held.items()
    )


def _lines(
    writer: PartWriter, fresh: Ledger, results: Sequence[UserResult], ledger: Ledger
) -> dict[str, tuple[float, float]]:
    """Bytes of a file before its rows, and of a row, by kind; writes half of the sample, and all.

    From the smallest part to the largest: what is in both, such as names, is compressed away.
    """
    for some in (results[::2], results):
        for one in some:
            writer.add(one)
        writer.sync()
        writer.commit()
    found = defaultdict(list)
    for part in (*fresh.parts(), *ledger.parts()):
        found[part.kind].append((part.rows, part.size))
    lines = {}
    for kind, points in found.items():
        (few, small), (many, large) = min(points), max(points)
        row = (large - small) / (many - few) if large > small else large / many
        lines[kind] = (large - row * many, row)
    return lines
