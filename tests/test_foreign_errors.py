"""Whatever the libraries below raise, and wherever, a caller sees a CapillaryError."""

import asyncio
import inspect
import sqlite3
import ssl
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import aiohttp
import aiohttp.client_exceptions
import aiohttp.http_exceptions
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capillary_targets import (
    AuthError,
    BadResponse,
    BudgetUnavailable,
    CapillaryError,
    OAuth,
    RetryPolicy,
)
from capillary_targets.testing import no_waiting

from .conftest import examples
from .rawserver import AUTH, Peer, answer, answering, rows, token


def _subclasses(cls: type[BaseException]) -> Iterator[type[BaseException]]:
    yield cls
    for sub in cls.__subclasses__():
        yield from _subclasses(sub)


def _made(cls: type[BaseException]) -> Exception | None:
    """An instance, with what its constructor insists on."""
    request = aiohttp.RequestInfo(
        "http://h/?token=hush", "GET", {"Authorization": "hush"}, "http://h/"
    )
    key: Any = type("Key", (), {"host": "h", "port": 1, "ssl": True, "is_ssl": True})()
    for arguments in (
        ("said",),
        (),
        (1, "said"),
        (request, ()),
        (key, OSError(111, "said")),
        (key, ssl.CertificateError("said")),
        (b"a", b"b", "c"),
        ("utf-8", b"a", 0, 1, "said"),
        ("a", 0, 1, "said"),
    ):
        try:
            error = cls(*arguments)
            str(error)
        except Exception:  # noqa: BLE001 - try the next
            continue
        return error if isinstance(error, Exception) else None
    return None


def _foreign() -> list[Exception]:
    kinds: set[type[BaseException]] = {EOFError, RuntimeError, ArithmeticError, LookupError}
    for module in (aiohttp.client_exceptions, aiohttp.http_exceptions, sqlite3, msgspec):
        kinds |= {
            one
            for _, one in inspect.getmembers(module, inspect.isclass)
            if issubclass(one, Exception) and one.__module__.partition(".")[0] != "builtins"
        }
    for root in (OSError, ValueError):
        kinds |= {one for one in _subclasses(root) if one.__module__ in {"builtins", "ssl", "json"}}
    try:
        import redis.exceptions
    except ImportError:
        pass
    else:
        kinds |= set(_subclasses(redis.exceptions.RedisError))
    kinds = {one for one in kinds if not issubclass(one, CapillaryError)}
    return [made for one in sorted(kinds, key=repr) if (made := _made(one)) is not None]


FOREIGN = _foreign()


def test_there_is_something_to_throw() -> None:
    names = {type(error).__name__ for error in FOREIGN}
    assert len(FOREIGN) > 60
    assert {"ServerDisconnectedError", "OperationalError", "ValidationError"} <= names
    assert {"ConnectionResetError", "UnicodeDecodeError", "ClientHttpProxyError"} <= names


def _thrower(error: Exception) -> Callable[..., Any]:
    def throw(*_: object, **__: object) -> Any:
        raise error

    return throw


async def _throw_soon(error: Exception) -> Any:
    await asyncio.sleep(0)
    raise error


class Budget:
    """A budget of the caller's, of which one method fails."""

    def __init__(self, broken: str, error: Exception) -> None:
        self.broken, self.error = broken, error

    async def _maybe(self, name: str) -> None:
        await asyncio.sleep(0)
        if name == self.broken:
            raise self.error

    async def acquire(self) -> tuple[str, float]:
        await self._maybe("acquire")
        return "ticket", 0.0

    async def release(self, ticket: str) -> None:
        await self._maybe("release")

    async def pause(self, seconds: float) -> None:
        await self._maybe("pause")

    async def close(self) -> None:
        await self._maybe("close")


class Credentials:
    """Credentials of the caller's that fail."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.cached_headers = None
        self.secrets = ()

    async def headers(self, fetch: object) -> Any:
        raise self.error

    def rejected(self, headers: object, *, again: bool) -> bool:
        return True


SEAMS = [
    "session",
    "connect",
    "send",
    "head",
    "body",
    "reader",
    "headers",
    "token",
    "acquire",
    "release",
    "pause",
    "close",
    "hook",
]


async def _call(seam: str, error: Exception, *, refused: bool) -> object:
    """One call with `error` thrown at a seam; what came of it."""
    auth: Any = AUTH
    options: dict[str, Any] = {}
    patches: list[Any] = []
    soon = lambda *_, **__: _throw_soon(error)  # noqa: E731
    if seam in {"acquire", "release", "pause", "close"}:
        options["rate"] = Budget(seam, error)
    elif seam == "headers":
        auth = Credentials(error)
    elif seam == "token":
        auth = OAuth("key", "secret")
        patches = [patch("capillary_targets.transport.read_token", _thrower(error))]
    elif seam == "hook":
        options["hooks"] = [_thrower(error)]
    elif seam == "session":
        patches = [patch.object(aiohttp.ClientSession, "_request", soon)]
    elif seam == "connect":
        patches = [patch.object(aiohttp.TCPConnector, "_create_connection", soon)]
    elif seam == "send":
        patches = [patch.object(aiohttp.ClientRequest, "send", soon)]
    elif seam == "head":
        patches = [patch.object(aiohttp.ClientResponse, "start", soon)]
    elif seam == "body":
        patches = [patch.object(aiohttp.StreamReader, "readany", soon)]
    elif seam == "reader":
        patches = [patch("capillary_targets.structuring.Structurer.structure", _thrower(error))]

    async def respond(peer: Peer, path: str) -> None:
        if path.endswith("generate"):
            await peer.send(token())
        elif refused:
            await peer.send(answer({}, 429, Retry_After="1"))
        else:
            await peer.send(rows(1) if seam != "reader" else rows().replace(b"[]", b"7 "))

    policy = RetryPolicy(attempts=2)
    with no_waiting():
        async with answering(respond, auth, retry=policy, timeout=5, **options) as (_, client):
            for one in patches:
                one.start()
            outcomes = await asyncio.gather(client.active_targets(1), return_exceptions=True)
            for one in patches:
                one.stop()
            return outcomes[0]


@examples(60)
@given(st.sampled_from(FOREIGN), st.sampled_from(SEAMS), st.booleans())
async def test_nothing_foreign_escapes(error: Exception, seam: str, refused: bool) -> None:
    result = await _call(seam, error, refused=refused)
    assert isinstance(result, list | CapillaryError)
    if isinstance(result, CapillaryError):
        assert str(result).isprintable()
        assert "hush" not in str(result)


@pytest.mark.parametrize(
    ("seam", "kind"),
    [
        ("headers", AuthError),
        ("reader", BadResponse),
        ("token", BadResponse),
        ("hook", list),
    ],
)
async def test_each_seam_has_its_class(seam: str, kind: type) -> None:
    assert isinstance(await _call(seam, ValueError("said"), refused=False), kind)


async def test_a_limiter_that_fails_is_a_budget_that_is_unavailable() -> None:
    broken = lambda *_: _throw_soon(KeyError("x"))  # noqa: E731
    with patch("capillary_targets.limiter.RequestLimiter.acquire", broken):
        found = await _call("none", ValueError("said"), refused=False)
    assert isinstance(found, BudgetUnavailable)
    assert "the rate budget failed: KeyError" in str(found)
