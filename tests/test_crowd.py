"""How many users are under way: never more than may be, few while the processor is busy."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from capillary_targets.crowd import Crowd, next_size

SIZES = st.integers(1, 1000)


@given(SIZES, SIZES, st.floats(0, 2))
def test_only_a_busy_processor_restrains(size: int, limit: int, busy: float) -> None:
    following = next_size(size, limit, busy)
    if busy > 0.95:
        assert min(size, limit, 8) <= following <= min(size, limit)
    elif busy < 0.8:
        assert following > size
    else:
        assert following == size


@given(SIZES, SIZES)
def test_a_busy_processor_is_left_with_few_and_an_idle_one_gets_all(size: int, limit: int) -> None:
    few = size
    for _ in range(30):
        few = next_size(few, limit, 1.0)
    assert few == min(size, limit, 8)
    for _ in range(30):
        few = next_size(few, limit, 0.5)
    assert few > limit


class Clocks:
    """A monotonic clock and a thread's own, moved by hand."""

    def __init__(self) -> None:
        self.now = self.worked = 0.0

    def monotonic(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.worked

    def pass_by(self, seconds: float, *, busy: float) -> None:
        self.now += seconds
        self.worked += seconds * busy


def test_a_crowd_goes_by_the_threads_own_time(monkeypatch) -> None:
    clocks = Clocks()
    monkeypatch.setattr("capillary_targets.crowd.time", clocks)
    limit = 64
    crowd = Crowd(lambda: limit)
    assert crowd() == 64
    clocks.pass_by(0.05, busy=1.0)
    assert crowd() == 64  # too early to say
    clocks.pass_by(0.05, busy=1.0)
    assert crowd() == 64  # it may be a short fit
    clocks.pass_by(0.1, busy=1.0)
    assert crowd() == 48
    assert crowd() == 48
    for _ in range(10):
        clocks.pass_by(0.1, busy=1.0)
        crowd()
    assert crowd() == 8
    clocks.pass_by(0.1, busy=0.9)
    assert crowd() == 8  # as it should be
    clocks.pass_by(0.1, busy=0.3)
    assert crowd() == 12
    limit = 4
    assert crowd() == 4


def test_a_limit_that_grows_is_followed_at_once() -> None:
    limits = iter([8, 16, 32])
    crowd = Crowd(lambda: next(limits))
    assert [crowd(), crowd(), crowd()] == [8, 16, 32]
