from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capillary_targets import RetryPolicy
from capillary_targets.retry import parse_retry_after

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@given(st.integers(1, 5000), st.floats(0, 1, exclude_max=True), st.none() | st.floats(0, 10_000))
def test_a_wait_is_bounded_and_never_below_the_servers_word(
    attempt: int, jitter: float, retry_after: float | None
) -> None:
    policy = RetryPolicy()
    wait = policy.backoff(attempt, jitter, retry_after)
    assert wait >= (retry_after or 0)
    assert wait <= max(policy.wait_max, retry_after or 0)


def test_backoff_doubles_up_to_its_ceiling() -> None:
    policy = RetryPolicy(wait_initial=1, wait_max=10)
    assert [policy.backoff(n, 0.5) for n in range(1, 7)] == [0.5, 1, 2, 4, 5, 5]


@given(st.integers(0, 10**6))
def test_retry_after_reads_both_forms_alike(seconds: int) -> None:
    date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert parse_retry_after(str(seconds), NOW) == seconds
    assert parse_retry_after(date, NOW) == seconds


@pytest.mark.parametrize("text", [None, "", "soon", "-5", "1.5", "٣", "Fri, 99 Foo 2026"])
def test_an_unreadable_retry_after_is_none(text: str | None) -> None:
    assert parse_retry_after(text, NOW) is None


def test_a_date_gone_by_is_no_wait() -> None:
    assert parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT", NOW) == 0


@given(st.text())
def test_no_header_breaks_the_reader(text: str) -> None:
    wait = parse_retry_after(text, NOW)
    assert wait is None or wait >= 0
