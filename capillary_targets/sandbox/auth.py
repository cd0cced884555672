"""Who may ask (contract §1): Basic, or an OAuth token from the token call."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import TYPE_CHECKING

from aiohttp import web

from .refusals import refuse, unauthorised
from .seeded import mix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .settings import SandboxSettings

TOKEN_HEADER = "X-CAP-API-OAUTH-TOKEN"  # noqa: S105 - a header's name
_EXPIRED = "Token expired at Wed Dec 10 05:30:00 +0530 2025"


def basic_header(username: str, password: str) -> str:
    """The Authorization header: Basic, over the user name and the md5 hex of the password."""
    hashed = hashlib.md5(password.encode(), usedforsecurity=False).hexdigest()
    return f"Basic {base64.b64encode(f'{username}:{hashed}'.encode()).decode()}"


class Gatekeeper:
    """Lets a data call in, or raises its refusal; gives out tokens.

    Args:
        settings: read anew for each request.

    """

    def __init__(self, settings: SandboxSettings) -> None:
        self._settings = settings
        self._expiries: dict[str, float] = {}
        self._given = 0

    def check(self, headers: Mapping[str, str]) -> None:
        """Check a data call's headers; a token counts more than a password."""
        token = headers.get(TOKEN_HEADER)
        if token is not None:
            return self._check_token(token)
        expected = basic_header(self._settings.username, self._settings.password)
        given = headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), expected.encode()):
            raise unauthorised(401, "Unauthorized", 401)
        return None

    def expire(self) -> None:
        """Reject every token given out so far."""
        self._expiries.clear()

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """`POST /v3/oauth/token/generate`: a new token for each call (contract §1.2)."""
        try:
            body = json.loads(await request.read())
            key, secret = body["key"], body["secret"]
        except (ValueError, KeyError, TypeError):
            raise refuse(300004) from None
        if (key, secret) != (self._settings.client_key, self._settings.client_secret):
            raise refuse(320001)
        ttl = self._settings.ttl_seconds
        data = {"accessToken": self._new_token(), "ttlSeconds": ttl}
        return web.json_response({"data": data, "errors": None, "warnings": None})

    def _new_token(self) -> str:
        """A token in the shape of a JWT, signed by nobody. Tokens past their time are forgotten."""
        settings, now = self._settings, self._settings.clock()
        self._expiries = {token: end for token, end in self._expiries.items() if end > now}
        self._given += 1
        claims = {"iss": "Capillary", "jti": self._given, "client_id": settings.client_key}
        signature = f"{mix(settings.seed, self._given):016x}"
        parts = (json.dumps({"alg": "none"}), json.dumps(claims), signature)
        token = ".".join(base64.urlsafe_b64encode(part.encode()).decode() for part in parts)
        token = token.replace("=", "")
        self._expiries[token] = now + settings.ttl_seconds
        return token

    def _check_token(self, token: str) -> None:
        end = self._expiries.get(token)
        if end is not None and self._settings.clock() < end:
            return
        where, _, code = self._settings.token_rejection.rpartition("-")
        message = _EXPIRED if code == "498" else "Unauthorized"
        raise unauthorised(int(code), message, 200 if where else int(code))
