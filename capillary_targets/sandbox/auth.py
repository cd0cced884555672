"""Who may ask (contract §1): Basic, or an OAuth token from the token call."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
from collections.abc import Mapping
from functools import lru_cache
from random import Random

from . import responses
from .responses import error, unauthorized
from .settings import SandboxSettings

TOKEN_HEADER = "X-CAP-API-OAUTH-TOKEN"  # noqa: S105 - a header's name
_EXPIRED = "Token expired at Wed Dec 10 05:30:00 +0530 2025"


@lru_cache(maxsize=16)
def basic_header(username: str, password: str) -> str:
    """The Authorization header: Basic, over the user name and the md5 hex of the password."""
    hashed = hashlib.md5(password.encode(), usedforsecurity=False).hexdigest()
    return f"Basic {base64.b64encode(f'{username}:{hashed}'.encode()).decode()}"


class Authenticator:
    """Checks the login of data calls, and issues tokens."""

    def __init__(self, settings: SandboxSettings) -> None:
        self._settings = settings
        self._tokens: dict[str, tuple[float, int]] = {}
        """When each expires, and the calls that it came with."""
        self._random = Random(settings.seed)

    def check(self, headers: Mapping[str, str]) -> None:
        """Check a call's headers; a token counts more than a password.

        Raises:
            ErrorResponse: neither is right.
        """
        sent = headers.get(TOKEN_HEADER)
        if sent is None:
            expected = basic_header(self._settings.username, self._settings.password)
            given = headers.get("Authorization", "").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(given, expected.encode()):
                raise unauthorized(401, "Unauthorized", 401)
        elif not self._knows(sent):
            in_body, _, code = self._settings.token_rejection.rpartition("-")
            message = _EXPIRED if code == "498" else "Unauthorized"
            raise unauthorized(int(code), message, 200 if in_body else int(code))

    def expire(self) -> None:
        """Reject every token issued so far."""
        self._tokens.clear()

    def token(self, body: bytes) -> bytes:
        """The answer of the token call: a new token for each (contract §1.2).

        Raises:
            ErrorResponse: the key and the secret are missing or wrong.
        """
        try:
            parsed = json.loads(body)
            key, secret = parsed["key"], parsed["secret"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise error(300004) from None
        if (key, secret) != (self._settings.client_key, self._settings.client_secret):
            raise error(320001)
        settings, now = self._settings, self._settings.clock()
        # Those past their time are forgotten.
        self._tokens = {text: one for text, one in self._tokens.items() if one[0] > now}
        bits = self._random.getrandbits
        # It looks like a JWT.
        text = f"eyJhbGciOiJub25lIn0.{bits(32):x}.{bits(64):016x}"
        self._tokens[text] = now + settings.ttl_seconds, 0
        return responses.data({"accessToken": text, "ttlSeconds": settings.ttl_seconds})

    def _knows(self, text: str) -> bool:
        expires, calls = self._tokens.get(text, (-math.inf, 0))
        if self._settings.clock() >= expires:
            return False
        self._tokens[text] = expires, calls + 1
        # Of the first calls every second one reaches a node that has not heard of the token.
        return calls >= 2 * self._settings.token_lag or calls % 2 == 1
