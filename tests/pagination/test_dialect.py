"""What a walk reports of the server's dialect, and what it makes of being told."""

import pytest

from capillary_targets.pagination import UNKNOWN, Dialect, Walk
from capillary_targets.pagination.server_model import ServerModel
from capillary_targets.pagination.types import PageRequest

from .simulation import Server, Speech, drive


@pytest.mark.parametrize(
    ("speech", "found"),
    [
        (Speech(), Dialect(offset="page", total="rows")),
        (Speech(offset="row"), Dialect(offset="row", total="rows")),
        (Speech(total="pages"), Dialect(offset="page", total="pages")),
        (Speech(total="pages", offset="row"), Dialect(offset="row", total="pages")),
        (Speech(total="absent"), Dialect(offset="page", total="absent")),
        (Speech(total="zero"), Dialect(offset="page", total="zero")),
        (Speech(total="half"), Dialect(offset="page", total="wrong")),
        (Speech(cap=20), Dialect(offset="page", total="rows", limit="capped", cap=20)),
        (
            Speech(cap=20, echo_cap=False, offset="row"),
            Dialect(offset="row", total="rows", limit="capped-silent", cap=20),
        ),
    ],
    ids=str,
)
def test_what_is_detected(speech: Speech, found: Dialect) -> None:
    driven = drive(Walk(30, prefetch=4), Server.of(333, speech))
    assert driven.proven
    assert driven.walk.report.dialect == driven.walk.detected == found


def test_a_dialect_that_is_given_is_believed() -> None:
    told = Dialect(offset="row", total="absent")
    driven = drive(Walk(30, dialect=told), Server.of(100, Speech(offset="row", total="double")))
    assert driven.ids == list(range(100))
    assert driven.proven
    assert driven.walk.detected.total == "absent"


def test_a_total_that_is_given_and_cannot_be_is_said_to_be_wrong() -> None:
    walk = Walk(30, dialect=Dialect(total="rows"))
    driven = drive(walk, Server.of(100, Speech(total="half")))
    assert "though the total is 50" in driven.walk.error.report.reason


def test_a_cap_that_is_given_is_asked_for() -> None:
    server = Server.of(100, Speech(cap=20, echo_cap=False))
    driven = drive(Walk(30, dialect=Dialect(cap=20)), server)
    assert driven.ids == list(range(100))
    assert max(limit for (limit, _), _ in server.transcript) == 20


@pytest.mark.parametrize("given", [{"offset": "sideways"}, {"total": "many"}, {"cap": 0}])
def test_a_dialect_that_cannot_be(given: dict) -> None:
    with pytest.raises(ValueError, match="|".join(given)):
        Dialect(**given)


def observed(model: ServerModel, limit: int, offset: int, began: int) -> None:
    model.observe(began - limit * offset, began - offset)


def test_a_reading_needs_more_than_one_coincidence() -> None:
    model = ServerModel(UNKNOWN, UNKNOWN, 100)
    assert model.by_page
    assert not model.certain
    observed(model, 100, 1, 1)
    assert not model.by_page
    assert not model.certain
    observed(model, 100, 94, 95)
    assert model.certain
    assert model.dialect().offset == "row"
    model.flip()
    assert not model.by_page


def test_a_reading_that_was_cached_can_be_unlearned_and_one_that_is_given_cannot() -> None:
    row = Dialect(offset="row")
    cached, given = ServerModel(UNKNOWN, row, 100), ServerModel(row, UNKNOWN, 100)
    for number in range(1, 12):
        observed(cached, 100, number, number * 100)
        observed(given, 100, number, number * 100)
    assert cached.dialect().offset == "page"
    assert given.dialect().offset == "row"


@pytest.mark.parametrize("limit", [8, 20, 100])
def test_pages_begin_at_or_before_a_row_and_are_the_ones_that_reach_furthest(limit: int) -> None:
    model = ServerModel(Dialect(offset="page"), UNKNOWN, limit)
    for row in range(700):
        request = model.page_at(row, limit)
        ends = [(row // size + 1) * size for size in range(1, limit + 1)]
        assert request.limit <= limit
        assert request.start == request.limit * request.offset <= row
        assert row == 0 or request.start + request.limit == max(ends)
        stretched = model.page_at(row, limit, stretch=True)
        assert max(ends) <= stretched.start + stretched.limit <= max(*ends, row + 1 + limit)


def test_pages_that_lacked_rows_are_avoided() -> None:
    model = ServerModel(Dialect(offset="page"), UNKNOWN, 100)
    model.avoid(PageRequest(100, 3, 300))
    request = model.page_at(300, 100)
    assert request.offset != 3
    assert request.start <= 300 < request.start + request.limit
