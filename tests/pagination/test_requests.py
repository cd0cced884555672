"""The requests of a walk over rows that stand still, in every dialect of the documents' tables."""

from functools import lru_cache
from math import isqrt
from typing import Any

import pytest

from benchmarks.pagination_dialects import situations
from capillary_targets.pagination import UNKNOWN, Dialect, Walk

from .simulation import Server, Speech

COUNTS = (1, 10, 11, 25, 95, 100, 101, 250, 1000)
MOVING = {"append_per_request", "insert_per_request", "delete_head_per_request"}
HOPELESS = {"`offset` ignored", "a server that never ends"}


def speech(flags: dict[str, Any]) -> Speech:
    """A server of the table, in the words of the simulation."""
    return Speech(
        offset=flags["offset_mode"],
        total={"wrong": "half"}.get(flags.get("total_mode", ""), flags.get("total_mode", "rows")),
        cap=flags.get("max_limit"),
        echo_cap=flags.get("limit_mode") != "capped-silent",
        past_end=flags.get("past_end", "empty"),
        hole=flags.get("empty_page"),
        short=flags.get("short_page"),
        repeat=flags.get("repeat_rows", "no"),
    )


STILL = [
    pytest.param(speech(flags), id=f"{paging}: {what}")
    for paging in ("rows", "pages")
    for what, flags in situations(paging).items()
    if not MOVING & flags.keys() and what not in HOPELESS
]


@lru_cache
def fewest(count: int, size: int, overlap: int, *, numbered: bool, most: int) -> int:
    """Pages with at most `size` new rows that overlap and reach the end: each as far as it can.

    Where pages are numbered, one of `size` rows rarely begins where it should, so all limits up to
    `most` are tried.
    """
    requests, end = 1, size
    while end < count:
        row = end - overlap
        reach = [(row // limit + 1) * limit for limit in range(1, most + 1)]
        end = max(one for one in reach if one <= end + size) if numbered else row + size
        requests += 1
    return requests


def walked(count: int, speech: Speech, size: int, cached: Dialect, prefetch: int = 1) -> Walk:
    """A walk that brought every row."""
    walk, server, ids = Walk(size, prefetch=prefetch, cached=cached), Server.of(count, speech), []
    while requests := walk.requests():
        page = server.page(requests[0].limit, requests[0].offset)
        for batch in walk.feed(requests[0], page):
            ids += [event.event_log_id for event in batch.page.events]
    assert walk.error is None
    assert ids == list(range(count))
    return walk


def known(speech: Speech, size: int) -> Dialect:
    """What a client has learned from three lists."""
    dialect = UNKNOWN
    for count in (25, 250, 1000):
        dialect = walked(count, speech, size, dialect).lesson
    return dialect


@pytest.mark.parametrize("size", [10, 100])
@pytest.mark.parametrize("speech", STILL)
def test_requests_in_every_dialect_of_the_tables(speech: Speech, size: int) -> None:
    """Once known at most 1.15 times the fewest; the first walk three more."""
    dialect = known(speech, size)
    silent = speech.total in {"absent", "zero", "half"}
    # Pages that begin with another row need an overlap of two, which each walk finds out anew.
    repeats = speech.repeat != "no"
    served, numbered = min(size, speech.cap or size), speech.offset != "row"
    most = served if served < size else size + 2 * isqrt(size)
    for count in COUNTS:
        lost = (speech.hole or speech.short or count) * served < count
        least = fewest(count, served, 1 + repeats, numbered=numbered, most=most)
        least += silent + 2 * lost + 2 * repeats
        first = walked(count, speech, size, UNKNOWN).report.requests
        later = walked(count, speech, size, dialect).report.requests
        ahead = walked(count, speech, size, dialect, prefetch=4).report.requests
        assert later <= 1.15 * least, count
        assert ahead <= 1.15 * least + 3 * lost, count  # three were in flight
        assert first <= later + 3, count


@pytest.mark.parametrize("total", ["rows", "pages"])
@pytest.mark.parametrize("offset", ["page", "row"])
@pytest.mark.parametrize(("count", "most"), [(100, 1), (250, 3), (1000, 11), (10_000, 106)])
def test_requests_of_a_hundred_to_a_page(offset: str, total: str, count: int, most: int) -> None:
    speech = Speech(offset=offset, total=total)
    assert walked(count, speech, 100, known(speech, 100)).report.requests <= most
