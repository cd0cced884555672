from __future__ import annotations

from base64 import b64decode

import pytest

from capillary_targets import BasicAuth, UsageError


async def test_a_password_is_hashed_as_the_documentation_shows() -> None:
    headers = await BasicAuth("store.server", "server123").headers()
    assert headers == {
        "Authorization": "Basic c3RvcmUuc2VydmVyOjhhMTZhNmI3MDUwNWViMWYxZmY3Y2RjMGNkNTU1OWE3"
    }


async def test_a_hash_is_sent_as_it_is_in_lower_case() -> None:
    headers = await BasicAuth("t", password_md5="202CB962AC59075B964B07152D234B70").headers()
    sent = b64decode(headers["Authorization"].removeprefix("Basic ")).decode()
    assert sent == "t:202cb962ac59075b964b07152d234b70"


async def test_a_password_that_looks_like_a_hash_is_hashed_all_the_same() -> None:
    looks_hashed = "202cb962ac59075b964b07152d234b70"
    headers = await BasicAuth("t", looks_hashed).headers()
    assert looks_hashed not in b64decode(headers["Authorization"].removeprefix("Basic ")).decode()


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        (("t",), {}, "either"),
        (("t", "p"), {"password_md5": "0" * 32}, "only one"),
        (("",), {"password": "p"}, "till id"),
        (("a:b", "p"), {}, "colon"),
        (("t",), {"password_md5": "not a hash"}, "32 hexadecimal"),
    ],
)
def test_bad_credentials_are_refused_at_once(args: tuple, kwargs: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        BasicAuth(*args, **kwargs)


def test_no_secret_in_the_repr() -> None:
    auth = BasicAuth("till", "hunter2")
    assert "till" in repr(auth)
    assert all(secret not in repr(auth) for secret in auth.secrets)
    assert "hunter2" in auth.secrets
