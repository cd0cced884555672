"""The table that extractors lose rows on: what each server does to a walk of 1,000 events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest

from capillary_targets import PaginationError
from capillary_targets.pagination import UNKNOWN, Dialect, Walk

from .simulation import Driven, Move, Server, Speech, drive

ROWS = 1000
SIZE = 100
PLAIN = Speech()
FEW = (310, 350, 390)


def walked(speech: Speech = PLAIN, move: Move | None = None, **settings) -> tuple[Driven, Server]:
    server = Server.of(ROWS, speech, [move] * 2000 if move else [])
    return drive(Walk(SIZE, **settings), server), server


def reason(driven: Driven) -> str:
    error = driven.walk.error
    assert isinstance(error, PaginationError)
    assert error.report == driven.walk.report
    assert not error.report.complete
    assert error.report.reason in str(error)
    return str(error.report.reason)


@pytest.mark.parametrize("prefetch", [1, 4])
@pytest.mark.parametrize(
    ("speech", "requests"),
    [
        (Speech(), 11),
        (Speech(cap=50), 24),
        (Speech(cap=50, echo_cap=False), 25),
        (Speech(offset="clamped"), 11),
        (Speech(offset="row"), 12),
        (Speech(total="pages"), 11),
        (Speech(total="absent"), 12),
        (Speech(total="zero"), 12),
        (Speech(total="absent", offset="row"), 13),
        (Speech(total="absent", offset="clamped"), 12),
        (Speech(total="absent", cap=50, echo_cap=False), 28),
        (Speech(hole=3), 16),
        (Speech(short=3), 15),
        (Speech(hole=3, total="absent"), 14),
        (Speech(short=3, total="absent"), 15),
        (Speech(repeat="extra"), 11),
        (Speech(repeat="instead"), 11),
        (Speech(repeat="extra", total="absent"), 36),
        (Speech(repeat="instead", total="absent"), 12),
    ],
    ids=str,
)
def test_a_list_that_keeps_still(speech: Speech, requests: int, prefetch: int) -> None:
    driven, _ = walked(speech, prefetch=prefetch)
    assert driven.proven
    assert driven.ids == list(range(ROWS))
    assert driven.walk.report.requests <= requests


@pytest.mark.parametrize("prefetch", [1, 4])
@pytest.mark.parametrize("total", ["rows", "absent", "pages"])
@pytest.mark.parametrize(
    ("move", "requests"),
    [
        (Move(inserts=(0,) * 5), 13),
        (Move(inserts=(0.5,)), 14),
        (Move(appends=1), 15),
        (Move(deletes=(0,) * 5), 17),
        (Move(deletes=(0.5,) * 5), 16),
        (Move(deletes=(0,) * 20), 28),
        (Move(deletes=(0,) * 50), 22),
        (Move(deletes=(0, 0.5), inserts=(0.2, 0.9), appends=3), 17),
    ],
    ids=str,
)
def test_a_list_that_moves(move: Move, total: str, requests: int, prefetch: int) -> None:
    driven, server = walked(Speech(total=total), move, prefetch=prefetch)
    assert driven.proven
    assert not server.least - Counter(driven.events)
    assert len(driven.ids) == len(set(driven.ids))
    assert driven.walk.report.requests <= requests


@pytest.mark.parametrize(("total", "prefetch"), [("rows", 1), ("absent", 4)])
@pytest.mark.parametrize("cached", [UNKNOWN, Dialect(offset="page", total="rows")], ids=str)
def test_arrivals_faster_than_reading_still_end(total: str, prefetch: int, cached: Dialect) -> None:
    moves = Move(appends=150)
    driven, server = walked(Speech(total=total), moves, prefetch=prefetch, cached=cached)
    assert driven.proven
    assert not server.least - Counter(driven.events)
    assert "last when the list was seen to grow" in driven.walk.report.reason


def test_deletions_and_arrivals_that_cancel_out_hide_nothing() -> None:
    driven, server = walked(move=Move(deletes=(0,) * 5, appends=5))
    assert driven.proven
    assert not server.least - Counter(driven.events)


def test_an_ignored_offset_is_found_out() -> None:
    driven, _ = walked(Speech(offset="ignored"))
    assert "head of the list whatever the offset" in reason(driven)
    assert driven.walk.detected.offset == "ignored"
    assert driven.walk.report.requests <= 8


def test_one_arrival_does_not_look_like_an_ignored_offset() -> None:
    """Row 1 then is where row 0 was, so the second page of a row server equals its first."""
    server = Server.of(ROWS, Speech(offset="row"), [Move(inserts=(0.0,))])
    driven = drive(Walk(SIZE), server)
    assert server.transcript[1][1][0] == server.transcript[0][1][0][:-1]
    assert driven.proven
    assert driven.ids == list(range(ROWS))
    assert driven.walk.detected.offset == "row"


@pytest.mark.parametrize("total", ["rows", "absent"])
def test_a_server_without_end_is_found_out(total: str) -> None:
    driven, _ = walked(Speech(total=total, past_end="endless"), Move(appends=101))
    assert driven.ids[:ROWS] == list(range(ROWS))
    if total == "absent":
        assert "never ends" in reason(driven)


def test_a_total_that_is_too_high_cannot_be_vouched_for() -> None:
    driven, _ = walked(Speech(total="double"))
    assert "the total is 2000, and nothing comes behind row 1000" in reason(driven)
    assert driven.ids == list(range(ROWS))
    told, _ = walked(Speech(total="double"), dialect=Dialect(total="wrong"))
    assert told.proven
    assert told.ids == list(range(ROWS))


@pytest.mark.parametrize(
    ("some", "total"),
    [
        *((some, total) for some in (range(300, 400), FEW) for total in ("rows", "visible")),
        (FEW, "absent"),
    ],
)
def test_rows_filtered_after_cutting_are_found_out(some: Iterable[int], total: str) -> None:
    driven, _ = walked(Speech(filtered=frozenset(some), total=total))
    assert "lacks events" in reason(driven) or "the total is" in reason(driven)


def test_a_total_that_happens_to_be_a_page_boundary() -> None:
    first, _ = walked(Speech(total="half"))
    assert first.ids == list(range(ROWS))
    assert first.walk.detected.total == first.walk.lesson.total == "wrong"
    assert walked(Speech(total="half"), cached=first.walk.lesson)[0].ids == list(range(ROWS))


def test_what_was_seen_in_motion_is_not_remembered() -> None:
    """A false alarm must not cost every later walk of the client its overlaps and probes."""
    driven, _ = walked(Speech(repeat="extra"), Move(inserts=(0.5,)))
    assert driven.walk.lesson.total is None
    told, _ = walked(Speech(total="half"), dialect=Dialect(total="wrong", offset="page"))
    assert told.walk.detected.total == "wrong"
    assert told.walk.lesson == UNKNOWN


def test_duplicates_are_counted() -> None:
    driven, _ = walked(move=Move(inserts=(0,) * 5))
    assert driven.walk.report.duplicates >= 5
    assert walked()[0].walk.report.duplicates == 0


def test_the_servers_last_refusal_is_the_cause() -> None:
    driven, _ = walked(Speech(total="double", past_end="error"))
    assert driven.walk.error.__cause__.code == 11003


def test_all_events_of_the_head_gone() -> None:
    server = Server.of(30, moves=[Move(deletes=(0,) * 25)])
    driven = drive(Walk(10), server)
    assert driven.proven
    assert not server.least - Counter(driven.events)


def test_a_history_that_vanishes_meanwhile_is_complete() -> None:
    server = Server.of(30, moves=[Move(deletes=(0,) * 30)])
    driven = drive(Walk(10), server)
    assert driven.proven
    assert not driven.walk.report.no_record
    assert driven.walk.report.complete
