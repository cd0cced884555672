"""Walks that once lost rows in silence, failed for an honest list, or did not end."""

from collections import Counter
from itertools import count as counting

import pytest
from attrs import define

from capillary_targets import ApiError, CapillaryError, EventsPage
from capillary_targets.models import Pagination, TargetEvent
from capillary_targets.pagination import UNKNOWN, Checkpoint, Cursor, Dialect, Walk
from capillary_targets.pagination.seen import SeenEvents

from .simulation import Driven, Move, Server, Speech, drive


@pytest.mark.parametrize(("count", "size"), [(91, 10), (95, 10), (100, 10), (9, 3), (7, 3)])
@pytest.mark.parametrize("offset", ["page", "row"])
def test_as_many_pages_as_rows_on_a_page(count: int, size: int, offset: str) -> None:
    """A full first page and a total equal to it: `total` counts pages, the vendor's table says."""
    first = drive(Walk(size), Server.of(count, Speech(offset=offset, total="pages")))
    assert first.ids == list(range(count))
    again = Server.of(count, Speech(offset=offset, total="pages"))
    assert drive(Walk(size, cached=first.walk.lesson), again).ids == list(range(count))


def test_a_known_offset_says_nothing_of_the_total() -> None:
    server = Server.of(100, Speech(offset="row", total="pages"))
    assert drive(Walk(10, cached=Dialect(offset="row")), server).ids == list(range(100))


def test_rows_of_a_page_are_known_once_they_are_taken() -> None:
    events, seen = tuple(Server.of(4).events), SeenEvents()
    for taken in (2, 4):
        seen.add(events[taken - 2 : taken], taken - 3)
        assert seen.known(events) == {number: number for number in range(taken)}


def test_ten_thousand_rows_on_a_hundred_pages() -> None:
    assert drive(Walk(100), Server.of(10_000, Speech(total="pages"))).ids == list(range(10_000))


@pytest.mark.parametrize("prefetch", [1, 4])
@pytest.mark.parametrize("at", range(1, 9))
def test_one_deleted_at_the_head_and_one_arriving_at_the_tail(at: int, prefetch: int) -> None:
    moves = [*[Move()] * at, Move(deletes=(0,), appends=1)]
    server = Server.of(1000, moves=moves)
    driven = drive(Walk(100, prefetch=prefetch), server)
    assert driven.proven
    assert not server.least - Counter(driven.events)


@pytest.mark.parametrize(("count", "size"), [(173, 50), (31, 8)])
@pytest.mark.parametrize("short", [None, 0, 2])
@pytest.mark.parametrize("repeat", ["extra", "instead"])
def test_pages_that_repeat_a_row_leave_one_out_and_come_short(
    count: int, size: int, short: int | None, repeat: str
) -> None:
    speech = Speech(offset="row", short=short, repeat=repeat)
    server = Server.of(count, speech)
    driven = drive(Walk(size), server)
    assert not driven.proven or not server.least - Counter(driven.events)


@pytest.mark.parametrize("size", [10, 100, 3])
@pytest.mark.parametrize("total", ["rows", "pages", "absent"])
@pytest.mark.parametrize("offset", ["page", "row"])
@pytest.mark.parametrize("ids", ["repeated", "missing", "mixed"])
def test_ids_that_repeat_or_are_missing(ids: str, offset: str, total: str, size: int) -> None:
    server = Server.of(31, Speech(offset=offset, total=total), ids=ids)
    driven = drive(Walk(size), server)
    assert driven.proven
    assert driven.events == server.events


def test_no_smaller_page_begins_before_an_end_that_many_sizes_share() -> None:
    """Row 12 lies between two pages of 1, 2, 3, 4 or 6 rows: the look across has to be wider."""
    speech = Speech(total="zero", cap=8, past_end="error")
    driven = drive(Walk(4), Server.of(12, speech, ids="repeated"))
    assert driven.proven
    assert driven.walk.report.requests == 4


@pytest.mark.parametrize(
    ("size", "total"), [(3, "rows"), (10, "rows"), (100, "rows"), (50, "zero")]
)
@pytest.mark.parametrize("offset", ["page", "row"])
@pytest.mark.parametrize("count", [7, 11, 31])
def test_whole_rows_that_repeat(count: int, offset: str, size: int, total: str) -> None:
    server = Server.of(count, Speech(offset=offset, total=total), ids="alike")
    driven = drive(Walk(size), server)
    assert driven.proven
    assert driven.events == server.events


@pytest.mark.parametrize("size", [5, 10, 25, 100])
@pytest.mark.parametrize("obedient", [True, False])
def test_fresh_ids_in_every_answer(size: int, *, obedient: bool) -> None:
    """A mock server: the walk ends, complete in one look or with an error."""
    fresh, walk, given = counting(), Walk(size), 0
    while requests := walk.requests():
        rows = min(25, requests[0].limit) if obedient else 25
        events = tuple(TargetEvent(next(fresh)) for _ in range(rows))
        answer = EventsPage(events, Pagination(size, requests[0].offset, 25))
        given += sum(len(batch.page.events) for batch in walk.feed(requests[0], answer))
        assert walk.report.requests < 200
    assert given <= 200
    assert walk.report.complete or walk.error is not None


@pytest.mark.parametrize("offset", ["page", "row"])
@pytest.mark.parametrize("received", [1, 7, 30, 100, 136])
def test_an_undated_checkpoint_on_a_server_that_is_not_known(offset: str, received: int) -> None:
    server = Server.of(137, Speech(offset=offset), dated=False)
    first = drive(Walk(10), server)
    cursor, left = Cursor(first.walk.start), received
    for batch in first.batches:
        events = batch.page.events[:left]
        cursor.advance(batch.row, events)
        left -= len(events)
        if not left:
            break
    checkpoint = cursor.checkpoint(first.walk.detected)
    start = Checkpoint(checkpoint.row, checkpoint.last)
    rest = drive(Walk(10, start=start), server)
    assert rest.proven
    assert rest.ids == list(range(received, 137))


SPEECHES = [
    Speech(offset=offset, total=total)
    for offset in ("page", "row")
    for total in ("rows", "pages", "absent", "zero", "half")
]


@pytest.mark.parametrize("speech", SPEECHES, ids=str)
@pytest.mark.parametrize("size", [10, 100])
@pytest.mark.parametrize("count", [3, 25, 250])
def test_nothing_new_behind_a_checkpoint_costs_one_request(
    speech: Speech, size: int, count: int
) -> None:
    first = drive(Walk(size), Server.of(count, speech))
    checkpoint = place_behind(first)
    again = drive(Walk(size, start=checkpoint, cached=first.walk.lesson), Server.of(count, speech))
    assert again.proven
    assert again.events == []
    assert again.walk.report.requests == 1
    assert not again.walk.report.moved


def place_behind(driven: Driven) -> Checkpoint:
    cursor = Cursor(driven.walk.start)
    for batch in driven.batches:
        cursor.advance(batch.row, batch.page.events)
    return cursor.checkpoint(driven.walk.detected)


def test_a_tail_deleted_before_a_checkpoint_is_told_in_one_request() -> None:
    server = Server.of(9)
    checkpoint = place_behind(drive(Walk(4), server))
    del server.rows[-3:]
    again = drive(Walk(4, start=checkpoint), server)
    assert again.proven
    assert again.walk.report.moved
    assert again.walk.report.requests == 1


def test_a_server_that_refuses_pages_above_the_size_asked_for() -> None:
    """Limits a little above `page_size` are an attempt, which may be refused."""
    server, walk, got = Server.of(500), Walk(20), []
    refused = 0
    while requests := walk.requests():
        request = requests[0]
        answer = server.answer(request)
        if request.limit > 20:
            answer, refused = ApiError("limit cannot be greater than 20", code=11029), refused + 1
            assert walk.is_response(request, answer)
        got += [event for batch in walk.feed(request, answer) for event in batch.page.events]
    assert walk.report.complete
    assert got == server.events
    assert refused == 1


KINDS = [(offset, total) for offset in ("page", "row") for total in ("rows", "pages", "absent")]


@pytest.mark.parametrize("before", KINDS, ids=str)
@pytest.mark.parametrize("after", KINDS, ids=str)
@pytest.mark.parametrize(("count", "size"), [(9, 100), (40, 5), (250, 100)])
def test_a_reading_that_no_longer_holds_is_dropped(
    before: tuple[str, str], after: tuple[str, str], count: int, size: int
) -> None:
    """A client that is certain of a server's dialect, and the server speaks another one now."""

    def walk(cached: Dialect, rows: int, kind: tuple[str, str]) -> Driven:
        return drive(Walk(size, cached=cached), Server.of(rows, Speech(*kind)))

    known = walk(walk(UNKNOWN, 100, before).walk.lesson, 100, before).walk.lesson
    fewest = walk(walk(UNKNOWN, count, after).walk.lesson, count, after).walk.report.requests
    for _ in range(3):
        driven = walk(known, count, after)
        assert driven.proven
        assert driven.ids == list(range(count))
        known = driven.walk.lesson
    assert driven.walk.report.requests <= fewest + 1


@pytest.mark.parametrize("total", ["absent", "zero"])
@pytest.mark.parametrize("offset", ["page", "row"])
@pytest.mark.parametrize("cap", [1, 2, 4, 5, 7, 9])
def test_a_silent_cap_of_a_few_rows_without_a_total(cap: int, offset: str, total: str) -> None:
    """A page that is not full ends nothing until one of so many rows has come."""
    speech = Speech(offset=offset, total=total, cap=cap, echo_cap=False)
    for count in (*range(12), 14, 30):
        driven = drive(Walk(10), Server.of(count, speech))
        assert driven.walk.error or driven.ids == list(range(count))
        if cap > 5 or not count:
            assert driven.proven


@pytest.mark.parametrize("offset", ["page", "row"])
@pytest.mark.parametrize("alike", [{500, 999}, {700, 999}, {997, 998, 999}, set(range(800, 1000))])
def test_rows_like_the_last_before_the_end_of_a_long_list(offset: str, alike: set[int]) -> None:
    """Without a total the end of a long list is looked for: a row like the last is not the last."""
    server = Server.of(1000, Speech(offset=offset, total="absent"))
    rows = tuple(TargetEvent(None if n in alike else n) for n in range(1000))
    got, walk = [], Walk(10)
    while requests := walk.requests():
        page = server.page(requests[0].limit, requests[0].offset)
        events = tuple(rows[event.event_log_id] for event in page.events)
        batches = walk.feed(requests[0], EventsPage(events, page.pagination))
        got += [event for batch in batches for event in batch.page.events]
    assert walk.error or got == list(rows)


@define
class Replicas(Server):
    """Two servers in turns, whose rows of one date stand in the opposite order."""

    tied: int = 2

    def page(self, limit: int, offset: int) -> EventsPage | CapillaryError:
        ties = range(0, len(self.rows), self.tied)
        self.rows = [row for at in ties for row in self.rows[at : at + self.tied][::-1]]
        return super().page(limit, offset)


@pytest.mark.parametrize("total", ["rows", "pages", "absent"])
@pytest.mark.parametrize("offset", ["page", "row"])
@pytest.mark.parametrize("tied", [2, 3, 10, 200])
def test_an_order_that_is_another_in_every_page(tied: int, offset: str, total: str) -> None:
    for count in (20, 35, 100, 173):
        server = Replicas.of(count, Speech(offset=offset, total=total), tied=tied)
        driven = drive(Walk(10), server, most=150)
        assert driven.walk.error or Counter(driven.events) == Counter(server.events)
