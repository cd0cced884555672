"""The controllers against simulated servers: virtual time, no clock, the same run every time."""

import heapq
import random
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from itertools import count

import pytest
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

from capillary_targets import AdaptiveConcurrency, RateLimit
from capillary_targets.limits import ConcurrencyController, Window


@define
class Server:
    """Serves `capacity(t)` at a time, `service(t)` seconds each; more wait; more are refused."""

    capacity: Callable[[float], int]
    service: Callable[[float], float]
    queue_limit: int = 10**9
    served: list[float] = field(factory=list)
    limits: set[int] = field(factory=set)
    refused: int = 0
    sent: int = 0

    def run(self, controller: ConcurrencyController, seconds: float) -> None:
        """Keep as many requests in flight as the controller allows, for so long."""
        chance = random.Random(1)
        now, in_flight, busy = 0.0, 0, 0
        queue: deque[tuple[float, int]] = deque()
        ends: list[tuple[float, int, bool, float, int]] = []
        order = count()

        def begin(sent: float, at_once: int) -> None:
            took = self.service(now) * chance.lognormvariate(0, 0.1)
            heapq.heappush(ends, (now + took, next(order), True, sent, at_once))

        while now < seconds:
            while in_flight < controller.limit:
                self.sent += 1
                in_flight += 1
                if busy < self.capacity(now):
                    busy += 1
                    begin(now, in_flight)
                elif len(queue) < self.queue_limit:
                    queue.append((now, in_flight))
                else:
                    heapq.heappush(ends, (now + 0.002, next(order), False, now, in_flight))
            now, _, ok, sent, at_once = heapq.heappop(ends)
            in_flight -= 1
            if ok:
                busy -= 1
                self.served.append(now)
                while queue and busy < self.capacity(now):
                    busy += 1
                    begin(*queue.popleft())
            else:
                self.refused += 1
            controller.on_response(now, sent, at_once, overload=not ok)
            self.limits.add(controller.limit)

    def share_of_best(self, since: float, until: float) -> float:
        """Served between two moments, as a share of what the server could have served."""
        best = sum(
            self.capacity(t / 10) / self.service(t / 10) / 10
            for t in range(int(since * 10), int(until * 10))
        )
        return (bisect_left(self.served, until) - bisect_left(self.served, since)) / best


def adaptive(**settings: int) -> ConcurrencyController:
    return ConcurrencyController(AdaptiveConcurrency(**settings))


def test_a_limit_is_not_judged_by_requests_sent_under_another() -> None:
    """They were not held up by it: the limit would run away before any request felt it."""
    controller = adaptive(initial=64)
    for _ in range(64):
        controller.on_response(0.05, 0.0, 64)
    raised = controller.limit
    assert raised > 64
    for _ in range(10 * raised):  # sent before it was raised, answered after
        controller.on_response(0.1, 0.04, 64)
    assert controller.limit == raised
    for _ in range(raised):
        controller.on_response(0.2, 0.15, raised)
    assert controller.limit > raised


@pytest.mark.parametrize(("share", "limit"), [(1.0, 64), (0.95, 64), (0.8, 96), (0.0, 96)])
def test_latency_of_a_busy_thread_says_nothing_of_the_server(share: float, limit: int) -> None:
    """It queues its requests itself: more or fewer in flight would not make it quicker."""
    used = 0.0
    controller = ConcurrencyController(AdaptiveConcurrency(initial=64), lambda: used, opened=0.0)
    used = share
    for _ in range(64):
        controller.on_response(1.0, 0.95, 64)
    assert controller.limit == limit


def test_a_thread_that_waits_again_finds_the_pace_again() -> None:
    busy = now = 0.0
    controller = ConcurrencyController(AdaptiveConcurrency(), lambda: busy)
    for window in range(40):
        now += 0.05
        busy += 0.05 * (window < 20)
        for _ in range(controller.limit):
            controller.on_response(now, now - 0.05, controller.limit)
        if window == 19:
            assert controller.limit <= 12  # the first window is as long as one likes
    assert controller.limit > 100


@pytest.mark.parametrize(
    ("capacity", "service", "queue_limit"),
    [
        (1, 0.05, 1000),
        (4, 0.05, 1000),
        (4, 0.02, 2),
        (16, 0.05, 4),
        (16, 0.5, 1000),
        (64, 0.05, 16),
        (256, 0.05, 1000),
    ],
)
def test_the_pace_of_an_unknown_server_is_found(
    capacity: int, service: float, queue_limit: int
) -> None:
    server = Server(lambda _: capacity, lambda _: service, queue_limit)
    server.run(adaptive(), 60)
    assert server.share_of_best(5, 60) >= 0.9
    assert server.refused / server.sent <= 0.01


@pytest.mark.parametrize(
    ("capacity", "service"),
    [
        (lambda t: 64 if t < 20 else 16, lambda _: 0.05),
        (lambda t: 16 if t < 20 else 128, lambda _: 0.05),
        (lambda _: 64, lambda t: 0.05 if t < 20 else 0.2),
        (lambda _: 64, lambda t: 0.2 if t < 20 else 0.05),
    ],
)
def test_when_the_server_changes_the_pace_is_found_again_within_seconds(
    capacity: Callable[[float], int], service: Callable[[float], float]
) -> None:
    server = Server(capacity, service)
    server.run(adaptive(), 50)
    assert server.share_of_best(5, 20) >= 0.9
    assert server.share_of_best(30, 50) >= 0.9


def test_the_limit_keeps_within_its_bounds() -> None:
    controller = adaptive(initial=8, minimum=2, maximum=32)
    server = Server(lambda t: 1000 if t < 10 else 1, lambda _: 0.05)
    server.run(controller, 30)
    assert min(server.limits) == 2
    assert max(server.limits) == 32


def test_where_the_limit_is_not_reached_it_does_not_grow() -> None:
    controller = adaptive(initial=8)
    for moment in range(1000):
        controller.on_response(moment / 10, moment / 10 - 0.05, 1)
    assert controller.limit <= 8


def test_bounds_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="minimum <= initial <= maximum"):
        AdaptiveConcurrency(initial=4, minimum=8)
    with pytest.raises(ValueError, match="requests"):
        RateLimit(0)
    with pytest.raises(ValueError, match="per"):
        RateLimit(1, per=0)


@given(
    st.integers(1, 5),
    st.floats(0.5, 5),
    st.lists(st.tuples(st.floats(0, 2), st.floats(0, 3), st.floats(0, 1)), min_size=1, max_size=40),
)
def test_no_window_of_the_servers_holds_more_than_the_budget(
    requests: int, per: float, calls: list[tuple[float, float, float]]
) -> None:
    """Calls come after gaps, and reach the server somewhere between sending and answer."""
    window = Window(RateLimit(requests, per=per))
    arrivals: list[float] = []
    answers: list[float] = []
    now = 0.0
    for gap, took, share in calls:
        now += gap
        while True:
            while answers and answers[0] <= now:
                window.release(heapq.heappop(answers), "")
            wait = window.delay(now, background=False)
            if not wait:
                window.acquire(now, background=False)
                break
            now = min([now + wait, *answers[:1]])
        arrivals.append(now + took * share)
        heapq.heappush(answers, now + took)
    arrivals.sort()
    for start in arrivals:
        assert sum(start <= moment < start + per - 1e-6 for moment in arrivals) <= requests


def test_the_budget_is_used_in_full() -> None:
    window = Window(RateLimit(100, per=1.0))
    now, sent = 0.0, 0
    while now < 10:
        wait = window.delay(now, background=False)
        if wait:
            now += wait
        else:
            window.acquire(now, background=False)
            sent += 1
            window.release(now + 0.005, "")
    assert sent >= 0.95 * 1000
