"""Settings: read where the meaning is plain, else refused at construction in one clear line."""

import math
import re
from datetime import timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from capillary_targets import (
    AdaptiveConcurrency,
    BasicAuth,
    RateLimit,
    RetryPolicy,
    TargetsClient,
    UsageError,
    open_session,
)
from capillary_targets.blocking import BlockingClient
from capillary_targets.settings import Settings

AUTH = BasicAuth("till", "secret")


def settings(**given: Any) -> Settings:
    return Settings(**{"base_url": "eu", "auth": AUTH} | given)


@pytest.mark.parametrize(
    ("name", "given", "read"),
    [
        ("concurrency", "8", 8),
        ("concurrency", " 8 ", 8),
        ("concurrency", 8.0, 8),
        ("concurrency", AdaptiveConcurrency(), AdaptiveConcurrency()),
        ("concurrency", None, AdaptiveConcurrency()),
        ("timeout", "2.5", 2.5),
        ("timeout", 3, 3.0),
        ("timezone", "Asia/Kolkata", ZoneInfo("Asia/Kolkata")),
        ("timezone", "UTC", ZoneInfo("UTC")),
        ("timezone", timezone(timedelta(hours=8)), timezone(timedelta(hours=8))),
        ("max_body", "1024", 1024),
        ("retry", None, RetryPolicy()),
        ("retry", RetryPolicy(attempts=2), RetryPolicy(attempts=2)),
        ("rate", RateLimit(10, per=1), RateLimit(10, per=1)),
        ("hooks", print, (print,)),
        ("hooks", [print], (print,)),
        ("hooks", (), ()),
        ("hooks", [], ()),
        ("observers", print, (print,)),
        ("allow_insecure", "false", False),
        ("trust_env", 1, True),
        ("drift", "0", 0),
    ],
)
def test_what_is_plain_is_read(name: str, given: object, read: object) -> None:
    assert getattr(settings(**{name: given}), name) == read


@pytest.mark.parametrize(
    ("name", "given"),
    [
        *[("concurrency", one) for one in ("", "many", 0, -1, 1.5, math.inf, math.nan, True, [8])],
        *[("timeout", one) for one in (0, -1, "soon", math.inf, math.nan, "inf", True, None, [3])],
        *[("timezone", one) for one in ("Asia/Nowhere", "", "../etc/passwd", "IST+5", 5.5)],
        *[("rate", one) for one in (1000, "1000", (1000, 60))],
        *[("retry", one) for one in (3, "3", False)],
        *[("max_body", one) for one in (0, math.inf, None, "big")],
        *[("hooks", one) for one in (5, "print", [print, 5])],
        *[("auth", one) for one in (None, ("till", "secret"), "till:secret", BasicAuth)],
        *[("observers", one) for one in (5, None, [5])],
        *[("allow_insecure", one) for one in ("maybe", None, 2)],
        *[("trust_env", one) for one in ("", (), "y")],
        *[("dialect", one) for one in (None, "row")],
        *[("session", one) for one in ("x", 5, True)],
        *[("drift", one) for one in (-1, "many", True)],
        *[("base_url", one) for one in ("", None, 5, "mars", "ftp://host", "https://", "//host")],
        *[("page_size", one) for one in (0, "", 1.5, math.inf, True, None)],
    ],
)
def test_what_is_not_is_refused_at_construction(name: str, given: object) -> None:
    with pytest.raises(UsageError) as caught:
        TargetsClient(**{"base_url": "eu", "auth": AUTH, name: given})
    text = str(caught.value)
    assert "\n" not in text
    assert name.replace("_", " ").lower() in text.replace("_", " ").lower()


@pytest.mark.parametrize(
    ("make", "read"),
    [
        (lambda: RetryPolicy(attempts="3", attempt_timeout="2").attempts, 3),
        (lambda: RetryPolicy(attempt_timeout="2").attempt_timeout, 2.0),
        (lambda: RetryPolicy(quota=0).quota, 0),
        (lambda: RetryPolicy(retry_after_max=math.inf).retry_after_max, math.inf),
        (lambda: RateLimit("1000", per="60"), RateLimit(1000, per=60)),
        (lambda: AdaptiveConcurrency(initial="8"), AdaptiveConcurrency(initial=8)),
    ],
)
def test_what_is_plain_is_read_in_policies_too(make: Any, read: object) -> None:
    assert make() == read


@pytest.mark.parametrize(
    "make",
    [
        *[lambda one=one: RetryPolicy(attempts=one) for one in (0, "many", 1.5, None, True)],
        *[lambda one=one: RetryPolicy(wait_initial=one) for one in (0, -1, math.inf, "x", None)],
        *[lambda one=one: RetryPolicy(attempt_timeout=one) for one in (0, math.inf, "x")],
        *[lambda one=one: RetryPolicy(wait_max=one) for one in (0, math.nan)],
        lambda: RetryPolicy(quota=-1),
        *[lambda one=one: RateLimit(one, per=60) for one in (0, 1.5, "", math.inf, None)],
        *[lambda one=one: RateLimit(1, per=one) for one in (0, math.inf, math.nan, "x", None)],
        *[lambda one=one: RateLimit(1, shared=one) for one in (5, True, b"redis://h")],
        *[lambda one=one: AdaptiveConcurrency(initial=one) for one in (0, "x", 600)],
    ],
)
def test_what_is_not_is_refused_in_policies_too(make: Any) -> None:
    with pytest.raises(UsageError):
        make()


def test_a_page_size_is_read_too() -> None:
    for given in ("50", 50.0, 50):
        assert TargetsClient("eu", AUTH, page_size=given).page_size == 50
    with pytest.raises(UsageError, match="concurrency"):
        settings(concurrency=Decimal("1.5"))


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("page_sise", "did you mean page_size?"),
        ("Timeout", "did you mean timeout?"),
        ("max_concurrency", "did you mean concurrency?"),
        ("zzz", "there are base_url, auth, timeout, retry"),
    ],
)
async def test_an_unknown_option_names_the_nearest(option: str, says: str) -> None:
    for kind in (TargetsClient, BlockingClient):
        with pytest.raises(UsageError, match=f"no option {option}: {re.escape(says)}"):
            kind("eu", AUTH, **{option: 5})
    with pytest.raises(UsageError, match="there is no option page_size"):
        async with open_session("eu", AUTH, page_size=5):  # type: ignore[call-arg]
            pass


@pytest.mark.parametrize("given", ["users.txt", b"1,2", 5, None])
async def test_users_that_are_not_a_sequence_of_ids_are_refused(given: Any) -> None:
    async with TargetsClient("eu", AUTH) as client:
        with pytest.raises(UsageError, match="user_ids must be numbers"):
            client.sweep(given)
