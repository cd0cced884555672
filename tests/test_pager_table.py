"""Our column of the published table: on every server of it nothing is lost, or it is said."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Iterator

import pytest

from benchmarks.pagination_dialects import Situation, loop_in_a_thread, measure, situations

NAME = "capillary-targets"
CASES = [
    pytest.param(paging, one, id=f"{paging}: {one.what}")
    for paging in ("rows", "pages")
    for one in situations(paging)
]
HOPELESS = {"`offset` ignored", "a server that never ends"}


@pytest.fixture(scope="module")
def loop() -> Iterator[AbstractEventLoop]:
    with loop_in_a_thread() as loop:
        yield loop


@pytest.mark.parametrize(("paging", "situation"), CASES)
def test_ours_is_exact_or_says_so(
    loop: AbstractEventLoop, paging: str, situation: Situation
) -> None:
    outcome = measure(loop, NAME, situation, paging)
    assert outcome.doubled == 0
    assert not outcome.endless
    if situation.what in HOPELESS:
        assert outcome.error == "PaginationError"
    else:
        assert outcome.error is None
        assert outcome.lost == 0
    if situation.what == "as it should be" and paging == "pages":
        assert outcome.calls == 11
