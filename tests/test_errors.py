import pickle
from inspect import isclass

import pytest

from capillary_targets import errors

KINDS = [one for one in vars(errors).values() if isclass(one) and issubclass(one, Exception)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_survives_pickling_with_its_facts(kind: type[errors.CapillaryError]) -> None:
    error = kind("said", status=400, request_id="r", method="GET", url="u")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert str(again) == str(error)
    assert isinstance(error, errors.CapillaryError)
    assert isinstance(error.retryable, bool)


def test_a_fact_that_no_error_has_is_refused() -> None:
    with pytest.raises(TypeError, match="RateLimited has no retryafter"):
        errors.RateLimited("slow down", retryafter=3.0)


def test_the_text_says_where_it_happened() -> None:
    error = errors.InvalidUser(
        "Invalid userId", code=310011, status=400, request_id="r1", url="https://h/x", attempts=2
    )
    assert str(error) == (
        "Invalid userId [310011] (GET https://h/x, HTTP 400, request id r1, 2 attempts)"
    )


def test_a_time_out_and_a_lost_connection_are_also_the_builtin_kind() -> None:
    assert isinstance(errors.RequestTimeout("x"), TimeoutError)
    assert isinstance(errors.ConnectionFailed("x"), ConnectionError)


def test_retry_at_follows_retry_after() -> None:
    assert errors.RateLimited("x").retry_at is None
    assert errors.RateLimited("x", retry_after=5.0).retry_at.tzinfo is not None
