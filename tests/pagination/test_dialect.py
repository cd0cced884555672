"""What a walk reports of the server's dialect, and what it makes of being told."""

from __future__ import annotations

import pytest

from capillary_targets.pagination import Dialect, Walk
from capillary_targets.pagination.dialect import OffsetGuess
from capillary_targets.pagination.geometry import place

from .simulation import Server, Speech, drive


@pytest.mark.parametrize(
    ("speech", "found"),
    [
        (Speech(), Dialect(offset="page", total="rows")),
        (Speech(offset="row"), Dialect(offset="row", total="rows")),
        (Speech(total="pages"), Dialect(offset="page", total="pages", past_end="empty")),
        (Speech(total="absent"), Dialect(offset="page", total="absent", past_end="empty")),
        (Speech(total="zero"), Dialect(offset="page", total="zero", past_end="empty")),
        (
            Speech(total="absent", past_end="error"),
            Dialect(offset="page", total="absent", past_end="refused"),
        ),
        (Speech(cap=20), Dialect(offset="page", total="rows", limit="capped", cap=20)),
        (
            Speech(cap=20, echo_cap=False, offset="row"),
            Dialect(offset="row", total="rows", limit="capped-silent", cap=20),
        ),
    ],
    ids=str,
)
def test_what_is_found_out(speech: Speech, found: Dialect) -> None:
    driven = drive(Walk(30, prefetch=4), Server.of(333, speech))
    assert driven.proven
    assert driven.walk.report.dialect == driven.walk.found == found


def test_a_forced_dialect_is_believed() -> None:
    told = Dialect(offset="row", total="absent")
    driven = drive(Walk(30, dialect=told), Server.of(100, Speech(offset="row", total="double")))
    assert driven.ids == list(range(100))
    assert driven.proven
    assert driven.walk.found.total == "absent"


def test_a_forced_total_that_cannot_be_is_said_to_be_wrong() -> None:
    walk = Walk(30, dialect=Dialect(total="rows"), anchored=True)
    driven = drive(walk, Server.of(100, Speech(total="half")))
    assert "though the total is 50" in driven.walk.error.report.reason


def test_a_forced_cap_is_asked_for() -> None:
    server = Server.of(100, Speech(cap=20, echo_cap=False))
    driven = drive(Walk(30, dialect=Dialect(cap=20)), server)
    assert driven.ids == list(range(100))
    assert {request for request, _ in server.transcript} == {(20, number) for number in range(5)}


@pytest.mark.parametrize("given", [{"offset": "sideways"}, {"total": "many"}, {"cap": 0}])
def test_a_dialect_that_cannot_be(given: dict) -> None:
    with pytest.raises(ValueError, match="|".join(given)):
        Dialect(**given)


def test_a_guess_needs_more_than_one_coincidence() -> None:
    guess = OffsetGuess.start(None, None)
    assert guess.by_page
    assert not guess.confirmed
    guess.see(100, 1, 1)
    assert not guess.by_page
    assert not guess.confirmed
    guess.see(100, 94, 95)
    assert guess.confirmed
    assert guess.found == "row"
    guess.turn()
    assert not guess.by_page


def test_a_guess_that_was_learned_can_be_unlearned() -> None:
    guess = OffsetGuess.start(None, "row")
    for number in range(1, 12):
        guess.see(100, number, number * 100)
    assert guess.found == "page"
    told = OffsetGuess.start("row", None)
    for number in range(1, 12):
        told.see(100, number, number * 100)
    assert told.found == "row"


def test_three_far_pages_that_begin_at_the_head_mean_an_ignored_offset() -> None:
    guess = OffsetGuess.start(None, None)
    for offset in (1, 40, 80):
        guess.see(100, offset, 0, head=True)
        assert not guess.ignored
    guess.see(100, 90, 0, head=True)
    assert guess.ignored
    assert guess.found == "ignored"


@pytest.mark.parametrize("room", [8, 20, 100])
def test_windows_begin_at_or_before_their_target_and_are_the_longest(room: int) -> None:
    for target in range(700):
        limit, number = place(target, by_page=True, room=room)
        ends = [(target // size + 1) * size for size in range(1, room + 1)]
        assert limit <= room
        assert limit * number <= target
        assert target == 0 or limit * (number + 1) == max(ends)
        assert place(target, by_page=False, room=room) == (room, target)


def test_windows_keep_off_pages_that_lacked_rows() -> None:
    limit, number = place(300, by_page=True, room=100, avoid={3})
    assert number != 3
    assert limit * number <= 300 < limit * (number + 1)
