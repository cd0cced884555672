"""What the public names are to a type checker. Never run: mypy and pyright read it."""

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, assert_type

from capillary_targets import (
    AdaptiveConcurrency,
    ApiError,
    BadResponse,
    BasicAuth,
    CapillaryError,
    EventList,
    EventPager,
    EventsPage,
    InvalidUser,
    OAuth,
    PagingReport,
    PeriodList,
    RateLimit,
    RateLimited,
    Reconciliation,
    RequestTimeout,
    RetryDetails,
    RetryPolicy,
    Session,
    Sweep,
    SweepStats,
    Target,
    TargetEvent,
    TargetList,
    TargetsClient,
    UserOutcome,
    UserProgress,
    UserTargetGroups,
    endpoints,
    from_env,
    lookups,
    open_session,
)
from capillary_targets.blocking import BlockingClient, BlockingPager
from capillary_targets.cached import Cached, CachedClient
from capillary_targets.hooks import Details
from capillary_targets.notifications import parse
from capillary_targets.notifications.settle import Settlement
from capillary_targets.sandbox import Event, Fault, RecordedRequest, Sandbox, World
from capillary_targets.sweep import Summary, SweepOptions, UsersFile, run
from capillary_targets.testing import no_waiting


async def calls(client: TargetsClient) -> None:
    assert_type(await client.active_targets(1), TargetList)
    assert_type(await client.find_customer(identifier_name="mobile", identifier_value="1"), int)
    assert_type(await client.target_groups(1), UserTargetGroups)
    assert_type(await client.target_periods(1), PeriodList)
    assert_type(client.session, Session)
    assert_type(client.counts.requests, int)


async def pager(client: TargetsClient) -> None:
    pager = client.events(1, 2, period="current", page_size=5, max_items=7)
    assert_type(pager, EventPager)
    async for event in pager:
        assert_type(event, TargetEvent)
    async for page in pager.pages():
        assert_type(page, EventsPage)
        assert_type(page.events, tuple[TargetEvent, ...])
        assert_type(page.total, int | None)
    assert_type(await pager.collect(), EventList)
    assert_type(pager.report, PagingReport)
    assert_type(pager.report.complete, bool)
    again = client.events(1, 2, start=pager.checkpoint)
    assert_type(again, EventPager)


async def numbers() -> AsyncIterator[int]:
    yield 1


async def sweep(client: TargetsClient, many: AsyncIterable[int]) -> None:
    sweep = client.sweep(range(10), target_rule_ids=[1], ordered=True)
    assert_type(sweep, Sweep)
    async for outcome in sweep:
        assert_type(outcome, UserOutcome)
        assert_type(outcome.user_id, int)
        assert_type(outcome.targets, tuple[Target, ...])
        assert_type(outcome.events, tuple[TargetEvent, ...])
        assert_type(outcome.reports, Mapping[int, PagingReport])
        assert_type(outcome.error, CapillaryError | None)
        assert_type(outcome.complete, bool)
    async for event in client.sweep(many).events():
        assert_type(event, TargetEvent)
    client.sweep(numbers())
    assert_type(sweep.stats, SweepStats)
    assert_type(await run(client, UsersFile(Path("users.txt")), "out"), Summary)
    options = SweepOptions(format="parquet")
    assert_type(await run(client, [1, 2], Path("out"), options), Summary)


def blocking(client: BlockingClient) -> None:
    with client as opened:
        assert_type(opened, BlockingClient)
    assert_type(client.active_targets(1, target_rule_ids=[2]), TargetList)
    assert_type(client.find_customer(identifier_name="mobile", identifier_value="1"), int)
    assert_type(client.target_groups(1), UserTargetGroups)
    assert_type(client.target_periods(1), PeriodList)
    assert_type(client.progress(1), UserProgress)
    assert_type(client.reconcile(1, 2), Reconciliation)
    assert_type(client.settle(parse(b"")), Settlement)
    pager = client.events(1, 2, period="current", page_size=5)
    assert_type(pager, BlockingPager)
    assert_type(pager.collect(), EventList)
    assert_type(pager.pager, EventPager)
    for event in pager:
        assert_type(event, TargetEvent)
    for page in pager.pages():
        assert_type(page, EventsPage)
    for outcome in client.sweep([1], ordered=True):
        assert_type(outcome, UserOutcome)
    assert_type(client.run(client.client.progress(1)), UserProgress)
    for one in client.iterate(client.client.sweep([1]).events):
        assert_type(one, TargetEvent)


async def cached(client: TargetsClient) -> None:
    members = client.cached(ttl=30, stale_if_error=3600)
    assert_type(members, CachedClient)
    found = await members.progress(1, target_rule_id=2)
    assert_type(found, Cached[UserProgress])
    assert_type(found.value, UserProgress)
    assert_type(found.error, CapillaryError | None)
    assert_type((await members.active_targets(1)).value, TargetList)


def environment() -> None:
    TargetsClient(**from_env(), timeout=10)
    BlockingClient(**from_env(), page_size=10)
    open_session(**from_env())


def models(target: Target, event: TargetEvent) -> None:
    assert_type(target.id, int)
    assert_type(target.name, str | None)
    assert_type(event.event_log_id, int | None)
    assert_type(event.target_value, Decimal | None)
    assert_type(event.event_date, datetime | None)
    assert_type(event.unique_id, str | None)


def settings() -> None:
    BasicAuth("till", "password")
    BasicAuth("till", password_md5="5f4dcc3b5aa765d61d8327deb882cf99")
    auth = OAuth("key", "secret")
    TargetsClient("eu", auth)
    TargetsClient(
        "https://eu.api.capillarytech.com",
        auth,
        page_size=10,
        concurrency=AdaptiveConcurrency(),
        rate=RateLimit(1000, per=60),
        timeout=3,
        retry=RetryPolicy(attempts=5),
        hooks=[hook],
    )
    TargetsClient("eu", auth, concurrency=8, rate=None, session=None)


def hook(details: Details) -> None:
    if isinstance(details, RetryDetails):
        assert_type(details.wait, float)
        assert_type(details.error, CapillaryError)


async def errors(client: TargetsClient) -> None:
    try:
        await client.active_targets(1)
    except InvalidUser as refused:
        assert_type(refused.code, int | None)
    except ApiError as refused:
        assert_type(refused.message, str)
    except RateLimited as limited:
        assert_type(limited.retry_after, float | None)
        assert_type(limited.retry_at, datetime | None)
    except BadResponse as bad:
        assert_type(bad.where, str | None)
    except RequestTimeout as late:
        timeout: TimeoutError = late
        assert timeout
    except CapillaryError as error:
        assert_type(error.retryable, bool)
        assert_type(error.request_id, str | None)
        assert_type(error.attempts, int)


async def plain_coroutines() -> None:
    async with open_session("eu", BasicAuth("till", "password")) as session:
        assert_type(session, Session)
        assert_type(await endpoints.target_events(session, 1, 2, limit=5, offset=0), EventsPage)
        assert_type(
            await endpoints.active_targets(session, 1, enrollment_type="IMPORT"), TargetList
        )
        assert_type(await lookups.target_periods(session, 1), PeriodList)


async def in_tests(capillary_sandbox: Sandbox, targets_client: TargetsClient) -> None:
    assert_type(capillary_sandbox.world, World)
    assert_type(capillary_sandbox.world.events(1, 2), list[Event])
    assert_type(capillary_sandbox.requests[-1], RecordedRequest)
    capillary_sandbox.faults.add(Fault.too_many_requests(5, hint="date"), times=None)
    with no_waiting():
        await targets_client.active_targets(1)
    async with Sandbox(users=5, offset_mode="row") as url:
        assert_type(url, str)


def wrong(client: TargetsClient, anything: dict[str, Any]) -> None:
    """Mistakes that a checker has to catch: an unused ignore is an error to both."""
    client.events(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    client.sweep(["1"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    client.events(1, 2, limit=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    BlockingClient(**from_env()).progress("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    TargetsClient("eu", "password")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Sandbox(offset_mode="sideways")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Target(**anything).id = 5  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
