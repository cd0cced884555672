"""The limiter against simulated servers: what refusals, faults, outages and sweeps next door cost.

`Client` makes the calls as the transport does; time is simulated, so every run is the same.
"""

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable

import pytest

from capillary_targets import AdaptiveConcurrency, RateLimit, RateLimited, ServiceUnavailable
from capillary_targets.hooks import Hooks
from capillary_targets.limiter import Outcome, RequestLimiter

from .conftest import is_nightly
from .simulated import (
    LIMITS,
    OK,
    Answer,
    Bucket,
    Client,
    SimulatedDeadline,
    Window,
    clock,
    simulate,
    use,
)

Concurrency = int | AdaptiveConcurrency
ADAPTIVE = AdaptiveConcurrency()
BOTH = pytest.mark.parametrize("concurrency", [ADAPTIVE, 16], ids=["adaptive", "16"])


def limiter(concurrency: Concurrency = 16, rate: RateLimit | None = None) -> RequestLimiter:
    return RequestLimiter(concurrency, rate, Hooks(), clock=clock, cpu=lambda: 0.0)


def at_random(share: float, answer: Answer, seed: int = 3) -> Callable[[float], Answer]:
    """A server that gives this answer to a share of all requests."""
    chance = random.Random(seed)
    return lambda _: answer if chance.random() < share else OK


OK_ALWAYS = at_random(0, OK)
CLEAN: dict[Concurrency, float] = {}
"""Seconds that 1,200 calls take where none is refused."""


def during(start: float, end: float, answer: Answer) -> Callable[[float], Answer]:
    """A server that gives this answer, and no other, in the meantime."""
    return lambda now: answer if start <= now < end else OK


@BOTH
@pytest.mark.parametrize(("share", "pause"), [(0.02, 5.0), (0.1, 1.0), (0.3, 1.0)])
def test_refusals_at_random_do_not_stop_a_client(
    concurrency: Concurrency, share: float, pause: float
) -> None:
    """At least half of what pausing at each refusal, and running freely between, reaches."""

    async def main() -> None:
        server = at_random(share, ("throttled", pause))
        client = Client(limiter(concurrency), server, latency=0.04, capacity=16)
        await client.sweep(120)
        between = (1 - share) / share
        ideal = between / (pause + between * client.latency / 16)
        assert client.rate(0, 120) >= ideal / 2
        assert client.rate(60, 120) >= ideal / 2.5  # no less as time goes by

    simulate(main())


@BOTH
@pytest.mark.parametrize("outcome", ["overload", "throttled"])
@pytest.mark.parametrize(("share", "cost"), [(0.01, 1.3), (0.05, 2.0), (0.1, 3.0)])
def test_a_few_faults_among_many_good_answers_cost_little(
    concurrency: Concurrency, outcome: Outcome, share: float, cost: float
) -> None:
    async def wall(answer: Callable[[float], Answer]) -> float:
        client = Client(limiter(concurrency), answer)
        await client.sweep(calls=1200)
        assert client.outcomes["failed"] == 0
        return clock()

    if concurrency not in CLEAN:
        CLEAN[concurrency] = simulate(wall(OK_ALWAYS))
    assert simulate(wall(at_random(share, (outcome, None)))) <= cost * CLEAN[concurrency]


def test_one_refusal_of_a_quiet_backend_pauses_and_no_more() -> None:
    async def main() -> None:
        refusal = iter([OK, OK, ("throttled", 1.0)])
        client = Client(limiter(ADAPTIVE), lambda _: next(refusal, OK))
        for _ in range(3):
            assert await client.call()
            await asyncio.sleep(12)
        began = clock()
        assert all(await asyncio.gather(*(client.call() for _ in range(12))))
        assert clock() - began < 0.1
        await asyncio.sleep(8 * 3600)
        assert all(await asyncio.gather(*(client.call() for _ in range(12))))
        assert client.outcomes == {"ok": 27, "throttled": 1}

    simulate(main())


@pytest.mark.parametrize("pause", [None, 1.0])
@pytest.mark.parametrize("share", [0.0025, 0.01, 0.05])
def test_a_backend_with_steady_calls_fails_none_of_them(share: float, pause: float | None) -> None:
    """Twenty calls a second, far below what the server allows: no pace is learned from that."""

    async def main() -> None:
        server = at_random(share, ("throttled", pause))
        client = Client(limiter(ADAPTIVE), server, latency=0.1)
        async with asyncio.TaskGroup() as group:
            for _ in range(1200):
                group.create_task(client.call())
                await asyncio.sleep(0.05)
        assert client.outcomes["ok"] == 1200
        assert max(client.waited) < 20
        assert share == 0.05 or client.limiter.rate.rate(clock()) == math.inf

    simulate(main())


def test_a_window_that_somebody_else_used_up_teaches_nothing() -> None:
    async def main() -> None:
        client = Client(limiter(ADAPTIVE), Window(1200, 60.0, used=1190))
        await client.sweep(300)
        assert client.rate(60, 300) >= 0.95 * 20

    simulate(main())


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        pytest.param(kind, hint, marks=[pytest.mark.nightly] if kind.endswith("60 s") else [])
        for kind, (_, hints) in LIMITS.items()
        for hint in hints
        if kind != "sliding window, 60 s" or is_nightly()
    ],
)
def test_a_true_limit_is_kept_and_a_doubled_one_found(kind: str, hint: str) -> None:
    async def main() -> None:
        make, _ = LIMITS[kind]
        slow, single = kind.endswith("60 s"), kind == "bucket of one token"
        client = Client(limiter(), OK_ALWAYS)
        start = 240 if slow else 60 if single else 15
        seconds = 120 if slow else 48
        used, refused = await use(client, make(20, hint), 20, after=start, seconds=seconds)
        assert used >= (0.78 if hint == "whole" else 0.8)  # a pause of a second for each look
        assert refused <= 0.05
        late = 120 if slow else 10
        used, refused = await use(client, make(40, hint), 40, after=late, seconds=seconds)
        assert used >= (0.65 if single else 0.78)
        assert refused <= (0.09 if "window" in kind else 0.07)

    simulate(main())


@pytest.mark.parametrize(
    ("kind", "hint", "rate", "latency", "places", "factor", "others"),
    [
        ("token bucket of a second", "short", 12, 0.05, 16, 2.0, 0.3),
        ("token bucket of a second", "none", 8, 0.3, 64, 0.5, 0.0),
        ("fixed window, 1 s", "long", 10, 0.005, 16, 0.5, 0.3),
        ("fixed window, 1 s", "3", 15, 0.05, 4, 1.0, 0.0),
    ],
)
def test_a_wrong_hint_and_a_limit_that_moves_stop_no_client(
    kind: str, hint: str, rate: int, latency: float, places: int, factor: float, others: float
) -> None:
    """Whatever counts, hints that are wrong, a share used by somebody else, a limit that moves."""

    async def main() -> None:
        make, chance = LIMITS[kind][0], random.Random(1)
        client = Client(limiter(places), OK_ALWAYS, latency=latency)
        for now in (float(rate), rate * factor):
            limit = make(now, hint)

            def server(at: float, limit: Callable[[float], Answer] = limit) -> Answer:
                if chance.random() < others:
                    limit(at)
                return limit(at)

            used, refused = await use(client, server, now, after=40, seconds=40)
            possible = min(1 / (1 + others), places / latency / now)
            if kind == "bucket of one token":  # refuses all that come at once
                possible = min(possible, 1 / latency / now)
            assert used >= 0.2 * possible
            assert refused <= 0.3 or others  # which is to us as refusals at random

    simulate(main())


@pytest.mark.parametrize("hint", ["whole", "exact", "3"])
def test_a_single_token_that_others_take_too_leaves_little_to_anybody(hint: str) -> None:
    """Even to a client that is told the limit, keeps its pace and pauses as it is asked to."""

    def begin() -> Callable[[float], Answer]:
        bucket, chance = Bucket(20, 1, hint), random.Random(1)

        def server(at: float) -> Answer:
            if chance.random() < 0.3:  # somebody came just before
                bucket(at)
            return bucket(at)

        return server

    now, told, server = 0.0, 0, begin()
    while now < 120:
        outcome, pause = server(now)
        told += outcome == "ok"
        now += max(1 / 20, pause or 0.0)
    assert told / 120 < 9  # of the 14 that others leave

    async def main() -> None:
        client = Client(limiter(), begin())
        await client.sweep(150)
        assert client.rate(30, 150) >= 0.45 * told / 120

    simulate(main())


@pytest.mark.parametrize("ahead", [0.0, 5.7, -3600.0])
def test_a_window_of_a_minute_that_others_use_too_by_another_clock(ahead: float) -> None:
    """Its end is an HTTP date, of whole seconds; from nothing to four fifths of it is used."""
    chance = random.Random(1)
    window = Window(600, 60.0, f"date{1e6 + ahead}", others=lambda _: chance.randrange(480))

    async def main() -> None:
        client = Client(limiter(), window, latency=0.05)
        used = await use(client, window, 10, after=60, seconds=600)
        assert used[0] >= 0.5  # others leave three fifths
        assert used[1] <= 0.05

    simulate(main())


@pytest.mark.parametrize("kind", ["token bucket of a second", "fixed window, 1 s"])
def test_two_clients_share_a_limit(kind: str) -> None:
    async def main(*seeds: int) -> list[float]:
        server = LIMITS[kind][0](40, "whole")
        clients = [Client(limiter(), server, seed=seed) for seed in seeds]
        await asyncio.gather(*(client.sweep(100) for client in clients))
        rates = [client.rate(20, 100) for client in clients]
        assert sum(rates) >= 0.7 * 40
        assert min(rates) >= 0.25 * max(rates)
        assert max(client.share("throttled") for client in clients) <= 0.12
        return sorted(rates)

    less, more = zip(*(simulate(main(seed, seed + 1)) for seed in (1, 3)), strict=True)
    assert sum(less) >= 0.5 * sum(more)


@pytest.mark.parametrize("share", [0.005, 0.02])
def test_a_limit_with_refusals_at_random_does_not_stop_a_client(share: float) -> None:
    async def main() -> None:
        bucket, chance = LIMITS["token bucket of a second"][0](40, "whole"), random.Random(1)

        def server(now: float) -> Answer:
            return ("throttled", 1.0) if chance.random() < share else bucket(now)

        client = Client(limiter(), server)
        used, _ = await use(client, server, 40, after=20, seconds=100)
        assert used >= 0.35

    simulate(main())


@BOTH
@pytest.mark.parametrize("hint", [None, 10.0, 60.0])
@pytest.mark.parametrize("seconds", [2, 200])
def test_a_sweep_waits_an_outage_out_and_few_probe_it(
    concurrency: Concurrency, hint: float | None, seconds: float
) -> None:
    async def main() -> None:
        end = 1 + seconds
        client = Client(limiter(concurrency), during(1, end, ("overload", hint)))
        await client.sweep(calls=2000)
        assert client.outcomes["failed"] == 0
        sent = sum(1 <= at < end for at in client.sent_at)
        assert sent <= 64 + 10 + (0 if hint is None else 3 * seconds / hint)  # those in flight
        back = min(at for at in client.served_at if at > end)
        assert back - end <= (seconds / 2 if hint is None else hint) + 1
        assert clock() - back <= 6  # and then all goes as before

    simulate(main())


def test_a_call_of_a_person_is_no_probe_that_waits() -> None:
    """In an outage a call fails as fast as its own attempts do."""

    async def main() -> None:
        client = Client(limiter(ADAPTIVE), during(0, 1000, ("overload", None)))
        for _ in range(20):
            began = clock()
            assert not await client.call()
            assert clock() - began < 5
        assert len(client.sent_at) == 100

    simulate(main())


@pytest.mark.parametrize(
    ("outcome", "kind"), [("throttled", RateLimited), ("overload", ServiceUnavailable)]
)
def test_a_pause_is_for_everybody_and_too_long_a_one_fails_sweeps_too(
    outcome: Outcome, kind: type[RateLimited | ServiceUnavailable]
) -> None:
    async def main() -> None:
        gate = limiter()
        person, sweep = SimulatedDeadline(30), SimulatedDeadline(30, paused_while_queued=True)
        permit = await gate.acquire(person)
        gate.release(permit, outcome, 100.0)
        with pytest.raises(kind, match="asked for a pause of another 100 s") as caught:
            await gate.acquire(person)
        assert caught.value.retry_after == 100
        permit = await gate.acquire(sweep)
        assert clock() == 100
        gate.release(permit, outcome, 1e9)
        with pytest.raises(kind, match="asked for a pause"):
            await gate.acquire(sweep)
        await asyncio.sleep(900)  # then somebody may ask again, and it is over
        gate.release(await gate.acquire(person), "ok")
        for _ in range(20):
            gate.release(await gate.acquire(person), "ok")
        gate.release(await gate.acquire(sweep), outcome, 2.0)
        gate.release(await gate.acquire(sweep), "ok")

    simulate(main())


@pytest.mark.parametrize(
    ("rate", "begin"),
    [
        (RateLimit(50, per=1.0), lambda: at_random(0, OK)),
        (RateLimit(3000, per=60.0), lambda: at_random(0, OK)),
        (None, lambda: Bucket(50, 50, "exact")),
    ],
    ids=["a second", "a minute", "the server's"],
)
@pytest.mark.parametrize(("first", "every"), [(10, 0.5), (0, 0.05)])
def test_calls_of_people_go_before_a_sweep(
    rate: RateLimit | None,
    begin: Callable[[], Callable[[float], Answer]],
    first: float,
    every: float,
) -> None:
    """Also where the sweep had spent the window before them, or they use two fifths of it."""

    async def main() -> None:
        server = begin()
        shared = limiter(ADAPTIVE, rate)
        sweep, people = Client(shared, server), Client(shared, server, seed=2)

        async def visit() -> None:
            await asyncio.sleep(first)
            async with asyncio.TaskGroup() as group:
                while clock() < 100:
                    group.create_task(people.call())
                    await asyncio.sleep(every)

        await asyncio.gather(visit(), sweep.sweep(100))
        assert people.outcomes["ok"] == len(people.waited)
        assert sorted(people.waited)[int(0.99 * len(people.waited))] <= 1.0
        rest = 50 - people.rate(60, 100)
        assert sweep.rate(60, 100) >= 0.95 * rest

    simulate(main())


def test_waiting_is_told_by_what_was_waited_for() -> None:
    async def main() -> None:
        gate = limiter(1, RateLimit(2, per=10.0))
        waiting: deque[asyncio.Task[None]] = deque()

        async def call() -> None:
            permit = await gate.acquire(SimulatedDeadline(30))
            await asyncio.sleep(1)
            gate.release(permit, "throttled", 3.0) if clock() < 2 else gate.release(permit, "ok")

        waiting.extend(asyncio.create_task(call()) for _ in range(3))
        await asyncio.gather(*waiting)
        # One second for the first one's slot, three for the pause, then the slot and the budget.
        assert gate.waited() == {"slot": 2, "pause": 3, "budget": 6}

    simulate(main())
