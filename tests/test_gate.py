from __future__ import annotations

import asyncio

import pytest

from capillary_targets import AdaptiveConcurrency, RateLimit, RateLimited, WaitDetails
from capillary_targets.budget import LocalBudget
from capillary_targets.gate import Deadline, Gate
from capillary_targets.hooks import Hooks


async def enter(gate: Gate, seconds: float = 30, *, endless: bool = False):
    return gate.enter_at_once() or await gate.enter(Deadline(seconds, endless=endless))


async def test_places_are_given_in_the_order_of_asking() -> None:
    gate = Gate(2, None, Hooks())
    first, second = await enter(gate), await enter(gate)
    order: list[int] = []

    async def ask(number: int) -> None:
        ticket = await enter(gate)
        order.append(number)
        await asyncio.sleep(0)
        gate.leave(ticket, "served")

    tasks = [asyncio.create_task(ask(number)) for number in range(5)]
    await asyncio.sleep(0)
    assert gate.in_flight == 2
    gate.leave(first, "served")
    gate.leave(second, "served")
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]
    assert gate.in_flight == 0


async def test_whoever_is_cancelled_while_waiting_takes_no_place() -> None:
    gate = Gate(1, None, Hooks())
    ticket = await enter(gate)
    waiting = [asyncio.create_task(enter(gate)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    gate.leave(ticket, "served")
    waiting[1].cancel()  # the place may have been given to this one just now
    await asyncio.wait(waiting[:2])
    gate.leave(await waiting[2], "served")
    assert gate.in_flight == 0
    gate.leave(await enter(gate), "served")


async def test_a_growing_limit_lets_the_waiting_in() -> None:
    gate = Gate(AdaptiveConcurrency(initial=1), None, Hooks())
    tickets = [await enter(gate)]
    waiting = [asyncio.create_task(enter(gate)) for _ in range(60)]
    await asyncio.sleep(0)
    while waiting:
        gate.leave(tickets.pop(), "served", ended=tickets[0].sent + 1 if tickets else None)
        await asyncio.sleep(0)
        done = [task for task in waiting if task.done()]
        waiting = [task for task in waiting if not task.done()]
        tickets += [task.result() for task in done]
    assert gate.limit > 1


async def test_the_budget_holds_back_and_the_waiting_are_told() -> None:
    now = 0.0
    gate = Gate(10, LocalBudget(RateLimit(2, per=60), clock=lambda: now), Hooks())
    for _ in range(2):
        gate.leave(await enter(gate), "served")
    await gate.settle()
    with pytest.raises(RateLimited, match="budget is used up") as caught:
        await enter(gate)
    assert caught.value.retry_after == 60
    assert gate.in_flight == 0
    now = 60.0
    gate.leave(await enter(gate), "served")


async def test_a_full_budget_waits_for_the_next_answer() -> None:
    gate = Gate(10, LocalBudget(RateLimit(1, per=1e-9)), Hooks())
    first = await enter(gate)
    second = asyncio.create_task(enter(gate))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not second.done()
    gate.leave(first, "served")
    await gate.settle()
    gate.leave(await second, "served")


async def test_a_patient_calls_deadline_stands_still_while_it_waits() -> None:
    gate = Gate(1, None, Hooks())
    ticket = await enter(gate)
    patient = Deadline(-1, endless=True)  # passed, so that any wait would be too long
    began = patient.ends
    waiting = asyncio.create_task(gate.enter(patient))
    await asyncio.sleep(0)
    gate.leave(ticket, "served")
    gate.leave(await waiting, "served")
    assert patient.ends > began


async def test_an_impatient_calls_deadline_passes_while_it_waits() -> None:
    gate = Gate(1, None, Hooks())
    await enter(gate)
    with pytest.raises(TimeoutError):
        await enter(gate, seconds=-1)
    assert gate.in_flight == 1


async def test_one_refusal_pauses_everybody() -> None:
    details: list[object] = []
    gate = Gate(10, None, Hooks([details.append]))
    ticket = await enter(gate)
    gate.leave(ticket, "refused", retry_after=1000.0)
    with pytest.raises(RateLimited, match="pause") as caught:
        await enter(gate)
    assert caught.value.retry_after == pytest.approx(1000, abs=5)
    gate.rate.paused_until = ticket.sent + 0.01
    gate.leave(await enter(gate, endless=True), "served")
    assert {detail.reason for detail in details if isinstance(detail, WaitDetails)} <= {"pause"}
