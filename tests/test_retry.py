from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capillary_targets import RetryPolicy
from capillary_targets.retry import parse_retry_after

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DATE = format_datetime(NOW, usegmt=True)


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


@given(st.integers(1, 10**6))
def test_retry_after_reads_all_forms_alike(seconds: int) -> None:
    then = NOW + timedelta(seconds=seconds)
    unix = int(then.timestamp())
    for text in (seconds, f" {seconds}.0 ", format_datetime(then, usegmt=True), unix, unix * 1000):
        assert parse_retry_after(str(text), DATE) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1.5", 1.5),
        (".5", 0.5),
        ("5, 5", 5),
        *(("5, 6", 6), ("6,5", 6), ("5,", 5), ("0, 7", 7)),  # of several the longest
        *(("2026-01-01T00:00:07Z", 7), ("2026-01-01T01:00:07+01:00", 7)),
        *(("Thursday, 01-Jan-26 00:00:07 GMT", 7), ("Thu Jan  1 00:00:07 2026", 7)),
        ("86400", 86400),  # a day is a pause, however long
        ("Fri, 31 Dec 9999 23:59:59 GMT", 10 * 365 * 86400),
        ("9" * 400, 10 * 365 * 86400),
        ("Thu, 01 Jan 2026 05:30:07 +0530", 7),
    ],
)
def test_odd_but_plain_forms_are_read(text: str, seconds: float) -> None:
    assert parse_retry_after(text, DATE) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", "soon", "-5", "1e5", "5, x", ",", "5s", "٣", "inf", "nan", "Fri, 99 Foo 2026"),
        *("0", "0.0", "0, 0"),  # and what is no wait at all is ordinary back-off
        *("Wed, 21 Oct 2015 07:28:00 GMT", "1445412480", "1445412480000", DATE),
    ],
)
def test_an_unreadable_retry_after_and_none_at_all_are_none(text: str | None) -> None:
    assert parse_retry_after(text, DATE) is None


def test_a_date_is_counted_from_the_answers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our clock is a day ahead, or a day behind."""
    then = format_datetime(NOW + timedelta(seconds=7), usegmt=True)
    for days in (-1, 1):
        wrong = (NOW + timedelta(days=days)).timestamp()
        monkeypatch.setattr("capillary_targets.retry.time.time", lambda wrong=wrong: wrong)
        assert parse_retry_after(then, DATE) == 7
    assert parse_retry_after(then, "sometime") is None  # by our clock it is gone by
    monkeypatch.setattr("capillary_targets.retry.time.time", NOW.timestamp)
    assert parse_retry_after(then) == 7


@given(st.text() | st.from_regex(r"[0-9., ]+"), st.none() | st.text())
def test_no_header_breaks_the_reader(text: str, date: str | None) -> None:
    wait = parse_retry_after(text, date)
    assert wait is None or 0 < wait < 10**9
