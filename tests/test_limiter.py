import asyncio

import pytest

from capillary_targets import AdaptiveConcurrency, RateLimit, RateLimited
from capillary_targets.hooks import Details, Hooks, WaitDetails
from capillary_targets.limiter import Deadline, RequestLimiter


def acquire(limiter: RequestLimiter, seconds: float = 30, *, sweep: bool = False):
    return limiter.acquire(Deadline(seconds, paused_while_queued=sweep))


async def test_places_are_given_in_the_order_of_asking() -> None:
    limiter = RequestLimiter(2, None, Hooks())
    first, second = await acquire(limiter), await acquire(limiter)
    order: list[int] = []

    async def ask(number: int) -> None:
        permit = await acquire(limiter)
        order.append(number)
        await asyncio.sleep(0)
        limiter.release(permit, "ok")

    tasks = [asyncio.create_task(ask(number)) for number in range(5)]
    await asyncio.sleep(0)
    assert limiter.in_flight == 2
    limiter.release(first, "ok")
    limiter.release(second, "ok")
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]
    assert limiter.in_flight == 0


async def test_whoever_is_cancelled_while_waiting_takes_no_place() -> None:
    limiter = RequestLimiter(1, None, Hooks())
    permit = await acquire(limiter)
    waiting = [asyncio.create_task(acquire(limiter)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    limiter.release(permit, "ok")
    waiting[1].cancel()  # the place may have been given to this one just now
    await asyncio.wait(waiting[:2])
    limiter.release(await waiting[2], "ok")
    assert limiter.in_flight == 0
    limiter.release(await acquire(limiter), "ok")


async def test_a_growing_limit_lets_the_waiting_in() -> None:
    limiter = RequestLimiter(AdaptiveConcurrency(initial=1), None, Hooks(), cpu=lambda: 0.0)
    permits = [await acquire(limiter)]
    waiting = [asyncio.create_task(acquire(limiter)) for _ in range(60)]
    await asyncio.sleep(0)
    while waiting:
        limiter.release(permits.pop(), "ok", ended=permits[0].sent + 1 if permits else None)
        await asyncio.sleep(0)
        done = [task for task in waiting if task.done()]
        waiting = [task for task in waiting if not task.done()]
        permits += [task.result() for task in done]
    assert limiter.limit > 1


async def test_the_budget_holds_back_and_the_waiting_are_told() -> None:
    now = 0.0
    limiter = RequestLimiter(10, RateLimit(2, per=60), Hooks(), clock=lambda: now)
    for _ in range(2):
        limiter.release(await acquire(limiter), "ok")
    with pytest.raises(RateLimited, match=r"our own rate budget \(2 requests in 60 s\)") as caught:
        await acquire(limiter)
    assert caught.value.retry_after == 60
    assert limiter.in_flight == 0
    now = 60.0
    limiter.release(await acquire(limiter), "ok")


async def test_a_full_budget_waits_for_the_next_answer() -> None:
    limiter = RequestLimiter(10, RateLimit(1, per=1e-9), Hooks())
    first = await acquire(limiter)
    second = asyncio.create_task(acquire(limiter))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not second.done()
    limiter.release(first, "ok")
    limiter.release(await second, "ok")


async def test_a_patient_calls_deadline_stands_still_while_it_waits() -> None:
    limiter = RequestLimiter(1, None, Hooks())
    permit = await acquire(limiter)
    patient = Deadline(-1, paused_while_queued=True)  # passed, so that any wait would be too long
    began = patient.ends
    waiting = asyncio.create_task(limiter.acquire(patient))
    await asyncio.sleep(0)
    limiter.release(permit, "ok")
    limiter.release(await waiting, "ok")
    assert patient.ends > began


async def test_an_impatient_calls_deadline_passes_while_it_waits() -> None:
    limiter = RequestLimiter(1, None, Hooks())
    await acquire(limiter)
    with pytest.raises(TimeoutError):
        await acquire(limiter, seconds=-1)
    assert limiter.in_flight == 1


async def test_each_wait_is_told_with_its_reason_and_lane() -> None:
    details: list[Details] = []
    now = 0.0
    limiter = RequestLimiter(1, None, Hooks([details.append]), clock=lambda: now)
    permit = await acquire(limiter)
    sweep = asyncio.create_task(acquire(limiter, sweep=True))
    person = asyncio.create_task(acquire(limiter))
    await asyncio.sleep(0)
    state = limiter.state()
    assert (state.in_flight, state.foreground_queue, state.background_queue) == (1, 1, 1)
    now = 2.0
    limiter.release(permit, "ok")
    permit = await person
    now = 5.0
    limiter.release(permit, "ok")
    limiter.release(await sweep, "ok")
    assert details == [
        WaitDetails(reason="slot", seconds=2.0),
        WaitDetails(reason="slot", seconds=5.0, background=True),
    ]
    assert limiter.waited() == {"slot": 5.0, "pause": 0.0, "budget": 0.0}


async def test_places_of_a_budget_are_counted_until_they_are_free_again() -> None:
    now = 0.0
    limiter = RequestLimiter(9, RateLimit(5, per=60), Hooks(), clock=lambda: now)
    first, second = await acquire(limiter), await acquire(limiter)
    limiter.release(first, "ok")
    assert (limiter.state().budget_used, limiter.state().budget_limit) == (2, 5)
    now = 61.0
    assert limiter.state().budget_used == 1  # still in flight
    limiter.release(second, "ok")
    assert limiter.state().budget_used == 1
    now = 130.0
    assert limiter.state().budget_used == 0
