"""The mark, without a server: what it notices, and that healing leaves nothing out."""

from hypothesis import given
from hypothesis import strategies as st

from capillary_targets.models import EventsPage, Pagination, TargetEvent
from capillary_targets.sweep.incremental import Mark, heal, judge, mark_after

SIZES = st.integers(1, 7)
HISTORIES = st.lists(st.integers(1, 10_000), unique=True, max_size=30)


def page_of(ids: list[int], number: int, size: int) -> EventsPage:
    rows = ids[number * size : (number + 1) * size]
    return EventsPage(
        tuple(TargetEvent(one) for one in rows),
        Pagination(limit=size, offset=number, total=len(ids)),
    )


def ids_of(events: tuple[TargetEvent, ...]) -> list[int]:
    return [event.event_log_id for event in events]


@given(HISTORIES, SIZES)
def test_an_unchanged_target_costs_one_page(ids: list[int], size: int):
    mark = mark_after(ids, page_size=size)
    assert mark.count == len(ids)
    if ids:
        verdict = judge(mark, page_of(ids, mark.page, size))
        assert (verdict.moved, verdict.new, verdict.more) == (None, (), False)


@given(HISTORIES.filter(bool), HISTORIES, SIZES)
def test_what_came_behind_the_mark_is_new(before: list[int], new: list[int], size: int):
    new = [one + 20_000 for one in new]
    now = before + new
    mark = mark_after(before, page_size=size)
    number = mark.page
    verdict = judge(mark, page_of(now, number, size))
    assert verdict.moved is None
    found = ids_of(verdict.new)
    while len(before) + len(found) < len(now):
        assert verdict.more
        number += 1
        found += ids_of(page_of(now, number, size).events)
    assert found == new
    start = mark.page * size
    assert mark_after(now[start:], before=start, page_size=size) == mark_after(now, page_size=size)


@given(st.data())
def test_a_late_or_a_deleted_event_is_noticed(data: st.DataObject):
    before = data.draw(HISTORIES.filter(bool))
    size = data.draw(SIZES)
    now = list(before)
    if data.draw(st.booleans()):
        now.insert(data.draw(st.integers(0, len(before) - 1)), 30_000)
    else:
        del now[data.draw(st.integers(0, len(before) - 1))]
    now += data.draw(st.lists(st.just(40_000), max_size=1))
    mark = mark_after(before, page_size=size)
    verdict = judge(mark, page_of(now, mark.page, size))
    assert verdict.moved


@given(HISTORIES, st.data())
def test_healing_finds_exactly_what_was_never_written(ids: list[int], data: st.DataObject):
    written = set(data.draw(st.lists(st.sampled_from(ids), unique=True))) if ids else set()
    gone = {50_000 + number for number in range(data.draw(st.integers(0, 3)))}
    found = heal([TargetEvent(one) for one in ids], written | gone)
    assert ids_of(found.new) == [one for one in ids if one not in written]
    assert found.vanished == len(gone)
    last = max((place for place, one in enumerate(ids) if one in written), default=-1)
    assert found.late == sum(one not in written for one in ids[: last + 1])


def test_a_mark_that_counts_nothing():
    assert mark_after([], page_size=5) == Mark(page_size=5)


def test_another_page_size_is_no_place_to_go_on():
    mark = mark_after([1, 2, 3], page_size=2)
    assert judge(mark, page_of([1, 2, 3], 1, 3)).moved == "the page size changed"
