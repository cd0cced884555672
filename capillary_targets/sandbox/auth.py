"""Who may ask (contract §1)."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TYPE_CHECKING

from .refusals import unauthorised

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .settings import Settings


def basic_header(username: str, password: str) -> str:
    """The Authorization header: Basic, over the user name and the md5 hex of the password."""
    hashed = hashlib.md5(password.encode(), usedforsecurity=False).hexdigest()
    return f"Basic {base64.b64encode(f'{username}:{hashed}'.encode()).decode()}"


class Gatekeeper:
    """Lets a data call in, or raises its refusal."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def check(self, headers: Mapping[str, str]) -> None:
        """Check a data call's headers."""
        expected = basic_header(self._settings.username, self._settings.password)
        given = headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), expected.encode()):
            raise unauthorised(401, "Unauthorized", 401)
