"""One budget for many: in a file, in Redis, and by processes against a server that counts."""

import asyncio
import os
import random
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from capillary_targets import (
    BudgetUnavailable,
    OAuth,
    RateLimit,
    RetryPolicy,
    TargetsClient,
    UsageError,
)
from capillary_targets.budget import Budget, SqliteBudget, open_budget
from capillary_targets.sandbox import Fault, Sandbox

from .conftest import client_of, turns_until


@pytest.fixture
def redis_url() -> Iterator[str]:
    """A real Redis server of its own, on a free port."""
    program = shutil.which("redis-server")
    if "CAPILLARY_TESTS_REQUIRE" not in os.environ:
        pytest.importorskip("redis", reason="the extra `redis` is not installed")
        if program is None:
            pytest.skip("redis-server is not installed")
    assert program, "redis-server must be installed here"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with subprocess.Popen([program, *settings], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert any(b"Ready to accept connections" in line for line in server.stdout)
        yield f"redis://127.0.0.1:{port}/0"
        server.terminate()


@pytest.fixture(params=["sqlite", "redis"])
async def budget(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Budget]:
    shared = f"sqlite:///{tmp_path}/budget.db"
    if request.param == "redis":
        shared = request.getfixturevalue("redis_url")
    budget = open_budget(RateLimit(3, per=1000.0, shared=shared))
    yield budget
    await budget.close()


async def test_a_place_is_free_again_so_long_after_its_answer(budget: Budget) -> None:
    tickets = []
    for _ in range(3):
        ticket, wait = await budget.acquire(background=False)
        assert ticket
        assert wait == 0
        tickets.append(ticket)
    ticket, wait = await budget.acquire(background=False)
    assert not ticket
    assert wait > 0
    await budget.release(tickets[0])
    ticket, wait = await budget.acquire(background=False)
    assert not ticket
    assert wait <= 1000.0


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_a_pause_is_for_all_who_share(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    shared = f"sqlite:///{tmp_path}/b.db" if kind == "sqlite" else None
    shared = shared or request.getfixturevalue("redis_url")
    one, other = (open_budget(RateLimit(3, per=60.0, shared=shared)) for _ in range(2))
    assert (await other.acquire(background=False))[0]
    await one.pause(50.0)
    await one.pause(5.0)  # never shortened
    ticket, wait = await other.acquire(background=False)
    assert not ticket
    assert wait == pytest.approx(50, abs=5)
    await one.close()
    await other.close()


async def test_a_process_that_died_gives_its_places_back(tmp_path: Path) -> None:
    now = 1000.0
    limit = RateLimit(2, per=10.0)
    dead, alive = (SqliteBudget(limit, f"{tmp_path}/b.db", clock=lambda: now) for _ in range(2))
    for _ in range(2):
        await dead.acquire(background=False)
    waits = 0
    while not (await alive.acquire(background=False))[0]:
        now += 10.0
        waits += 1
    assert 11 <= waits <= 12  # the lease of 120 s
    await dead.close()
    await alive.close()


async def test_times_of_before_a_reboot_are_not_believed(tmp_path: Path) -> None:
    now = 1e6
    limit = RateLimit(1, per=10.0)
    budget = SqliteBudget(limit, f"{tmp_path}/b.db", clock=lambda: now)
    await budget.acquire(background=False)
    await budget.pause(60)
    now = 5.0
    assert (await budget.acquire(background=False))[0]
    await budget.close()


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_a_sweep_leaves_places_and_spreads_beside_people(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    shared = f"sqlite:///{tmp_path}/b.db"
    if kind == "redis":
        shared = request.getfixturevalue("redis_url")
    budget = open_budget(RateLimit(60, per=600, shared=shared))

    async def ask(*, background: bool) -> tuple[bool, float]:
        ticket, wait = await budget.acquire(background=background)
        return bool(ticket), wait

    for _ in range(50):  # alone, it may spend the window at once
        assert await ask(background=True) == (True, 0)
    assert await ask(background=False) == (True, 0)
    got, wait = await ask(background=True)  # from now on one in ten seconds
    assert not got
    assert 5 < wait <= 600 / 60 * 1.03
    for _ in range(9):  # up to the last place, which a sweep cannot have
        assert await ask(background=False) == (True, 0)
    got, wait = await ask(background=False)
    assert not got
    assert (await ask(background=True))[1] > wait  # goes after the person who waits
    await budget.close()


@pytest.mark.parametrize("share", [0.1, 0.5])
async def test_people_go_before_the_sweeps_of_other_processes(tmp_path: Path, share: float) -> None:
    """Two sweeps and a backend, each with a connection of its own; 5 requests a second together."""
    now, chance = 0.0, random.Random(1)
    limit = RateLimit(40, per=8.0)
    people, *sweeps = (SqliteBudget(limit, f"{tmp_path}/b.db", clock=lambda: now) for _ in range(3))
    ask_at = dict.fromkeys((people, *sweeps), 0.0)
    arrived: deque[float] = deque()
    waits: list[float] = []
    next_person, served = 0.0, {True: 0, False: 0}
    while now < 50:
        now = min(next_person, *(at for who, at in ask_at.items() if who is not people or arrived))
        if now == next_person:
            arrived.append(now)
            next_person = now + chance.expovariate(5 * share)
        for budget, at in ask_at.items():
            if at > now or (budget is people and not arrived):
                continue
            ticket, wait = await budget.acquire(background=budget is not people)
            ask_at[budget] = now + wait
            if ticket:
                await budget.release(ticket)
                served[budget is people] += now >= 10
                if budget is people:
                    waits.append(now - arrived.popleft())
    assert sorted(waits)[int(0.99 * len(waits))] <= 1.0
    assert served[False] >= 0.95 * (5 * 40 - served[True])
    for budget in ask_at:
        await budget.close()


@pytest.mark.parametrize(
    ("shared", "says"),
    [
        ("sqlite://", "sqlite:///PATH"),
        ("mysql://h/x", "redis://HOST"),
        ("sqlite:////no/such/folder/b.db", "cannot be opened"),
    ],
)
def test_a_budget_that_cannot_be_shared_so_is_refused(shared: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        open_budget(RateLimit(1, shared=shared))


_PROCESS = """
import asyncio, sys
from capillary_targets import BasicAuth, RateLimit, TargetsClient

async def main(url, shared, first):
    auth = BasicAuth("till.sandbox", "sandbox")
    rate = RateLimit(20, per=0.5, shared=shared)
    async with TargetsClient(url, auth, rate=rate) as client:
        users = range(int(first), int(first) + 20)
        assert all([outcome.complete async for outcome in client.sweep(users)])

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_two_processes_keep_one_budget(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    shared = f"sqlite:///{tmp_path}/b.db" if kind == "sqlite" else None
    shared = shared or request.getfixturevalue("redis_url")
    sandbox = Sandbox(users=40, targets=1, events=3, exact_events=True, rate_limit=(20, 0.5))
    async with sandbox:
        first = sandbox.world.user_ids()[0]
        other = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _PROCESS, sandbox.url, shared, str(first + 20)
        )
        await turns_until(lambda: sandbox.counts.total() > 0)
        async with client_of(sandbox, rate=RateLimit(20, per=0.5, shared=shared)) as client:
            users = range(first, first + 20)
            assert all([outcome.complete async for outcome in client.sweep(users)])
        assert await other.wait() == 0
    assert sandbox.counts["enrolledTargets"] + sandbox.counts["trackedTargetEvents"] == 80
    assert sandbox.peak_window <= 20
    assert not [entry for entry in sandbox.requests if entry.status == 429]


async def test_token_requests_and_retries_count_too() -> None:
    sandbox = Sandbox(users=5)
    async with sandbox:
        auth = OAuth(sandbox.settings.client_key, sandbox.settings.client_secret)
        budget = RateLimit(4, per=1000.0)
        retry = RetryPolicy(wait_initial=1e-6)
        async with TargetsClient(sandbox.url, auth, rate=budget, retry=retry) as client:
            sandbox.faults.add(Fault.http(503))
            await client.active_targets(42381788)  # a token, a failure, a success
            await client.active_targets(42381788)
            with pytest.raises(Exception, match="our own rate budget"):
                await client.active_targets(42381788)
    assert len(sandbox.requests) == 4


async def test_one_client_keeps_its_budget_on_cold_connections() -> None:
    """New connections delay the first requests of a window, not those of the next."""
    sandbox = Sandbox(users=60, targets=1, rate_limit=(50, 0.3))
    async with sandbox, client_of(sandbox, concurrency=50, rate=RateLimit(50, per=0.3)) as client:
        assert all([outcome.complete async for outcome in client.sweep(sandbox.world.user_ids())])
    assert sandbox.peak_window <= 50
    assert not [entry for entry in sandbox.requests if entry.status == 429]


class OwnBudget:
    """A budget of the caller's making: lets everybody through and counts."""

    def __init__(self) -> None:
        self.taken = self.given_back = 0
        self.closed = False

    async def acquire(self, *, background: bool) -> tuple[str, float]:
        self.taken += 1
        return "mine", 0.0

    async def release(self, ticket: str) -> None:
        assert ticket == "mine"
        self.given_back += 1

    async def pause(self, seconds: float) -> None:
        raise AssertionError("nobody refused")

    async def close(self) -> None:
        self.closed = True


async def test_a_callers_own_budget_is_asked_and_never_closed() -> None:
    budget = OwnBudget()
    sandbox = Sandbox(users=5)
    async with sandbox, client_of(sandbox, rate=budget) as client:
        assert all([outcome.complete async for outcome in client.sweep(sandbox.world.user_ids())])
        requests = client.counts.requests
    assert budget.taken == budget.given_back == requests
    assert not budget.closed


def places(path: Path) -> tuple[int, int]:
    """Rows of the shared window, and how many of them belong to requests that are not over."""
    with closing(sqlite3.connect(path)) as db:
        rows = [free_at for (free_at,) in db.execute("SELECT free_at FROM places")]
    return len(rows), sum(free_at > time.monotonic() + 60 for free_at in rows)


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Another process holds the budget's file; `COMMIT` ends that."""
    with closing(sqlite3.connect(tmp_path / "b.db", isolation_level=None)) as other:
        yield other


async def test_a_call_cancelled_while_the_budget_works_leaves_nothing(
    tmp_path: Path, locked: sqlite3.Connection
) -> None:
    sandbox = Sandbox(users=5)
    rate = RateLimit(1000, per=30.0, shared=f"sqlite:///{tmp_path}/b.db")
    async with sandbox:
        user = sandbox.world.user_ids()[0]
        async with client_of(sandbox, rate=rate) as client:
            await client.active_targets(user)
            for _ in range(10):
                locked.execute("BEGIN IMMEDIATE")
                doomed = [asyncio.create_task(client.active_targets(user)) for _ in range(5)]
                innocent = asyncio.create_task(client.active_targets(user))
                await asyncio.sleep(0)
                for turn, call in enumerate(doomed):
                    for _ in range(turn):
                        await asyncio.sleep(0)
                    call.cancel()
                await asyncio.wait(doomed)
                locked.execute("COMMIT")
                assert await innocent
    taken, in_flight = places(tmp_path / "b.db")
    assert in_flight == 0
    assert taken >= 11


async def test_an_acquisition_that_is_cancelled_gives_its_place_back(
    tmp_path: Path, locked: sqlite3.Connection
) -> None:
    budget = SqliteBudget(RateLimit(1, per=1000.0), f"{tmp_path}/b.db")
    locked.execute("BEGIN IMMEDIATE")
    acquiring = asyncio.create_task(budget.acquire(background=False))
    await asyncio.sleep(0)
    acquiring.cancel()
    await asyncio.wait([acquiring])
    assert acquiring.cancelled()
    locked.execute("COMMIT")
    ticket, wait = await budget.acquire(background=False)  # behind the cancelled one's work
    assert ticket
    assert wait == 0
    await budget.close()


async def test_a_budget_in_memory_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # each counts for itself
        budget = SqliteBudget(RateLimit(1, per=1000.0), ":memory:")
        assert (await budget.acquire(background=False))[0]
        await budget.close()
    assert not os.listdir()  # noqa: PTH208 - no async way


async def test_a_budget_closes_after_its_work(tmp_path: Path, locked: sqlite3.Connection) -> None:
    budget = SqliteBudget(RateLimit(1, per=1000.0), f"{tmp_path}/b.db")
    locked.execute("BEGIN IMMEDIATE")
    acquiring = asyncio.create_task(budget.acquire(background=False))
    await asyncio.sleep(0)
    closing_it = asyncio.create_task(budget.close())
    await asyncio.sleep(0)
    locked.execute("COMMIT")
    assert (await acquiring)[0]
    await closing_it
    with pytest.raises(BudgetUnavailable, match="closed"):
        await budget.acquire(background=False)


@pytest.mark.parametrize(
    ("harm", "retryable"),
    [("BEGIN IMMEDIATE", True), ("DROP TABLE places", False)],
)
async def test_a_file_that_fails_is_one_kind_of_error(
    tmp_path: Path,
    locked: sqlite3.Connection,
    monkeypatch: pytest.MonkeyPatch,
    harm: str,
    retryable: bool,
) -> None:
    monkeypatch.setattr("capillary_targets.budget._PATIENCE", 0.01)
    rate = RateLimit(10, shared=f"sqlite:///{tmp_path}/b.db")
    sandbox = Sandbox(users=1)
    async with sandbox, client_of(sandbox, rate=rate, retry=RetryPolicy(attempts=1)) as client:
        locked.execute(harm)
        with pytest.raises(BudgetUnavailable, match="the shared budget's file failed") as caught:
            await client.active_targets(sandbox.world.user_ids()[0])
        assert caught.value.retryable is retryable
        if locked.in_transaction:
            locked.execute("COMMIT")


async def test_a_file_that_is_removed_or_replaced_is_opened_again(tmp_path: Path) -> None:
    limit = RateLimit(2, per=1000.0, shared=f"sqlite:///{tmp_path}/b.db")
    first = open_budget(limit)
    assert (await first.acquire(background=False))[0]
    (tmp_path / "b.db").unlink()
    second = open_budget(limit)
    tickets = [(await one.acquire(background=False))[0] for one in (second, first, second, first)]
    assert [bool(ticket) for ticket in tickets] == [True, True, False, False]
    shutil.rmtree(tmp_path)
    with pytest.raises(BudgetUnavailable, match="the shared budget's file failed"):
        await first.acquire(background=False)
    tmp_path.mkdir()  # noqa: ASYNC240 - nobody waits for it
    assert (await first.acquire(background=False))[0]
    for one in (first, second):
        await one.close()


def test_a_file_that_is_locked_while_it_is_opened_may_be_free_later(
    tmp_path: Path, locked: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capillary_targets.budget._PATIENCE", 0.01)
    locked.execute("BEGIN EXCLUSIVE")
    with pytest.raises(BudgetUnavailable, match="locked") as caught:
        open_budget(RateLimit(2, shared=f"sqlite:///{tmp_path}/b.db"))
    assert caught.value.retryable


async def test_a_budget_of_the_callers_that_fails_is_the_same_kind() -> None:
    class Broken(OwnBudget):
        async def acquire(self, *, background: bool) -> tuple[str, float]:
            raise ZeroDivisionError("a bug")

    sandbox = Sandbox(users=1)
    async with sandbox, client_of(sandbox, rate=Broken()) as client:
        with pytest.raises(BudgetUnavailable, match="ZeroDivisionError: a bug") as caught:
            await client.active_targets(sandbox.world.user_ids()[0])
    assert not caught.value.retryable


def tell_redis(url: str, *words: str) -> None:
    """Send one command, whatever becomes of it, and drop all connections but this."""
    from redis import Redis
    from redis.exceptions import RedisError

    with suppress(RedisError), closing(Redis.from_url(url, single_connection_client=True)) as redis:
        redis.execute_command(*words)
        redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


async def test_a_sweep_outlives_dropped_redis_connections(redis_url: str) -> None:
    sandbox = Sandbox(users=60, targets=1)
    rate = RateLimit(10_000, shared=redis_url)
    async with sandbox, client_of(sandbox, rate=rate) as client:
        count = 0
        async for outcome in client.sweep(sandbox.world.user_ids()):
            assert outcome.complete
            count += 1
            tell_redis(redis_url, "PING")
    assert count == 60


@pytest.mark.parametrize(
    ("harm", "retryable"),
    [
        (("REPLICAOF", "127.0.0.1", "1"), True),  # read-only
        (("CONFIG", "SET", "min-replicas-to-write", "1"), True),
        (("CONFIG", "SET", "requirepass", "changed"), False),
        (("SHUTDOWN", "NOSAVE"), True),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
async def test_a_redis_that_fails_is_one_kind_of_error(
    redis_url: str, harm: tuple[str, ...], retryable: bool
) -> None:
    sandbox = Sandbox(users=1)
    rate = RateLimit(10, shared=redis_url)
    async with sandbox, client_of(sandbox, rate=rate, retry=RetryPolicy(attempts=1)) as client:
        user = sandbox.world.user_ids()[0]
        await client.active_targets(user)
        tell_redis(redis_url, *harm)
        with pytest.raises(BudgetUnavailable, match="the shared budget's Redis failed") as caught:
            await client.active_targets(user)
        assert caught.value.retryable is retryable


async def test_a_full_redis_still_keeps_the_budget(redis_url: str) -> None:
    budget = open_budget(RateLimit(1, per=0.05, shared=redis_url))
    ticket, _ = await budget.acquire(background=False)
    tell_redis(redis_url, "CONFIG", "SET", "maxmemory", "1")
    await budget.release(ticket)
    await budget.pause(0.01)
    async with asyncio.timeout(10):
        while not (await budget.acquire(background=False))[0]:  # noqa: ASYNC110 - Redis' clock, not ours
            await asyncio.sleep(0.01)
    await budget.close()
