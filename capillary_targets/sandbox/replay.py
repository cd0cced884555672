"""A cassette served: the recorded answers, in the order they were recorded in."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec
from aiohttp import web

from .listener import Listener
from .responses import as_json, data, error_body

_USER = re.compile(r"/v3/users/(\d+)/")


class Recorded(msgspec.Struct, frozen=True):
    """One answer of a cassette; a null `body`: it was no JSON object."""

    path: str
    status: int
    headers: Mapping[str, str]
    body: msgspec.Raw


class Replay(Listener):
    """The answers of a cassette as a local server. Any credentials will do.

    The same request repeated brings the answers in their order, then the last one again. What was
    not recorded is refused with a message that says so.

    Raises:
        ValueError: the file is no cassette.
        OSError: it cannot be read.
    """

    def __init__(
        self, path: str | PathLike[str], *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        heading, *lines = Path(path).read_bytes().splitlines() or [b""]
        try:
            known = msgspec.json.decode(heading) == {"cassette": 1}
            recorded = [msgspec.json.decode(line, type=Recorded) for line in lines]
        except ValueError:
            known = False
        if not known:
            raise ValueError(f"{path} is no cassette of `capillary-targets record`")
        self._answers: defaultdict[str, list[Recorded]] = defaultdict(list)
        for one in recorded:
            self._answers[_key(one.path)].append(one)
        found = (_USER.match(one.path) for one in recorded)
        self.user_ids: tuple[int, ...] = tuple(
            dict.fromkeys(int(one[1]) for one in found if one is not None)
        )
        """The members in it, by the ids that stand for theirs, in the order of their requests."""
        self._host, self._port = host, port
        self._served: defaultdict[str, int] = defaultdict(int)

    @property
    def credentials(self) -> tuple[str, str]:
        """Some user name and password: none is checked."""
        return "replay", "replay"

    async def start(self) -> str:
        """Listen, and return the address."""
        app = web.Application()
        app.add_routes(
            [
                web.post("/v3/oauth/token/generate", _token),
                web.get("/sandbox/users.txt", self._users),
                web.get("/{path:.*}", self._answer),
            ]
        )
        return await self._listen(app, self._host, self._port)

    async def _answer(self, request: web.Request) -> web.Response:
        key = _key(request.path_qs)
        recorded = self._answers.get(key)
        if recorded is None:
            return as_json(error_body(404, f"not in this cassette: {key}"), 400)
        turn = self._served[key]
        self._served[key] = turn + 1
        one = recorded[min(turn, len(recorded) - 1)]
        body = bytes(one.body)
        body = b"" if body == b"null" else body
        return web.Response(status=one.status, body=body, headers=dict(one.headers))

    async def _users(self, _: web.Request) -> web.Response:
        return web.Response(text="".join(f"{one}\n" for one in self.user_ids))


async def _token(_: web.Request) -> web.Response:
    token: dict[str, Any] = {"accessToken": "replay", "ttlSeconds": 3600}
    return as_json(data(token))


def _key(path: str) -> str:
    """A path with its query in one order."""
    where, _, query = path.partition("?")
    return f"{where}?{urlencode(sorted(parse_qsl(query)))}" if query else where
