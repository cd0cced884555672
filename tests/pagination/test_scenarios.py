"""The table that extractors lose rows on: what each server does to a walk of 1,000 events."""

from __future__ import annotations

import pytest

from capillary_targets import PaginationError
from capillary_targets.pagination import Dialect, Walk

from .simulation import Driven, Move, Server, Speech, drive

ROWS = 1000
SIZE = 100
PLAIN = Speech()


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
        (Speech(), 10),
        (Speech(cap=50), 20),
        (Speech(cap=50, echo_cap=False), 20),
        (Speech(offset="clamped"), 10),
        (Speech(offset="row"), 16),
        (Speech(total="pages"), 18),
        (Speech(total="absent"), 18),
        (Speech(total="zero"), 18),
        (Speech(total="absent", offset="row"), 18),
        (Speech(total="absent", offset="clamped"), 18),
        (Speech(total="absent", cap=50, echo_cap=False), 36),
        (Speech(hole=3), 28),
        (Speech(short=3), 25),
        (Speech(hole=3, total="absent"), 28),
        (Speech(short=3, total="absent"), 24),
        (Speech(repeat="extra"), 19),
        (Speech(repeat="instead"), 16),
        (Speech(repeat="extra", total="absent"), 18),
        (Speech(repeat="instead", total="absent"), 18),
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
        (Move(inserts=(0,) * 5), 24),
        (Move(inserts=(0.5,)), 24),
        (Move(appends=1), 34),
        (Move(deletes=(0,) * 5), 26),
        (Move(deletes=(0.5,) * 5), 26),
        (Move(deletes=(0,) * 20), 26),
        (Move(deletes=(0,) * 50), 30),
        (Move(deletes=(0, 0.5), inserts=(0.2, 0.9), appends=3), 26),
    ],
    ids=str,
)
def test_a_list_that_moves(move: Move, total: str, requests: int, prefetch: int) -> None:
    driven, server = walked(Speech(total=total), move, prefetch=prefetch)
    assert driven.proven
    assert server.lasting <= set(driven.ids)
    assert len(driven.ids) == len(set(driven.ids))
    assert driven.walk.report.requests <= requests
    assert driven.walk.report.proof == "anchored"


@pytest.mark.parametrize("total", ["rows", "absent"])
@pytest.mark.parametrize("prefetch", [1, 4])
def test_arrivals_faster_than_reading_still_end(total: str, prefetch: int) -> None:
    driven, server = walked(Speech(total=total), Move(appends=150), prefetch=prefetch)
    assert driven.proven
    assert server.lasting <= set(driven.ids)
    assert "last when the list was seen to grow" in driven.walk.report.reason


def test_deletions_and_arrivals_that_cancel_out_need_anchors() -> None:
    """In equal number between two pages side by side they leave no trace: nobody could tell."""
    move = Move(deletes=(0,) * 5, appends=5)
    blind, server = walked(move=move)
    assert blind.proven
    assert blind.walk.report.proof == "totals"
    assert len(server.lasting - set(blind.ids)) == 45
    careful, server = walked(move=move, anchored=True)
    assert careful.proven
    assert server.lasting <= set(careful.ids)


def test_an_ignored_offset_is_found_out() -> None:
    driven, _ = walked(Speech(offset="ignored"))
    assert "head of the list whatever the offset" in reason(driven)
    assert driven.walk.found.offset == "ignored"
    assert driven.walk.report.requests <= 8


def test_one_arrival_does_not_look_like_an_ignored_offset() -> None:
    """Row 1 then is where row 0 was, so the second page of a row server equals its first."""
    server = Server.of(ROWS, Speech(offset="row"), [Move(inserts=(0.0,))])
    driven = drive(Walk(SIZE), server)
    assert server.transcript[1][1][0] == server.transcript[0][1][0]
    assert driven.proven
    assert driven.ids == list(range(ROWS))
    assert driven.walk.found.offset == "row"


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


def test_rows_filtered_after_cutting_are_told_by_the_total() -> None:
    some = frozenset(range(300, 400))
    counted, _ = walked(Speech(filtered=some, total="visible"))
    assert counted.proven
    assert counted.ids == [n for n in range(ROWS) if n not in some]
    uncounted, _ = walked(Speech(filtered=some))
    assert "the total is 1000, and 900 events came" in reason(uncounted)
    few = frozenset({310, 350, 390})
    assert walked(Speech(filtered=few, total="visible"))[0].proven
    assert "the total is 1000, and 997 events came" in reason(walked(Speech(filtered=few))[0])
    assert "lacks events, and more come" in reason(walked(Speech(filtered=few, total="absent"))[0])


def test_a_total_that_happens_to_be_a_page_boundary_needs_anchors() -> None:
    """500 of 1,000 on pages of 100: five full pages, exactly as of a server that has just these."""
    assert len(walked(Speech(total="half"))[0].ids) == 500
    careful, _ = walked(Speech(total="half"), anchored=True)
    assert careful.ids == list(range(ROWS))
    assert careful.walk.found.total == "wrong"
    assert careful.walk.learnt.total == "wrong"
    assert walked(Speech(total="half"), learned=careful.walk.learnt)[0].ids == list(range(ROWS))


def test_what_was_seen_in_motion_is_not_remembered() -> None:
    """A false alarm must not cost every later walk of the client its overlaps and probes."""
    driven, _ = walked(Speech(repeat="extra"), Move(inserts=(0.5,)))
    assert driven.walk.learnt.total is None
    told, _ = walked(Speech(total="half"), dialect=Dialect(total="wrong", offset="page"))
    assert told.walk.found.total == "wrong"
    assert told.walk.learnt == Dialect(past_end="empty")


def test_duplicates_are_counted() -> None:
    driven, _ = walked(move=Move(inserts=(0,) * 5))
    assert driven.walk.report.duplicates >= 5
    assert walked()[0].walk.report.duplicates == 0
    assert walked(anchored=True)[0].walk.report.duplicates == 0


def test_the_servers_last_refusal_is_the_cause() -> None:
    driven, _ = walked(Speech(total="double", past_end="error"))
    assert driven.walk.error.__cause__.code == 11003


def test_all_events_of_the_head_gone() -> None:
    server = Server.of(30, moves=[Move(deletes=(0,) * 25)])
    driven = drive(Walk(10), server)
    assert driven.proven
    assert server.lasting <= set(driven.ids)


def test_a_history_that_vanishes_meanwhile_is_complete() -> None:
    server = Server.of(30, moves=[Move(deletes=(0,) * 30)])
    driven = drive(Walk(10), server)
    assert driven.proven
    assert not driven.walk.report.no_record
    assert driven.walk.report.complete
