"""Every walk through small worlds: each dialect, each id, each move between any two answers.

What luck does not draw, exhaustion does. The suite runs the smallest worlds, the nightly profile
larger ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import pytest

from capillary_targets.pagination import UNKNOWN, Dialect, Walk
from tests.conftest import is_nightly

from .simulation import Move, Server, Speech, drive

MOVES = (
    Move(),
    Move(deletes=(0.0,)),
    Move(deletes=(0.5,)),
    Move(deletes=(1.0,)),
    Move(inserts=(0.0,)),
    Move(inserts=(0.5,)),
    Move(appends=1),
)
CAPS = ((None, True), (2, True), (3, True))


def speeches(totals: Sequence[str]) -> Iterator[Speech]:
    for offset, total, (cap, echo) in product(("page", "row"), totals, CAPS):
        yield Speech(offset=offset, total=total, cap=cap, echo_cap=echo)
    for offset, cap in product(("page", "row"), (2, 3)):  # a total that counts rows gives it away
        yield Speech(offset=offset, cap=cap, echo_cap=False)


def warm(speech: Speech, size: int) -> Dialect:
    """What a client knows of this server."""
    return drive(Walk(size), Server.of(40, speech)).walk.lesson


def explore(counts: range, moves: int, kinds: Sequence[str]) -> list[Any]:
    """The walks that are complete and lack a row, or give one out too often; or do not end."""
    wrong = []
    for speech, size in product(speeches(("rows", "pages", "absent", "zero")), (1, 2, 3)):
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


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["unique", "repeated", "missing", "mixed"])
def test_larger_worlds(kind: str) -> None:
    if not is_nightly():
        pytest.skip("only with --hypothesis-profile=nightly")
    assert explore(range(7), 2, (kind,)) == []
