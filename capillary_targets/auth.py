"""Who asks: the headers that authorise a request (API page "Basic authentication")."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Mapping
from typing import Final, Protocol

from .errors import UsageError

__all__ = ["Auth", "BasicAuth"]

_MD5: Final = re.compile(r"[0-9a-fA-F]{32}")


class Auth(Protocol):
    """What a session wants of its credentials."""

    async def headers(self) -> Mapping[str, str]:
        """The headers that authorise one request."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """Texts that must never be shown: anything that echoes them is redacted."""


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
        if not username or ":" in username:
            raise UsageError("the till id must be given and must not contain a colon")
        if (password is None) == (password_md5 is None):
            raise UsageError("give either the password or password_md5, and only one of them")
        if password_md5 is None:
            digest = hashlib.md5((password or "").encode(), usedforsecurity=False).hexdigest()
        elif _MD5.fullmatch(password_md5):
            digest = password_md5.lower()
        else:
            raise UsageError("password_md5 must be 32 hexadecimal digits")
        token = b64encode(f"{username}:{digest}".encode()).decode()
        self.username = username
        self._headers = {"Authorization": f"Basic {token}"}
        self._secrets = tuple(text for text in (password, digest, token) if text)

    def __repr__(self) -> str:
        return f"BasicAuth({self.username!r}, ...)"

    async def headers(self) -> Mapping[str, str]:
        """The `Authorization` header; the same one each time."""
        return self._headers

    @property
    def secrets(self) -> tuple[str, ...]:
        """The password, its hash and the encoded header."""
        return self._secrets
