"""The walk's claims, each as a property over dialects, schedules of moving rows, and page sizes.

Every event that exists throughout a walk is given out exactly once, or the walk says that it
cannot prove it. Nothing here has a socket or a clock.
"""

from __future__ import annotations

from math import ceil

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from capillary_targets.pagination import Checkpoint, Dialect, Progress, Walk

from .simulation import Driven, Move, Server, Speech, drive, seen
from .strategies import counts, honest, lying, moves, schedules, shares, sizes, unbalanced

# Derandomised until the walk holds with any seed; then `examples` of tests/conftest.py.
many = settings(max_examples=300, derandomize=True, deadline=None)
some = settings(max_examples=150, derandomize=True, deadline=None)

prefetches = st.sampled_from([1, 4])
orders = st.lists(st.integers(0, 4), max_size=3)


def missing(driven: Driven, server: Server) -> set[int]:
    return server.lasting - set(driven.ids)


def check(driven: Driven, server: Server) -> None:
    """What holds of every walk, proven or not."""
    report = driven.walk.report
    assert driven.walk.done
    assert len(driven.ids) == len(set(driven.ids)) == report.events
    assert report.complete is (driven.proven and "max_items" not in report.reason)
    assert report.reason
    assert driven.answers <= report.requests <= 200 + 12 * (len(server.ids) + report.events)


def in_order(driven: Driven, server: Server) -> bool:
    """Whether the lasting events came in the server's order."""
    place = {number: index for index, number in enumerate(server.ids)}
    places = [place[number] for number in driven.ids if number in server.lasting]
    return places == sorted(places)


def unmoving_twin(driven: Driven, server: Server) -> bool:
    """Whether an honest server that never moved, holding just what came, would answer the same."""
    rows = [(number, 0) for number in driven.ids]
    twins = [
        Server(rows, attrs.evolve(server.speech, total="rows", offset=offset))
        for offset in ("page", server.speech.offset)
    ]
    return any(
        all(seen(twin.page(*request)) == answer for request, answer in server.transcript)
        for twin in twins
    )


@many
@given(counts, sizes, honest, schedules, prefetches, orders)
def test_an_anchored_walk_loses_nothing_or_says_so(
    count: int, size: int, speech: Speech, schedule: list[Move], prefetch: int, order: list[int]
) -> None:
    server = Server.of(count, speech, schedule)
    driven = drive(Walk(size, prefetch=prefetch, anchored=True), server, order=order)
    check(driven, server)
    assert in_order(driven, server)
    if driven.proven:
        assert not missing(driven, server)
        assert driven.walk.report.proof == "anchored"


@many
@given(counts, sizes, honest, schedules, prefetches, orders)
def test_by_default_only_what_an_unmoving_server_would_send_can_deceive(
    count: int, size: int, speech: Speech, schedule: list[Move], prefetch: int, order: list[int]
) -> None:
    """No walk of so few requests could do better: all it ever saw fits a list without the loss."""
    server = Server.of(count, speech, schedule)
    driven = drive(Walk(size, prefetch=prefetch), server, order=order)
    check(driven, server)
    if driven.proven and missing(driven, server):
        assert driven.walk.report.proof == "totals"
        assert unmoving_twin(driven, server)


@many
@given(counts, sizes, unbalanced, st.sampled_from(["page", "row"]))
def test_by_default_moves_that_change_the_total_hide_nothing(
    count: int, size: int, schedule: list[Move], offset: str
) -> None:
    server = Server.of(count, Speech(offset=offset), schedule)
    driven = drive(Walk(size), server)
    check(driven, server)
    if driven.proven:
        assert not missing(driven, server)


@many
@given(counts, sizes, honest, prefetches, st.booleans())
def test_a_list_that_keeps_still_comes_whole_in_every_dialect(
    count: int, size: int, speech: Speech, prefetch: int, anchored: bool
) -> None:
    server = Server.of(count, speech)
    driven = drive(Walk(size, prefetch=prefetch, anchored=anchored), server)
    check(driven, server)
    assert driven.proven
    if driven.ids != list(range(count)):
        assert not anchored
        assert speech.total in {"half", "pages"}
        assert unmoving_twin(driven, server)


@some
@given(st.integers(0, 300), st.integers(1, 60), st.integers(0, 6))
def test_the_documented_dialect_costs_not_one_request_too_many(
    count: int, size: int, prefetch: int
) -> None:
    server = Server.of(count)
    driven = drive(Walk(size, prefetch=prefetch), server)
    check(driven, server)
    assert driven.ids == list(range(count))
    assert driven.walk.report.requests == max(1, ceil(count / size))


@many
@given(counts, sizes, honest, st.booleans())
def test_asking_for_several_pages_at_once_changes_nothing(
    count: int, size: int, speech: Speech, anchored: bool
) -> None:
    def walked(prefetch: int) -> Driven:
        return drive(Walk(size, prefetch=prefetch, anchored=anchored), Server.of(count, speech))

    one, four = walked(1), walked(4)
    assert one.ids == four.ids
    assert one.proven is four.proven
    if speech == Speech() and not anchored:
        assert one.walk.report == four.walk.report


@many
@given(counts, sizes, lying, st.booleans(), prefetches)
def test_a_lying_server_is_survived_or_found_out(
    count: int, size: int, speech: Speech, anchored: bool, prefetch: int
) -> None:
    """With a total that counts rows. Without one, rows that no page shows are nobody's to find."""
    server = Server.of(count, speech)
    driven = drive(Walk(size, prefetch=prefetch, anchored=anchored), server)
    check(driven, server)
    if driven.proven and speech.total == "rows" and count:
        assert set(range(count)) <= set(driven.ids)


@many
@given(
    counts,
    sizes,
    honest.filter(lambda speech: speech.total not in {"half", "pages"}),
    shares,
    st.lists(moves, max_size=2),
    st.lists(moves, max_size=6),
)
def test_a_walk_goes_on_with_the_very_next_event(
    count: int, size: int, speech: Speech, share: float, between: list[Move], after: list[Move]
) -> None:
    server = Server.of(count, speech)
    first = drive(Walk(size), server)
    place, out = cut(first, round(share * len(first.ids)))
    assert Checkpoint.parse(str(place)) == place
    before = set(server.ids)
    for move in between:
        server.move(move)
    server.moves, server.transcript = list(after), []
    second = drive(Walk(size, start=place), server)
    check(second, server)
    together = out + second.ids
    assert len(together) == len(set(together))
    if not between and not after:
        assert together == first.ids
    if second.proven and not unmoving_twin(second, server):
        assert before & server.lasting <= set(together)


def cut(driven: Driven, count: int) -> tuple[Checkpoint, list[int]]:
    """The checkpoint behind the first `count` events of a walk, and those events."""
    progress, out = Progress(driven.walk), list[int]()
    for batch in driven.batches:
        progress.begin(batch)
        progress.given = min(count - len(out), len(batch.page.events))
        out += [event.event_log_id for event in batch.page.events[: progress.given]]
        if len(out) == count:
            break
    return progress.checkpoint, out


@some
@given(counts, sizes, honest, st.integers(0, 200), prefetches)
def test_max_items_is_a_prefix_and_asks_for_no_page_too_many(
    count: int, size: int, speech: Speech, most: int, prefetch: int
) -> None:
    server = Server.of(count, speech)
    driven = drive(Walk(size, most, prefetch=prefetch), server)
    check(driven, server)
    assert driven.ids == list(range(min(most, count)))[: len(driven.ids)]
    if not unmoving_twin(driven, server):
        assert len(driven.ids) == min(most, count)
    if speech == Speech():
        needed = ceil(min(most, max(count, 1)) / size)
        assert driven.walk.report.requests == needed


@some
@given(counts, sizes, honest)
def test_what_one_walk_learns_spares_the_next_one_requests(
    count: int, size: int, speech: Speech
) -> None:
    first = drive(Walk(size), Server.of(count, speech))
    server = Server.of(count, speech)
    second = drive(Walk(size, learned=first.walk.learnt), server)
    check(second, server)
    assert second.proven
    assert second.walk.report.requests <= first.walk.report.requests + 3
    assert set(first.ids) <= set(second.ids)
    assert Dialect.from_dict(second.walk.found.to_dict()) == second.walk.found
