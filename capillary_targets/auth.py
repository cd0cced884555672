"""Credentials: headers that authorise a request (API pages "Basic authentication" and "OAuth")."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import math
import re
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol, TypeAlias

from attrs import frozen

from .errors import CapillaryError, UsageError
from .retry import waiting_disabled

_MD5: Final = re.compile(r"[0-9a-fA-F]{32}")
_MARGIN: Final = 60.0
"""Seconds before a token's end at which a new one is fetched; a tenth of its life if shorter."""
_PROPAGATION: Final = 0.5
"""Seconds in which not every node of the service may know a new token yet."""
_BACKOFF: Final = 0.25
_BACKOFF_MAX: Final = 20.0
"""Seconds between failed token requests: the first pause, doubled up to the second."""


class SecretHeaders(dict[str, str]):
    """Headers whose values no repr shows, so that no traceback with local variables does."""

    def __repr__(self) -> str:
        return f"<headers {', '.join(self)}>"


@frozen
class Token:
    """An access token and for how many seconds it lives."""

    access_token: str
    ttl_seconds: int

    def __repr__(self) -> str:
        return f"Token(..., ttl_seconds={self.ttl_seconds})"


FetchToken: TypeAlias = Callable[[Mapping[str, str]], Awaitable[Token]]
"""Posts a JSON body to the token endpoint and reads the answer."""


class Auth(Protocol):
    """Credentials as a session uses them."""

    @property
    def cached_headers(self) -> SecretHeaders | None:
        """Headers that authorise one request, if there are any without waiting."""

    async def headers(self, fetch: FetchToken) -> SecretHeaders:
        """Headers that authorise one request; `fetch` requests a token."""

    def rejected(self, headers: Mapping[str, str], *, again: bool) -> bool:
        """Note that the server rejected these headers; True if another try may be accepted.

        `again`: the same call had tried the same ones before.
        """

    @property
    def account(self) -> str:
        """Whose credentials they are; no secret."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """Texts to redact wherever the server repeats them."""


def _is_text(*given: object) -> bool:
    """Whether what is given is text, without line breaks or control characters."""
    return all(one is None or (isinstance(one, str) and one.isprintable()) for one in given)


class BasicAuth:
    """A till's id and password, sent as `Basic base64(id:md5(password))`.

    The API wants the password's MD5 in lower-case hex. Give either the password or, as
    `password_md5`, the hash that you already hold. Which of the two it is is never guessed: a
    password may look like a hash.
    """

    __slots__ = ("account", "cached_headers", "secrets")

    def __init__(
        self, username: str, password: str | None = None, *, password_md5: str | None = None
    ) -> None:
        self.account: str = username
        problem = None
        if not username or ":" in str(username):
            problem = "the till id must be given and must not contain a colon"
        elif (password is None) == (password_md5 is None):
            problem = "give either the password or password_md5, and only one of them"
        elif not _is_text(username, password, password_md5):
            problem = "the till id and the password must be text without control characters"
        elif password_md5 is not None and not _MD5.fullmatch(password_md5):
            problem = "password_md5 must be 32 hexadecimal digits"
        if problem is not None:
            password = password_md5 = None  # a traceback that shows locals shows no secret
            raise UsageError(problem)
        hashed = hashlib.md5((password or "").encode(), usedforsecurity=False).hexdigest()
        digest = (password_md5 or hashed).lower()
        token = b64encode(f"{username}:{digest}".encode()).decode()
        self.cached_headers: SecretHeaders = SecretHeaders({"Authorization": f"Basic {token}"})
        self.secrets: tuple[str, ...] = tuple(text for text in (password, digest, token) if text)

    def __repr__(self) -> str:
        return f"BasicAuth({self.account!r}, ...)"

    async def headers(self, fetch: FetchToken) -> SecretHeaders:  # noqa: ARG002 - needs no token
        """The `Authorization` header; the same one each time."""
        return self.cached_headers

    def rejected(self, headers: Mapping[str, str], *, again: bool) -> bool:  # noqa: ARG002
        """False: a wrong password stays wrong."""
        return False


class OAuth:
    """A client key and secret, exchanged for a token that is renewed before it ends.

    However many calls need a token at once, one token request is made and all share its outcome;
    after a failed one, the next follows only after a pause, which doubles. There is no refresh
    token: a new one is generated each time. One `OAuth` may serve several clients, also of several
    event loops and threads: they share the token, and at worst each loop requests one. `clock`
    gives monotonic seconds.
    """

    def __init__(
        self, client_key: str, client_secret: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.account: str = client_key
        if not client_key or not client_secret or not _is_text(client_key, client_secret):
            client_secret = ""
            raise UsageError(
                "both the client key and the client secret must be given, as text without control "
                "characters"
            )
        self._client_secret = client_secret
        self._clock = clock
        self._issued = _NO_TOKEN
        self._failures = 0
        self._retry_at = 0.0
        self._refreshing: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"OAuth({self.account!r}, ...)"

    @property
    def cached_headers(self) -> SecretHeaders | None:
        """The token's header, unless there is none or it is about to end."""
        issued = self._issued
        return issued.headers if self._clock() < issued.ends else None

    async def headers(self, fetch: FetchToken) -> SecretHeaders:
        """The token's header. Raises `AuthError` where key or secret are wrong (320001)."""
        while (headers := self.cached_headers) is None:
            refreshing = self._refreshing
            if refreshing is None or refreshing.get_loop() is not asyncio.get_running_loop():
                await self._refresh(fetch)
            else:
                await asyncio.wait([refreshing])  # its error is shared, never its cancellation
                if (error := refreshing.exception()) is not None:
                    raise copy.copy(error)
        return headers

    async def _refresh(self, fetch: FetchToken) -> None:
        """Get a token for everybody who waits. If this caller is cancelled, another takes over."""
        refreshing = self._refreshing = asyncio.get_running_loop().create_future()
        try:
            pause = self._retry_at - self._clock()
            if pause > 0 and not waiting_disabled.get():
                await asyncio.sleep(pause)
            body = SecretHeaders({"key": self.account, "secret": self._client_secret})
            token = await fetch(body)
        except CapillaryError as error:
            pause = min(_BACKOFF * 2.0 ** min(self._failures, 60), _BACKOFF_MAX)
            self._retry_at = self._clock() + max(pause, error.retry_after or 0.0)
            self._failures += 1
            refreshing.set_exception(copy.copy(error))
            refreshing.exception()  # retrieved: nobody may be waiting
            raise
        else:
            margin = min(_MARGIN, token.ttl_seconds / 10)
            now = self._clock()
            headers = SecretHeaders({"X-CAP-API-OAUTH-TOKEN": token.access_token})
            self._issued = _Issued(headers, now, now + token.ttl_seconds - margin)
            self._failures, self._retry_at = 0, 0.0
        finally:
            if self._refreshing is refreshing:
                self._refreshing = None
            if not refreshing.done():
                refreshing.set_result(None)

    def rejected(self, headers: Mapping[str, str], *, again: bool = False) -> bool:
        """Drop the token if it is still the one in use; True, for a new one may be accepted.

        A token that was issued just now is kept at first: not every node may know it yet.
        """
        issued = self._issued
        if headers is issued.headers and (again or self._clock() - issued.at >= _PROPAGATION):
            self._issued = _NO_TOKEN
        return True

    @property
    def secrets(self) -> tuple[str, ...]:
        """The client secret, and the token in use."""
        return (self._client_secret, *(self._issued.headers or {}).values())


@frozen
class _Issued:
    """A token's header, when it was issued, and from when on it is not used any more."""

    headers: SecretHeaders | None
    at: float
    ends: float


_NO_TOKEN: Final = _Issued(None, -math.inf, -math.inf)
