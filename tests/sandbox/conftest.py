"""Plain aiohttp over real sockets: the sandbox is checked without the client it is made for."""

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import aiohttp
import pytest
from attrs import frozen

from capillary_targets.sandbox import Sandbox
from capillary_targets.sandbox.auth import basic_header


@frozen
class Answer:
    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body, parse_float=Decimal)

    @property
    def code(self) -> int | None:
        errors = self.json["errors"]
        return errors[0]["code"] if errors else None


class Caller:
    """Asks one sandbox after another over one session."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session
        self.authorization = {
            "Authorization": basic_header(*Sandbox().credentials),
        }

    async def get(
        self, url: str, params: dict[str, object] | None = None, **headers: str
    ) -> Answer:
        """GET with the right credentials, unless other headers are given."""
        async with self.session.get(
            url,
            params={name: str(value) for name, value in (params or {}).items()},
            headers=headers or self.authorization,
            allow_redirects=False,
        ) as response:
            return Answer(response.status, await response.read(), dict(response.headers))

    async def events(self, base: str, user: int, rule: int, **params: object) -> Answer:
        return await self.get(f"{base}/v3/users/{user}/trackedTargetEvents/{rule}", params)

    async def targets(self, base: str, user: object, **params: object) -> Answer:
        return await self.get(f"{base}/v3/users/{user}/enrolledTargets", params)


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with aiohttp.ClientSession() as session:
        yield Caller(session)
