"""Who asks: the headers that authorise a request (API pages "Basic authentication" and "OAuth")."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import re
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NoReturn, Protocol, TypeAlias

from attrs import frozen

from .errors import CapillaryError, UsageError

__all__ = ["Auth", "BasicAuth", "FetchToken", "OAuth", "SecretHeaders", "Token"]

_MD5: Final = re.compile(r"[0-9a-fA-F]{32}")
_MARGIN: Final = 60.0
"""Seconds before a token's end at which a new one is fetched; a tenth of its life if shorter."""


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
    """What a session wants of its credentials."""

    @property
    def at_hand(self) -> SecretHeaders | None:
        """The headers that authorise one request, if there are any to be had without waiting."""

    async def headers(self, fetch: FetchToken) -> SecretHeaders:
        """The headers that authorise one request; `fetch` is there to get a token with."""

    def rejected(self, headers: Mapping[str, str]) -> bool:
        """The server rejected these headers. True if others may be had, so that a retry helps."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """Texts that must never be shown: whatever echoes them is redacted."""


class BasicAuth:
    """A till's id and password, sent as `Basic base64(id:md5(password))`.

    The API wants the password's MD5 in lower-case hex. Give either the password or, as
    `password_md5`, the hash that you already hold. Which of the two it is is never guessed: a
    password may look like a hash.
    """

    __slots__ = ("_headers", "_secrets", "username")

    def __init__(
        self, username: str, password: str | None = None, *, password_md5: str | None = None
    ) -> None:
        self.username = username
        problem = None
        if not username or ":" in username:
            problem = "the till id must be given and must not contain a colon"
        elif (password is None) == (password_md5 is None):
            problem = "give either the password or password_md5, and only one of them"
        elif password_md5 is not None and not _MD5.fullmatch(password_md5):
            problem = "password_md5 must be 32 hexadecimal digits"
        if problem is not None:
            password = password_md5 = None  # a traceback that shows locals shows no secret
            _refuse(problem)
        digest = (password_md5 or _md5(password or "")).lower()
        token = b64encode(f"{username}:{digest}".encode()).decode()
        self._headers = SecretHeaders({"Authorization": f"Basic {token}"})
        self._secrets = tuple(text for text in (password, digest, token) if text)

    def __repr__(self) -> str:
        return f"BasicAuth({self.username!r}, ...)"

    @property
    def at_hand(self) -> SecretHeaders:
        """The `Authorization` header; the same one each time."""
        return self._headers

    async def headers(self, fetch: FetchToken) -> SecretHeaders:  # noqa: ARG002 - needs no token
        """The `Authorization` header; the same one each time."""
        return self._headers

    def rejected(self, headers: Mapping[str, str]) -> bool:  # noqa: ARG002 - there are no others
        """False: a password that was wrong once stays wrong."""
        return False

    @property
    def secrets(self) -> tuple[str, ...]:
        """The password, its hash and the encoded header."""
        return self._secrets


class OAuth:
    """A client key and secret, exchanged for a token that is renewed before it ends.

    However many calls need a token at once, one token request is made and all share its outcome.
    There is no refresh token: a new one is generated each time. One `OAuth` may serve several
    clients of one event loop. `clock` gives monotonic seconds.
    """

    __slots__ = ("_client_secret", "_clock", "_expires", "_flight", "_headers", "client_key")

    def __init__(
        self, client_key: str, client_secret: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.client_key = client_key
        if not client_key or not client_secret:
            client_secret = ""
            _refuse("both the client key and the client secret must be given")
        self._client_secret = client_secret
        self._clock = clock
        self._headers: SecretHeaders | None = None
        self._expires = 0.0
        self._flight: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"OAuth({self.client_key!r}, ...)"

    @property
    def at_hand(self) -> SecretHeaders | None:
        """The token's header, unless there is none or it is about to end."""
        return self._headers if self._clock() < self._expires else None

    async def headers(self, fetch: FetchToken) -> SecretHeaders:
        """The token's header. Raises `AuthError` where key or secret are wrong (320001)."""
        while (headers := self.at_hand) is None:
            if self._flight is None:
                await self._fly(fetch)
            else:
                await self._follow(self._flight)
        return headers

    async def _fly(self, fetch: FetchToken) -> None:
        """Get a token for all who wait. If this caller is cancelled, another takes over."""
        flight = self._flight = asyncio.get_running_loop().create_future()
        try:
            token = await fetch(
                SecretHeaders({"key": self.client_key, "secret": self._client_secret})
            )
            margin = min(_MARGIN, token.ttl_seconds / 10)
            self._expires = self._clock() + token.ttl_seconds - margin
            self._headers = SecretHeaders({"X-CAP-API-OAUTH-TOKEN": token.access_token})
        except CapillaryError as error:
            flight.set_exception(copy.copy(error))
            flight.exception()  # retrieved: nobody may be waiting
            raise
        finally:
            self._flight = None
            if not flight.done():
                flight.set_result(None)

    @staticmethod
    async def _follow(flight: asyncio.Future[None]) -> None:
        """Wait for another caller's token request; share its error, never its cancellation."""
        await asyncio.wait([flight])
        error = flight.exception()
        if error is not None:
            raise copy.copy(error)

    def rejected(self, headers: Mapping[str, str]) -> bool:
        """Drop the token if it is still the one in use; True, for a new one may be had."""
        if headers is self._headers:
            self._headers = None
        return True

    @property
    def secrets(self) -> tuple[str, ...]:
        """The client secret, and the token in use."""
        return (self._client_secret, *(self._headers or {}).values())


def _md5(password: str) -> str:
    return hashlib.md5(password.encode(), usedforsecurity=False).hexdigest()


def _refuse(problem: str) -> NoReturn:
    raise UsageError(problem)
