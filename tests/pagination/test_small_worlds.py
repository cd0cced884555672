"""Every walk through small worlds: each dialect, each id, each move between any two answers.

What luck does not draw, exhaustion does. The suite runs the smallest worlds, the nightly profile
larger ones.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import pytest

from capillary_targets.pagination import UNKNOWN, Walk
from tests.conftest import is_nightly

from .simulation import Move, Server, Speech, drive, warm

MOVES = (
    Move(),
    Move(deletes=(0.0,)),
    Move(deletes=(0.5,)),
    Move(deletes=(1.0,)),
    Move(inserts=(0.0,)),
    Move(inserts=(0.5,)),
    Move(appends=1),
)


HONEST = [
    Speech(offset=offset, total=total, cap=cap)
    for offset, total, cap in product(
        ("page", "row"), ("rows", "pages", "absent", "zero"), (None, 2, 3)
    )
]
SILENT = [
    Speech(offset=offset, cap=cap, echo_cap=False)
    for offset, cap in product(("page", "row"), (2, 3))
]
"""Such small caps are not believed in; where rows keep still, their total gives them away."""


def explore(
    counts: range, moves: int, kinds: Sequence[str], servers: Iterable[Speech] = HONEST
) -> list[Any]:
    """The walks that are complete and lack a row, or give one out too often; or do not end."""
    wrong = []
    for speech, size in product(servers, (1, 2, 3)):
        for cached, kind, count in product((UNKNOWN, warm(speech, size)), kinds, counts):
            for schedule in product(MOVES, repeat=moves):
                server = Server.of(count, speech, schedule, ids=kind)
                driven = drive(Walk(size, cached=cached), server, most=200)
                given = Counter(driven.events)
                lost = driven.proven and server.least - given
                server.note()
                still = all(move == Move() for move in schedule)
                honest = speech.cap is None and not driven.proven and still
                if lost or given - server.ever or honest:
                    wrong.append((speech, size, cached, kind, count, schedule, driven.walk.report))
    return wrong


def test_small_worlds() -> None:
    assert explore(range(4), 1, ("unique", "repeated")) == []
    assert explore(range(7), 0, ("unique", "repeated"), SILENT) == []


def test_a_doubted_reading_ends_no_walk_by_the_total() -> None:
    speech = Speech(offset="row", cap=3)
    schedule = [Move(inserts=(0.0,)), Move(deletes=(0.0,))]
    server = Server.of(4, speech, schedule)
    driven = drive(Walk(1, cached=warm(speech, 1)), server)
    assert driven.walk.done
    assert not (driven.proven and server.least - Counter(driven.events))


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["unique", "repeated", "missing", "mixed"])
def test_larger_worlds(kind: str) -> None:
    if not is_nightly():
        pytest.skip("only with --hypothesis-profile=nightly")
    assert explore(range(7), 2, (kind,)) == []
