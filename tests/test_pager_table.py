"""Our column of the published table: on every server of it nothing is lost, or it is said."""

from asyncio import AbstractEventLoop
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.pagination_dialects import loop_in_a_thread, measure, situations

NAME = "capillary-targets"
CASES = [
    pytest.param(paging, what, flags, id=f"{paging}: {what}")
    for paging in ("rows", "pages")
    for what, flags in situations(paging).items()
]
HOPELESS = {"`offset` ignored", "a server that never ends"}


@pytest.fixture(scope="module")
def loop() -> Iterator[AbstractEventLoop]:
    with loop_in_a_thread() as loop:
        yield loop


@pytest.mark.parametrize(("paging", "what", "flags"), CASES)
def test_ours_is_exact_or_says_so(
    loop: AbstractEventLoop, paging: str, what: str, flags: dict[str, Any]
) -> None:
    outcome = measure(loop, NAME, flags, paging)
    assert outcome.doubled == 0
    assert not outcome.endless
    if what in HOPELESS:
        assert outcome.error == "PaginationError"
    else:
        assert outcome.error is None
        assert outcome.lost == 0
    if what == "as it should be" and paging == "pages":
        assert outcome.calls == 11
