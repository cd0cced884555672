import asyncio
from base64 import b64decode
from typing import Any

import pytest

from capillary_targets import AuthError, BasicAuth, OAuth, ServiceUnavailable, UsageError
from capillary_targets.auth import Token

from .conftest import turns_until


async def no_token(body: object) -> Token:
    raise AssertionError("Basic authentication needs no token")


async def test_a_password_is_hashed_as_the_documentation_shows() -> None:
    headers = await BasicAuth("store.server", "server123").headers(no_token)
    assert headers == {
        "Authorization": "Basic c3RvcmUuc2VydmVyOjhhMTZhNmI3MDUwNWViMWYxZmY3Y2RjMGNkNTU1OWE3"
    }


async def test_a_hash_is_sent_as_it_is_in_lower_case() -> None:
    headers = await BasicAuth("t", password_md5="202CB962AC59075B964B07152D234B70").headers(
        no_token
    )
    sent = b64decode(headers["Authorization"].removeprefix("Basic ")).decode()
    assert sent == "t:202cb962ac59075b964b07152d234b70"


async def test_a_password_that_looks_like_a_hash_is_hashed_all_the_same() -> None:
    looks_hashed = "202cb962ac59075b964b07152d234b70"
    headers = await BasicAuth("t", looks_hashed).headers(no_token)
    assert looks_hashed not in b64decode(headers["Authorization"].removeprefix("Basic ")).decode()


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        (("t",), {}, "either"),
        (("t", "p"), {"password_md5": "0" * 32}, "only one"),
        (("",), {"password": "p"}, "till id"),
        (("a:b", "p"), {}, "colon"),
        (("t",), {"password_md5": "not a hash"}, "32 hexadecimal"),
        ((5, "p"), {}, "must be text"),
        (("t", 5), {}, "must be text"),
        (("t", b"p"), {}, "must be text"),
        (("t",), {"password_md5": 0}, "must be text"),
        (("t", "p\n"), {}, "without control characters"),
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


class TokenDesk:
    """Hands out tokens t1, t2, … of 100 s; counts; can be told to fail or to hold."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.fail: Exception | None = None
        self.hold: asyncio.Event | None = None
        self.now = 0.0

    async def fetch(self, body: object) -> Token:
        self.asked.append(body)
        await asyncio.sleep(0)
        if self.hold is not None:
            await self.hold.wait()
        if self.fail is not None:
            raise self.fail
        return Token(f"t{len(self.asked)}", 100)

    def oauth(self) -> OAuth:
        return OAuth("key", "hush", clock=lambda: self.now)


async def test_a_token_is_kept_until_shortly_before_its_end() -> None:
    desk = TokenDesk()
    oauth = desk.oauth()
    for now, token in [(0, "t1"), (89.9, "t1"), (90, "t2"), (179.9, "t2"), (1000, "t3")]:
        desk.now = now
        assert await oauth.headers(desk.fetch) == {"X-CAP-API-OAUTH-TOKEN": token}
    assert desk.asked == [{"key": "key", "secret": "hush"}] * 3


async def test_many_calls_share_one_refusal_and_the_next_call_asks_again() -> None:
    desk = TokenDesk()
    desk.fail = AuthError("Invalid client key and secret", code=320001)
    oauth = desk.oauth()
    outcomes = await asyncio.gather(
        *(oauth.headers(desk.fetch) for _ in range(500)), return_exceptions=True
    )
    assert len(desk.asked) == 1
    assert {type(outcome) for outcome in outcomes} == {AuthError}
    desk.fail = None
    await oauth.headers(desk.fetch)
    assert len(desk.asked) == 2


async def test_a_rejected_token_is_renewed_once_however_many_saw_it() -> None:
    desk = TokenDesk()
    oauth = desk.oauth()
    old = await oauth.headers(desk.fetch)
    desk.now = 1.0
    assert all([oauth.rejected(old) for _ in range(50)])  # noqa: C419 - every one is called
    new = await oauth.headers(desk.fetch)
    desk.now = 2.0
    assert oauth.rejected(old)  # a late one, about the old token, drops nothing
    assert await oauth.headers(desk.fetch) is new
    assert len(desk.asked) == 2


async def test_a_token_is_kept_while_not_every_node_may_know_it() -> None:
    desk = TokenDesk()
    oauth = desk.oauth()
    token = await oauth.headers(desk.fetch)
    assert oauth.rejected(token)
    assert oauth.cached_headers is token
    desk.now += 0.5
    assert oauth.rejected(token)
    assert oauth.cached_headers is None
    token = await oauth.headers(desk.fetch)
    assert oauth.rejected(token, again=True)  # the waits may be switched off
    assert oauth.cached_headers is None


async def test_failed_token_requests_pause_and_the_pause_doubles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = TokenDesk()
    desk.fail = ServiceUnavailable("down")
    oauth = desk.oauth()
    slept: list[float] = []

    async def sleep(seconds: float, _sleep: Any = asyncio.sleep) -> None:
        if seconds:
            slept.append(seconds)
            desk.now += seconds
        await _sleep(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    for _ in range(10):
        with pytest.raises(ServiceUnavailable):
            await oauth.headers(desk.fetch)
    assert slept == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0]
    desk.fail = ServiceUnavailable("down", retry_after=60.0)
    with pytest.raises(ServiceUnavailable):
        await oauth.headers(desk.fetch)
    desk.fail = None
    await oauth.headers(desk.fetch)
    assert slept[-1] == 60.0


async def test_two_event_loops_share_a_token_and_wait_each_for_itself() -> None:
    desk = TokenDesk()
    desk.hold = asyncio.Event()
    oauth = desk.oauth()
    held = asyncio.create_task(oauth.headers(desk.fetch))
    await turns_until(lambda: len(desk.asked) == 1)

    async def elsewhere(body: object) -> Token:
        return Token("other", 100)

    other = await asyncio.to_thread(asyncio.run, oauth.headers(elsewhere))
    assert other == {"X-CAP-API-OAUTH-TOKEN": "other"}
    desk.hold.set()
    assert await held == {"X-CAP-API-OAUTH-TOKEN": "t1"}
    assert oauth.cached_headers == {"X-CAP-API-OAUTH-TOKEN": "t1"}


async def test_if_the_caller_who_asks_is_cancelled_another_takes_over() -> None:
    desk = TokenDesk()
    desk.hold = asyncio.Event()
    oauth = desk.oauth()
    leader, follower = (asyncio.create_task(oauth.headers(desk.fetch)) for _ in range(2))
    while not desk.asked:  # noqa: ASYNC110 - two turns of the loop, not a wait
        await asyncio.sleep(0)
    leader.cancel()
    desk.hold.set()
    assert await follower == {"X-CAP-API-OAUTH-TOKEN": "t2"}
    with pytest.raises(asyncio.CancelledError):
        await leader


async def test_oauth_shows_no_secret() -> None:
    desk = TokenDesk()
    oauth = desk.oauth()
    headers = await oauth.headers(desk.fetch)
    assert set(oauth.secrets) == {"hush", "t1"}
    for shown in (repr(oauth), repr(headers), repr(Token("t1", 5)), str(headers)):
        assert "hush" not in shown
        assert "t1" not in shown
    for given in (("key", ""), (1, 2), ("key", b"secret"), ("key\n", "secret")):
        with pytest.raises(UsageError, match="both"):
            OAuth(*given)
