"""Walks over real sockets, against the sandbox's documented dialect."""

import pytest

from capillary_targets import InvalidUser, TargetRuleNotFound
from capillary_targets.sandbox import Sandbox

from .conftest import client_of


def first_rule(sandbox: Sandbox) -> tuple[int, int]:
    user = sandbox.world.user_ids()[0]
    return user, sandbox.world.targets(user)[0].id


@pytest.mark.parametrize(
    ("events", "page_size", "first", "later"),
    [
        *((events, 100, 1, 1) for events in (0, 1, 9, 25, 99)),
        (100, 100, 2, 1),  # a full page, of as many as the total names: perhaps the first of 100
        (250, 100, 3, 3),
        (1000, 100, 11, 11),
        (9, 10, 1, 1),
        (10, 10, 2, 1),
        (25, 10, 3, 3),
        (1, 1, 2, 2),
    ],
)
async def test_a_walk_takes_the_fewest_requests_and_brings_every_event(
    events: int, page_size: int, first: int, later: int
) -> None:
    sandbox = Sandbox(users=1, events=events, exact_events=True)
    async with sandbox, client_of(sandbox) as client:
        user, rule = first_rule(sandbox)
        pager = client.events(user, rule, page_size=page_size)
        truth = sandbox.world.events(user, rule)
        for requests in (first, first + later):
            got = await pager.collect()
            assert [event.event_log_id for event in got] == [row.event_log_id for row in truth]
            assert sandbox.counts["trackedTargetEvents"] == requests
        assert pager.report.requests == later
        assert pager.report.events == events
        assert pager.report.complete
        assert pager.report.no_record is (events == 0)


async def test_a_pager_is_a_value(sandbox: Sandbox) -> None:
    async with client_of(sandbox) as client:
        pager = client.events(564332013, 1986, page_size=7)
        first = [event async for event in pager]
        assert first
        assert [event async for event in pager] == first
        assert [event async for page in pager.pages() for event in page.events] == first
        assert await pager.collect() == first


async def test_pages_carry_number_total_and_request_id(sandbox: Sandbox) -> None:
    sandbox = Sandbox(users=1, events=25, exact_events=True)
    async with sandbox, client_of(sandbox) as client:
        pager = client.events(*first_rule(sandbox), page_size=10)
        pages = [page async for page in pager.pages()]
    assert [page.pagination.offset for page in pages] == [0, 1, 1]  # of 10, 9 and 13 rows
    assert {page.total for page in pages} == {25}
    assert [len(page.events) for page in pages] == [10, 8, 7]
    assert all(page.request_id and len(page.request_id) == 32 for page in pages)


@pytest.mark.parametrize(("max_items", "requests"), [(0, 0), (1, 1), (10, 1), (11, 2), (99, 3)])
async def test_max_items_asks_for_no_page_it_does_not_need(max_items: int, requests: int) -> None:
    sandbox = Sandbox(users=1, events=25, exact_events=True)
    async with sandbox, client_of(sandbox) as client:
        pager = client.events(*first_rule(sandbox), page_size=10, max_items=max_items)
        assert len(await pager.collect()) == min(max_items, 25)
        assert sandbox.counts["trackedTargetEvents"] == requests
        assert pager.report.complete is (max_items >= 25)


async def test_refusals_other_than_no_record_are_raised(sandbox: Sandbox) -> None:
    async with client_of(sandbox) as client:
        with pytest.raises(InvalidUser):
            await client.events(5, 1986).collect()
        with pytest.raises(TargetRuleNotFound) as caught:
            await client.events(564332013, 5).collect()
    assert caught.value.request_id
    assert caught.value.url.endswith("/v3/users/564332013/trackedTargetEvents/5?limit=100&offset=0")
