"""The walk's claims, each as a property over dialects, schedules of moving rows, and page sizes.

Every event that exists throughout a walk is given out exactly once, or the walk says that it
cannot prove it. Nothing here has a socket or a clock. `--hypothesis-profile=nightly` tries more.
"""

from collections import Counter

from attrs import field, frozen
from hypothesis import example, given
from hypothesis import strategies as st

from capillary_targets.models import TargetEvent
from capillary_targets.pagination import UNKNOWN, Checkpoint, Cursor, Dialect, Walk

from .simulation import Driven, Move, Server, Speech, drive, warm
from .strategies import counts, honest, ids, lying, moves, schedules, shares, sizes

prefetches = st.sampled_from([1, 4])
orders = st.lists(st.integers(0, 4), max_size=3)
ROWS = Speech(offset="row", total="rows", past_end="empty")


def lost(driven: Driven, server: Server) -> Counter[TargetEvent]:
    return server.least - Counter(driven.events)


def check(driven: Driven, server: Server) -> None:
    """What holds of every walk, complete or not."""
    report = driven.walk.report
    assert driven.walk.done
    assert len(driven.events) == report.events
    assert report.complete is (driven.proven and "max_items" not in report.reason)
    assert report.reason
    assert driven.answers <= report.requests <= 200 + 12 * (len(server.rows) + report.events)


def check_not_doubled(driven: Driven, server: Server) -> None:
    server.note()
    assert not Counter(driven.events) - server.ever


def in_order(driven: Driven, server: Server) -> bool:
    """Whether the lasting events came in the server's order."""
    lasting = [event for event in server.events if server.least[event]]
    place = {event: index for index, event in enumerate(lasting)}
    places = [place[event] for event in driven.events if event in place]
    return places == sorted(places)


def knows(speech: Speech, size: int, *, warmed: bool) -> Dialect:
    """What a client knows of a server: what another walk has learned, or nothing."""
    return warm(speech, size) if warmed else UNKNOWN


@given(counts, sizes, honest, ids, schedules, prefetches, orders, st.booleans())
def test_a_list_that_moves_loses_nothing_or_says_so(
    count: int,
    size: int,
    speech: Speech,
    kind: str,
    schedule: list[Move],
    prefetch: int,
    order: list[int],
    warmed: bool,
) -> None:
    server = Server.of(count, speech, schedule, ids=kind)
    walk = Walk(size, prefetch=prefetch, cached=knows(speech, size, warmed=warmed))
    driven = drive(walk, server, order=order)
    check(driven, server)
    if driven.proven:
        assert not lost(driven, server)
    check_not_doubled(driven, server)
    if kind != "alike":
        assert in_order(driven, server)


@given(counts, sizes, honest, ids, prefetches)
@example(2, 1, Speech(total="zero", past_end="error"), "repeated", 1)
@example(12, 4, Speech(total="zero", cap=8, echo_cap=True, past_end="error"), "repeated", 4)
def test_a_list_that_keeps_still_comes_whole_in_every_dialect(
    count: int, size: int, speech: Speech, kind: str, prefetch: int
) -> None:
    server = Server.of(count, speech, ids=kind)
    driven = drive(Walk(size, prefetch=prefetch), server)
    check(driven, server)
    assert driven.walk.error is None
    assert driven.events == server.events


@given(counts, sizes, honest, st.sampled_from(["same", "alike"]))
def test_rows_alike_in_every_field_are_counted_or_it_is_said(
    count: int, size: int, speech: Speech, kind: str
) -> None:
    server = Server.of(count, speech, ids=kind)
    driven = drive(Walk(size), server)
    check(driven, server)
    assert driven.events == server.events or not driven.proven


@given(counts, sizes, honest, ids)
def test_asking_for_several_pages_at_once_changes_nothing(
    count: int, size: int, speech: Speech, kind: str
) -> None:
    def walked(prefetch: int) -> Driven:
        return drive(Walk(size, prefetch=prefetch), Server.of(count, speech, ids=kind))

    one, four = walked(1), walked(4)
    assert one.events == four.events
    assert one.proven is four.proven


REFUSING = Speech(
    offset="page", total="pages", echo_cap=True, past_end="error", hole=1, repeat="instead"
)
CUT_SHORT = Speech(offset="row", past_end="endless", short=0, repeat="extra")


@given(counts, sizes, lying, ids, prefetches, st.booleans())
@example(100, 10, Speech(offset="page", total="double", past_end="endless"), "unique", 1, False)
@example(49, 5, Speech(past_end="error", short=0, repeat="instead"), "missing", 4, False)
@example(45, 7, REFUSING, "repeated", 1, False)
@example(40, 50, CUT_SHORT, "unique", 1, False)
def test_a_lying_server_is_survived_or_found_out(
    count: int, size: int, speech: Speech, kind: str, prefetch: int, warmed: bool
) -> None:
    """With a total that counts rows, and is believed to: else rows that no page shows are none."""
    server = Server.of(count, speech, ids=kind)
    cached = knows(speech, size, warmed=warmed)
    driven = drive(Walk(size, prefetch=prefetch, cached=cached), server)
    check(driven, server)
    if driven.proven and speech.total == "rows" and cached.total != "wrong" and count:
        assert not lost(driven, server)


@frozen
class Resumption:
    """A walk that is left at a share of the list and resumed; rows move between and after."""

    count: int
    size: int
    speech: Speech
    kind: str
    share: float
    between: list[Move] = field(factory=list)
    after: list[Move] = field(factory=list)
    dated: bool = False


HEAD_GONE = Move(deletes=(0.0,))
MANY = Resumption(
    100, 1, ROWS, "unique", 0.75, [Move(deletes=(0.0, 0.0))], [Move(deletes=(0.0, 0.0))], dated=True
)
REPEATED = Resumption(38, 1, ROWS, "repeated", 0.5, after=[Move(), Move(), HEAD_GONE])
LATE = Resumption(
    100, 1, ROWS, "unique", 0.1796875, after=[Move(), Move(inserts=(0.25,)), HEAD_GONE]
)
CUT = Resumption(
    23,
    1,
    Speech(offset="page", total="absent", cap=8, echo_cap=False, past_end="empty"),
    "unique",
    0.5,
)
CAPPED = Resumption(
    52,
    8,
    Speech(offset="page", total="rows", cap=8, echo_cap=False, past_end="404"),
    "mixed",
    0.9545573923270634,
    dated=True,
)
DOUBTED = Resumption(
    59,
    10,
    Speech(offset="row", total="rows", cap=8, past_end="404"),
    "unique",
    0.012632576391175099,
    after=[
        Move(),
        Move(deletes=(0.0,) * 6, inserts=(0.966117150685472, 0.0), appends=3),
        Move(deletes=(0.0, 0.9126438879405229)),
        Move(),
    ],
    dated=True,
)
SHIFTED = Resumption(
    50,
    10,
    Speech(offset="row", total="pages"),
    "unique",
    0.3456491947468473,
    [Move(deletes=(0.0, 0.0, 0.18197399831953476, 0.0, 0.0, 1.0))],
    dated=True,
)


@given(
    st.builds(
        Resumption,
        count=counts,
        size=sizes,
        speech=honest,
        kind=ids,
        share=shares,
        between=st.lists(moves, max_size=2),
        after=st.lists(moves, max_size=6),
        dated=st.booleans(),
    )
)
@example(MANY)
@example(REPEATED)
@example(LATE)
@example(CUT)
@example(CAPPED)
@example(DOUBTED)
@example(SHIFTED)
def test_a_walk_resumes_with_the_very_next_event(case: Resumption) -> None:
    still = not case.between and not case.after
    server = Server.of(case.count, case.speech, ids=case.kind, dated=case.dated)
    first = drive(Walk(case.size), server)
    place, out = cut(first, round(case.share * len(first.events)))
    assert Checkpoint.parse(str(place)) == place
    for move in case.between:
        server.note()
        server.move(move)
    server.moves = list(case.after)
    second = drive(Walk(case.size, start=place), server)
    check(second, server)
    if second.proven:
        assert not server.least - Counter(out + second.events)
    if still and second.proven:
        assert out + second.events == first.events
    # A server that caps in silence by page number may hide where a walk resumes.
    if still and (case.speech.cap is None or case.speech.echo_cap):
        assert second.proven


def cut(driven: Driven, count: int) -> tuple[Checkpoint, list[TargetEvent]]:
    """The checkpoint behind the first `count` events of a walk, and those events."""
    cursor, out = Cursor(driven.walk.start), list[TargetEvent]()
    for batch in driven.batches:
        events = batch.page.events[: count - len(out)]
        cursor.advance(batch.row, events)
        out += events
        if len(out) == count:
            break
    return cursor.checkpoint(driven.walk.detected), out


@given(counts, sizes, honest, st.integers(0, 200), prefetches)
def test_max_items_is_a_prefix(
    count: int, size: int, speech: Speech, most: int, prefetch: int
) -> None:
    server = Server.of(count, speech)
    driven = drive(Walk(size, most, prefetch=prefetch), server)
    check(driven, server)
    assert driven.events == server.events[:most]


@given(counts, sizes, honest, ids)
@example(2, 1, Speech(total="half", past_end="error"), "unique")
@example(24, 1, Speech(total="half", cap=8, echo_cap=True, past_end="error"), "repeated")
def test_what_one_walk_detects_spares_the_next_one_requests(
    count: int, size: int, speech: Speech, kind: str
) -> None:
    first = drive(Walk(size), Server.of(count, speech, ids=kind))
    server = Server.of(count, speech, ids=kind)
    second = drive(Walk(size, cached=first.walk.lesson), server)
    check(second, server)
    assert second.proven
    assert second.walk.report.requests <= first.walk.report.requests + 3
    assert first.events == second.events
    assert Dialect(**second.walk.detected.to_dict()) == second.walk.detected
