"""What the public API returns is one short line in a console or a log."""

from __future__ import annotations

import attrs
import pytest

import capillary_targets
from capillary_targets import (
    AdaptiveConcurrency,
    CapillaryError,
    RateLimit,
    RetryPolicy,
    TargetsClient,
    models,
)
from capillary_targets.sandbox import Fault, Sandbox

from .conftest import client_of

LONGEST = 250
ELSEWHERE = {
    # Parts of others' values, by the one mechanism; `tests/test_models.py` fills each of them.
    *("Actor", "ApiWarning", "AudienceFilter", "CommChannel", "ExtendedField", "Filter"),
    *("LoyaltyInfo", "Milestone", "MilestoneTrigger", "PeriodDefault", "Profile", "Streak"),
    *("BasicAuth", "OAuth", "WaitDetails"),
}


async def returned(client: TargetsClient, user: int, found: list[object]) -> None:
    """Call everything, and gather what comes back."""
    rule = (await client.active_targets(user))[0].id
    pager = client.events(user, rule)
    sweep = client.sweep([user, 5])
    groups = await client.target_groups(user)
    found += [client, client.session, client.session.settings, client.counts]
    targets = await client.active_targets(user)
    found += [targets, *targets, targets[0].attribution]
    found += [pager, events := await pager.collect(), events[0], pager.report, pager.checkpoint]
    found += [page := await anext(pager.pages()), page.pagination]
    found += [sweep, *[outcome async for outcome in sweep], sweep.stats]
    found += [groups, groups.target_groups[0], groups.target_groups[0].targets[0], groups.customer]
    found += [progress := await client.progress(user), progress[0], client.session.dialect]
    found += [whole := await client.reconcile(user, rule), cycle := whole.cycles[0]]
    found += [cycle.explanations[0]]
    found += [periods := await client.target_periods(groups.target_groups[0].id), periods[0]]
    found += [await client.cached(ttl=30).progress(user), client.cached(ttl=30)]
    found += [RateLimit(1000, per=60), AdaptiveConcurrency(), RetryPolicy()]


async def test_every_value_is_one_short_line() -> None:
    found: list[object] = []
    sandbox = Sandbox(users=3, targets=3, events=250, exact_events=True)
    sandbox.faults.add(Fault.http(503))
    options = {"timezone": "Asia/Kolkata", "rate": RateLimit(1000), "hooks": [found.append]}
    async with sandbox, client_of(sandbox, **options) as client:
        await returned(client, sandbox.world.user_ids()[0], found)
    names = {type(one).__name__ for one in found}
    classes = [getattr(capillary_targets, name) for name in capillary_targets.__all__]
    assert not {
        one.__name__
        for one in classes
        if isinstance(one, type) and not issubclass(one, CapillaryError)
    } - {*names, *ELSEWHERE}
    for one in found:
        text = repr(one)
        assert len(text) <= LONGEST, text
        assert "\n" not in text
        assert "(_" not in text
        assert " _" not in text


@attrs.frozen
class Row:
    id: int = 7
    name: str = "n" * 300
    rows: tuple[int, ...] = (1,) * 12
    nothing: None = None
    inner: Row | None = None
    error: Exception | None = None
    first: str = "a" * 50
    second: str = "b" * 54
    third: str = "c" * 53
    last: int = 9
    _own: int = 8
    secret: str = attrs.field(default="s3cret", repr=False)
    __repr__ = models.short_repr


class Rows(list[Row]):
    __repr__ = models.short_repr


def test_the_longest_fields_go_first_and_a_secret_never_shows() -> None:
    text = repr(Row(error=ValueError("v" * 500)))
    assert text.startswith("Row(id=7, rows=<12>, error=ValueError(…), first=")
    assert text.endswith(", last=9, own=8, …)")
    assert "nothing" not in text
    assert "s3cret" not in text
    assert "inner=Row(…)" in repr(Row(name="", first="", inner=Row()))


@pytest.mark.parametrize("count", [0, 3, 10_000])
def test_a_list_tells_how_many(count: int) -> None:
    rows = Rows([Row()] * count)
    assert repr(rows) == f"Rows(<{count}>)"
    rows.user_id = 5  # type: ignore[attr-defined]
    assert repr(rows) == f"Rows(<{count}>, user_id=5)"
